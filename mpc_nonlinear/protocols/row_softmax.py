"""The frame of all softmaxes with an exponential and a reciprocal of their own."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from math import log2
from typing import ClassVar

import numpy as np

from mpc_nonlinear.blocks.compare import Width
from mpc_nonlinear.blocks.functions import clip_below, clip_below_cost
from mpc_nonlinear.blocks.octaves import (
    find_octave,
    find_octave_cost,
    octaves,
    scale_by_octave,
    scale_by_octave_cost,
)
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.visible_rows import VisibleRows

_COMPARED_BITS = 17
_MAX_SLACK = 2.0**-6
"""Each level of the tournament may miss the maximum by this much; exponentials hold up to 0.2
above zero. Wider inputs compare four bits more."""
MASK_GAP = 16.0
"""Masked positions lie at least this far below every real one; more than any `clip`."""
_LARGEST_TERM = 1.5
"""Of a row's sum: the maximum may be missed by a little, every term is below e^0.4."""
_STEP = Bounds(1.1, 1.0, 1.1, largest=4.0)


@dataclass(frozen=True, slots=True)
class RowSoftmax(NonlinearProtocol):
    """Row maximum by a tournament, clipping, an exponential, one reciprocal a row.

    `bound`: largest |x| of positions that count; those that the client masks lie down to
    -(3 * bound + 16). `causal`: of shape (..., queries, keys), keys above the diagonal are
    public zeros: nothing is compared, selected or multiplied there.
    """

    op = "softmax"
    clip: ClassVar[float]
    """Arguments below -clip count as -clip."""

    bound: float
    causal: bool = False

    @abstractmethod
    def exponential(self, z: FloatArray) -> FloatArray:
        """In the clear, for -clip <= z <= 0.2."""

    @abstractmethod
    def exponential_cost(self, count: int, context: Context) -> Cost:
        """Cost of `shared_exponential`."""

    @abstractmethod
    def shared_exponential(self, z: RingArray, session: Session) -> RingArray:
        """Shares of `exponential`, same shape."""

    @abstractmethod
    def inverse(self, s: FloatArray) -> FloatArray:
        """1 / s in the clear, for s in [1, 2]."""

    @abstractmethod
    def inverse_cost(self, count: int, context: Context) -> Cost:
        """Cost of `shared_inverse`."""

    @abstractmethod
    def shared_inverse(self, s: RingArray, session: Session) -> RingArray:
        """Shares of `inverse`, same shape."""

    def reference(self, x: FloatArray) -> FloatArray:
        """Softmax with clipped arguments and the protocol's own functions."""
        rows = VisibleRows.of(x.shape, self.causal)
        seen = rows.masked(x, -np.inf)
        z = np.maximum(seen - seen.max(-1, keepdims=True), -self.clip)
        e = rows.masked(self.exponential(z), 0.0)
        total = e.sum(-1, keepdims=True)
        octave = 2.0 ** np.floor(np.log2(total))
        result: FloatArray = e * self.inverse(total / octave) / octave
        return result.reshape(x.shape)

    def true_function(self, x: FloatArray) -> FloatArray:
        """Float64 softmax."""
        return VisibleRows.of(x.shape, self.causal).softmax(x)

    def _width(self, unit: float) -> Width:
        # Differences between real and masked scores; x - max + clip stays inside too.
        largest = (4 * self.bound + max(MASK_GAP, self.clip)) / unit
        return Width.covering(largest, _COMPARED_BITS, _MAX_SLACK / unit)

    def protocol_error(self, length: int, context: Context) -> float:
        """`max_error` of short rows, and what the sum of a long one adds up.

        A quarter of a unit a term: measured is up to a fifth, where the terms are products modulo
        a prime of a few units each; experiments/benchmarks/error_table.py.
        """
        return self.max_error + length * context.fixed_point.unit / 4

    @staticmethod
    def _largest_sum(columns: int) -> float:
        return float(2.0 ** np.ceil(log2(_LARGEST_TERM * columns)))

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Tournament, clipping, an exponential and a product for each visible element."""
        rows, fixed = VisibleRows.of(shape, self.causal), context.fixed_point
        width, n = self._width(fixed.unit), rows.count
        return (
            rows.maximum_cost(width)
            + clip_below_cost(n, width)
            + self.exponential_cost(n, context)
            + self._reciprocal_cost(len(rows.lengths), rows.columns, context)
            # A row's products share its reciprocal.
            + context.products.multiply_cost(n, replace(_STEP, y_fresh=len(rows.lengths) / n))
        )

    def _reciprocal_cost(self, rows: int, columns: int, context: Context) -> Cost:
        high, units = self._largest_sum(columns), 1 / context.fixed_point.unit
        count = len(octaves(0.5, high)) + 1
        close = context.products.needs_largest
        total = _LARGEST_TERM * columns if close else 2 * high
        return (
            find_octave_cost(rows, 0.5, high, context.fixed_point.fraction_bits)
            + scale_by_octave_cost(rows, count, total * units)
            + self.inverse_cost(rows, context)
            + scale_by_octave_cost(rows, count, 4 * units)
        )

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of softmax(x)."""
        rows = VisibleRows.of(x.shape, self.causal)
        width = self._width(session.fixed_point.unit)
        # 1. shift by the row maximum
        highest = rows.maximum(x, width, session)
        shifted = rows.pack(x) - rows.spread(highest)
        # 2. clip below
        z = clip_below(shifted, -self.clip, width, session)
        # 3. the exponential
        e = self.shared_exponential(z, session)
        # 4. one reciprocal a row, one product an element
        inverse = self._reciprocal(rows.sums(e), rows.columns, session)
        result = session.products.multiply(e, rows.spread(inverse), session, _STEP)
        return rows.unpack(result).reshape(x.shape)

    def _reciprocal(self, total: RingArray, columns: int, session: Session) -> RingArray:
        """1 / total for 1/2 <= total."""
        high = self._largest_sum(columns)
        octave = find_octave(total, 0.5, high, session)
        factors = [1 / start for start in [0.5, *octaves(0.5, high)]]
        s = scale_by_octave(total, octave, factors, session)
        return scale_by_octave(self.shared_inverse(s, session), octave, factors, session)
