"""Embedding tables of encoders: rows looked up, summed and normalised."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.models.weights import Affine, Array


@dataclass(frozen=True, slots=True)
class EmbeddingTable:
    """Words, positions and token types, summed and normalised."""

    words: Array
    positions: Array
    token_types: Array
    norm: Affine
    epsilon: float
    padding: int = -1
    """The token id whose tokens take the first position row and do not count; -1: all count."""

    def position_rows(self, token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of `positions` of every token of a text, (tokens,)."""
        if self.padding < 0:
            return np.arange(len(token_ids))
        counts = token_ids != self.padding
        rows: NDArray[np.int64] = np.cumsum(counts) * counts
        return rows

    def embed(self, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Normalised input embedding (tokens, hidden) of token type 0, in float64."""
        positions = self.positions[self.position_rows(token_ids)]
        rows = self.words[token_ids] + positions + self.token_types[0]
        return _normalised(rows, self.norm, self.epsilon)

    def arrays(self) -> tuple[Array, ...]:
        """All arrays in wire order."""
        return (self.words, self.positions, self.token_types, self.norm.weight, self.norm.bias)

    @classmethod
    def from_arrays(cls, arrays: Sequence[Array], epsilon: float, padding: int) -> EmbeddingTable:
        """From what `arrays` gives."""
        words, positions, token_types, gain, bias = arrays
        return cls(words, positions, token_types, Affine(gain, bias), epsilon, padding)

    def digest(self) -> str:
        """SHA-256 over all arrays."""
        return _digest(self.arrays())


@dataclass(frozen=True, slots=True)
class NormalisedWords:
    """Words alone, normalised, where positions turn queries and keys instead."""

    words: Array
    norm: Affine
    epsilon: float

    def embed(self, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Normalised input embedding (tokens, hidden), in float64."""
        return _normalised(self.words[token_ids], self.norm, self.epsilon)

    def arrays(self) -> tuple[Array, ...]:
        """All arrays in wire order."""
        return (self.words, self.norm.weight, self.norm.bias)

    @classmethod
    def from_arrays(cls, arrays: Sequence[Array], epsilon: float) -> NormalisedWords:
        """From what `arrays` gives."""
        words, gain, bias = arrays
        return cls(words, Affine(gain, bias), epsilon)

    def digest(self) -> str:
        """SHA-256 over all arrays."""
        return _digest(self.arrays())


def _normalised(rows: Array, norm: Affine, epsilon: float) -> NDArray[np.float64]:
    x = rows.astype(np.float64)
    centred = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon)
    embedded: NDArray[np.float64] = centred / deviation * norm.weight + norm.bias
    return embedded


def _digest(arrays: Sequence[Array]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
