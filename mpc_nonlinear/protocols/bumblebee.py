"""GELU and softmax as BumbleBee computes them: Lu et al., NDSS 2025, eprint 2023/1678."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, prod

import numpy as np
from scipy.special import ndtr

from mpc_nonlinear.blocks.compare import Width, less_than_constants, less_than_constants_cost
from mpc_nonlinear.blocks.local import scale, scale_cost
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
from mpc_nonlinear.protocols.goldschmidt import refine, refine_cost, refined
from mpc_nonlinear.protocols.row_softmax import RowSoftmax
from mpc_nonlinear.protocols.segments import COMPARED_BITS, MAX_SLACK
from transport.traffic import Party

THRESHOLDS = (-4.0, -1.95, 3.0)
LOWER = (
    -0.5054031199708174,
    -0.42226581151983866,
    -0.11807612951181953,
    -0.011034134030615728,
)
"""GELU on [-4, -1.95), constant first: the paper's, as in [Dong23] PUMA, arXiv 2307.12533."""
MIDDLE = (
    0.008526321541038084,
    0.5,
    0.3603292692789629,
    0.0,
    -0.037688200365904236,
    0.0,
    0.0018067462606141187,
)
"""GELU on [-1.95, 3), constant first: the paper's."""


def _quadratic(coefficients: tuple[float, float, float], scale: float) -> tuple[float, float]:
    """(shift, offset) of c0 + c1 y + c2 y^2 = c2 scale^2 ((y / scale + shift)^2 + offset)."""
    c0, c1, c2 = coefficients
    half = c1 / (2 * c2)
    return half / scale, (c0 / c2 - half**2) / scale**2


# The negative of LOWER without its constant, x = 4 z: -LOWER[3] > 0 is the leading factor
LOWER_POLYNOMIAL = FactoredPolynomial(
    leading=-LOWER[3] * 4.0**3,
    factors=(_quadratic((LOWER[1], LOWER[2], LOWER[3]), 4.0),),
    input_shift=2,
    largest=-THRESHOLDS[0],
    input_rms=-THRESHOLDS[0],
    output_rms=0.6,
    with_input=True,
)
# MIDDLE without its constant and x / 2, x^2 = 4 z^2
MIDDLE_POLYNOMIAL = FactoredPolynomial(
    leading=MIDDLE[6] * 4.0**3,
    factors=(_quadratic((MIDDLE[2], MIDDLE[4], MIDDLE[6]), 4.0),),
    input_shift=1,
    largest=THRESHOLDS[2],
    input_rms=THRESHOLDS[2],
    output_rms=1.5,
    even=True,
    with_input=True,
)
# (1 + x / 64)^8, and its eighth power: together the limit form of e^x
_FIRST = FactoredPolynomial(
    leading=1.0,
    factors=((1.0, 0.0),),
    input_shift=6,
    largest=14.0,
    input_rms=14.0,
    output_rms=1.1,
    squarings=2,
)
_SECOND = FactoredPolynomial(
    leading=1.0,
    factors=((0.0, 0.0),),
    input_shift=0,
    largest=1.1,
    input_rms=1.0,
    output_rms=1.1,
    squarings=2,
)
_GUESS = 2.9142
"""1 / c = 2.9142 - 2 c within 9 % for 1/2 <= c <= 1: [Catrina10]."""


@dataclass(frozen=True, slots=True)
class BumbleBeeGelu(NonlinearProtocol):
    """Zero, a polynomial of degree 3, one of degree 6, the identity; cut at -4, -1.95 and 3.

    `bound`: largest |x|. Three coarse comparisons in one pass, 10 rounds with products in
    slots. The paper's outer pieces are moved by 1e-5; here they are not.
    """

    op = "gelu"
    name = "bumblebee"
    source = "[Lu25] BumbleBee, eprint 2023/1678: polynomials and thresholds of its GELU"
    # The pieces differ by 1.6e-2 at 3.
    max_error = 2.0**-5
    approximation_error = 2.0**-5
    true_error = 2.0**-5
    breakpoints = THRESHOLDS

    bound: float

    def _width(self, unit: float) -> Width:
        largest = (self.bound - THRESHOLDS[0]) / unit
        return Width.covering(largest, COMPARED_BITS, MAX_SLACK / unit)

    def reference(self, x: FloatArray) -> FloatArray:
        """The piecewise function with exact thresholds."""
        first, second, third = THRESHOLDS
        z = np.clip(x, first, third)
        lower = LOWER[0] - LOWER_POLYNOMIAL(z)
        middle = MIDDLE[0] + z / 2 + MIDDLE_POLYNOMIAL(z)
        return np.select([x < first, x < second, x < third], [np.zeros_like(x), lower, middle], x)

    def true_function(self, x: FloatArray) -> FloatArray:
        """GELU with erf."""
        result: FloatArray = x * ndtr(x)
        return result

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Three thresholds, three selections, two conversions, two polynomials."""
        n, unit = prod(shape), context.fixed_point.unit
        products = context.products
        return (
            less_than_constants_cost(n, 3, self._width(unit))
            + select_cost(3 * n)
            + bit_to_arithmetic_cost(2 * n)
            + products.polynomial_cost(n, LOWER_POLYNOMIAL)
            + products.polynomial_cost(n, MIDDLE_POLYNOMIAL)
            + scale_cost(n, THRESHOLDS[2] / unit)
        )

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of gelu(x)."""
        fixed, products = session.fixed_point, session.products
        # 1. the segment
        limits = [round(t / fixed.unit) for t in THRESHOLDS]
        bits = less_than_constants(x, limits, self._width(fixed.unit), session)
        in_lower, in_middle = bits[0] ^ bits[1], bits[1] ^ bits[2]
        above = bits[2] ^ np.uint8(session.party is Party.SERVER)
        # 2. x in each of them, zero elsewhere
        wanted = np.stack([in_lower, in_middle, above])
        low, mid, high = select(wanted, np.broadcast_to(x, wanted.shape), session)
        # 3. polynomials that are zero at zero, and the constants of the segments
        one = bit_to_arithmetic(wanted[:2], session)
        constants = one[0] * fixed.encode(LOWER[0]) + one[1] * fixed.encode(MIDDLE[0])
        lower = products.polynomial(low, LOWER_POLYNOMIAL, session)
        middle = products.polynomial(mid, MIDDLE_POLYNOMIAL, session)
        result: RingArray = high + constants - lower + middle + scale(mid, 0.5)
        return result


@dataclass(frozen=True, slots=True)
class BumbleBeeSoftmax(RowSoftmax):
    """e^x = (1 + x / 64)^64 from -14 up, one reciprocal a row by Goldschmidt's iteration.

    Below -14 the paper takes zero; here e^x is that of -14, 1.4e-7, less than a unit. The six
    squarings are done in two trips where products are in slots. The form is too small by the
    factor 1 - x^2 / 128, so that one large score among many small ones gains: 1.4e-2 in the worst
    row of 8, 5.4e-2 of 128, where the declared error ends.
    """

    name = "bumblebee"
    source = "[Lu25] BumbleBee, eprint 2023/1678: its softmax; [Catrina10] for 1 / x"
    max_error = 2.0**-8
    approximation_error = 2.0**-4
    clip = 14.0

    @classmethod
    def approximation_error_of_rows(cls, length: int) -> float:
        """A bound on max p (1 - p) z^2 / 128, p = 1 / (1 + (length - 1) e^z)."""
        return (1 + log(length)) ** 2 / 600

    def exponential(self, z: FloatArray) -> FloatArray:
        """(1 + z / 64)^64."""
        return _SECOND(_FIRST(z))

    def exponential_cost(self, count: int, context: Context) -> Cost:
        """Six squarings."""
        products = context.products
        return products.polynomial_cost(count, _FIRST) + products.polynomial_cost(count, _SECOND)

    def shared_exponential(self, z: RingArray, session: Session) -> RingArray:
        """Six squarings."""
        products = session.products
        eighth_root = products.polynomial(z, _FIRST, session)
        return products.polynomial(eighth_root, _SECOND, session)

    def inverse(self, s: FloatArray) -> FloatArray:
        """Two iterations from a straight line."""
        return refined((_GUESS - s) / 2, s)

    def inverse_cost(self, count: int, context: Context) -> Cost:
        """Two iterations."""
        return scale_cost(count, 2 / context.fixed_point.unit) + refine_cost(count, context)

    def shared_inverse(self, s: RingArray, session: Session) -> RingArray:
        """Two iterations from a straight line."""
        line = scale(s, -0.5)
        if session.party is Party.CLIENT:
            line = line + session.fixed_point.encode(_GUESS / 2)
        return refine(line, s, session)
