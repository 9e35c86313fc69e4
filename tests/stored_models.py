"""Small models of transformers, and the forms in which their weights are stored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.model_parts import folder_model
from transport.errors import ConfigError

SIZES = {
    "hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20,
    "vocab_size": 17, "max_position_embeddings": 13, "type_vocab_size": 1,
}  # fmt: skip
DISTILBERT = {
    "dim": 12, "n_layers": 2, "n_heads": 3, "hidden_dim": 20, "vocab_size": 17,
    "max_position_embeddings": 13,
}  # fmt: skip
IDS = np.array([2, 5, 9, 4, 16, 7])
QUERY = "encoder.layer.0.attention.self.query.weight"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
Tensors = dict[str, torch.Tensor]


def made(kind: str = "bert", auto: str = "AutoModel", **changes: Any) -> Any:
    """A model of transformers with random weights, biases among them."""
    import transformers

    torch.manual_seed(3)
    sizes = DISTILBERT if kind == "distilbert" else SIZES
    if kind == "electra":
        sizes = {**sizes, "embedding_size": 12}
    settings = {**sizes, "initializer_range": 0.3, **changes}
    config = transformers.AutoConfig.for_model(kind, **settings)
    model = getattr(transformers, auto).from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(torch.randn(parameter.shape) * 0.2)
    return model


def theirs(model: Any) -> np.ndarray:
    """The mean of the last rows by transformers."""
    with torch.no_grad():
        rows = model.base_model(torch.from_numpy(IDS)[None]).last_hidden_state
    return np.asarray(rows[0].double().mean(0).numpy())


def loaded(folder: Path) -> Any:
    """The folder's model, as transformers reads it."""
    import transformers

    return transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def ours(folder: Path) -> np.ndarray:
    """The same mean by the plain model."""
    return folder_model(folder, 8).plain(IDS)


def assert_same(folder: Path, reference: Any) -> None:
    """That the folder's plain model computes what transformers does."""
    wanted = theirs(reference)
    assert np.ptp(wanted) > 0.3
    assert np.abs(ours(folder) - wanted).max() < 1e-5


def refused(folder: Path, message: str) -> None:
    """The one line with which a folder is refused."""
    with pytest.raises(ConfigError, match=message) as caught:
        folder_model(folder)
    line = str(caught.value)
    assert line.startswith(str(folder)) and "\n" not in line and len(line) < 400 + len(str(folder))


# -- forms ------------------------------------------------------------------------------------


def tensors_of(model: Any) -> Tensors:
    """By the names of the model's own file, none shared."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def write(
    model: Any,
    folder: Path,
    change: Callable[[Tensors], Tensors] = lambda tensors: tensors,
    save: Callable[[Tensors, Path], None] | None = None,
    **settings: Any,
) -> Path:
    """A folder with the model's config and its tensors, changed."""
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    set_config(folder, **settings)
    (save or save_safetensors)(change(tensors_of(model)), folder)
    return folder


def set_config(folder: Path, **changes: Any) -> None:
    """Other values in config.json; None removes a key."""
    path = folder / "config.json"
    table = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({k: v for k, v in table.items() if v is not None}))


def save_safetensors(tensors: Tensors, folder: Path) -> None:
    """One file."""
    save_file(tensors, folder / "model.safetensors")


def save_bin(tensors: Tensors, folder: Path) -> None:
    """PyTorch's file of today, which is a zip archive."""
    torch.save(tensors, folder / "pytorch_model.bin")


def save_old_bin(tensors: Tensors, folder: Path) -> None:
    """PyTorch's file before version 1.6."""
    path = folder / "pytorch_model.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


def save_bin_shards(tensors: Tensors, folder: Path) -> None:
    """Three files and an index."""
    names = list(tensors)
    places = {name: f"pytorch_model-{i % 3 + 1:05}-of-00003.bin" for i, name in enumerate(names)}
    for place in set(places.values()):
        torch.save({n: tensors[n] for n in names if places[n] == place}, folder / place)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))


def save_shards(tensors: Tensors, folder: Path) -> None:
    """As transformers cuts them."""
    from huggingface_hub import save_torch_state_dict

    save_torch_state_dict(tensors, folder, max_shard_size="3KB")


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    """Names with a part exchanged."""
    return lambda tensors: {name.replace(old, new): v for name, v in tensors.items()}


def old_names(tensors: Tensors) -> Tensors:
    """Gains and biases of norms as TensorFlow calls them."""
    return {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): value
        for name, value in tensors.items()
    }


def below(prefix: str) -> Callable[[Tensors], Tensors]:
    """All names behind a prefix."""
    return lambda tensors: {f"{prefix}{name}": value for name, value in tensors.items()}
