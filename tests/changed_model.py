"""The tiny encoder with other weights, and transformers' own view of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from tests.model_parts import folder_model
from tests.tiny_model import WORDS, write_tiny_config

LAST, FIRST = "encoder.layer.0.output.LayerNorm", "encoder.layer.0.attention.output.LayerNorm"
Tensors = dict[str, np.ndarray]


def ids_of(text: str) -> np.ndarray:
    """As the tiny tokenizer has them."""
    return np.array([2, *(WORDS.index(word) for word in text.split()), 3])


def write_changed(folder: Path, change: Callable[[Tensors], None], samples: str = "") -> Path:
    """A config of the tiny encoder after `change` of its tensors; samples: lines."""
    path = write_tiny_config(folder, correlations="softspoken")
    file = folder / "model" / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file({name: np.float32(x) for name, x in tensors.items()}, file)
    if samples:
        (folder / "samples.txt").write_text(samples)
    return path


QUIET, LOUD = "a small test of", "private private private"


def write_narrow(folder: Path) -> Path:
    """A config of a model with a neuron that one word drives, far; calibrated without that word."""
    write_tiny_config(folder)
    bare, rows = folder_model(folder / "model", 8), {}
    for text in (QUIET, LOUD):

        def see(edge: str, x: torch.Tensor, text: str = text) -> None:
            if edge == "layer0.attention_norm.residual":
                rows[text] = x.double().numpy()

        bare.plain(ids_of(text), see)
    # Nothing of it in any row of the one, much in the rows of the other's words.
    inputs = np.concatenate([rows[QUIET], rows[LOUD][1:4]])
    wanted = np.where(np.arange(len(inputs)) < len(rows[QUIET]), 0.0, 100.0)

    def change(tensors: Tensors) -> None:
        name = "encoder.layer.0.intermediate.dense"
        tensors[f"{name}.weight"][0] = np.linalg.lstsq(inputs, wanted, rcond=None)[0]
        tensors[f"{name}.bias"][0] = 0

    return write_changed(folder, change, f"{QUIET}\n")


def gained(norm: str, factor: float) -> Callable[[Tensors], None]:
    """Gain and bias of a LayerNorm times a factor."""

    def change(tensors: Tensors) -> None:
        for part in ("weight", "bias"):
            tensors[f"{norm}.{part}"] *= np.float32(factor)

    return change


def published(folder: Path) -> torch.nn.Module:
    """The model of a folder in transformers, float64."""
    import transformers

    settings = json.loads((folder / "config.json").read_text())
    settings.pop("model_type")
    config = transformers.BertConfig(**settings)
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    tensors = {k: torch.from_numpy(x) for k, x in load_file(folder / "model.safetensors").items()}
    missing, unknown = model.load_state_dict(tensors, strict=False)
    assert not unknown and all("position_ids" in name for name in missing)
    return model.to(torch.float64)


def mean_vector(model: torch.nn.Module, ids: np.ndarray) -> np.ndarray:
    """Mean over tokens of the last layer, as transformers computes it."""
    with torch.no_grad():
        hidden = model(torch.from_numpy(ids)[None]).last_hidden_state[0]
    return hidden.mean(0).numpy()


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))
