"""Heads as folders name them: poolings, Dense, Normalize, classifiers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hybrid.config.loading import load_config
from hybrid.config.overrides import overrides_of
from hybrid.machine.prices import schedule_prices
from hybrid.models.loading import load_model, text_encoder
from hybrid.models.poolings import POOLINGS
from hybrid.models.ranges import Bound
from hybrid.models.tokenizing import FileTokenizer
from hybrid.planning.planner import make_plan
from tests.encoder_setup import TEXTS, cosines, private, write_config, write_encoder
from tests.processes import run
from transport.errors import ConfigError


def sentence_folder(folder, modules=("mean",), *, normalize=False, kind="bert", prompts=None):
    """A folder that sentence-transformers has written, and its own vectors.

    modules: a pooling, then activations of Dense modules; prompts: the first is the default.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    write_encoder(folder / "plain", kind)
    transformer = Transformer(str(folder / "plain"))
    parts = [transformer, Pooling(24, pooling_mode=modules[0])]
    width = 24
    torch.manual_seed(5)
    for activation in modules[1:]:
        parts.append(Dense(width, 10, bias=True, activation_function=activation))
        width = 10
    parts += [Normalize()] * normalize
    default = next(iter(prompts), None) if prompts else None
    model = SentenceTransformer(
        modules=parts, device="cpu", prompts=prompts, default_prompt_name=default
    )
    model.save(str(folder / "model"))
    return folder / "model", vectors(folder / "model")


def vectors(folder):
    """Of the library that the folder is for."""
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu").encode(TEXTS)


def plain_answers(config):
    model, encoder = load_model(config), text_encoder(config)
    head = model.public.head
    return np.stack([head.finished(model.plain(encoder.encode(text))) for text in TEXTS])


@pytest.mark.long
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("dense", [False, True])
def test_poolings_are_those_of_sentence_transformers(pooling, dense, tmp_path):
    modules = [pooling, torch.nn.Tanh()] if dense else [pooling]
    folder, expected = sentence_folder(tmp_path, modules)
    config = load_config(write_config(tmp_path, folder, batch=2))
    assert np.abs(plain_answers(config) - expected).max() < 2e-5
    if pooling == "mean" and not dense:
        return  # The client divides what other tests open.
    found = private(config, TEXTS[:3])
    assert found.shape == (3, 10 if dense else 24)
    assert np.abs(found - expected[:3]).max() < 2.0**-6
    assert cosines(found, expected[:3]).min() > 0.9999


@pytest.mark.parametrize("activation", ["Identity", "ReLU", "GELU"])
def test_activations_of_dense_modules(activation, tmp_path):
    made = getattr(torch.nn, activation)()
    folder, expected = sentence_folder(tmp_path, ["mean", torch.nn.Tanh(), made], normalize=True)
    config = load_config(write_config(tmp_path, folder))
    assert np.abs(plain_answers(config) - expected).max() < 2e-5
    assert np.abs(private(config, TEXTS[:1]) - expected[:1]).max() < 2.0**-5


CLASSIFIERS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "mpnet")


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_classifiers_give_the_logits_of_transformers(kind, tmp_path):
    from transformers import AutoModelForSequenceClassification

    names = {0: "contradiction", 1: "entailment", 2: "neutral"}
    write_encoder(tmp_path / "model", kind, "ForSequenceClassification", id2label=names)
    config = load_config(write_config(tmp_path, tmp_path / "model"))
    reference = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    encoder = text_encoder(config)
    with torch.no_grad():
        expected = np.concatenate(
            [reference(torch.from_numpy(encoder.encode(t))[None]).logits.numpy() for t in TEXTS]
        )
    model = load_model(config)
    assert model.public.head.labels == tuple(names.values())
    assert np.abs(plain_answers(config) - expected).max() < 1e-5
    if kind in ("bert", "electra", "distilbert"):
        assert np.abs(private(config, TEXTS[:2]) - expected[:2]).max() < 2.0**-5


def refused(config_path, message):
    with pytest.raises(ConfigError, match=message):
        load_model(load_config(config_path))


def test_config_and_folder_must_say_the_same(tmp_path):
    folder, _ = sentence_folder(tmp_path, ["cls"], normalize=True)
    refused(
        write_config(tmp_path, folder, pooling="mean"), "model.pooling: 'mean', but .* says 'cls'"
    )
    refused(write_config(tmp_path, folder, normalize=False), "model.normalize: false, but .* lists")
    refused(write_config(tmp_path, folder, pooling="classifier"), "holds 'BertModel'")
    for keys in ({}, {"pooling": "cls"}, {"normalize": True}):
        head = load_model(load_config(write_config(tmp_path, folder, **keys))).public.head
        assert (head.pooling.name, head.normalize) == ("cls", True)
    # Without its list the folder of the pooling still says how.
    (folder / "modules.json").unlink()
    assert load_model(load_config(write_config(tmp_path, folder))).public.head.normalize
    shutil.rmtree(folder / "2_Normalize")
    model = load_model(load_config(write_config(tmp_path, folder)))
    assert model.public.head.pooling.name == "cls"
    assert "not scaled to unit length" in " ".join(model.notes)
    refused(write_config(tmp_path, folder, pooling="max"), "1_Pooling/config.json says 'cls'")


def test_a_folder_that_says_nothing_needs_a_pooling(tmp_path):
    write_encoder(tmp_path / "model")
    refused(
        write_config(tmp_path, tmp_path / "model"), "model.pooling: missing, .* set one of mean"
    )
    refused(write_config(tmp_path, tmp_path / "model", pooling="men"), "'men' is not known")
    path = write_config(tmp_path, tmp_path / "model", pooling="lasttoken")
    head = load_model(load_config(path)).public.head
    assert (head.pooling.name, head.normalize) == ("lasttoken", False)


@pytest.mark.parametrize("head", ["ForTokenClassification", "ForQuestionAnswering"])
def test_other_heads_are_said_where_they_are_not_used(head, tmp_path):
    write_encoder(tmp_path / "model", "bert", head)
    refused(write_config(tmp_path, tmp_path / "model"), "model.pooling: missing")
    model = load_model(load_config(write_config(tmp_path, tmp_path / "model", pooling="mean")))
    assert model.notes == (f"the head of Bert{head} is not used, since rows are pooled",)


def test_a_classifier_may_be_pooled_instead(tmp_path):
    write_encoder(tmp_path / "model", "bert", "ForSequenceClassification")
    model = load_model(load_config(write_config(tmp_path, tmp_path / "model", pooling="cls")))
    assert model.notes == (
        "the head of BertForSequenceClassification is not used, since rows are pooled",
    )
    assert not model.public.head.dense
    refused(write_config(tmp_path, tmp_path / "model", normalize=True), "logits are not scaled")


def changed(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("1_Pooling", {"pooling_mode": "weightedmean"}, "pooling 'weightedmean' is not computed"),
        ("1_Pooling", {"pooling_mode": ["cls", "mean"]}, "pooling 'cls and mean' is not computed"),
        ("1_Pooling", {"pooling_mode_clss_token": True}, "did you mean 'pooling_mode_cls_token'"),
        ("2_Dense", {"activation_function": "torch.nn.SELU"}, "'torch.nn.SELU' is not computed"),
        ("2_Dense", {"use_residual": True}, "use_residual is true, which is not computed"),
        ("2_Dense", {"module_input_name": "token_embeddings"}, "module_input_name is "),
        ("1_Pooling", {"pooling_mode": [["mean"]]}, "is not computed; supported is"),
        ("2_Dense", {"activation_function": ["x"]}, "activation_function .* is not computed"),
        ("2_Dense", {"in_features": 25}, "has shape .10, 24."),
        ("2_Dense", {"out_features": None}, "are not two sizes"),
    ],
)  # fmt: skip
def test_modules_that_are_not_computed_are_refused(file, changes, message, tmp_path):
    folder, _ = sentence_folder(tmp_path, ["mean", torch.nn.Tanh()])
    changed(folder / file / "config.json", **changes)
    refused(write_config(tmp_path, folder), message)


def test_lists_of_modules_that_are_not_computed_are_refused(tmp_path):
    folder, _ = sentence_folder(tmp_path, ["mean", torch.nn.Tanh()], normalize=True)
    path = folder / "modules.json"
    listed = json.loads(path.read_text())

    def refuse(modules, message):
        path.write_text(json.dumps(modules))
        refused(write_config(tmp_path, folder), message)

    transformer, pooling, dense, normalize = listed
    refuse(
        [transformer, pooling, normalize, dense], "only Transformer, Pooling, Dense and Normalize"
    )
    refuse([transformer, pooling, pooling], "in this order")
    refuse([transformer, dense], "a Transformer and a Pooling are needed")
    refuse([*listed, {**normalize, "type": "sentence_transformers.models.LSTM"}], "LSTM' is not")
    refuse([*listed[:2], {**normalize, "type": "my_code.Normalize"}], "brings code of its own")
    refuse({"0": transformer}, "not a list of modules")
    dropout = {**normalize, "type": "sentence_transformers.models.Dropout"}
    path.write_text(json.dumps([transformer, pooling, dropout]))
    assert not load_model(load_config(write_config(tmp_path, folder))).public.head.normalize


@pytest.mark.parametrize(
    "head",
    [
        None,
        {},
        {"pooling": "men", "dense": [], "normalize": False, "labels": []},
        {"pooling": "mean", "dense": [[25, 3, "tanh"]], "normalize": False, "labels": []},
        {"pooling": "mean", "dense": [[24, 3, "selu"]], "normalize": False, "labels": []},
        {"pooling": "mean", "dense": [[24, 0, "tanh"]], "normalize": False, "labels": []},
        {"pooling": "mean", "dense": [[24, 3, "tanh"]] * 2, "normalize": False, "labels": []},
        {"pooling": "mean", "dense": [], "normalize": 1, "labels": []},
        {"pooling": "cls", "dense": [[24, 1, "identity"]], "normalize": False, "labels": ["\x1b"]},
        {"pooling": "mean", "dense": [[24, 2, "identity"]], "normalize": False, "labels": ["a"]},
        {
            "pooling": "mean",
            "dense": [[24, 1, "identity"]],
            "normalize": False,
            "labels": ["a" * 65],
        },
    ],
)
def test_a_servers_head_is_checked(head):
    from hybrid.models.heads import Head

    with pytest.raises(ConfigError, match="handshake: the model's head is malformed"):
        Head.from_public(head, 24, 6)


@pytest.mark.long
def test_a_classifier_says_its_classes(tmp_path):
    names = {0: "no [red]", 1: "yes"}
    write_encoder(tmp_path / "model", "bert", "ForSequenceClassification", id2label=names)
    path = write_config(tmp_path, tmp_path / "model")
    code, output = run("run", path, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["labels"] == list(names.values())
    assert report["classes"] == report["accuracy"]["classes"]
    assert report["classes"][0] == names[int(np.argmax(report["output"]))]
    said = f"class of text 1: {report['classes'][0]}, of the plain model: {report['classes'][0]}"
    assert said in output
    assert said in (tmp_path / "out" / "report.md").read_text()
    assert "2 logits of the classifier are opened" in " ".join(report["trust_model"])


def test_a_plan_says_what_is_not_used(tmp_path):
    write_encoder(tmp_path / "model", "bert", "ForSequenceClassification")
    code, output = run(
        "plan", write_config(tmp_path, tmp_path / "model", pooling="cls"), cwd=tmp_path
    )
    assert code == 0, output
    assert "note: the head of BertForSequenceClassification is not used" in output


@pytest.mark.parametrize("modules", [["cls"], ["max"], ["mean", torch.nn.Identity()]])
def test_answers_of_any_size_are_precise(modules, tmp_path):
    folder, _ = sentence_folder(tmp_path, modules)
    weights = folder / ("2_Dense" if modules[1:] else ".") / "model.safetensors"
    tensors = load_file(weights)
    last = ("linear.",) if modules[1:] else ("encoder.layer.0.output.LayerNorm.",)
    small = {n: t * 2.0**-13 if n.startswith(last) else t for n, t in tensors.items()}
    save_file(small, weights, metadata={"format": "pt"})
    expected = vectors(folder)
    config = load_config(write_config(tmp_path, folder))
    assert np.abs(expected).max() < 2.0**-9
    assert cosines(private(config, TEXTS[:2]), expected[:2]).min() > 0.9999


PUBLISHED = {
    "E5 and GTE": {"modules": ["mean"], "normalize": True},
    "BGE": {"modules": ["cls"], "normalize": True},
    "multilingual E5": {"modules": ["mean"], "normalize": True, "kind": "xlm-roberta"},
    "all-mpnet": {"modules": ["mean"], "normalize": True, "kind": "mpnet"},
    "with prompts": {
        "modules": ["mean"],
        "normalize": True,
        "prompts": {"query": "small ", "passage": "of "},
    },
    "LaBSE": {"modules": ["cls", torch.nn.Tanh()], "normalize": True},
}


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("is_half", [False, True])
def test_folders_as_they_come(name, is_half, tmp_path):
    folder, _ = sentence_folder(tmp_path, **PUBLISHED[name])
    if is_half:
        path = folder / "model.safetensors"
        tensors = {n: t.half() for n, t in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
        changed(folder / "config.json", dtype="float32")
    config = load_config(write_config(tmp_path, folder), overrides_of(["model.tokens=12"]))
    assert np.abs(plain_answers(config) - vectors(folder)).max() < 2e-5


def test_a_folder_of_another_name_is_no_module(tmp_path):
    folder, _ = sentence_folder(tmp_path)
    (folder / "modules.json").unlink()
    (folder / "1\u00b2_Pooling").mkdir()
    head = load_model(load_config(write_config(tmp_path, folder))).public.head
    assert head.pooling.name == "mean"


@pytest.mark.parametrize("is_listed", [False, True])
def test_prompts_that_are_not_pooled_are_refused_and_compared(is_listed, tmp_path):
    prompts = {"query": "small ", "none": ""}
    folder, _ = sentence_folder(tmp_path, prompts=prompts)
    if not is_listed:
        (folder / "modules.json").unlink()
    facts = FileTokenizer(folder, 12).facts()
    changed(folder / "1_Pooling" / "config.json", include_prompt=False)
    with pytest.raises(ConfigError, match="include_prompt of its pooling is false"):
        FileTokenizer(folder, 12)
    # A client that lacks the pooling's settings means something else by the same prompt.
    assert FileTokenizer(folder, 12, "none").facts()["prompts"] != facts["prompts"]


def test_parties_agree_on_the_scale_of_what_is_opened(tmp_path):
    folder, _ = sentence_folder(tmp_path, ["mean", torch.nn.Identity()])
    config = load_config(write_config(tmp_path, folder))
    public, digests = load_model(config).public, set()
    for rms in (1.0, 2.0**-3, 2.0**-9):
        ranges = {**public.ranges, "dense0": Bound(2.0**-20, rms, 4 * rms)}
        other = replace(public, ranges=ranges)
        digests.add(make_plan(config, other, schedule_prices(config.run)).digest())
    assert len(digests) == 3


def test_a_normalize_module_of_tokens_is_refused(tmp_path):
    folder, _ = sentence_folder(tmp_path, normalize=True)
    path = folder / "2_Normalize" / "config.json"
    changed(path, module_input_name="sentence_embedding", module_output_name=None)
    assert load_model(load_config(write_config(tmp_path, folder))).public.head.normalize
    changed(path, module_input_name="token_embeddings")
    refused(write_config(tmp_path, folder), "module_input_name is .token_embeddings., which is not")


@pytest.mark.parametrize(
    "setting",
    [
        {"include_prompt": None},
        {"pooling_mode_mean_tokens": 1},
        {"pooling_mode_cls_token": "False"},
    ],
)
def test_settings_of_a_pooling_are_bools(setting, tmp_path):
    folder, _ = sentence_folder(tmp_path)
    changed(folder / "1_Pooling" / "config.json", **setting)
    refused(write_config(tmp_path, folder), "use true or false")


def test_vectors_that_would_be_cut_are_refused(tmp_path):
    folder, _ = sentence_folder(tmp_path)
    changed(folder / "config_sentence_transformers.json", truncate_dim=8)
    refused(write_config(tmp_path, folder), "truncate_dim is 8, which is not done here")
