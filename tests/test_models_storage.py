"""Weights in every form in which they are stored, against transformers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_model

from hybrid.models.bert_names import LAYOUT
from hybrid.models.checkpoint import Checkpoint
from hybrid.models.decoders import read_decoder
from tests import decoder_files
from tests.stored_models import (
    assert_same,
    below,
    loaded,
    made,
    old_names,
    ours,
    renamed,
    save_bin,
    save_bin_shards,
    save_old_bin,
    save_safetensors,
    save_shards,
    set_config,
    tensors_of,
    write,
)
from transport.errors import ConfigError

KINDS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")
SAVES = {
    "safetensors": save_safetensors, "shards": save_shards, "bin": save_bin,
    "old bin": save_old_bin, "bin shards": save_bin_shards,
}  # fmt: skip
HEADS = {
    "AutoModelForMaskedLM": KINDS,
    "AutoModelForSequenceClassification": KINDS,
    "AutoModelForTokenClassification": ("bert", "distilbert"),
    "AutoModelForQuestionAnswering": ("roberta", "distilbert"),
    "AutoModelForPreTraining": ("bert", "electra"),
    "AutoModelForNextSentencePrediction": ("bert",),
    "AutoModelForMultipleChoice": ("roberta", "electra"),
}
TIED = {
    "bert": "cls.predictions.decoder.weight", "roberta": "lm_head.decoder.weight",
    "distilbert": "vocab_projector.weight", "electra": "generator_lm_head.weight",
}  # fmt: skip


# -- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", SAVES)
@pytest.mark.parametrize("kind", ["bert", "distilbert"])
def test_every_form_of_file_is_read(kind, save, tmp_path):
    write(made(kind), tmp_path, save=SAVES[save])
    count = {"shards": 3, "bin shards": 4}.get(save, 1)
    assert len([p for p in tmp_path.iterdir() if p.name != "config.json"]) >= count
    assert_same(tmp_path, loaded(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_what_transformers_saves_is_read(kind, tmp_path):
    made(kind).save_pretrained(tmp_path, max_shard_size="4KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert_same(tmp_path, loaded(tmp_path))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("save", ["safetensors", "bin"])
def test_every_float_is_read_to_float32(save, dtype, tmp_path):
    def cast(tensors):
        return {name: value.to(dtype) for name, value in tensors.items()}

    write(made(), tmp_path, cast, SAVES[save], torch_dtype=str(dtype).removeprefix("torch."))
    assert_same(tmp_path, loaded(tmp_path))
    stored = cast(tensors_of(made()))["embeddings.word_embeddings.weight"]
    found = Checkpoint(tmp_path, LAYOUT).take("embeddings.word_embeddings.weight", (17, 12))
    assert found.dtype == np.float32
    assert np.array_equal(found, stored.to(torch.float32).numpy())


def test_safetensors_go_before_pytorch_files_and_whole_ones_before_shards(tmp_path):
    model, other = made(), made(initializer_range=0.1)
    for save in SAVES.values():
        write(other, tmp_path, save=save)
    write(model, tmp_path, save=save_safetensors)
    assert_same(tmp_path, loaded(tmp_path))
    assert_same(tmp_path, model)


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("save", ["safetensors", "bin"])
@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_gamma_and_beta_are_weight_and_bias(kind, save, tmp_path):
    write(made(kind), tmp_path, old_names, SAVES[save])
    assert_same(tmp_path, loaded(tmp_path))


@pytest.mark.parametrize(
    "prefix",
    ["", "bert.", "roberta.", "model.", "module.", "module.bert.", "0.auto_model.", "auto_model.",
     "_orig_mod.bert.", "x.y.z."],
)  # fmt: skip
def test_any_prefix_is_found(prefix, tmp_path):
    model = made()
    write(model, tmp_path, below(prefix))
    assert_same(tmp_path, model)


@pytest.mark.parametrize(("auto", "kind"), [(a, kind) for a in HEADS for kind in HEADS[a]])
def test_heads_are_left_and_named(auto, kind, tmp_path, monkeypatch):
    made(kind, auto).save_pretrained(tmp_path)
    left, finish = [], Checkpoint.finish

    def spied(file):
        left.extend(file.left)
        finish(file)

    monkeypatch.setattr(Checkpoint, "finish", spied)
    assert_same(tmp_path, loaded(tmp_path))
    names = sorted(load_file(tmp_path / "model.safetensors"))
    own = (".embeddings.", ".encoder.", ".transformer.layer.")
    assert left == [name for name in names if not any(part in name for part in own)] != []


@pytest.mark.parametrize("prefix", ["", "module.", "a.b."])
def test_tensors_beside_the_encoder_are_taken_by_their_own_names(prefix, tmp_path):
    model = made("bert", "AutoModelForSequenceClassification", num_labels=3)
    write(model, tmp_path, below(prefix))
    file = Checkpoint(tmp_path, LAYOUT)
    assert file.prefix == f"{prefix}bert."
    head, pooler = file.linear("classifier", 12, 3), file.linear("pooler.dense", 12, 12)
    assert np.array_equal(head.weight, model.classifier.weight.detach().numpy().T)
    assert np.array_equal(head.bias, model.classifier.bias.detach().numpy())
    assert np.array_equal(pooler.weight, model.bert.pooler.dense.weight.detach().numpy().T)
    assert "classifier.weight" in file and "cls.weight" not in file
    taken = {f"{prefix}{n}" for n in ("classifier.weight", "bert.pooler.dense.bias")}
    assert taken.isdisjoint(file.left)
    assert f"{prefix}bert.embeddings.LayerNorm.bias" in file.left


def test_halves_of_two_models_are_not_put_together(tmp_path):
    name = "encoder.layer.1.output.dense.bias"

    def split(tensors):
        return {n if n == name else f"bert.{n}": value for n, value in tensors.items()}

    write(made(), tmp_path, split)
    with pytest.raises(ConfigError, match=f"no tensor '{name}' below 'bert.'"):
        ours(tmp_path)


@pytest.mark.parametrize("name", ["position_ids", "token_type_ids"])
def test_buffers_are_passed_over(name, tmp_path):
    extra = {f"embeddings.{name}": torch.arange(13)[None]}
    write(made(), tmp_path, lambda tensors: {**tensors, **extra})
    assert_same(tmp_path, loaded(tmp_path))
    file = Checkpoint(tmp_path, LAYOUT)
    assert f"embeddings.{name}" not in file.left and "pooler.dense.bias" in file.left


# -- tied tensors -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_shared_tensors_that_the_metadata_names_are_read(kind, tmp_path):
    model = made(kind, "AutoModelForMaskedLM")
    model.config.save_pretrained(tmp_path)
    save_model(model, str(tmp_path / "model.safetensors"))
    # Without the metadata's word nothing says whose rows these are.
    set_config(tmp_path, tie_word_embeddings=False)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        gone = "roberta.embeddings.word_embeddings.weight"
        assert (gone in file.metadata()) == (model.base_model_prefix == "roberta")
    assert_same(tmp_path, model)


@pytest.mark.parametrize("kind", TIED)
def test_word_embeddings_may_stand_in_the_head_alone(kind, tmp_path):
    model = made(kind, "AutoModelForMaskedLM")
    word = f"{model.base_model_prefix}.embeddings.word_embeddings.weight"
    write(model, tmp_path, lambda t: {n: v for n, v in t.items() if n != word})
    assert TIED[kind] in load_file(tmp_path / "model.safetensors")
    assert_same(tmp_path, model)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_decoders_embeddings_may_stand_in_its_head_alone(kind, tmp_path):
    reference = decoder_files.written(kind, tmp_path, tie_word_embeddings=True)
    word = {"llama": "model.embed_tokens.weight", "gpt2": "transformer.wte.weight"}[kind]
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors.pop(word)
    save_safetensors(tensors, tmp_path)
    ids = np.arange(9)
    wanted = decoder_files.reference(reference, ids)
    assert np.abs(read_decoder(tmp_path).logits(ids) - wanted).max() < 1e-5 * np.abs(wanted).max()


# -- decoders ---------------------------------------------------------------------------------


@pytest.mark.parametrize("save", ["bin", "old bin", "bin shards"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_decoders_are_read_from_pytorch_files(kind, save, tmp_path):
    reference = decoder_files.written(kind, tmp_path)
    path = tmp_path / "model.safetensors"
    SAVES[save](load_file(path), tmp_path)
    path.unlink()
    ids = np.arange(9)
    wanted = decoder_files.reference(reference, ids)
    assert np.abs(read_decoder(tmp_path).logits(ids) - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [("llama", "model.", "module.model."), ("llama", "lm_head", "module.lm_head"),
     ("gpt2", "transformer.", ""), ("gpt2", "transformer.", "module.transformer.")],
)  # fmt: skip
def test_any_prefix_of_a_decoder_is_found(kind, old, new, tmp_path):
    reference = decoder_files.written(kind, tmp_path)
    tensors = renamed(old, new)(load_file(tmp_path / "model.safetensors"))
    if new == "module.lm_head":
        tensors = renamed("model.", "module.model.")(tensors)
    save_safetensors(tensors, tmp_path)
    ids = np.arange(9)
    wanted = decoder_files.reference(reference, ids)
    assert np.abs(read_decoder(tmp_path).logits(ids) - wanted).max() < 1e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("save", ["safetensors", "bin"])
def test_values_do_not_change_with_the_file(save, tmp_path):
    write(made(), tmp_path, save=SAVES[save])
    name, shape = "embeddings.word_embeddings.weight", (17, 12)
    found = Checkpoint(tmp_path, LAYOUT).take(name, shape)
    kept = found.copy()
    path = next(p for p in tmp_path.iterdir() if p.name != "config.json")
    path.write_bytes(bytes(path.stat().st_size))
    assert np.array_equal(found, kept) and kept.any()
