"""What a model does with the last layer's rows: the part of the graph that ends in an opening."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hybrid.models.folding import FloatArray
from hybrid.models.graph import GraphBuilder
from hybrid.models.ranges import Observer


@dataclass(frozen=True, slots=True)
class Head(ABC):
    """The last operations of a model, in the graph and in the clear."""

    name: ClassVar[str]
    """What `model.pooling` of a config calls it."""

    output_bits: int
    """Fraction bits that survive in what is opened."""
    normalize: bool
    """Whether the client scales its answers to unit length."""

    @abstractmethod
    def add(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> str:
        """Nodes from the last rows (rows, width) and the client's mask; the opened edge."""

    @property
    @abstractmethod
    def disclosure(self) -> str:
        """One sentence: what is opened, and to whom."""

    @abstractmethod
    def plain(self, rows: Tensor, mask: Tensor, see: Observer) -> NDArray[np.float64]:
        """The same of one text's rows (tokens, width), mask (tokens,), in the clear."""

    @abstractmethod
    def opened(self, words: NDArray[np.uint64], counts: NDArray[np.int64]) -> FloatArray:
        """What `plain` computes, a row a text, from the opened words; counts: of real tokens.

        Up to the power of two by which the graph scales what it opens.
        """

    def finished(self, answer: FloatArray) -> FloatArray:
        """One text's answer as the user gets it."""
        if not self.normalize:
            return answer
        return answer / max(float(np.linalg.norm(answer)), 1e-12)


class MeanPooling(Head):
    """The mean of every text's rows."""

    name = "mean"

    def add(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> str:
        """One node: the masked sum and its opening; the client divides."""
        bound, constants = builder.opened("pool")
        shape, bounds = (builder.rows, width), {"output": bound}
        return builder.add((-1, "pool"), "pool", (rows, mask), shape, bounds, constants=constants)

    @property
    def disclosure(self) -> str:
        """Of the opened vector."""
        return (
            "Only the mean-pooled vector is opened, to the client alone, after truncation to "
            f"{self.output_bits} fraction bits."
        )

    def plain(self, rows: Tensor, mask: Tensor, see: Observer) -> NDArray[np.float64]:
        """Mean over real tokens."""
        total = rows[mask].sum(0)
        see("pool", total)
        pooled: NDArray[np.float64] = (total / int(mask.sum())).double().numpy()
        return pooled

    def opened(self, words: NDArray[np.uint64], counts: NDArray[np.int64]) -> FloatArray:
        """Sums divided by counts."""
        sums = words.view(np.int64).reshape(-1, words.size // len(counts)) * 2.0**-self.output_bits
        pooled: FloatArray = sums / counts[:, None]
        return pooled
