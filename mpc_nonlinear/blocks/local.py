"""What each party computes on its own share: products with public real numbers."""

from __future__ import annotations

import numpy as np
from numba import njit

from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, FloatArray, RingArray
from transport.computing import Work, units
from transport.errors import UsageError

_PRECISION_BITS = 48
_LARGEST_BITS = 14
_BLOCK = "local product with public numbers (scale)"


def scale_cost(count: int, max_abs_units: float) -> Cost:
    """No messages; the chance that the shares of any element wrap around."""
    work = Work.together(units(scaled=count))
    return Cost.failing(_BLOCK, count * max_abs_units * 2.0**-RING_BITS, work)


def scale(x: RingArray, factor: float) -> RingArray:
    """Shares of factor * x for a public |factor| < 2^14, same shape, without a message.

    The centred lifts of the two shares add up to x over the integers, except with probability
    |x| / 2^64; each party multiplies its own by the factor, taken to 2^-48, and rounds. Off by at
    most one unit; "Probabilities of failure" in docs/security.md.
    """
    if not abs(factor) < 1 << _LARGEST_BITS:
        raise UsageError(f"scale: factor {factor:g}; stay below 2^{_LARGEST_BITS} in magnitude")
    out = np.empty(x.shape, np.uint64)
    units = np.int64(round(factor * 2.0**_PRECISION_BITS))
    _scale(np.ascontiguousarray(x).reshape(-1).view(np.int64), units, out.reshape(-1))
    return out


def scale_all(x: RingArray, factors: FloatArray) -> RingArray:
    """As `scale`, x times every one of these factors: (factors, *shape)."""
    if not np.abs(factors).max() < 1 << _LARGEST_BITS:
        raise UsageError(f"scale: factors stay below 2^{_LARGEST_BITS} in magnitude")
    shape = len(factors), *x.shape
    each = factors.reshape(-1, *[1] * x.ndim)
    return _scaled(np.broadcast_to(x, shape), np.broadcast_to(each, shape))


def turn_cost(count: int, rms_units: float) -> Cost:
    """Of `turn` for `count` numbers in all, of this root mean square; no messages."""
    work = Work.together(units(scaled=2 * count))
    return Cost.failing(_BLOCK, count * rms_units * 2.0**-RING_BITS, work)


def turn(
    x: RingArray, y: RingArray, cosines: FloatArray, sines: FloatArray
) -> tuple[RingArray, RingArray]:
    """Shares of x cos - y sin and y cos + x sin for public angles, same shapes, without a message.

    As `scale`: each party turns the lifts of its own shares, factors taken to 2^-48. Off by at most
    two units, wrong where a lift is.
    """
    found = []
    for a, b, sign in ((x, y, -1.0), (y, x, 1.0)):
        parts = (_scaled(a, cosines), _scaled(b, sign * sines))
        found.append(parts[0] + parts[1])
    return found[0], found[1]


def _scaled(x: RingArray, factors: FloatArray) -> RingArray:
    """Each number times its own factor."""
    words = np.rint(factors * 2.0**_PRECISION_BITS).astype(np.int64).reshape(-1)
    out = np.empty(x.shape, np.uint64)
    _scale_each(np.ascontiguousarray(x).reshape(-1).view(np.int64), words, out.reshape(-1))
    return out


@njit(cache=True)
def _scale(x, factor, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = _scaled_word(x[i], factor)


@njit(cache=True)
def _scale_each(x, factors, out):  # type: ignore[no-untyped-def]
    for i in range(x.size):
        out[i] = _scaled_word(x[i], factors[i])


@njit(cache=True, inline="always")
def _scaled_word(x, factor):  # type: ignore[no-untyped-def]
    """Rounded x * factor / 2^48 modulo 2^64, over 128 bits."""
    half = np.uint64(1 << 32)
    low_mask = half - np.uint64(1)
    factor_low, factor_high = np.uint64(factor) & low_mask, factor >> 32
    low, high = np.uint64(x) & low_mask, x >> 32
    # x * factor = high_high * 2^64 + (cross terms) * 2^32 + low_low
    low_low = low * factor_low
    first = high * np.int64(factor_low) + np.int64(low_low >> np.uint64(32))
    second = np.int64(low) * factor_high + (first & np.int64(0xFFFFFFFF))
    upper = high * factor_high + (first >> 32) + (second >> 32)
    lower = (np.uint64(second) << np.uint64(32)) | (low_low & low_mask)
    moved = lower + np.uint64(1 << 47)
    carried = np.uint64(upper) + np.uint64(moved < lower)
    return (carried << np.uint64(16)) | (moved >> np.uint64(48))
