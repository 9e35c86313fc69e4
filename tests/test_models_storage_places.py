"""Where a config says that a model is; what decoders' files and GGUF files are refused for."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hybrid.config.loading import load_config
from hybrid.models import generator_loading
from hybrid.models.decoders import read_decoder, read_tokenizer
from hybrid.models.generator_loading import load_generator
from hybrid.models.loading import load_model, text_encoder
from tests import decoder_files
from tests.generation_setup import DECODERS, generation_config
from tests.processes import run
from tests.stored_models import LFS, save_bin, save_safetensors, set_config
from tests.tiny_model import write_tiny_config
from transport.errors import ConfigError


def refused(action, message):
    """The one line with which something is refused."""
    with pytest.raises(ConfigError, match=message) as caught:
        action()
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


# -- encoders by a config ---------------------------------------------------------------------


def test_a_config_that_names_a_file_is_told_so(tmp_path):
    path = write_tiny_config(tmp_path)
    text = path.read_text()
    for name, message in (
        ("model/model.safetensors", "'model/model.safetensors' is a file; name the folder in Hugg"),
        ("model/tiny.gguf", "'model/tiny.gguf' is a GGUF file, of which decoders alone are read"),
        ("nothing", "folder 'nothing' does not exist"),
    ):
        (tmp_path / "model" / "tiny.gguf").write_bytes(b"GGUF")
        path.write_text(text.replace("path: model", f"path: {name}"))
        config = load_config(path)
        refused(lambda config=config: load_model(config), f"tiny.yaml: model.path: {message}")


def test_a_refusal_ends_the_command_with_one_line(tmp_path):
    config = write_tiny_config(tmp_path)
    (tmp_path / "model" / "model.safetensors").write_bytes(LFS)
    code, output = run("plan", config, cwd=tmp_path)
    assert code == 2
    assert "model.safetensors: a Git LFS pointer to the file; run `git lfs pull`" in " ".join(
        output.split()
    )
    assert "Traceback" not in output


def test_a_tokenizer_that_cannot_be_read_is_refused_as_such(tmp_path):
    config = load_config(write_tiny_config(tmp_path))
    path = tmp_path / "model" / "tokenizer.json"
    path.write_bytes(LFS)
    refused(lambda: text_encoder(config), "tokenizer.json: a Git LFS pointer")
    path.unlink()
    path.symlink_to("gone")
    refused(lambda: text_encoder(config), "tokenizer.json: a link to gone, which is not there")


# -- decoders ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"quantization_config": {"quant_method": "awq"}}, "is 'awq': quantised weights are not"),
        ({"compression_config": {"format": "x"}}, "compression_config is"),
    ],
)
def test_quantised_decoders_are_refused(kind, settings, message, tmp_path):
    decoder_files.written(kind, tmp_path)
    set_config(tmp_path, **settings)
    refused(lambda: read_decoder(tmp_path), message)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("score.weight", "tensor 'score.weight' would be ignored"),
        ("model.layers.0.adapter.weight", "tensor 'model.layers.0.adapter.weight' would be"),
        ("vision.embed_tokens.weight", "holds 2 models"),
        ("model.layers.0.mlp.up_proj.qweight", "is part of a quantised matrix"),
        ("model.layers.0.mlp.up_proj.lora_A.weight", "is of an adapter"),
    ],
)
def test_tensors_beside_a_decoder_are_refused(extra, message, tmp_path):
    decoder_files.written("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    save_safetensors({**tensors, extra: torch.ones(4)}, tmp_path)
    refused(lambda: read_decoder(tmp_path), message)


def test_other_types_and_places_of_a_decoder_are_refused(tmp_path):
    decoder_files.written("gpt2", tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    for dtype in (torch.float8_e4m3fn, torch.int8):
        norm = tensors["transformer.ln_f.weight"].to(dtype)
        save_safetensors({**tensors, "transformer.ln_f.weight": norm}, tmp_path)
        refused(lambda: read_decoder(tmp_path), "ln_f.weight is (float8_e4m3|int8); expected")
    refused(lambda: read_decoder(path), "not a whole GGUF file .it starts as none does.; name on")
    refused(lambda: read_tokenizer(path), "not a whole GGUF file")
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(lambda: read_decoder(tmp_path), "holds an adapter")


def test_a_head_is_not_taken_for_embeddings_that_are_not_tied_to_it(tmp_path):
    decoder_files.written("llama", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    save_safetensors(tensors, tmp_path)
    refused(lambda: read_decoder(tmp_path), "no tensor 'embed_tokens.weight' below 'model.'")


def test_ranges_of_a_pytorch_file_are_searched_again_when_it_changes(tmp_path, monkeypatch):
    folder, found = tmp_path / "model", []
    shutil.copytree(DECODERS / "llama", folder)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    samples = tmp_path / "samples.txt"
    samples.write_text("What is a mask?\n")
    real = generator_loading._found
    monkeypatch.setattr(generator_loading, "_found", lambda *a: found.append(1) or real(*a))
    ranges = {"sentences": str(samples), "margin": 2.0}
    config = generation_config(model={"path": str(folder)}, ranges=ranges)
    for factor, searches in ((1, 1), (1, 1), (3, 2)):
        save_bin({name: value * factor for name, value in tensors.items()}, folder)
        load_generator(config)
        assert len(found) == searches


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"])
def test_what_belongs_to_a_decoders_texts_is_refused_where_it_cannot_be_read(name, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(DECODERS / "llama", folder)
    path = folder / name
    path.unlink(missing_ok=True)
    path.write_bytes(LFS)
    refused(lambda: read_tokenizer(folder), f"{name}: a Git LFS pointer")
    path.unlink()
    path.symlink_to("gone")
    refused(lambda: read_tokenizer(folder), f"{name}: a link to gone, which is not there")


# -- GGUF -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tensors(tmp_path_factory):
    """Of a decoder, as a converter would name them."""
    model = decoder_files.written("gpt2", tmp_path_factory.mktemp("gpt2"))
    return decoder_files.gguf_tensors("gpt2", model)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"split.count": 3}, "one of 3 parts of a model; put them together with `llama-gguf-spl"),
        ({"general.type": "adapter"}, "general.type is 'adapter', so this is no model; name the"),
        ({"general.type": "mmproj"}, "general.type is 'mmproj'"),
    ],
)
def test_parts_of_models_are_refused(extra, message, tensors, tmp_path):
    path = decoder_files.write_gguf(tmp_path / "m.gguf", "gpt2", tensors)
    assert read_decoder(path).logits(np.arange(3)).shape == (3, 31)
    for harmless in ({"split.count": 1}, {"split.count": 0}, {"general.type": "model"}):
        read_decoder(decoder_files.write_gguf(path, "gpt2", tensors, harmless))
    decoder_files.write_gguf(path, "gpt2", tensors, extra)
    refused(lambda: read_decoder(path), message)


def test_gguf_files_that_cannot_be_read_are_refused_as_such(tensors, tmp_path):
    path: Path = decoder_files.write_gguf(tmp_path / "m.gguf", "gpt2", tensors)
    path.write_bytes(LFS)
    for place in (path, tmp_path):
        refused(lambda place=place: read_decoder(place), "m.gguf: a Git LFS pointer")
    path.unlink()
    path.symlink_to("gone")
    for place in (path, tmp_path):
        refused(lambda place=place: read_decoder(place), "m.gguf: a link to gone, which is not th")
    refused(lambda: read_decoder(tmp_path / "n.gguf"), "n.gguf: missing; name a GGUF file or a fo")
