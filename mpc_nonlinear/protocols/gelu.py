"""GELU: an even polynomial between two thresholds, the identity above, zero below."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
from scipy.special import erf

from mpc_nonlinear.blocks.compare import Width, less_than_constants, less_than_constants_cost
from mpc_nonlinear.blocks.local import scale, scale_cost
from mpc_nonlinear.blocks.products import FactoredPolynomial
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.inner_polynomial import InnerPolynomial
from transport.traffic import Party

THRESHOLD = 3.3
COMPARED_BITS = 13
_MAX_SLACK = 2.0**-6
"""The polynomial holds this far beyond the threshold; wider inputs compare four bits more."""
# gelu(x) - x/2, minimax on |x| <= 3.32, error 9.6e-4, zero at zero; experiments/fits/fit_gelu.py
POLYNOMIAL = FactoredPolynomial(
    leading=11.4654486,
    factors=((-0.173289293887, 0.402820566), (-1.03973576332, 0.190865444)),
    multiples=((-1, 2), (-3, 1)),
    input_shift=2,
    largest=THRESHOLD,
    input_rms=THRESHOLD,
    output_rms=THRESHOLD / 2,
    even=True,
    with_input=True,
)


@dataclass(frozen=True, slots=True)
class EvenPolynomialGelu(InnerPolynomial):
    """x/2 + P(x^2) inside, exactly zero contribution outside. Two coarse comparisons in one pass.

    `bound`: largest |x|; `rms`: its root mean square. One trip for the polynomial with products in
    CKKS slots.
    """

    op = "gelu"
    name = "even_polynomial"
    source = "this project; comparisons of [Rathee20], segments as in [Pang24] BOLT"
    # At a threshold either piece may be taken: 1.6e-3 below the true value or 9.6e-4 above.
    max_error = 2.0**-8
    approximation_error = 2.0**-9
    true_error = 2.0**-8.5
    breakpoints = (-THRESHOLD, THRESHOLD)
    inner = POLYNOMIAL

    bound: float
    rms: float = THRESHOLD

    @property
    def _width(self) -> Width:
        largest = (self.bound + THRESHOLD) * 2**16
        return Width.covering(largest, COMPARED_BITS, _MAX_SLACK * 2**16)

    def reference(self, x: FloatArray) -> FloatArray:
        """The piecewise function with exact thresholds."""
        outside = np.where(x > 0, x, 0.0)
        inside = np.abs(x) <= THRESHOLD
        result: FloatArray = np.where(inside, x / 2 + POLYNOMIAL(np.where(inside, x, 0)), outside)
        return result

    def true_function(self, x: FloatArray) -> FloatArray:
        """GELU with erf."""
        result: FloatArray = x * (1 + erf(x / sqrt(2))) / 2
        return result

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Two thresholds, two selections, one polynomial."""
        n, products = prod(shape), context.products
        return (
            less_than_constants_cost(n, 2, self._width)
            + select_cost(2 * n)
            + products.polynomial_cost(n, self._polynomial(products))
            + scale_cost(n, self._polynomial(products).input_rms / context.fixed_point.unit)
        )

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of gelu(x)."""
        products = session.products
        limit = round(THRESHOLD / session.fixed_point.unit)
        # 1. below = [x < -t], not_above = [x < t]
        below, not_above = less_than_constants(x, [-limit, limit], self._width, session)
        inside = below ^ not_above
        above = not_above ^ np.uint8(session.party is Party.SERVER)
        # 2. x inside the segment and x above it, zero elsewhere
        middle, high = select(np.stack([inside, above]), np.stack([x, x]), session)
        # 3. x/2 + P(x^2)
        even = products.polynomial(middle, self._polynomial(products), session)
        result: RingArray = high + scale(middle, 0.5) + even
        return result
