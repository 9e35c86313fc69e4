"""The rows with which a decoder starts: of tokens, and of positions where they are learned."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.models.weights import Array


@dataclass(frozen=True, slots=True)
class TokenTable:
    """Nothing is normalised; a model with rotary positions has no rows of positions."""

    words: Array
    """(vocabulary, hidden)"""
    positions: Array | None = None
    """(positions, hidden)"""

    def embed(
        self, token_ids: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Rows (tokens, hidden) of tokens at these positions, in float64."""
        rows = self.words[token_ids].astype(np.float64)
        if self.positions is not None:
            rows += self.positions[positions]
        return rows

    def arrays(self) -> tuple[Array, ...]:
        """All arrays in wire order."""
        return (self.words,) if self.positions is None else (self.words, self.positions)

    @classmethod
    def from_arrays(cls, arrays: Sequence[Array]) -> TokenTable:
        """From what `arrays` gives."""
        return cls(*arrays)

    def digest(self) -> str:
        """SHA-256 over all arrays."""
        digest = hashlib.sha256()
        for array in self.arrays():
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()
