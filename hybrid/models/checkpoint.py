"""Tensors of a Hugging Face folder, in one file or in shards, each checked as it is taken."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from hybrid.models.gguf_file import refuse_left_over
from hybrid.models.weights import Affine, Array
from transport.errors import ConfigError

_WHOLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_READ = (torch.float32, torch.float16, torch.bfloat16)


class Checkpoint:
    """Tensors by name; `ConfigError` names what is not as `config.json` says."""

    def __init__(self, folder: Path, prefix: str, ignored: str = "$^") -> None:
        """prefix: of tensors in a checkpoint with a head, removed.

        ignored: a pattern of names that hold nothing but what follows from the sizes.
        """
        self._folder = folder
        self._places: dict[str, tuple[Path, str]] = {}
        for path in self._files():
            with _opened(path) as file:
                for name in file.keys():  # noqa: SIM118 - not a mapping
                    self._add(path, name, prefix)
        self._left = {n for n in self._places if not re.fullmatch(ignored, n)}

    def _files(self) -> list[Path]:
        """All of them; an index must name what is there, no more and no less."""
        whole, index = self._folder / _WHOLE, self._folder / _INDEX
        if whole.is_file():
            return [whole]
        if not index.is_file():
            raise ConfigError(
                f"{whole}: missing, and no {_INDEX}; name a folder in Hugging Face layout, saved "
                "as safetensors"
            )
        try:
            places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = sorted(set(places.values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{index}: not an index of shards ({type(error).__name__}: {error}); fetch it again"
            ) from None
        for name in files:
            if not isinstance(name, str) or Path(name).name != name:
                raise ConfigError(f"{index}: {name!r} is no file of this folder; fetch it again")
        self._check_index(index, places, [self._folder / name for name in files])
        return [self._folder / name for name in files]

    @staticmethod
    def _check_index(index: Path, places: dict[str, str], files: list[Path]) -> None:
        for path in files:
            with _opened(path) as file:
                held = set(file.keys())
            named = {name for name, place in places.items() if place == path.name}
            if held != named:
                odd = min(held ^ named)
                raise ConfigError(
                    f"{path}: tensor {odd!r} is {'not in' if odd in held else 'only in'} "
                    f"{index.name}; fetch both again"
                )

    def _add(self, path: Path, name: str, prefix: str) -> None:
        short = name.removeprefix(prefix)
        if short in self._places:
            raise ConfigError(f"{path}: tensor {short!r} is there twice; fetch the folder again")
        self._places[short] = (path, name)

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def take(self, name: str, shape: Iterable[int]) -> Array:
        """A tensor as float32."""
        wanted = tuple(shape)
        if name not in self._places:
            raise ConfigError(
                f"{self._folder}: no tensor {name!r}; is this a model of that family?"
            )
        path, stored = self._places[name]
        self._left.discard(name)
        with _opened(path) as file:
            tensor: torch.Tensor = file.get_tensor(stored)
        if tuple(tensor.shape) != wanted:
            raise ConfigError(
                f"{path}: {stored} has shape {tuple(tensor.shape)}, config.json implies {wanted}; "
                "use the config.json that belongs to these weights"
            )
        if tensor.dtype not in _READ:
            raise ConfigError(
                f"{path}: {stored} is {str(tensor.dtype).removeprefix('torch.')}; expected "
                "float32, float16 or bfloat16: take the model before it was quantised"
            )
        values: Array = tensor.to(torch.float32).numpy()
        if not np.isfinite(values).all():
            raise ConfigError(
                f"{path}: {stored} holds values that are not finite numbers; fetch it again"
            )
        return values

    def matrix(self, name: str, d_in: int, d_out: int) -> Array:
        """A linear map without bias, (in, out); Hugging Face stores (out, in)."""
        return np.ascontiguousarray(self.take(f"{name}.weight", (d_out, d_in)).T)

    def affine(self, name: str, *shape: int) -> Affine:
        """Weight as it is stored, and bias of its last axis."""
        return Affine(self.take(f"{name}.weight", shape), self.take(f"{name}.bias", shape[-1:]))

    def finish(self) -> None:
        """`ConfigError` where a tensor was not taken: it would be ignored."""
        refuse_left_over(self._folder, self._left)

    def __repr__(self) -> str:
        return f"<Checkpoint {self._folder.name}: {len(self._places)} tensors>"


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a safetensors file ({error}); fetch it again") from None
