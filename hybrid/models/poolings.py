"""From the rows of a text to one: the poolings that sentence-transformers' folders name.

Last rows come normalised, without gain and bias of their norm. Where nothing follows, the pooled
row is opened; else it stays shared, for the maps that follow.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid.models.folding import FloatArray
from hybrid.models.graph_builder import GraphBuilder, normalised_bound
from hybrid.models.ranges import Bound, Observer

SCALED = "scaled"
"""The node that gives all rows their gain and bias, where that cannot wait."""
LAST, FINE, COARSE = "last", "fine factor", "coarse factor"
"""Edges that the client knows: which row is the last, and 1/n as two factors."""
_FACTOR = Bound(2.0**-20, 1.0, 1.0)


class Pooling(ABC):
    """One row of each text."""

    name: ClassVar[str]
    """As `1_Pooling/config.json` of sentence-transformers and `model.pooling` call it."""
    opens: ClassVar[str]
    """What is opened where nothing follows, for a sentence."""

    @abstractmethod
    def opened(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> str:
        """Nodes down to the opened edge, of rows with gain and bias."""

    @abstractmethod
    def shared(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> tuple[str, Bound]:
        """Nodes down to shared rows (batch, width), and their bound.

        With gain and bias where `norm_node` names a node for them, else without.
        """

    def norm_node(self, *, is_opened: bool) -> str | None:
        """The node that applies gain and bias; None: the map that follows does."""
        return "pool" if is_opened else None

    def client_inputs(
        self, mask: NDArray[np.bool_], width: int, *, is_opened: bool
    ) -> dict[str, NDArray[Any]]:
        """Values of the inputs that the nodes read beside the mask (batch, tokens)."""
        del mask, width, is_opened
        return {}

    @abstractmethod
    def plain(self, rows: Tensor, mask: Tensor, see: Observer) -> Tensor:
        """(width,) of one text's rows (tokens, width), with gain and bias; mask (tokens,)."""

    def divisor(self, counts: NDArray[np.int64]) -> FloatArray:
        """By which the client divides what was opened; counts: of real tokens."""
        return np.ones(len(counts))

    def __repr__(self) -> str:
        return f"<Pooling {self.name}>"


def _pool(builder: GraphBuilder, rows: str, chosen: str, width: int) -> str:
    """The sum of chosen rows with gain and bias, opened."""
    bound, constants = builder.opened("pool")
    shape, bounds = (builder.rows, width), {"output": bound}
    return builder.add((-1, "pool"), "pool", (rows, chosen), shape, bounds, constants=constants)


def _sum(builder: GraphBuilder, rows: str, chosen: str, width: int) -> str:
    """The sum of chosen rows, shared."""
    shape = (builder.rows, width)
    return builder.add((-1, "sum"), "masked_sum", (rows, chosen), shape, {})


def _scaled(
    builder: GraphBuilder, rows: str, width: int, *, is_opened: bool = False
) -> tuple[str, Bound]:
    """All rows with gain and bias; is_opened: some of these numbers are the answer."""
    found = builder.opened(SCALED) if is_opened else (builder.bound(SCALED), {})
    shape, (bound, constants) = (builder.rows, width), found
    bounds = {"output": bound}
    return builder.add((-1, SCALED), "gain", (rows,), shape, bounds, constants=constants), bound


class Mean(Pooling):
    """The mean over real tokens."""

    name = "mean"
    opens = "mean-pooled vector"

    def opened(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> str:
        """One node: the masked sum and its opening; the client divides."""
        return _pool(builder, rows, mask, width)

    def shared(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> tuple[str, Bound]:
        """The masked sum, divided."""
        one = normalised_bound(width)
        return self._divided(builder, _sum(builder, rows, mask, width), width, one), one

    @staticmethod
    def _divided(builder: GraphBuilder, edge: str, width: int, one: Bound) -> str:
        """A sum of rows with the bound `one` times 1/n in two factors, none small beside a unit."""
        tokens, shape = float(1 << (builder.tokens - 1).bit_length()), (builder.batch, width)
        bound = Bound(one.low, tokens * one.rms, tokens * one.max_abs)
        for name in (FINE, COARSE):
            factor = builder.input(name, shape)
            bounds = {"left": bound, "right": _FACTOR, "output": bound}
            edge = builder.add((-1, f"times {name}"), "product", (edge, factor), shape, bounds)
        return edge

    def client_inputs(
        self, mask: NDArray[np.bool_], width: int, *, is_opened: bool
    ) -> dict[str, NDArray[Any]]:
        """1/n as a power of two and a number from one half to one, on every column."""
        if is_opened:
            return {}
        divisor = self.divisor(mask.sum(axis=1))
        coarse = 2.0 ** -np.floor(np.log2(divisor))
        factors = {FINE: 1 / (divisor * coarse), COARSE: coarse}
        return {name: np.repeat(f[:, None], width, axis=1) for name, f in factors.items()}

    def plain(self, rows: Tensor, mask: Tensor, see: Observer) -> Tensor:
        """Sum over real tokens, divided."""
        total = rows[mask].sum(0)
        see("pool", total)
        count = np.array([int(mask.sum())])
        return total / float(self.divisor(count)[0])

    def divisor(self, counts: NDArray[np.int64]) -> FloatArray:
        """How many."""
        return counts.astype(np.float64)


class MeanSqrtLength(Mean):
    """The sum over real tokens, divided by the square root of their number."""

    name = "mean_sqrt_len_tokens"
    opens = "vector pooled over the square root of the length"

    def divisor(self, counts: NDArray[np.int64]) -> FloatArray:
        """The root."""
        return np.sqrt(counts.astype(np.float64))

    def shared(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> tuple[str, Bound]:
        """Gain and bias of every row first: the sum of biases grows with the length."""
        edge, one = _scaled(builder, rows, width)
        edge = self._divided(builder, _sum(builder, edge, mask, width), width, one)
        grown = float(2.0 ** np.ceil(np.log2(builder.tokens) / 2))
        return edge, Bound(one.low, grown * one.rms, grown * one.max_abs)

    def norm_node(self, *, is_opened: bool) -> str | None:
        """Rows are scaled one by one unless the sum is opened."""
        return "pool" if is_opened else SCALED

    def plain(self, rows: Tensor, mask: Tensor, see: Observer) -> Tensor:
        """As the mean."""
        see(SCALED, rows)
        return Mean.plain(self, rows, mask, see)


class LastToken(Pooling):
    """The row of the last real token, whose place only the client knows."""

    name = "lasttoken"
    opens = "last token's vector"

    def opened(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> str:
        """A masked sum of one row."""
        del mask
        return _pool(builder, rows, self._last(builder), width)

    def shared(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> tuple[str, Bound]:
        """A masked sum of one row."""
        del mask
        return _sum(builder, rows, self._last(builder), width), normalised_bound(width)

    @staticmethod
    def _last(builder: GraphBuilder) -> str:
        return builder.input(LAST, (builder.batch, builder.tokens), is_bits=True)

    def client_inputs(
        self, mask: NDArray[np.bool_], width: int, *, is_opened: bool
    ) -> dict[str, NDArray[Any]]:
        """One bit a text."""
        del width, is_opened
        tokens = mask.shape[1]
        places = tokens - 1 - np.argmax(mask[:, ::-1], axis=1)
        return {LAST: np.arange(tokens) == places[:, None]}

    def plain(self, rows: Tensor, mask: Tensor, see: Observer) -> Tensor:
        """The last row that the mask has."""
        row = rows[mask][-1]
        see("pool", row)
        return row


class FirstToken(Pooling):
    """The row of the first token, as BERT's [CLS]: its place is public."""

    name = "cls"
    opens = "first token's vector"

    def opened(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> str:
        """The row, its gain and bias, its opening."""
        edge, _ = self.shared(builder, rows, mask, width)
        shape, (bound, constants) = (builder.batch, width), builder.opened("pool")
        bounds = {"output": bound}
        edge = builder.add((-1, "pool"), "gain", (edge,), shape, bounds, constants=constants)
        return builder.add((-1, "open"), "open", (edge,), shape, {"input": bound})

    def shared(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> tuple[str, Bound]:
        """Each party takes its own share."""
        del mask
        shape = (builder.rows, width)
        edge = builder.add((-1, "first_row"), "first_row", (rows,), shape, {})
        return edge, normalised_bound(width)

    def plain(self, rows: Tensor, mask: Tensor, see: Observer) -> Tensor:
        """The first row."""
        del mask
        see("pool", rows[0])
        return rows[0]


class Max(Pooling):
    """The largest number of every column over real tokens."""

    name = "max"
    opens = "max-pooled vector"

    def opened(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> str:
        """Gain and bias of every row first: a negative gain turns the order."""
        edge, bound = _scaled(builder, rows, width, is_opened=True)
        edge = self._largest(builder, edge, mask, width, bound)
        return builder.add((-1, "open"), "open", (edge,), (builder.batch, width), {"input": bound})

    def shared(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> tuple[str, Bound]:
        """Gain and bias, then a tournament over tokens."""
        edge, bound = _scaled(builder, rows, width)
        return self._largest(builder, edge, mask, width, bound), bound

    @staticmethod
    def _largest(builder: GraphBuilder, edge: str, mask: str, width: int, bound: Bound) -> str:
        shape, bounds = (builder.rows, width), {"input": bound}
        return builder.add((-1, "max"), "masked_max", (edge, mask), shape, bounds)

    def norm_node(self, *, is_opened: bool) -> str | None:
        """Before the tournament."""
        del is_opened
        return SCALED

    def plain(self, rows: Tensor, mask: Tensor, see: Observer) -> Tensor:
        """Column by column; what is shown is all rows, since those of padding are scaled too."""
        see(SCALED, rows)
        return torch.amax(rows[mask], 0)


POOLINGS: Mapping[str, Pooling] = {
    pooling.name: pooling
    for pooling in (Mean(), MeanSqrtLength(), FirstToken(), LastToken(), Max())
}
"""By name."""
