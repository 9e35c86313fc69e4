"""Embedding tables of encoders: rows looked up, summed and normalised."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.models.weights import Affine, Array

_TYPE_BIT = 32


def typed(token_ids: Sequence[int], types: Sequence[int]) -> NDArray[np.int64]:
    """Ids of tokens that carry their type: 1 for those of the second text of a pair, else 0."""
    return np.array(token_ids, np.int64) | np.array(types, np.int64) << _TYPE_BIT


def words_of(token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Ids without types, same shape; a negative one stays negative."""
    return np.where(token_ids < 0, token_ids, token_ids & ((1 << _TYPE_BIT) - 1))


def types_of(token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Types, same shape."""
    return token_ids >> _TYPE_BIT


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
        counts = words_of(token_ids) != self.padding
        rows: NDArray[np.int64] = np.cumsum(counts) * counts
        return rows

    def embed(self, token_ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Normalised input embedding (tokens, hidden), in float64."""
        words, positions, types = self.parts(token_ids)
        return _normalised(words + positions + types, self.norm, self.epsilon)

    def parts(self, token_ids: NDArray[np.int64]) -> tuple[Array, Array, Array]:
        """Rows of words, positions and types, (tokens, hidden) each; ids may carry types."""
        positions = self.positions[self.position_rows(token_ids)]
        return self.words[words_of(token_ids)], positions, self.token_types[types_of(token_ids)]

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
