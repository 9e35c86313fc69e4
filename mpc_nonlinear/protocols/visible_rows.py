"""Rows of which a public part is visible: all of it, or what lies on and below the diagonal."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.blocks.compare import Width
from mpc_nonlinear.blocks.extrema import tournament, tournament_cost, widened, widened_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from transport.errors import UsageError

_Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class VisibleRows:
    """Which entries of (rows, columns) count; visible ones are the first of their row."""

    lengths: _Indices
    """Visible entries of each row, (rows,), at least one."""
    columns: int
    row: _Indices
    column: _Indices
    """Where each visible entry lies, row by row, (count,)."""

    @classmethod
    def of(cls, shape: tuple[int, ...], causal: bool) -> VisibleRows:
        """All entries of shape (..., columns), or those that a causal mask leaves.

        Then the shape is (..., queries, keys) and a query sees keys up to its own. The last query
        is the newest key: there are at least as many keys.
        """
        rows, columns = prod(shape[:-1]), shape[-1]
        lengths = np.full(rows, columns, np.intp)
        if causal:
            queries = shape[-2] if len(shape) > 1 else 1
            if queries > columns:
                raise UsageError(
                    f"causal softmax: {queries} queries for {columns} keys; shape {shape} must "
                    "end in (queries, keys), at least as many keys as queries"
                )
            one = np.arange(columns - queries + 1, columns + 1)
            lengths = np.tile(one, rows // queries).astype(np.intp)
        row, column = np.nonzero(np.arange(columns) < lengths[:, None])
        return cls(lengths, columns, row, column)

    @property
    def count(self) -> int:
        """Visible entries."""
        return len(self.row)

    def pack(self, x: RingArray) -> RingArray:
        """Visible entries of x, (count,)."""
        packed: RingArray = x.reshape(-1, self.columns)[self.row, self.column]
        return packed

    def unpack(self, packed: RingArray) -> RingArray:
        """(rows, columns) with zeros where nothing is visible."""
        x = np.zeros((len(self.lengths), self.columns), packed.dtype)
        x[self.row, self.column] = packed
        return x

    def sums(self, packed: RingArray) -> RingArray:
        """Sum of each row, (rows,)."""
        total: RingArray = self.unpack(packed).sum(axis=-1, dtype=packed.dtype)
        return total

    def spread(self, per_row: RingArray) -> RingArray:
        """A number a row to every visible entry, (count,)."""
        spread: RingArray = per_row[self.row]
        return spread

    def masked(self, x: FloatArray, value: float) -> FloatArray:
        """In the clear: x with `value` where nothing is visible, (rows, columns)."""
        flat = x.reshape(-1, self.columns)
        result: FloatArray = np.where(np.arange(self.columns) < self.lengths[:, None], flat, value)
        return result

    def softmax(self, x: FloatArray) -> FloatArray:
        """In the clear, float64, same shape: zero where nothing is visible."""
        seen = self.masked(x, -np.inf)
        e = np.exp(seen - seen.max(-1, keepdims=True))
        result: FloatArray = (e / e.sum(-1, keepdims=True)).reshape(x.shape)
        return result

    def maximum_cost(self, width: Width) -> Cost:
        """Cost of `maximum`."""
        if self.columns == 1:
            return NO_COST
        rows = len(self.lengths)
        return tournament_cost(self.lengths, width) + widened_cost(rows, width.ring_bits)

    def maximum(self, x: RingArray, width: Width, session: Session) -> RingArray:
        """Shares of the largest visible number of each row, (rows,); see `tournament`.

        It must be below 2^(width.ring_bits - 2).
        """
        values = x.reshape(-1, self.columns)
        if self.columns == 1:
            return values[:, 0]
        highest = tournament(values, self.lengths, width, session)
        return widened(highest, width.ring_bits, session)
