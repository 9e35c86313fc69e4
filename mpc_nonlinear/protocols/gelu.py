"""GELU: an even polynomial between two thresholds, the identity above, zero below."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
from scipy.special import erf

from mpc_nonlinear.compare import Width, less_than_constants, less_than_constants_cost
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.products import Bounds
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.select import select, select_cost
from mpc_nonlinear.session import Context, Session
from mpc_nonlinear.truncate import truncate, truncate_cost
from transport.traffic import Party

THRESHOLD = 3.4
COMPARED_BITS = 13
_MAX_SLACK = 2.0**-6
"""The polynomial holds this far beyond the threshold; wider inputs compare four bits more."""
# gelu(x) - x/2 as a1 u + ... + a5 u^5 of u = x^2, minimax on |x| <= 3.42, error 1.1e-3, zero at
# zero; experiments/fit_gelu.py
COEFFICIENTS = (
    0.394113440,
    -0.0596375370,
    0.00665954505,
    -0.000408940025,
    0.0000103081214,
)
_CUBE_SHIFT = 8
"""u^3 is kept divided by 2^8, its factor multiplied by 2^8: both have significant bits."""
_CUBE_UNIT = 2**_CUBE_SHIFT
_CONSTANT_BITS = 24
"""Precision of the coefficients; terms carry these bits more until they are truncated."""
# Root mean squares over |x| <= threshold, worst case: u, u^2, u^3, factor.
_U, _V, _W = THRESHOLD**2, THRESHOLD**4, THRESHOLD**6
_Z = _CUBE_UNIT * abs(COEFFICIENTS[3] * _U + COEFFICIENTS[4] * _V)
_SQUARE_X = Bounds(THRESHOLD, THRESHOLD, _U)
_SQUARE_U = Bounds(_U, _U, _V)
_TIMES_V = Bounds(_U, _V, _W, _CUBE_SHIFT)
_LAST = Bounds(_W / _CUBE_UNIT, _Z, _W / _CUBE_UNIT * _Z)


@dataclass(frozen=True, slots=True)
class EvenPolynomialGelu(NonlinearProtocol):
    """x/2 + P(x^2) inside, exactly zero contribution outside. Two coarse comparisons in one pass.

    `bound`: largest |x|. 18 rounds with products in CKKS slots.
    """

    op = "gelu"
    name = "even_polynomial"
    source = "this project; comparisons of [Rathee20], segments as in [Pang24] BOLT"
    max_error = 2.0**-9
    approximation_error = 2.0**-9

    bound: float

    @property
    def _width(self) -> Width:
        largest = (self.bound + THRESHOLD) * 2**16
        return Width.covering(largest, COMPARED_BITS, _MAX_SLACK * 2**16)

    def reference(self, x: FloatArray) -> FloatArray:
        """The piecewise function with exact thresholds."""
        u = x * x
        inside = x / 2 + sum(a * u ** (i + 1) for i, a in enumerate(COEFFICIENTS))
        outside = np.where(x > 0, x, 0.0)
        result: FloatArray = np.where(np.abs(x) <= THRESHOLD, inside, outside)
        return result

    def true_function(self, x: FloatArray) -> FloatArray:
        """GELU with erf."""
        result: FloatArray = x * (1 + erf(x / sqrt(2))) / 2
        return result

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Two thresholds, two selections, four products, two truncations."""
        n = prod(shape)
        products = context.products
        return (
            less_than_constants_cost(n, 2, self._width)
            + select_cost(2 * n)
            + products.square_cost(n, _SQUARE_X)
            + products.square_cost(n, _SQUARE_U)
            + products.multiply_cost(n, _TIMES_V)
            + truncate_cost(n, _CONSTANT_BITS)
            + products.multiply_cost(n, _LAST)
            + truncate_cost(n, _CONSTANT_BITS)
        )

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of gelu(x)."""
        fixed, products = session.fixed_point, session.products
        limit = round(THRESHOLD / fixed.unit)
        # 1. below = [x < -t], not_above = [x < t]
        below, not_above = less_than_constants(x, [-limit, limit], self._width, session)
        inside = below ^ not_above
        above = not_above ^ np.uint8(session.party is Party.SERVER)
        # 2. x inside the segment and x above it, zero elsewhere
        middle, high = select(np.stack([inside, above]), np.stack([x, x]), session)
        # 3. powers of u = x^2
        u = products.square(middle, session, _SQUARE_X)
        v = products.square(u, session, _SQUARE_U)
        w = products.multiply(u, v, session, _TIMES_V)
        # 4. the upper terms, w (a4 u + a5 v)
        a = [_constant(c) for c in COEFFICIENTS[:2]]
        a3, a4, a5 = (_constant(_CUBE_UNIT * c) for c in COEFFICIENTS[2:])
        factor = truncate(a4 * u + a5 * v, _CONSTANT_BITS, session)
        upper = products.multiply(w, factor, session, _LAST)
        # 5. the lower terms
        half = np.uint64(1 << (_CONSTANT_BITS - 1))
        lower = half * middle + a[0] * u + a[1] * v + a3 * w
        result: RingArray = high + upper + truncate(lower, _CONSTANT_BITS, session)
        return result


def _constant(c: float) -> np.uint64:
    return np.uint64(round(c * 2**_CONSTANT_BITS) % 2**64)
