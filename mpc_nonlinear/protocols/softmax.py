"""Softmax over the last axis: shifted by the row maximum, exponential by squarings."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2, prod

import numpy as np

from mpc_nonlinear.compare import Width, less_than_zero, less_than_zero_cost
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FixedPoint, FloatArray, RingArray
from mpc_nonlinear.products import Bounds
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.rows import octaves, per_octave, per_octave_cost
from mpc_nonlinear.select import select, select_cost
from mpc_nonlinear.session import Context, Session
from mpc_nonlinear.truncate import truncate, truncate_cost
from transport.traffic import Party

COMPARED_BITS = 17
_MAX_SLACK = 2.0**-6
"""Each level of the tournament may miss the maximum by this much; the exponential holds up to
0.4 above zero. Wider inputs compare four bits more."""
CLIP = 12.0
"""Arguments below -12 count as -12: e^-12 = 6e-6."""
MASK_GAP = 16.0
"""Masked positions lie at least this far below every real one; more than CLIP."""
SQUARINGS = 3
# p(s)^8 approximates e^(8 s) on [-1.5, 0.05], error 4.7e-6; experiments/fit_exp.py
EXPONENTIAL = (1.00000044, 1.00000984, 0.49967283, 0.16307196, 0.03179946)
NEWTON_STEPS = 2
"""1/s from a straight line: relative error 6e-2, 3.7e-3, 1.4e-5."""
_START = 2.9142136
"""2 * (3/4 + sqrt(2)/2): twice the minimax line for 1/s on [1, 2] is _START - s."""
_SQUARE_Z = Bounds(CLIP, CLIP, CLIP**2, 2 * SQUARINGS)
_UPPER = Bounds((CLIP / 8) ** 2, 0.6, 1.0)
_POWER = Bounds(1.1, 1.1, 1.2)
_NORMALISED = Bounds(2.0, 2.0, 4.0)
_FIRST_STEP = Bounds(2.0, 4.0, 4.0, 2)
_STEP = Bounds(1.0, 2.0, 2.0)


@dataclass(frozen=True, slots=True)
class SquaringSoftmax(NonlinearProtocol):
    """Row maximum by a tournament, clipping, exp by three squarings, one reciprocal a row.

    `bound`: largest |x| of positions that count; masked ones lie down to -(3 * bound + MASK_GAP).
    Clipped positions keep 9e-6 each: the approximation error holds for rows of up to 100.
    """

    op = "softmax"
    name = "squarings"
    source = "limit form of the exponential with a fitted start; tournament of [Rathee20]"
    max_error = 2.0**-11
    approximation_error = 2.0**-10

    bound: float

    @property
    def _width(self) -> Width:
        # Differences between real and masked scores; x - max + CLIP stays inside too.
        largest = (4 * self.bound + MASK_GAP) * 2**16
        return Width.covering(largest, COMPARED_BITS, _MAX_SLACK * 2**16)

    def reference(self, x: FloatArray) -> FloatArray:
        """Softmax with clipped arguments and the fitted exponential."""
        s = np.maximum(x - x.max(-1, keepdims=True), -CLIP) / 8
        e = np.polynomial.polynomial.polyval(s, EXPONENTIAL) ** 8
        result: FloatArray = e / e.sum(-1, keepdims=True)
        return result

    def true_function(self, x: FloatArray) -> FloatArray:
        """Float64 softmax."""
        e = np.exp(x - x.max(-1, keepdims=True))
        result: FloatArray = e / e.sum(-1, keepdims=True)
        return result

    @staticmethod
    def _largest_sum(columns: int) -> float:
        # The maximum may be missed by a little: every term is below e^0.4.
        return float(2.0 ** np.ceil(log2(1.5 * columns)))

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Tournament, clipping, six products an element, seven a row."""
        n, rows, columns = prod(shape), prod(shape[:-1]), shape[-1]
        products, bits = context.products, context.fixed_point.fraction_bits
        cost = Cost()
        left = columns
        while left > 1:
            pairs = rows * (left // 2)
            cost += less_than_zero_cost(pairs, self._width) + select_cost(pairs)
            left -= left // 2
        return (
            cost
            + less_than_zero_cost(n, self._width)
            + select_cost(n)
            + products.square_cost(n, _SQUARE_Z)
            + truncate_cost(2 * n, bits)
            + products.multiply_cost(n, _UPPER)
            + products.square_cost(n, _POWER) * SQUARINGS
            + self._reciprocal_cost(rows, columns, context)
            + products.multiply_cost(n, _STEP)
        )

    def _reciprocal_cost(self, rows: int, columns: int, context: Context) -> Cost:
        products, bits = context.products, context.fixed_point.fraction_bits
        high = self._largest_sum(columns)
        return (
            per_octave_cost(rows, 0.5, high, bits)
            + products.multiply_cost(rows, self._scale(columns))
            + products.multiply_cost(rows, _NORMALISED)
            + products.multiply_cost(rows, _FIRST_STEP)
            + products.multiply_cost(rows, _NORMALISED)
            + products.multiply_cost(rows, _STEP)
            + products.multiply_cost(rows, _STEP)
        )

    def _scale(self, columns: int) -> Bounds:
        return Bounds(self._largest_sum(columns), 2.0, 2.0)

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of softmax(x)."""
        products = session.products
        # 1. shift by the row maximum
        shifted = x - self._maximum(x, session)[..., None]
        # 2. clip below: z = -CLIP + [shifted >= -CLIP] (shifted + CLIP)
        z = self._clip(shifted, session)
        # 3. p(z / 8), then three squarings
        e = self._start(z, session)
        for _ in range(SQUARINGS):
            e = products.square(e, session, _POWER)
        # 4. one reciprocal a row
        inverse = self._reciprocal(e.sum(axis=-1, dtype=np.uint64), x.shape[-1], session)
        spread = np.ascontiguousarray(np.broadcast_to(inverse[..., None], x.shape))
        return products.multiply(e, spread, session, _STEP)

    def _maximum(self, x: RingArray, session: Session) -> RingArray:
        while x.shape[-1] > 1:
            pairs = x.shape[-1] // 2
            a, b = x[..., :pairs], x[..., pairs : 2 * pairs]
            difference = np.ascontiguousarray(a - b)
            smaller = less_than_zero(difference, self._width, session)
            # max(a, b) = a - [a < b] (a - b)
            larger = a - select(smaller, difference, session)
            x = np.concatenate([larger, x[..., 2 * pairs :]], axis=-1)
        return x[..., 0]

    def _clip(self, shifted: RingArray, session: Session) -> RingArray:
        clip = session.fixed_point.encode(CLIP)
        is_client = session.party is Party.CLIENT
        raised = shifted + clip if is_client else shifted
        outside = less_than_zero(raised, self._width, session)
        kept = select(outside ^ np.uint8(is_client), raised, session)
        return kept - clip if is_client else kept

    def _start(self, z: RingArray, session: Session) -> RingArray:
        """p(z / 8) = c0 + c1 s + s^2 (c2 + c3 s + c4 s^2), s = z / 8."""
        fixed = session.fixed_point
        square = session.products.square(z, session, _SQUARE_Z)
        c1, c3 = (_constant(EXPONENTIAL[power] / 8, fixed) for power in (1, 3))
        inner = c3 * z + _constant(EXPONENTIAL[4], fixed) * square
        lower, inner = truncate(np.stack([c1 * z, inner]), fixed.fraction_bits, session)
        if session.party is Party.CLIENT:
            lower = lower + fixed.encode(EXPONENTIAL[0])
            inner = inner + fixed.encode(EXPONENTIAL[2])
        result: RingArray = lower + session.products.multiply(square, inner, session, _UPPER)
        return result

    def _reciprocal(self, total: RingArray, columns: int, session: Session) -> RingArray:
        """1 / total for 1/2 <= total."""
        fixed, products = session.fixed_point, session.products
        is_client = session.party is Party.CLIENT
        high = self._largest_sum(columns)
        factors = [[1 / start for start in [0.5, *octaves(0.5, high)]]]
        (shrink,) = per_octave(total, 0.5, high, factors, session)
        s = products.multiply(total, shrink, session, self._scale(columns))
        # r = line / 2; r (2 - s r) = line (4 - s line) / 4
        line = (fixed.encode(_START) if is_client else np.uint64(0)) - s
        rest = np.uint64(0) - products.multiply(s, line, session, _NORMALISED)
        rest = rest + fixed.encode(4.0) if is_client else rest
        r = products.multiply(line, rest, session, _FIRST_STEP)
        rest = np.uint64(0) - products.multiply(s, r, session, _NORMALISED)
        rest = rest + fixed.encode(2.0) if is_client else rest
        r = products.multiply(r, rest, session, _STEP)
        return products.multiply(r, shrink, session, _STEP)


def _constant(c: float, fixed: FixedPoint) -> np.uint64:
    return np.uint64(round(c / fixed.unit) % 2**64)
