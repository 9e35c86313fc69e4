"""GELU and softmax as BOLT computes them: Pang et al., S&P 2024, eprint 2023/1893."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, prod

import numpy as np
from scipy.special import ndtr

from mpc_nonlinear.blocks.local import scale, scale_cost
from mpc_nonlinear.blocks.lookup import lookup, lookup_cost, split, split_cost
from mpc_nonlinear.blocks.products import Bounds, FactoredPolynomial
from mpc_nonlinear.blocks.select import bit_to_arithmetic, bit_to_arithmetic_cost
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.goldschmidt import refine, refine_cost, refined
from mpc_nonlinear.protocols.row_softmax import RowSoftmax
from mpc_nonlinear.protocols.segments import segments, segments_cost, width_for
from transport.traffic import Party

THRESHOLD = 2.7
COEFFICIENTS = (
    0.001620808531841547,
    -0.03798164612714154,
    0.5410550166368381,
    -0.18352506127082727,
    0.020848611754127593,
)
"""Of gelu(x) - x / 2 as a polynomial in |x|, constant first: the paper's."""
LN2 = log(2.0)
_SQUARE, _SHIFT, _OFFSET = 0.3585, 1.353, 0.344
"""e^p = 0.3585 (p + 1.353)^2 + 0.344 for -ln 2 < p <= 0: the paper's, from [Kim21] I-BERT."""

# sum COEFFICIENTS[i] a^i as a product of its two quadratics
POLYNOMIAL = FactoredPolynomial(
    leading=COEFFICIENTS[4] * 2.0**4,
    factors=(
        (-2.1829706802657, 1.5670785719623),
        (-0.017716150051576, 0.00045343509061469),
    ),
    input_shift=1,
    largest=THRESHOLD,
    input_rms=THRESHOLD,
    output_rms=1.35,
)
# e^p for p = -ln2 y: y in [0, 1) is what lies behind the point of -x / ln2
EXPONENTIAL = FactoredPolynomial(
    leading=_SQUARE * LN2**2,
    factors=((-_SHIFT / LN2, _OFFSET / (_SQUARE * LN2**2)),),
    input_shift=0,
    largest=1.0,
    input_rms=0.6,
    output_rms=1.0,
)
_POWERS = 15
"""e^x counts as zero from -14 ln 2 = -9.7 down: powers of two fill a table of 16 entries."""
_STEP = Bounds(1.1, 1.0, 1.1, largest=4.0)
_GUESS_BITS = 3
"""First guesses of reciprocals are for intervals of this many bits."""


@dataclass(frozen=True, slots=True)
class BoltGelu(NonlinearProtocol):
    """x / 2 + P(|x|) for |x| < 2.7, P of degree 4; the identity above, zero below.

    `bound`: largest |x|. Three coarse comparisons in one pass. The paper evaluates P in
    another form; here it is factored: one trip, and 8 rounds in all, where products are in slots.
    """

    op = "gelu"
    name = "bolt"
    source = "[Pang24] BOLT, eprint 2023/1893: polynomial and thresholds of its GELU"
    # The pieces differ by 1.1e-2 at 2.7, P(a) from P(-a) by 1.2e-3 where a sign may be wrong.
    max_error = 2.0**-6
    approximation_error = 2.0**-6
    true_error = 2.0**-6
    breakpoints = (-THRESHOLD, 0.0, THRESHOLD)

    bound: float

    def reference(self, x: FloatArray) -> FloatArray:
        """The piecewise function with exact thresholds."""
        a = np.abs(x)
        inside = a < THRESHOLD
        result: FloatArray = np.where(
            inside, x / 2 + POLYNOMIAL(np.where(inside, a, 0)), np.maximum(x, 0)
        )
        return result

    def true_function(self, x: FloatArray) -> FloatArray:
        """GELU with erf."""
        result: FloatArray = x * ndtr(x)
        return result

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Three thresholds, three selections, a conversion, one polynomial."""
        n, unit = prod(shape), context.fixed_point.unit
        return (
            segments_cost(n, width_for(self.bound, THRESHOLD, unit))
            + bit_to_arithmetic_cost(n)
            + context.products.polynomial_cost(n, POLYNOMIAL)
            + scale_cost(n, THRESHOLD / unit)
        )

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of gelu(x)."""
        fixed = session.fixed_point
        # 1. |x| inside, x above
        width = width_for(self.bound, THRESHOLD, fixed.unit)
        found = segments(x, THRESHOLD, width, session)
        # 2. x / 2 + P(|x|); P(0) is not zero and must not count outside
        outside = found.inside ^ np.uint8(session.party is Party.CLIENT)
        constant = bit_to_arithmetic(outside, session) * fixed.encode(COEFFICIENTS[0])
        inner = found.positive - scale(found.magnitude, 0.5)
        value = session.products.polynomial(found.magnitude, POLYNOMIAL, session)
        return found.high + inner + value - constant


@dataclass(frozen=True, slots=True)
class BoltSoftmax(RowSoftmax):
    """e^x = e^p / 2^l, x = p - l ln 2, e^p by a square; reciprocal by table and Goldschmidt.

    l comes out of a truncation and 2^-l out of a table of powers. The paper's reciprocal is
    SIRNN's: a table's guess and Goldschmidt's iteration; table size and number of iterations are
    this project's. Terms below 2^-14 are dropped; `approximation_error` is of rows of up to 100.
    """

    name = "bolt"
    source = "[Pang24] BOLT, eprint 2023/1893: its softmax; [Rathee21] eprint 2021/459"
    max_error = 2.0**-10
    approximation_error = 2.0**-7
    clip = (_POWERS - 0.5) * LN2

    @classmethod
    def approximation_error_of_rows(cls, length: int) -> float:
        """The polynomial's, and every term but the largest dropped."""
        return float(2.0**-10 + (length - 1) * 2.0**-14)

    def exponential(self, z: FloatArray) -> FloatArray:
        """Piecewise, a table entry for each piece."""
        place = 1 - z / LN2
        whole = np.floor(place)
        result: FloatArray = EXPONENTIAL(place - whole) * np.exp2(1 - whole) * (whole < _POWERS)
        return result

    def exponential_cost(self, count: int, context: Context) -> Cost:
        """A split, a look-up, a polynomial of degree 2 and a product."""
        bits, products = context.fixed_point.fraction_bits, context.products
        return (
            scale_cost(count, 2 * _POWERS * 2.0**bits)
            + split_cost(count, bits)
            + lookup_cost(count, bits + 4)
            + products.polynomial_cost(count, EXPONENTIAL)
            + products.multiply_cost(count, _STEP)
        )

    def shared_exponential(self, z: RingArray, session: Session) -> RingArray:
        """Shares of e^z."""
        fixed, products = session.fixed_point, session.products
        bits = fixed.fraction_bits
        # 1. 1 - z / ln 2 = whole + rest: an index from 0 even where the maximum was missed
        place = scale(z, -1 / LN2)
        if session.party is Party.CLIENT:
            place = place + fixed.encode(1.0)
        whole, rest = split(place, bits, session)
        # 2. 2^(1 - whole), and zero at the end
        table = [round(2.0 ** (bits + 1 - i)) for i in range(_POWERS)] + [0]
        power = lookup(whole, table, bits + 4, session)
        # 3. e^p times it
        return products.multiply(
            products.polynomial(rest, EXPONENTIAL, session), power, session, _STEP
        )

    def inverse(self, s: FloatArray) -> FloatArray:
        """Two iterations from the middle of an interval of 1/8."""
        middle = (np.floor(s * 2.0**_GUESS_BITS) + 0.5) * 2.0**-_GUESS_BITS
        return refined(1 / middle, s)

    def inverse_cost(self, count: int, context: Context) -> Cost:
        """A split, a look-up, two iterations."""
        bits = context.fixed_point.fraction_bits
        return (
            split_cost(count, bits - _GUESS_BITS)
            + lookup_cost(count, bits + 4)
            + refine_cost(count, context)
        )

    def shared_inverse(self, s: RingArray, session: Session) -> RingArray:
        """Two iterations from a table of 16 intervals of [1/2, 5/2)."""
        fixed = session.fixed_point
        bits = fixed.fraction_bits
        moved = s - fixed.encode(0.5) if session.party is Party.CLIENT else s
        interval, _ = split(moved, bits - _GUESS_BITS, session)
        middles = [0.5 + (i + 0.5) * 2.0**-_GUESS_BITS for i in range(16)]
        table = [round(2.0**bits / middle) for middle in middles]
        return refine(lookup(interval, table, bits + 4, session), s, session)
