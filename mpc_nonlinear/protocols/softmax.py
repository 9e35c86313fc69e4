"""Softmax over the last axis: shifted by the row maximum, one polynomial, one reciprocal a row."""

from __future__ import annotations

from dataclasses import dataclass
from math import log2, prod

import numpy as np

from mpc_nonlinear.compare import Width, less_than_zero, less_than_zero_cost
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.products import Bounds, FactoredPolynomial
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.rows import (
    find_octave,
    find_octave_cost,
    octaves,
    scale_by_octave,
    scale_by_octave_cost,
)
from mpc_nonlinear.select import select, select_cost
from mpc_nonlinear.session import Context, Session
from transport.traffic import Party

COMPARED_BITS = 17
_MAX_SLACK = 2.0**-6
"""Each level of the tournament may miss the maximum by this much; the exponential holds up to
0.2 above zero. Wider inputs compare four bits more."""
CLIP = 12.0
"""Arguments below -12 count as -12: e^-12 = 6e-6."""
MASK_GAP = 16.0
"""Masked positions lie at least this far below every real one; more than CLIP."""
# p(x)^2 approximates e^x on [-12, 0.2], error 4.9e-5; experiments/fit_exp.py
EXPONENTIAL = FactoredPolynomial(
    leading=0.0132336535,
    factors=(
        (0.111736979033, 1.17483807),
        (0.893895832266, 0.654574832),
        (1.3408437484, 0.241572479),
        (1.56431770647, 0.0225849376),
    ),
    multiples=((1, 8), (1, 1), (3, 2), (7, 4)),
    input_shift=3,
    largest=CLIP,
    input_rms=CLIP,
    output_rms=1.1,
    squarings=1,
)
# 1/s on [1, 2], relative error 1.1e-5; experiments/fit_rows.py
RECIPROCAL = FactoredPolynomial(
    leading=0.0723249917,
    factors=((-1.83378384, 1.89137448), (-0.564766112, 1.21635049), (-2.85145689, 0.374609965)),
    input_shift=0,
    largest=2.1,
    input_rms=2.0,
    output_rms=1.0,
)
_STEP = Bounds(1.1, 1.0, 1.1)


@dataclass(frozen=True, slots=True)
class SquaredPolynomialSoftmax(NonlinearProtocol):
    """Row maximum by a tournament, clipping, exp as a squared polynomial, one reciprocal a row.

    `bound`: largest |x| of positions that count; masked ones lie down to -(3 * bound + MASK_GAP).
    Clipped positions keep 6e-6 each: the approximation error holds for rows of up to 100.
    """

    op = "softmax"
    name = "squared_polynomial"
    source = "polynomials of this project; tournament of [Rathee20]"
    # Fourteen times the noise of the exponential in slots, whose tails are heavy.
    max_error = 2.0**-9.5
    approximation_error = 2.0**-10

    bound: float

    @property
    def _width(self) -> Width:
        # Differences between real and masked scores; x - max + CLIP stays inside too.
        largest = (4 * self.bound + MASK_GAP) * 2**16
        return Width.covering(largest, COMPARED_BITS, _MAX_SLACK * 2**16)

    def reference(self, x: FloatArray) -> FloatArray:
        """Softmax with clipped arguments, fitted exponential and reciprocal."""
        e = EXPONENTIAL(np.maximum(x - x.max(-1, keepdims=True), -CLIP))
        total = e.sum(-1, keepdims=True)
        octave = 2.0 ** np.floor(np.log2(total))
        result: FloatArray = e * RECIPROCAL(total / octave) / octave
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
        """Tournament, clipping, a polynomial and a product an element, a reciprocal a row."""
        n, rows, columns = prod(shape), prod(shape[:-1]), shape[-1]
        products = context.products
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
            + products.polynomial_cost(n, EXPONENTIAL)
            + self._reciprocal_cost(rows, columns, context)
            + products.multiply_cost(n, _STEP)
        )

    def _reciprocal_cost(self, rows: int, columns: int, context: Context) -> Cost:
        high, units = self._largest_sum(columns), 2.0**context.fixed_point.fraction_bits
        count = len(octaves(0.5, high)) + 1
        return (
            find_octave_cost(rows, 0.5, high, context.fixed_point.fraction_bits)
            + scale_by_octave_cost(rows, count, 2 * high * units)
            + context.products.polynomial_cost(rows, RECIPROCAL)
            + scale_by_octave_cost(rows, count, 4 * units)
        )

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of softmax(x)."""
        products = session.products
        # 1. shift by the row maximum
        shifted = x - self._maximum(x, session)[..., None]
        # 2. clip below: z = -CLIP + [shifted >= -CLIP] (shifted + CLIP)
        z = self._clip(shifted, session)
        # 3. the exponential
        e = products.polynomial(z, EXPONENTIAL, session)
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

    def _reciprocal(self, total: RingArray, columns: int, session: Session) -> RingArray:
        """1 / total for 1/2 <= total."""
        high = self._largest_sum(columns)
        octave = find_octave(total, 0.5, high, session)
        factors = [1 / start for start in [0.5, *octaves(0.5, high)]]
        s = scale_by_octave(total, octave, factors, session)
        inverse = session.products.polynomial(s, RECIPROCAL, session)
        return scale_by_octave(inverse, octave, factors, session)
