"""Public real numbers that both parties multiply their shares by: the same on every machine.

A share is a word of 64 bits, so factors that differ in their last bit give results that differ by
anything. Processors' powers, sines and cosines do differ there, and so do libraries' by what the
processor has; integers and decimals do not. Sums, products, quotients and square roots are exact
by IEEE 754 and need no care.
"""

from __future__ import annotations

from decimal import Context, Decimal
from functools import lru_cache

import numpy as np

from mpc_nonlinear.fixed_point import FloatArray

_DIGITS = 50
_ONE = 1 << 120
"""Fixed point of angles, sines and cosines: the rounding to float64 decides, not theirs."""
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459")


@lru_cache(maxsize=4096)
def exact_power(base: float, exponent: float) -> float:
    """base^exponent for base > 0, the nearest float64 but once in 10^30."""
    context = Context(prec=_DIGITS)
    return float(context.power(Decimal(base), Decimal(exponent)))


@lru_cache(maxsize=256)
def rotary_turns(theta: float, half: int, first: int, count: int) -> tuple[FloatArray, FloatArray]:
    """Cosines and sines of p theta^(-i / half), (count, half) each, for p from `first` on.

    Not to be written to: they are kept.
    """
    context = Context(prec=_DIGITS)
    scaled = [
        context.power(Decimal(theta), context.divide(Decimal(-i), Decimal(half)))
        for i in range(half)
    ]
    frequencies = [int(context.multiply(value, Decimal(_ONE))) for value in scaled]
    circle = int(context.multiply(context.multiply(_PI, Decimal(2)), Decimal(_ONE)))
    cosines, sines = np.empty((count, half)), np.empty((count, half))
    for row in range(count):
        for i, frequency in enumerate(frequencies):
            cosine, sine = _turn(frequency * (first + row) % circle)
            cosines[row, i], sines[row, i] = cosine / _ONE, sine / _ONE
    cosines.flags.writeable = sines.flags.writeable = False
    return cosines, sines


def _turn(angle: int) -> tuple[int, int]:
    """Cosine and sine of an angle from 0 to 7, in fixed point, by their series at an eighth."""
    angle >>= 3
    term, order, sums = _ONE, 0, [0, 0]
    while term:
        # Cosines take the even orders, sines the odd ones, with alternating signs.
        sums[order % 2] += -term if order % 4 > 1 else term
        order += 1
        term = term * angle // (_ONE * order)
    cosine, sine = sums
    for _ in range(3):
        cosine, sine = (cosine * cosine - sine * sine) // _ONE, 2 * cosine * sine // _ONE
    return cosine, sine
