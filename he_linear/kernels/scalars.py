"""Arithmetic on single numbers, for compiled loops, and the types of the arrays they stand in.

64-bit integer high products do not vectorise, fused multiply-adds do: for integers |v| < 2^51,
|w| <= p / 2 < 2^48,
    h = fl(v w), l = fma(v, w, -h), q = rint(v w / p), r = fma(-q, p, h) + l
is exact, because h - q p is an integer below 2^53, and |r| <= p / 2 + |q| 2^-53 p. Without hardware
fused multiply-add the results are the same, only slow.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Residues = NDArray[np.uint64]
"""Integers in [0, p)."""
Floats = NDArray[np.float64]
"""Centred residues: integers of magnitude at most p / 2."""
Integers = NDArray[np.int64]

ROUND = 6755399441055744.0
"""1.5 * 2^52: adding and subtracting it rounds |x| < 2^51 to the nearest integer."""


def _fma(_typing: Any, _a: Any, _b: Any, _c: Any) -> Any:
    """A * b + c with one rounding."""
    signature = types.float64(types.float64, types.float64, types.float64)

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        double = ir.DoubleType()
        kind = ir.FunctionType(double, [double] * 3)
        return builder.call(builder.module.declare_intrinsic("llvm.fma", [double], kind), args)

    return signature, generate


fma: Any = intrinsic(_fma)


@njit(cache=True, nogil=True)
def times(v, w, w_over_p, p):  # type: ignore[no-untyped-def]
    """V * w mod p, centred; w_over_p = w / p."""
    h = v * w
    return fma(-nearest(v, w_over_p), p, h) + fma(v, w, -h)


@njit(cache=True, nogil=True)
def nearest(v, factor):  # type: ignore[no-untyped-def]
    """Nearest integer of v * factor, for |v * factor| < 2^51."""
    return fma(v, factor, ROUND) - ROUND


@njit(cache=True, nogil=True)
def centre(v, p, one_over_p):  # type: ignore[no-untyped-def]
    """V mod p, centred, for |v| < 2^51."""
    return fma(-nearest(v, one_over_p), p, v)


def centred(value: int, p: int) -> float:
    """An integer modulo p as the float64 of least magnitude."""
    value %= p
    return float(value - p if value > p // 2 else value)


def _mulhi(_typing: Any, _a: Any, _b: Any) -> Any:
    """High 64 bits of a 64 x 64 bit product."""
    signature = types.uint64(types.uint64, types.uint64)

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return signature, generate


mulhi: Any = intrinsic(_mulhi)


@njit(cache=True, nogil=True)
def mulmod(a, w, quotient, p):  # type: ignore[no-untyped-def]
    """A * w mod p for any 64-bit a and fixed w < p < 2^63, quotient = floor(2^64 w / p)."""
    r = a * w - mulhi(a, quotient) * p
    return min(r, r - p)


def shoup(w: int, p: int) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Arguments w, quotient, p of `mulmod` [Harvey14]."""
    return np.uint64(w), np.uint64((w << 64) // p), np.uint64(p)


@njit(cache=True, nogil=True)
def odd_power(n):  # type: ignore[no-untyped-def]
    """Whether n is an odd power of two."""
    return (n & 0x2AAAAAAA) != 0
