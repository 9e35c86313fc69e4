"""Relative positions in both directions: a bias of every score by head and distance.

Distances fall into buckets: half of them for columns behind the row, of each half again half for
single distances, the rest for ever longer spans up to the largest distance and all beyond.
Raffel et al., "T5", arXiv 1910.10683, section 2.1; MPNet has the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hybrid.models.folding import LinearMap
from hybrid.models.weights import Array

Entry = TypeVar("Entry", np.float32, np.float64, np.uint64)


@dataclass(frozen=True, slots=True)
class Buckets:
    """How distances fall into buckets; public."""

    count: int
    """Both directions together; a multiple of four."""
    max_distance: int
    """From here on all distances of a direction are one bucket; more than a quarter of `count`."""

    def of_tokens(self, tokens: int) -> NDArray[np.int64]:
        """Bucket by row and column, (tokens, tokens).

        As published, in float32: distances at the edge of a bucket depend on it.
        """
        place = torch.arange(tokens)
        distance = place[None] - place[:, None]
        half = self.count // 2
        exact = half // 2
        away = distance.abs()
        spread = math.log(self.max_distance / exact)
        spans = torch.log(away.float() / exact) / spread * (half - exact)
        # Of distance zero the logarithm is no number; it is taken exactly.
        far = exact + spans.clamp(0, half - 1 - exact).to(torch.int64)
        bucket = torch.where(away < exact, away, far) + half * (distance > 0)
        found: NDArray[np.int64] = bucket.numpy()
        return found

    def bias(self, table: NDArray[Entry], tokens: int) -> NDArray[Entry]:
        """What a table (buckets, heads) adds to scores, (heads, tokens, tokens)."""
        return np.ascontiguousarray(np.moveaxis(table[self.of_tokens(tokens)], -1, 0))


def of_buckets(table: Array) -> LinearMap:
    """The map of one-hot buckets: a node's biases by bucket and head."""
    return LinearMap(table.astype(np.float64), np.empty(0))
