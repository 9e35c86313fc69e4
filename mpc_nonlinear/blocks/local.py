"""What each party computes on its own share: products with public real numbers."""

from __future__ import annotations

import numpy as np
from numba import njit

from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
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


@njit(cache=True)
def _scale(x, factor, out):  # type: ignore[no-untyped-def]
    """Rounded x * factor / 2^48 modulo 2^64, over 128 bits."""
    half = np.uint64(1 << 32)
    low_mask = half - np.uint64(1)
    factor_low, factor_high = np.uint64(factor) & low_mask, factor >> 32
    rounding = np.uint64(1 << 47)
    for i in range(x.size):
        low, high = np.uint64(x[i]) & low_mask, x[i] >> 32
        # x * factor = high_high * 2^64 + (cross terms) * 2^32 + low_low
        low_low = low * factor_low
        first = high * np.int64(factor_low) + np.int64(low_low >> np.uint64(32))
        second = np.int64(low) * factor_high + (first & np.int64(0xFFFFFFFF))
        upper = high * factor_high + (first >> 32) + (second >> 32)
        lower = (np.uint64(second) << np.uint64(32)) | (low_low & low_mask)
        moved = lower + rounding
        carried = np.uint64(upper) + np.uint64(moved < lower)
        out[i] = (carried << np.uint64(16)) | (moved >> np.uint64(48))
