"""Random weights and samples for models of which only the shape is real, for studies of cost."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from hybrid.models.weights import Affine, Array

_SEED = 20240
_SAMPLES = 8
SPECIAL_TOKENS = 2
"""Ids of the token before and the token after every text."""


class RandomWeights:
    """Draws, always the same, under which magnitudes are those of trained models.

    Normalised rows have root mean square one, scores and inputs of GELU that of 1.5.
    """

    def __init__(self) -> None:
        # No secret: nobody's model. Both sides of a comparison need the same one.
        self._rng = np.random.default_rng(_SEED)

    def normal(self, scale: float, *shape: int) -> Array:
        """Of mean zero."""
        return self._rng.normal(0, scale, shape).astype(np.float32)

    def linear(self, d_in: int, d_out: int, gain: float = 1.0) -> Affine:
        """A map that multiplies root mean squares by about `gain`."""
        return Affine(self.normal(gain / math.sqrt(d_in), d_in, d_out), self.normal(0.1, d_out))

    def norm(self, width: int) -> Affine:
        """Gains near one, biases near zero."""
        return Affine(1 + self.normal(0.1, width), self.normal(0.1, width))


def random_samples(vocabulary: int, tokens: int) -> list[NDArray[np.int64]]:
    """Token ids to find ranges on."""
    rng = np.random.default_rng(_SEED + 1)
    return [rng.integers(SPECIAL_TOKENS, vocabulary, tokens) for _ in range(_SAMPLES)]
