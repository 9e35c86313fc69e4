"""Weights that are not read: what lies in a folder instead, and how to get to what is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hybrid.models.model_files import cut
from transport.errors import ConfigError

_SAVE = "load it where you trust it, and write it with `save_pretrained`"
_MERGE = "save it with its model as one: `merge_and_unload()`, then `save_pretrained`"
_CONVERT = (
    "convert it by transformers 4: `AutoModel.from_pretrained(FOLDER, {}=True)."
    "save_pretrained(NEW)`"
)
_FOREIGN: Mapping[str, tuple[str, str]] = {
    "*-of-*.safetensors": ("a shard without the index", "fetch model.safetensors.index.json too"),
    "*-of-*.bin": ("a shard without the index", "fetch pytorch_model.bin.index.json too"),
    "adapter_model.*": ("an adapter's weights", _MERGE),
    "model*.safetensors": ("weights under another name", "rename it to model.safetensors"),
    "pytorch_model*.bin": ("weights under another name", "rename it to pytorch_model.bin"),
    "*.safetensors": ("tensors under another name", "rename it to model.safetensors"),
    "tf_model*.h5": ("TensorFlow weights", _CONVERT.format("from_tf")),
    "flax_model*.msgpack": ("Flax weights", _CONVERT.format("from_flax")),
    "*.ckpt.index": ("a TensorFlow checkpoint", _CONVERT.format("from_tf")),
    "*.gguf": ("a GGUF file", "name the file itself to run a decoder; encoders are not read of it"),
    "*.onnx": ("an ONNX graph", "take the model that it was exported from"),
    "onnx": ("ONNX graphs", "take the model that they were exported from"),
    "openvino*": ("an OpenVINO graph", "take the model that it was exported from"),
    "rust_model.ot": ("weights for Rust", "take the model that it was converted from"),
    "*.pth": ("a PyTorch file of its author's own form", _SAVE),
    "*.pt": ("a PyTorch file of its author's own form", _SAVE),
    "*.ckpt": ("a training checkpoint", _SAVE),
}
"""What a file is and what to do, by a pattern of its name; the first that fits counts."""
_NO_WEIGHTS = ("optimizer.*", "scheduler.*", "rng_state*", "scaler.*", "training_args.*")
_QUANTISED = re.compile(r".*\.(qweight|qzeros|SCB|absmax|quant_map\w*|weight_packed)")
_ADAPTED = re.compile(r".*\.lora_\w+(\..*)?")


def no_weights(folder: Path, names: Iterable[str]) -> ConfigError:
    """That a folder of these files has no weights that are read."""
    own = sorted(n for n in names if not any(fnmatch(n, other) for other in _NO_WEIGHTS))
    found = "fetch one of them"
    for pattern, (what, remedy) in _FOREIGN.items():
        fitting = [name for name in own if fnmatch(name, pattern)]
        if fitting:
            found = f"it holds {cut(fitting[0])}, {what}: {remedy}"
            break
    return ConfigError(
        f"{folder}: weights missing, neither model.safetensors nor pytorch_model.bin, whole or in "
        f"shards with an index; {found}"
    )


def refuse_adapter(folder: Path, names: frozenset[str]) -> None:
    """`ConfigError` for a folder of LoRA and other adapters by PEFT."""
    if "adapter_config.json" in names:
        raise ConfigError(
            f"{folder}: holds an adapter (adapter_config.json), which changes the weights of "
            f"another model; {_MERGE}"
        )


def refuse_quantised(raw: Mapping[str, Any], place: str) -> None:
    """`ConfigError` where config.json says that weights are integers with scales."""
    for key in ("quantization_config", "compression_config"):
        value = raw.get(key)
        if value is not None:
            kind = value.get("quant_method") if isinstance(value, dict) else None
            raise ConfigError(
                f"{place}: {key} is {cut(repr(value if kind is None else kind))}: quantised "
                "weights are not read; take the model before it was quantised"
            )


def refuse_foreign_tensors(folder: Path, names: Iterable[str]) -> None:
    """`ConfigError` for tensors that are a quantised matrix' parts or an adapter's."""
    for name in names:
        if _QUANTISED.fullmatch(name):
            raise ConfigError(
                f"{folder}: {cut(name)} is part of a quantised matrix, which is not read; take "
                "the model before it was quantised"
            )
        if _ADAPTED.fullmatch(name):
            raise ConfigError(
                f"{folder}: {cut(name)} is of an adapter beside what it changes; {_MERGE}"
            )


def no_config(folder: Path, names: frozenset[str]) -> ConfigError:
    """That a folder of these files has no config.json, and where one may be."""
    refuse_adapter(folder, names)
    below = sorted(name for name in names if (folder / name / "config.json").is_file())
    remedy = "name a folder in Hugging Face layout"
    if "snapshots" in names:
        remedy = "this is a download cache: name the folder below `snapshots`"
    elif "0_Transformer" in below:
        remedy = "name the folder 0_Transformer in it"
    elif any(name.endswith(".gguf") for name in names):
        remedy = "it holds a GGUF file, of which decoders alone are read; " + remedy
    return ConfigError(f"{folder / 'config.json'}: missing; {remedy}")


def refuse_own_code(raw: Mapping[str, Any], place: str) -> None:
    """A model that brings its own code may compute otherwise under a known name."""
    own = raw.get("auto_map")
    named = [key for key in own if str(key).startswith("AutoModel")] if own else []
    if named:
        raise ConfigError(
            f"{place}: auto_map names the folder's own code for {cut(str(named[0]))}, which is not "
            "run, so its weights may mean something else; use a model that transformers computes"
        )


def refuse_left_over(path: Path, names: Iterable[str]) -> None:
    """`ConfigError` that names tensors nobody asked for."""
    left = sorted(names)
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ConfigError(
            f"{path}: tensor {cut(repr(left[0]))}{more} would be ignored, so answers would "
            "differ; use a model without it"
        )
