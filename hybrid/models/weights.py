"""Tensors of a checkpoint, each checked as it is taken."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from transport.errors import ConfigError
from transport.foreign import cut, shown

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Affine:
    """weight and bias; a linear map has weight (in, out), a norm has gain (n,)."""

    weight: Array
    bias: Array


class TensorFile:
    """`model.safetensors` of a folder; `ConfigError` names what is not as `config.json` says."""

    def __init__(self, folder: Path, prefix: str) -> None:
        """prefix: of tensors in a checkpoint with a head; without one there is none."""
        self._path = folder / "model.safetensors"
        if not self._path.is_file():
            raise ConfigError(f"{self._path}: missing; name a folder in Hugging Face layout")
        try:
            tensors = load_file(self._path)
        except (SafetensorError, OSError, ValueError) as error:
            raise ConfigError(
                f"{self._path}: not a safetensors file ({cut(str(error))}); fetch it again"
            ) from None
        self._tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}

    def refuse_layer(self, prefix: str, layers: int) -> None:
        """`ConfigError` where the file holds a layer more than there should be."""
        if any(name.startswith(f"{prefix}.{layers}.") for name in self._tensors):
            raise ConfigError(
                f"{self._path}: holds layer {layers}, but config.json says {layers} layers; "
                "use the config.json that belongs to these weights"
            )

    def take(self, name: str, shape: Iterable[int]) -> Array:
        """A tensor as float32."""
        tensor, wanted = self._tensors.get(name), tuple(shape)
        if tensor is None:
            raise ConfigError(
                f"{self._path}: no tensor {shown(name)}; is this a model of that family?"
            )
        if tensor.shape != wanted:
            raise ConfigError(
                f"{self._path}: {name} has shape {tensor.shape}, config.json implies {wanted}"
            )
        if tensor.dtype not in (np.float32, np.float16):
            raise ConfigError(
                f"{self._path}: {name} is {tensor.dtype}; expected float32 or float16"
            )
        if not np.isfinite(tensor).all():
            raise ConfigError(f"{self._path}: {name} holds values that are not finite numbers")
        return tensor.astype(np.float32)

    def linear(self, name: str, d_in: int, d_out: int) -> Affine:
        """A linear map, (in, out); Hugging Face stores (out, in)."""
        weight = self.take(f"{name}.weight", (d_out, d_in))
        return Affine(np.ascontiguousarray(weight.T), self.take(f"{name}.bias", (d_out,)))

    def norm(self, name: str, width: int) -> Affine:
        """Gain and bias of a normalisation."""
        return Affine(self.take(f"{name}.weight", (width,)), self.take(f"{name}.bias", (width,)))
