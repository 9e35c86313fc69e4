"""Model weights: the server's private part and the part that the config makes public."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from hybrid.models.architecture import Architecture, read_config
from hybrid.models.families import family_of
from transport.errors import ConfigError

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Affine:
    """weight and bias; a linear map has weight (in, out), a norm has gain (n,)."""

    weight: Array
    bias: Array


@dataclass(frozen=True, slots=True)
class EmbeddingTable:
    """Public to the client under `embedding: public_table`."""

    words: Array
    positions: Array
    token_types: Array
    norm: Affine
    epsilon: float

    def embed(self, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Normalised input embedding (tokens, hidden) of token type 0, in float64."""
        rows = self.words[token_ids] + self.positions[: len(token_ids)] + self.token_types[0]
        x = rows.astype(np.float64)
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + self.epsilon)
        embedded: NDArray[np.float64] = centred / deviation * self.norm.weight + self.norm.bias
        return embedded

    def arrays(self) -> tuple[Array, ...]:
        """All arrays in wire order."""
        return (self.words, self.positions, self.token_types, self.norm.weight, self.norm.bias)

    def digest(self) -> str:
        """SHA-256 over all arrays."""
        digest = hashlib.sha256()
        for array in self.arrays():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @staticmethod
    def shapes(architecture: Architecture) -> tuple[tuple[int, ...], ...]:
        """Shapes of `arrays`."""
        a = architecture
        return (
            (a.vocabulary, a.hidden),
            (a.positions, a.hidden),
            (a.token_types, a.hidden),
            (a.hidden,),
            (a.hidden,),
        )


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One encoder layer; linear weights are (in, out)."""

    query: Affine
    key: Affine
    value: Affine
    attention_output: Affine
    attention_norm: Affine
    intermediate: Affine
    output: Affine
    output_norm: Affine


@dataclass(frozen=True, slots=True)
class EncoderWeights:
    """Everything the server owns."""

    embedding: EmbeddingTable
    layers: tuple[LayerWeights, ...]


def load_weights(folder: Path, architecture: Architecture) -> EncoderWeights:
    """Read `model.safetensors` and check every tensor against the architecture."""
    path = folder / "model.safetensors"
    if not path.is_file():
        raise ConfigError(f"{path}: missing; name a folder in Hugging Face layout")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{path}: not a safetensors file ({error}); fetch it again") from None
    return _Reader(path, tensors, architecture).read()


class _Reader:
    def __init__(self, path: Path, tensors: dict[str, Array], architecture: Architecture) -> None:
        self._path = path
        self._architecture = architecture
        raw = read_config(path.parent)
        self._family = family_of(raw, str(path.parent / "config.json"))
        self._first_position = self._family.first_position(raw)
        prefix = self._family.prefix
        self._tensors = {name.removeprefix(prefix): value for name, value in tensors.items()}

    def read(self) -> EncoderWeights:
        a = self._architecture
        layers = tuple(self._layer(i) for i in range(a.layers))
        beyond = f"{self._family.layer}.{a.layers}."
        if any(name.startswith(beyond) for name in self._tensors):
            raise ConfigError(
                f"{self._path}: holds layer {a.layers}, but config.json says {a.layers} layers; "
                "use the config.json that belongs to these weights"
            )
        return EncoderWeights(self._embedding(), layers)

    def _embedding(self) -> EmbeddingTable:
        a = self._architecture
        words, positions, token_types, *norm = EmbeddingTable.shapes(a)
        first = self._first_position
        rows = self._take("embeddings.position_embeddings.weight", (positions[0] + first, a.hidden))
        types = np.zeros(token_types, np.float32)
        if self._family.has_token_types:
            types = self._take("embeddings.token_type_embeddings.weight", token_types)
        gain, shift = (
            self._take(f"embeddings.LayerNorm.{part}", shape)
            for part, shape in zip(("weight", "bias"), norm, strict=True)
        )
        return EmbeddingTable(
            self._take("embeddings.word_embeddings.weight", words),
            np.ascontiguousarray(rows[first:]),
            types,
            Affine(gain, shift),
            a.epsilon,
        )

    def _layer(self, index: int) -> LayerWeights:
        a, family = self._architecture, self._family
        prefix = f"{family.layer}.{index}"
        sizes = {"intermediate": (a.hidden, a.intermediate), "output": (a.intermediate, a.hidden)}
        parts: dict[str, Affine] = {}
        for ours, theirs in family.linear.items():
            d_in, d_out = sizes.get(ours, (a.hidden, a.hidden))
            # Hugging Face stores linear weights as (out, in).
            weight = self._take(f"{prefix}.{theirs}.weight", (d_out, d_in))
            bias = self._take(f"{prefix}.{theirs}.bias", (d_out,))
            parts[ours] = Affine(np.ascontiguousarray(weight.T), bias)
        for ours, theirs in family.norms.items():
            gain = self._take(f"{prefix}.{theirs}.weight", (a.hidden,))
            parts[ours] = Affine(gain, self._take(f"{prefix}.{theirs}.bias", (a.hidden,)))
        return LayerWeights(**parts)

    def _take(self, name: str, shape: tuple[int, ...]) -> Array:
        tensor = self._tensors.get(name)
        if tensor is None:
            raise ConfigError(
                f"{self._path}: no tensor {name!r}; is this an encoder of that family?"
            )
        if tensor.shape != shape:
            raise ConfigError(
                f"{self._path}: {name} has shape {tensor.shape}, config.json implies {shape}"
            )
        if tensor.dtype not in (np.float32, np.float16):
            raise ConfigError(
                f"{self._path}: {name} is {tensor.dtype}; expected float32 or float16"
            )
        if not np.isfinite(tensor).all():
            raise ConfigError(f"{self._path}: {name} holds values that are not finite numbers")
        return tensor.astype(np.float32)
