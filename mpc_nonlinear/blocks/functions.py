"""Exponential, reciprocal, quotient and inverse square root of shared numbers.

Positive numbers are scaled into [1, 2) by their octave, where one polynomial serves all, and
their results back. Rows' numbers are few: these products go by oblivious transfer, which is exact.
"""

from __future__ import annotations

from math import ceil, log2, sqrt

import numpy as np

from mpc_nonlinear.blocks.compare import Width, less_than_zero, less_than_zero_cost
from mpc_nonlinear.blocks.octaves import (
    find_octave,
    find_octave_cost,
    octaves,
    scale_by_octave,
    scale_by_octave_cost,
)
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.products import Bounds, FactoredPolynomial
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from transport.errors import UsageError
from transport.traffic import Party

CLIP = 12.0
"""Arguments of exponentials below -12 count as -12: e^-12 = 6e-6."""
_COMPARED_BITS = 17
_MAX_SLACK = 2.0**-6
# p(x)^2 approximates e^x on [-12, 0.2], error 4.9e-5; experiments/fits/fit_exp.py
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
    interval=(-CLIP, 0.25),
)
# 1/s on [1, 2], relative error 1.1e-5; experiments/fits/fit_rows.py
RECIPROCAL = FactoredPolynomial(
    leading=0.0723249917,
    factors=((-1.83378384, 1.89137448), (-0.564766112, 1.21635049), (-2.85145689, 0.374609965)),
    input_shift=0,
    largest=2.1,
    input_rms=2.0,
    output_rms=1.0,
    interval=(0.0, 2.1),
)
# s^(-1/2) on [1, 2], relative error 2.2e-6; experiments/fits/fit_rows.py
INVERSE_ROOT = FactoredPolynomial(
    leading=0.0199442862,
    factors=((-1.82311261, 3.30803402), (-0.234808787, 1.61466247), (-3.23675252, 0.71481841)),
    input_shift=0,
    largest=2.1,
    input_rms=2.0,
    output_rms=1.0,
    interval=(0.0, 2.1),
)


# -- exponential ---------------------------------------------------------------------------


def clip_below_cost(count: int, width: Width) -> Cost:
    """Cost of `clip_below`."""
    return less_than_zero_cost(count, width) + select_cost(count)


def clip_below(x: RingArray, lowest: float, width: Width, session: Session) -> RingArray:
    """Shares of max(x, lowest) for a public `lowest`, same shape.

    lowest + [x >= lowest] (x - lowest). `width` covers x - lowest; off by its slack at most. A
    comparison and a selection.
    """
    is_client = session.party is Party.CLIENT
    start = session.fixed_point.encode(lowest if is_client else 0.0)
    raised = x - start
    outside = less_than_zero(raised, width, session)
    return select(outside ^ np.uint8(is_client), raised, session) + start


def exponential_cost(count: int, bound: float, context: Context) -> Cost:
    """Cost of `exponential`."""
    width = _exponential_width(bound, context)
    return clip_below_cost(count, width) + context.products.polynomial_cost(count, EXPONENTIAL)


def exponential(x: RingArray, bound: float, session: Session) -> RingArray:
    """Shares of e^x for -bound <= x <= 0.2, same shape; below -12 as at -12.

    Absolute error 2^-13, and that of the session's products: 2^-14 by oblivious transfer, 2^-9.5
    with heavy tails in slots. A comparison, a selection, one polynomial.
    """
    width = _exponential_width(bound, session.context)
    return session.products.polynomial(clip_below(x, -CLIP, width, session), EXPONENTIAL, session)


def _exponential_width(bound: float, context: Context) -> Width:
    unit = context.fixed_point.unit
    largest = max(bound, CLIP + 0.2) / unit
    return Width.covering(largest, _COMPARED_BITS, _MAX_SLACK / unit)


# -- positive numbers ----------------------------------------------------------------------


def _starts(low: float, high: float) -> list[float]:
    """First number of every octave in [low, high]."""
    if not 2.0**-14 <= low <= high <= 2.0**26 or any(ceil(log2(b)) != log2(b) for b in (low, high)):
        raise UsageError(
            f"positive numbers from {low:g} to {high:g}: give powers of two from 2^-14 to 2^26, "
            "the smaller first"
        )
    return [low, *octaves(low, high)]


def _scaled_cost(count: int, low: float, high: float, context: Context) -> Cost:
    fixed, starts = context.fixed_point, _starts(low, high)
    return find_octave_cost(count, low, high, fixed.fraction_bits) + scale_by_octave_cost(
        count, len(starts), 2 * high / fixed.unit
    )


def reciprocal_cost(count: int, low: float, high: float, context: Context) -> Cost:
    """Cost of `reciprocal`."""
    exact = OtProducts(context.fixed_point.fraction_bits)
    back = scale_by_octave_cost(count, len(_starts(low, high)), 2 / context.fixed_point.unit)
    scaled = _scaled_cost(count, low, high, context)
    return scaled + exact.polynomial_cost(count, RECIPROCAL) + back


def reciprocal(x: RingArray, low: float, high: float, session: Session) -> RingArray:
    """Shares of 1 / x for low <= x < 2 high, powers of two from 2^-14 to 2^26; same shape.

    Relative error 2^-13 where 1 / x has the digits for it, and 2^-14 / low units at most beside
    that for small x. Octave by one pass of comparisons, polynomial of degree 6.
    """
    starts = _starts(low, high)
    octave = find_octave(x, low, high, session)
    factors = [1 / s for s in starts]
    scaled = scale_by_octave(x, octave, factors, session)
    exact = OtProducts(session.fixed_point.fraction_bits)
    return scale_by_octave(exact.polynomial(scaled, RECIPROCAL, session), octave, factors, session)


def divide_cost(count: int, x_bound: float, low: float, high: float, context: Context) -> Cost:
    """Cost of `divide`."""
    exact = OtProducts(context.fixed_point.fraction_bits)
    starts, units = _starts(low, high), 1 / context.fixed_point.unit
    return (
        _scaled_cost(count, low, high, context)
        + exact.polynomial_cost(count, RECIPROCAL)
        + exact.multiply_cost(count, _quotient_bounds(x_bound))
        + scale_by_octave_cost(count, len(starts), 2 * x_bound * units)
    )


def divide(
    x: RingArray, y: RingArray, x_bound: float, low: float, high: float, session: Session
) -> RingArray:
    """Shares of x / y for |x| <= x_bound and low <= y < 2 high (powers of two), same shape.

    Error |x / y| 2^-13 + 2 units / low. As `reciprocal`, with one product before the way back.
    """
    starts, exact = _starts(low, high), OtProducts(session.fixed_point.fraction_bits)
    octave = find_octave(y, low, high, session)
    factors = [1 / s for s in starts]
    scaled = scale_by_octave(y, octave, factors, session)
    inverse = exact.polynomial(scaled, RECIPROCAL, session)
    quotient = exact.multiply(x, inverse, session, _quotient_bounds(x_bound))
    return scale_by_octave(quotient, octave, factors, session)


def _quotient_bounds(x_bound: float) -> Bounds:
    return Bounds(x_bound, 1.0, x_bound, largest=2 * x_bound)


def inverse_sqrt_cost(count: int, low: float, high: float, context: Context) -> Cost:
    """Cost of `inverse_sqrt`."""
    exact = OtProducts(context.fixed_point.fraction_bits)
    back = scale_by_octave_cost(count, len(_starts(low, high)), 2 / context.fixed_point.unit)
    scaled = _scaled_cost(count, low, high, context)
    return scaled + exact.polynomial_cost(count, INVERSE_ROOT) + back


def inverse_sqrt(x: RingArray, low: float, high: float, session: Session) -> RingArray:
    """Shares of x^(-1/2) for low <= x < 2 high, powers of two from 2^-14 to 2^26; same shape.

    Relative error 2^-13 where the result has the digits for it. As `reciprocal`.
    """
    starts = _starts(low, high)
    octave = find_octave(x, low, high, session)
    scaled = scale_by_octave(x, octave, [1 / s for s in starts], session)
    root = OtProducts(session.fixed_point.fraction_bits).polynomial(scaled, INVERSE_ROOT, session)
    return scale_by_octave(root, octave, [1 / sqrt(s) for s in starts], session)
