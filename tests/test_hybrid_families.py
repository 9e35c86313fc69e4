"""Encoders of the BERT family against transformers, and models of which only the shape is real."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from hybrid.config.loading import load_config
from hybrid.models.bert import Bert
from hybrid.models.decoders import read_decoder
from hybrid.models.loading import load_model, text_encoder
from tests.model_parts import bare_model, folder_model, read_folder
from tests.processes import run
from tests.tiny_model import CONFIG, TEXT, write_tiny_config
from transport.errors import ConfigError

SIZES = {
    "hidden_size": 30, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 50,
    "vocab_size": 20, "max_position_embeddings": 19, "type_vocab_size": 1,
}  # fmt: skip
KINDS = ("bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert")


def written(kind, folder):
    """A randomly initialised model of transformers, saved as transformers saves it."""
    import transformers

    torch.manual_seed(11)
    sizes = dict(SIZES)
    if kind == "electra":
        sizes["embedding_size"] = sizes["hidden_size"]
    if kind == "distilbert":
        sizes = {
            "dim": 30, "n_layers": 2, "n_heads": 3, "hidden_dim": 50, "vocab_size": 20,
            "max_position_embeddings": 16,
        }  # fmt: skip
    config = transformers.AutoConfig.for_model(kind, **sizes, initializer_range=0.2)
    options = {} if kind in ("electra", "distilbert") else {"add_pooling_layer": False}
    model = transformers.AutoModel.from_config(config, **options).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_plain_model_agrees_with_transformers(kind, tmp_path):
    reference = written(kind, tmp_path).to(torch.float64)
    model = folder_model(tmp_path)
    assert model.public.architecture.positions >= 16
    for count in (1, 2, 7, 16):
        ids = np.random.default_rng(count).integers(3, 20, count)
        with torch.no_grad():
            hidden = reference(torch.from_numpy(ids)[None]).last_hidden_state[0]
        found = model.plain(ids, dtype=torch.float64)
        assert np.abs(found - hidden.mean(0).numpy()).max() < 1e-9
        # The client's table gives what the first layer of the model reads.
        with torch.no_grad():
            embedded = reference.embeddings(torch.from_numpy(ids)[None])[0].numpy()
        assert np.abs(model.weights.embedding.embed(ids) - embedded).max() < 1e-5


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_checkpoints_with_a_head_are_read(kind, tmp_path):
    from safetensors.numpy import load_file, save_file

    written(kind, tmp_path)
    whole = folder_model(tmp_path).weights
    path = tmp_path / "model.safetensors"
    named = {f"{kind}.{name}": value for name, value in load_file(path).items()}
    save_file({**named, "lm_head.bias": np.zeros(3, np.float32)}, path)
    again = folder_model(tmp_path).weights
    assert again.embedding.digest() == whole.embedding.digest()
    assert np.array_equal(again.layers[1].output.weight, whole.layers[1].output.weight)


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("bert", {"model_type": "gpt2"}, "model_type is 'gpt2'; supported are bert, rob"),
        ("bert", {"model_type": ["bert"]}, "supported are"),
        ("bert", {"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; only 'gelu'"),
        ("bert", {"position_embedding_type": "relative_key"}, "only 'absolute'"),
        ("roberta", {"is_decoder": True}, "is_decoder is True; only False"),
        ("roberta", {"is_causal": True}, "is_causal is True; only False"),
        ("bert", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("electra", {"embedding_size": 8}, "embedding_size is 8; only 30"),
        ("distilbert", {"activation": "relu"}, "activation is 'relu'"),
        ("roberta", {"max_position_embeddings": 2}, "embeddings is 2, but .* padding id 1"),
        ("bert", {"layer_norm_eps": "x"}, "epsilon is 'x'"),
    ],
)
def test_what_is_not_computed_is_refused(kind, change, message, tmp_path):
    written(kind, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        read_folder(tmp_path)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_folder_with_code_of_its_own_is_refused(kind, tmp_path):
    own = {"AutoConfig": "a.B", "AutoModelForMaskedLM": "modeling.Other"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, "auto_map": own}))
    read = read_folder if kind == "bert" else read_decoder
    with pytest.raises(ConfigError, match="own code for AutoModelForMaskedLM"):
        read(tmp_path)


def test_a_config_that_is_no_table_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ConfigError, match="not a table"):
        read_folder(tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_private_inference_of_other_families(kind, tmp_path):
    written(kind, tmp_path / "model")
    words = ["<s>", "<pad>", "</s>", *TEXT.split()]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    tokenizer.save(str(tmp_path / "model" / "tokenizer.json"))
    config = write_tiny_config(tmp_path, model=tmp_path / "model")
    code, output = run("run", config, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["accuracy"]["cosine"] > 0.999
    assert report["model"].startswith("weights of model: hidden 30, 2 layers")


SHAPE = "shape: {hidden: 24, layers: 1, heads: 3, intermediate: 40}"


def shape_config(folder, model=SHAPE):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.txt").write_text(TEXT + "\n")
    text = CONFIG.format(model="x", tokens=8, correlations="softspoken")
    path = folder / "shape.yaml"
    path.write_text(text.replace("path: x", model).replace("sentences: samples.txt, ", ""))
    return path


@pytest.mark.long
def test_a_shape_with_random_weights_runs_and_says_so(tmp_path):
    config = shape_config(tmp_path)
    code, output = run("run", config, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["accuracy"]["cosine"] > 0.999
    assert report["model"].startswith("RANDOM weights of the shape: hidden 24, 1 layers")
    assert "RANDOM weights" in (tmp_path / "out" / "report.md").read_text()


def shape_model(shape, tokens=16):
    family = Bert()
    sizes = {"vocabulary": 1024, "positions": 512, **Bert.shapes[shape]}
    architecture = family.shape_architecture(sizes, "test")
    return bare_model(family, architecture, family.random_weights(architecture), tokens)


def test_random_weights_have_the_magnitudes_of_trained_ones():
    model = shape_model("minilm-l6", 32)
    seen: dict[str, float] = {}

    def observe(edge, tensor):
        seen[edge] = float((tensor**2).mean() ** 0.5)

    model.plain(np.arange(2, 34), observe)
    for layer in range(6):
        assert 0.5 < seen[f"layer{layer}.scores"] < 4
        assert 0.5 < seen[f"layer{layer}.intermediate"] < 4
        assert 0.8 < seen[f"layer{layer}.input"] < 1.3


def test_shapes_are_named_or_written_out(tmp_path):
    assert Bert.shapes["bert-base"] == {
        "hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072,
    }  # fmt: skip
    shapes = [
        "shape: {like: bert-large, layers: 1}",
        "shape: {like: minilm-l6, layers: 1, vocabulary: 9}",
    ]
    large, small = (load_model(load_config(shape_config(tmp_path, shape))) for shape in shapes)
    assert small.public.architecture.layers == len(small.weights.layers) == 1
    assert small.weights.embedding.words.shape == (9, 384)
    assert large.public.architecture.hidden == 1024
    assert "RANDOM weights of the shape of bert-large" in large.line
    first, again = (shape_model("minilm-l6").weights for _ in range(2))
    assert first.embedding.digest() == again.embedding.digest()


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("shape: bert-bse", "no shape is called 'bert-bse'; did you mean 'bert-base'"),
        ("shape: {hidden: 8, family: brt}", "model.shape.family: 'brt'; known: bert, mpnet"),
        ("shape: {like: bert-base, layrs: 1}", "unknown key 'layrs'; did you mean 'layers'"),
        ("shape: {like: bert-base, family: bert}", "family would be ignored beside like"),
        (
            "shape: {like: bert-base, layers: x}",
            "model.shape.layers: input should be",
        ),
        (
            "shape: {like: bert-base, layers: 0}",
            "layers is 0; expected a positive int",
        ),
        ("shape: {hidden: 12}", "model.shape: layers, heads, intermediate missing"),
        ("shape: {hidden: 30, layers: 1, heads: 4, intermediate: 8}", "not a multiple of 4 heads"),
        ("path: x, shape: bert-base", "model: give either path, a model folder, or shape"),
        ("pooling: mean", "stands twice"),
    ],
)
def test_wrong_shapes_are_refused(model, message, tmp_path):
    code, output = run("plan", shape_config(tmp_path, model), cwd=tmp_path)
    assert code == 2
    assert message in " ".join(output.split())
    assert "Traceback" not in output


def test_words_are_tokens_where_there_is_only_a_shape(tmp_path):
    encoder = text_encoder(load_config(shape_config(tmp_path)))
    ids = encoder.encode("one two one")
    assert ids[0] == 0
    assert ids[-1] == 1
    assert ids[1] == ids[3] != ids[2]
    assert all(2 <= i < encoder.vocabulary for i in ids[1:-1])
    assert len(encoder.encode("a b c d e f")) == 8
    with pytest.raises(ConfigError, match="has 9 tokens, model.tokens is 8"):
        encoder.encode("a b c d e f g")
    assert len(encoder.encode("a b c d e f g", truncate=True)) == 8
    with pytest.raises(ConfigError, match="empty"):
        encoder.encode(" ")
