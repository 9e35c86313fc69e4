"""SiLU: ReLU less a polynomial, or cubic pieces, in |x| between two thresholds."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from scipy.special import expit

from mpc_nonlinear.blocks.products import FactoredPolynomial
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.cubic_pieces import CubicPiece, CubicPieces
from mpc_nonlinear.protocols.inner_polynomial import InnerPolynomial
from mpc_nonlinear.protocols.segments import segments, segments_cost, width_for

THRESHOLD = 10.0
# silu(-a) = -a / (1 + e^a), minimax on [-2^-6, 10 + 2^-6], error 5.3e-4, zero at zero;
# experiments/fits/fit_silu.py
POLYNOMIAL = FactoredPolynomial(
    leading=0.046227194834,
    factors=(
        (-2.2827731427, 0.00917488019341),
        (-1.76288163964, 0.143449617634),
        (-1.04165784817, 0.524516602351),
        (-0.931237275239, -2.46696171459),
    ),
    input_shift=2,
    largest=THRESHOLD,
    input_rms=THRESHOLD,
    output_rms=0.3,
    with_input=True,
    interval=(-(2.0**-6), THRESHOLD + 2.0**-6),
)


@dataclass(frozen=True, slots=True)
class MagnitudePolynomialSilu(InnerPolynomial):
    """max(x, 0) + P(|x|) inside, max(x, 0) outside. Three coarse comparisons in one pass.

    silu(x) - max(x, 0) is even, and far smoother as a function of |x| than x tanh(x / 2) is as one
    of x^2. It is silu(-|x|), so a wrong sign near zero does no harm. `bound`: largest |x|;
    `rms`: its root mean square. 7 rounds with products in slots.
    """

    op = "silu"
    name = "magnitude_polynomial"
    source = "this project; comparisons of [Rathee20], segments as in [Pang24] BOLT"
    # At the threshold either piece may be taken: 4.5e-4 above the true value or 5.2e-4 off it.
    max_error = 2.0**-9
    approximation_error = 2.0**-10
    true_error = 2.0**-10
    breakpoints = (-THRESHOLD, 0.0, THRESHOLD)
    inner = POLYNOMIAL

    bound: float
    rms: float = THRESHOLD

    def reference(self, x: FloatArray) -> FloatArray:
        """The piecewise function with exact thresholds."""
        a = np.abs(x)
        inside = a < THRESHOLD
        result: FloatArray = np.maximum(x, 0) + np.where(
            inside, POLYNOMIAL(np.where(inside, a, 0)), 0
        )
        return result

    def true_function(self, x: FloatArray) -> FloatArray:
        """Float64 x / (1 + e^-x)."""
        result: FloatArray = x * expit(x)
        return result

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Three thresholds, three selections, one polynomial."""
        n, products = prod(shape), context.products
        width = width_for(self.bound, THRESHOLD, context.fixed_point.unit)
        return segments_cost(n, width) + products.polynomial_cost(n, self._polynomial(products))

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of silu(x)."""
        products = session.products
        width = width_for(self.bound, THRESHOLD, session.fixed_point.unit)
        # 1. |x| inside, max(x, 0) everywhere
        found = segments(x, THRESHOLD, width, session)
        # 2. what is missing to silu, inside
        lower = products.polynomial(found.magnitude, self._polynomial(products), session)
        return found.positive + found.high + lower


@dataclass(frozen=True, slots=True)
class CubicPiecesSilu(CubicPieces):
    """max(x, 0) plus silu(-|x|) as two cubics, see `CubicPieces`. 5 rounds below 500.

    `bound`: largest |x|; `rms`: its root mean square.
    """

    op = "silu"
    name = "cubic_pieces"
    source = "this project; comparisons of [Rathee20], openings of [Beaver91]"
    # At a knot either piece may be taken, 1.9e-3 apart; operands cut to 1 / 1820 add 1.8e-4.
    max_error = 1.125 * 2.0**-9
    approximation_error = 1.1875 * 2.0**-10
    true_error = 1.25 * 2.0**-10
    breakpoints = (-8.42, -2.42, 0.0, 2.42, 8.42)
    # Minimax as far as their slacks, errors 1.01e-3 and 1.10e-3; experiments/fits/fit_silu.py
    pieces = (
        CubicPiece(
            2.42, (-0.00097742486707, -0.501810621179, 0.276648170858, -0.0424928675784), 0.096
        ),
        CubicPiece(
            8.42, (-0.601532830972, 0.233369760262, -0.0307941459267, 0.00137073766382), 0.138
        ),
    )
    zero_slack = 0.096
    outside = -69 * 2.0**-16
    steps = 1820.0

    bound: float
    rms: float = THRESHOLD

    def true_function(self, x: FloatArray) -> FloatArray:
        """Float64 x / (1 + e^-x)."""
        result: FloatArray = x * expit(x)
        return result
