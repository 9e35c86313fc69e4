"""The next token from logits in the clear: the yardstick for choosing it privately."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from transport.errors import ConfigError

FloatArray = NDArray[np.float64]


def greedy(logits: FloatArray) -> int:
    """Place of the largest; of equal ones the first."""
    return int(np.argmax(logits))


@dataclass(frozen=True, slots=True)
class Sampling:
    """Draws from softmax(logits / temperature), restricted first to k and then to mass p.

    Order and ties are those of `transformers`: temperature, then the k largest, with all that equal
    the k-th, then the smallest set of the most likely whose probabilities sum to p or more
    [Holtzman et al., arXiv 1904.09751, section 3.1].
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(
                f"sampling.temperature: {self.temperature}; give a positive number, or take "
                "greedy decoding"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ConfigError(f"sampling.top_k: {self.top_k}; give 1 or more, or leave it out")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ConfigError(
                f"sampling.top_p: {self.top_p}; give a number above 0 and at most 1, or leave it "
                "out"
            )

    def probabilities(self, logits: FloatArray) -> FloatArray:
        """Of every token, (vocabulary,); zero for those left out."""
        scaled = np.asarray(logits, np.float64) / self.temperature
        if self.top_k is not None and self.top_k < len(scaled):
            least = np.partition(scaled, -self.top_k)[-self.top_k]
            scaled = np.where(scaled < least, -np.inf, scaled)
        weights = np.exp(scaled - scaled.max())
        if self.top_p is not None:
            order = np.argsort(-weights, kind="stable")
            mass = np.cumsum(weights[order]) / weights.sum()
            # Kept is a token before which the mass has not been reached.
            left_out = order[1:][mass[:-1] >= self.top_p]
            weights[left_out] = 0.0
        found: FloatArray = weights / weights.sum()
        return found

    def choose(self, logits: FloatArray, uniform: float) -> int:
        """The token at which the cumulative probability first exceeds `uniform` in [0, 1)."""
        cumulative = np.cumsum(self.probabilities(logits))
        return int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
