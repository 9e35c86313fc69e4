"""tanh: a polynomial in |x| inside, one outside, and the sign of x."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from mpc_nonlinear.blocks.products import FactoredPolynomial
from mpc_nonlinear.blocks.select import (
    bit_to_arithmetic,
    bit_to_arithmetic_cost,
    select,
    select_cost,
)
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.segments import segments, segments_cost, width_for
from transport.traffic import Party

THRESHOLD = 4.125
# -tanh(a), minimax on [-2^-6, 4.125 + 2^-6], error 5.0e-4, zero at zero;
# experiments/fits/fit_tanh.py
POLYNOMIAL = FactoredPolynomial(
    leading=0.117840963538,
    factors=(
        (-2.166337224, 0.912934342179),
        (-1.11959044669, -2.56580023566),
        (-0.9455496703, 1.4067854844),
    ),
    input_shift=1,
    largest=THRESHOLD,
    input_rms=THRESHOLD,
    output_rms=1.0,
    with_input=True,
)


@dataclass(frozen=True, slots=True)
class MagnitudePolynomialTanh(NonlinearProtocol):
    """sign(x) P(|x|) inside, sign(x) outside. Three coarse comparisons in one pass.

    tanh is odd, so a wrong sign near zero does no harm: P holds a little below zero too.
    `bound`: largest |x|. 9 rounds with products in slots.
    """

    op = "tanh"
    name = "magnitude_polynomial"
    source = "this project; comparisons of [Rathee20], segments as in [Pang24] BOLT"
    # At the threshold either piece may be taken: 5.2e-4 above the true value or 5.0e-4 off it.
    max_error = 2.0**-9
    approximation_error = 2.0**-10
    true_error = 2.0**-10
    breakpoints = (-THRESHOLD, 0.0, THRESHOLD)

    bound: float

    def reference(self, x: FloatArray) -> FloatArray:
        """The piecewise function with exact thresholds."""
        a = np.abs(x)
        inside = a < THRESHOLD
        value = np.where(inside, -POLYNOMIAL(np.where(inside, a, 0)), 1.0)
        result: FloatArray = np.sign(x) * value
        return result

    def true_function(self, x: FloatArray) -> FloatArray:
        """Float64 tanh."""
        result: FloatArray = np.tanh(x)
        return result

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Three thresholds, a conversion, four selections, one polynomial."""
        n = prod(shape)
        width = width_for(self.bound, THRESHOLD, context.fixed_point.unit)
        return (
            segments_cost(n, width, high=False)
            + bit_to_arithmetic_cost(n)
            + context.products.polynomial_cost(n, POLYNOMIAL)
            + select_cost(n)
        )

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of tanh(x)."""
        fixed = session.fixed_point
        width = width_for(self.bound, THRESHOLD, fixed.unit)
        # 1. |x| inside, one outside
        found = segments(x, THRESHOLD, width, session, high=False)
        outside = found.inside ^ np.uint8(session.party is Party.CLIENT)
        one = bit_to_arithmetic(outside, session) * fixed.encode(1.0)
        # 2. tanh(|x|)
        value = one - session.products.polynomial(found.magnitude, POLYNOMIAL, session)
        # 3. the sign: value - 2 [x < 0] value
        return value - np.uint64(2) * select(found.negative, value, session)
