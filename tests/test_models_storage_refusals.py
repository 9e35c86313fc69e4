"""Stored weights that are not read: each is refused in one line, with what to do."""

from __future__ import annotations

import pytest
import torch

from hybrid.models.bert_names import LAYOUT
from hybrid.models.checkpoint import Checkpoint
from tests.stored_models import (
    QUERY,
    below,
    made,
    ours,
    refused,
    save_bin,
    save_safetensors,
    write,
)

WORDS = "embeddings.word_embeddings.weight"


@pytest.fixture(scope="module")
def model():
    return made()


def copied(tensors):
    return {name: value.clone() for name, value in tensors.items()}


def with_tensors(**extra):
    return lambda tensors: {**tensors, **extra}


# -- types and values -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "save", "kind"),
    [
        (torch.float8_e4m3fn, save_safetensors, "float8_e4m3"),
        (torch.float8_e5m2, save_safetensors, "float8_e5m2"),
        (torch.float8_e4m3fn, save_bin, "float8_e4m3fn"),
        (torch.int8, save_safetensors, "int8"),
        (torch.uint8, save_bin, "uint8"),
        (torch.bool, save_safetensors, "bool"),
        (torch.complex64, save_safetensors, "complex64"),
    ],
)
def test_other_types_are_refused_by_name(dtype, save, kind, model, tmp_path):
    write(model, tmp_path, lambda t: {**t, QUERY: t[QUERY].to(dtype)}, save)
    refused(tmp_path, f": {QUERY} is {kind}; expected float32, float16, bfloat16 or float64: take")


def test_tensors_without_plain_values_are_refused(model, tmp_path):
    for tensor, kind in (
        (torch.zeros(12, 12).to_sparse(), "sparse_coo float32"),
        (torch.zeros(12, 12, device="meta"), "float32 without values"),
    ):
        write(model, tmp_path, with_tensors(**{QUERY: tensor}), save_bin)
        refused(tmp_path, f"{QUERY} is {kind}; expected")


@pytest.mark.parametrize(
    "value", [torch.full((12, 12), torch.nan), torch.full((12, 12), 1e300, dtype=torch.float64)]
)
def test_values_that_are_no_numbers_of_float32_are_refused(value, model, tmp_path):
    write(model, tmp_path, with_tensors(**{QUERY: value}))
    refused(tmp_path, f"{QUERY} holds values that are not finite numbers of float32")


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "bert.", "module.bert."])
@pytest.mark.parametrize(
    "extra",
    [
        "encoder.layer.0.attention.self.distance_embedding.weight",
        "encoder.layer.1.output.adapter.down.weight", "encoder.relative_attention_bias.weight",
        "embeddings.projection.weight", "encoder.norm.gamma", "whitening.weight",
    ],
)  # fmt: skip
def test_tensors_of_the_encoder_that_nobody_takes_are_refused(prefix, extra, model, tmp_path):
    write(model, tmp_path, lambda t: below(prefix)({**t, extra: torch.ones(12)}))
    refused(tmp_path, f"tensor '{prefix}{extra}' would be ignored, so answers would differ")


def test_what_has_two_meanings_is_refused(model, tmp_path):
    both = {"embeddings.LayerNorm.gamma": torch.ones(12)}
    write(model, tmp_path, with_tensors(**both))
    refused(tmp_path, "embeddings.LayerNorm.* is there twice, also as embeddings.LayerNorm")
    write(model, tmp_path, lambda t: {**below("query.")(t), **copied(below("document.")(t))})
    refused(tmp_path, "holds 2 models, as of names that start with 'document.' and with 'query.'")
    write(model, tmp_path, lambda t: {**t, "other." + WORDS: t[WORDS] + 1})
    refused(tmp_path, "holds 2 models, as of names that start with '' and with 'other.'")


def test_what_is_missing_is_named(model, tmp_path):
    write(model, tmp_path, lambda t: below("bert.")({n: v for n, v in t.items() if n != QUERY}))
    refused(tmp_path, f"no tensor '{QUERY}' below 'bert.'; is this a model of that family")
    write(model, tmp_path, lambda t: {n: v for n, v in t.items() if "embeddings" not in n})
    refused(tmp_path, f"no tensor '{WORDS}' under whatever prefix .there are 'encoder")
    write(model, tmp_path, lambda _: {})
    refused(tmp_path, "under whatever prefix .there are no tensors")
    write(model, tmp_path, lambda t: {n: v[:5] if n == WORDS else v for n, v in t.items()})
    refused(tmp_path, r"has shape \(5, 12\), config.json implies \(17, 12\); use the config")
    write(model, tmp_path, num_hidden_layers=1)
    refused(tmp_path, "holds layer 1, but config.json says 1 layers")


@pytest.mark.parametrize("extra", ["linear.weight", "crf.transitions", "encoder2.layer.0.weight"])
def test_what_stands_beside_an_encoder_with_a_prefix_is_left(extra, model, tmp_path):
    wanted = ours(write(model, tmp_path / "plain"))
    write(model, tmp_path, lambda t: {**below("bert.")(t), extra: torch.ones(12)})
    assert (ours(tmp_path) == wanted).all()
    assert extra in Checkpoint(tmp_path, LAYOUT).left


def test_a_head_is_not_taken_for_embeddings_that_are_not_tied_to_it(tmp_path):
    model = made("roberta", "AutoModelForMaskedLM")
    word = f"roberta.{WORDS}"
    write(
        model, tmp_path, lambda t: {n: v for n, v in t.items() if n != word},
        tie_word_embeddings=False,
    )  # fmt: skip
    refused(tmp_path, f"no tensor '{WORDS}' below 'roberta.'")


# -- quantised models and adapters ------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
         "quantization_config is 'bitsandbytes': quantised weights are not read; take the model b"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "is 'gptq': quantised"),
        ({"quantization_config": {"quant_method": "awq"}}, "is 'awq': quantised"),
        ({"quantization_config": {"bits": 4}}, r"quantization_config is \{'bits': 4\}: quantised"),
        ({"quantization_config": "x" * 999}, r"quantization_config is 'xxx+\.\.: quantised"),
        ({"compression_config": {"format": "int"}}, "compression_config is"),
    ],
)  # fmt: skip
def test_quantised_models_are_refused(settings, message, model, tmp_path):
    write(model, tmp_path, **settings)
    refused(tmp_path, message)


@pytest.mark.parametrize(
    ("end", "message"),
    [
        ("qweight", "query.qweight is part of a quantised matrix, which is not read; take"),
        ("weight.absmax", "query.weight.absmax is part of a quantised"),
        ("SCB", "query.SCB is part"),
        ("lora_A.default.weight", "is of an adapter beside what it changes"),
        ("lora_B.weight", "save it with its model as one: `merge_and_unload"),
    ],
)
def test_parts_of_quantised_and_adapted_matrices_are_refused(end, message, model, tmp_path):
    name = QUERY.replace("query.weight", f"query.{end}")
    write(model, tmp_path, lambda t: {n: v for n, v in t.items() if n != QUERY} | {name: t[QUERY]})
    refused(tmp_path, message)


def test_adapters_are_refused_alone_and_beside_a_model(model, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "holds an adapter .adapter_config.json., which changes the weights of anothe")
    write(model, tmp_path)
    refused(tmp_path, "holds an adapter")


# -- folders without weights that are read ----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tf_model.h5", "it holds tf_model.h5, TensorFlow weights: convert it by transf.*from_tf"),
        ("flax_model.msgpack", "flax_model.msgpack, Flax weights: convert it .*from_flax=True"),
        ("bert_model.ckpt.index", "a TensorFlow checkpoint"),
        ("model.onnx", "model.onnx, an ONNX graph: take the model that it was exported from"),
        ("openvino_model.xml", "an OpenVINO graph"),
        ("rust_model.ot", "weights for Rust"),
        ("model.fp16.safetensors", "weights under another name: rename it to model.safetensors"),
        ("pytorch_model.fp16.bin", "weights under another name: rename it to pytorch_model.bin"),
        (
            "model-00001-of-00002.safetensors",
            "a shard without the index: fetch model.safetens",
        ),
        ("pytorch_model-00001-of-00002.bin", "a shard without the index: fetch pytorch_model.bin."),
        ("adapter_model.safetensors", "an adapter's weights: save it with its model as one"),
        ("encoder.safetensors", "tensors under another name"),
        ("tiny.gguf", "tiny.gguf, a GGUF file: name the file itself to run a decoder; encoders"),
        ("epoch3.pt", "a PyTorch file of its author's own form"),
        ("last.ckpt", "a training checkpoint"),
        ("optimizer.pt", "in shards with an index; fetch one of them"),
        ("training_args.bin", "fetch one of them"),
    ],
)
def test_what_lies_there_instead_is_named(name, message, model, tmp_path):
    write(model, tmp_path)
    (tmp_path / "model.safetensors").rename(tmp_path / name)
    refused(
        tmp_path, "weights missing, neither model.safetensors nor pytorch_model.bin, .*" + message
    )


def test_graphs_in_a_folder_of_their_own_are_named(model, tmp_path):
    write(model, tmp_path)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "onnx").mkdir()
    refused(tmp_path, "it holds onnx, ONNX graphs")


@pytest.mark.parametrize(
    ("inside", "message"),
    [
        ("snapshots/abc/config.json", "a download cache: name the folder below `snapshots`"),
        ("0_Transformer/config.json", "name the folder 0_Transformer in it"),
        ("tiny.gguf", "it holds a GGUF file, of which decoders alone are read"),
        ("readme.md", "config.json: missing; name a folder in Hugging Face layout"),
    ],
)
def test_folders_without_config_say_where_one_may_be(inside, message, tmp_path):
    (tmp_path / inside).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / inside).write_text("{}")
    refused(tmp_path, message)
