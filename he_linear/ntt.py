"""The negacyclic number-theoretic transform in vectorised float64, bit for bit what SEAL computes.

SEAL's conventions: smallest primitive 2N-th root, bit-reversed output. 64-bit integer high
products do not vectorise, fused multiply-adds do: for integers |v| < 2^51, |w| <= p / 2 < 2^48,
    h = fl(v w), l = fma(v, w, -h), q = rint(v w / p), r = fma(-q, p, h) + l
is exact, because h - q p is an integer below 2^53, and |r| <= p / 2 + |q| 2^-53 p. Rows are
centred float64 integers, |x| <= p / 2 up to a few percent, p < 2^49. Without hardware fused
multiply-add the results are the same, only slow.

The transform of N = R C values runs log R layers over contiguous halves, then transposes to
(C, R), so that the remaining layers also work on contiguous runs.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Residues = NDArray[np.uint64]
Floats = NDArray[np.float64]
"""Centred residues: integers of magnitude at most p / 2."""

MAX_PRIME_BITS = 49
"""Bound of the exactness argument: 7 layers let values grow below 2^51."""
_ROUND = 6755399441055744.0
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
    return fma(v, factor, _ROUND) - _ROUND


@njit(cache=True, nogil=True)
def centre(v, p, one_over_p):  # type: ignore[no-untyped-def]
    """V mod p, centred, for |v| < 2^51."""
    return fma(-nearest(v, one_over_p), p, v)


@njit(cache=True, nogil=True)
def odd_power(n):  # type: ignore[no-untyped-def]
    """Whether n is an odd power of two."""
    return (n & 0x2AAAAAAA) != 0


@njit(cache=True, nogil=True)
def _wide_layers(a, w, w_over_p, r, p):  # type: ignore[no-untyped-def]
    """The first log r layers: butterflies of distance N/2 down to N/r, two layers at a time."""
    t = a.size // 2
    m = 1
    if odd_power(r):
        f, g = w[1], w_over_p[1]
        x, y = a[:t], a[t:]
        for j in range(t):
            u = x[j]
            v = times(y[j], f, g, p)
            x[j] = u + v
            y[j] = u - v
        m, t = 2, t // 2
    while m < r:
        t //= 2
        for i in range(m):
            at = 4 * i * t
            x0, x1 = a[at : at + t], a[at + t : at + 2 * t]
            x2, x3 = a[at + 2 * t : at + 3 * t], a[at + 3 * t : at + 4 * t]
            f, g = w[m + i], w_over_p[m + i]
            k = 2 * (m + i)
            f0, g0, f1, g1 = w[k], w_over_p[k], w[k + 1], w_over_p[k + 1]
            for j in range(t):
                u0, u1 = x0[j], x1[j]
                v2, v3 = times(x2[j], f, g, p), times(x3[j], f, g, p)
                y1, y3 = times(u1 + v3, f0, g0, p), times(u1 - v3, f1, g1, p)
                y0, y2 = u0 + v2, u0 - v2
                x0[j] = y0 + y1
                x1[j] = y0 - y1
                x2[j] = y2 + y3
                x3[j] = y2 - y3
        m *= 4
        t //= 2


@njit(cache=True, nogil=True)
def _narrow_layers(b, w, w_over_p, p):  # type: ignore[no-untyped-def]
    """The remaining layers, on all blocks at once: b (C, R); two layers at a time."""
    c, r = b.shape
    t = c // 2
    m = 1
    if odd_power(c):
        f, g = w[1], w_over_p[1]
        for k in range(t):
            x, y = b[k], b[k + t]
            for j in range(r):
                u = x[j]
                v = times(y[j], f[j], g[j], p)
                x[j] = u + v
                y[j] = u - v
        m, t = 2, t // 2
    while m < c:
        t //= 2
        for i in range(m):
            f, g = w[m + i], w_over_p[m + i]
            q = 2 * (m + i)
            f0, g0, f1, g1 = w[q], w_over_p[q], w[q + 1], w_over_p[q + 1]
            for k in range(4 * i * t, 4 * i * t + t):
                x0, x1, x2, x3 = b[k], b[k + t], b[k + 2 * t], b[k + 3 * t]
                for j in range(r):
                    u0, u1 = x0[j], x1[j]
                    v2, v3 = times(x2[j], f[j], g[j], p), times(x3[j], f[j], g[j], p)
                    y1 = times(u1 + v3, f0[j], g0[j], p)
                    y3 = times(u1 - v3, f1[j], g1[j], p)
                    y0, y2 = u0 + v2, u0 - v2
                    x0[j] = y0 + y1
                    x1[j] = y0 - y1
                    x2[j] = y2 + y3
                    x3[j] = y2 - y3
        m *= 4
        t //= 2


@njit(cache=True, nogil=True)
def _wide_layers_back(a, w, w_over_p, r, p):  # type: ignore[no-untyped-def]
    inv = 1.0 / p
    t = a.size // r
    m = r // 2
    while m >= 1:
        for i in range(m):
            x = a[2 * i * t : 2 * i * t + t]
            y = a[2 * i * t + t : 2 * i * t + 2 * t]
            f, g = w[m + i], w_over_p[m + i]
            for j in range(t):
                u = x[j]
                v = y[j]
                x[j] = centre(u + v, p, inv)
                y[j] = times(u - v, f, g, p)
        m //= 2
        t *= 2


@njit(cache=True, nogil=True)
def _narrow_layers_back(b, w, w_over_p, p):  # type: ignore[no-untyped-def]
    inv = 1.0 / p
    c, r = b.shape
    t = 1
    m = c // 2
    while m >= 1:
        for i in range(m):
            f, g = w[m + i], w_over_p[m + i]
            for k in range(2 * i * t, 2 * i * t + t):
                x, y = b[k], b[k + t]
                for j in range(r):
                    u = x[j]
                    v = y[j]
                    x[j] = centre(u + v, p, inv)
                    y[j] = times(u - v, f[j], g[j], p)
        m //= 2
        t *= 2


@njit(cache=True, nogil=True)
def _forward(rows, w, w_over_p, late, late_over_p, p, scratch):  # type: ignore[no-untyped-def]
    """In place over (count, N); late: twiddles of the narrow layers, (C, R); scratch: (C, R)."""
    c, r = late.shape
    inv = 1.0 / p
    for index in range(rows.shape[0]):
        a = rows[index]
        _wide_layers(a, w, w_over_p, r, p)
        for i in range(r):
            for j in range(c):
                scratch[j, i] = centre(a[i * c + j], p, inv)
        _narrow_layers(scratch, late, late_over_p, p)
        for i in range(r):
            for j in range(c):
                a[i * c + j] = centre(scratch[j, i], p, inv)


@njit(cache=True, nogil=True)
def _inverse(rows, w, w_over_p, late, late_over_p, p, scratch, shrink):  # type: ignore[no-untyped-def]
    """In place over (count, N); shrink: 1 / N mod p, centred."""
    c, r = late.shape
    shrink_over_p = shrink / p
    for index in range(rows.shape[0]):
        a = rows[index]
        for i in range(r):
            for j in range(c):
                scratch[j, i] = a[i * c + j]
        _narrow_layers_back(scratch, late, late_over_p, p)
        for i in range(r):
            for j in range(c):
                a[i * c + j] = scratch[j, i]
        _wide_layers_back(a, w, w_over_p, r, p)
        for j in range(a.size):
            a[j] = times(a[j], shrink, shrink_over_p, p)


def bit_reversal(n: int) -> NDArray[np.int64]:
    """Bit-reversed order of 0 .. n-1, n a power of two."""
    bits = n.bit_length() - 1
    index = np.arange(n)
    reverse = np.zeros(n, np.int64)
    for i in range(bits):
        reverse |= ((index >> i) & 1) << (bits - 1 - i)
    return reverse


@lru_cache
def minimal_root(p: int, order: int) -> int:
    """Smallest primitive `order`-th root of unity modulo p, order a power of two."""
    g = 2
    while pow(g, (p - 1) // 2, p) != p - 1:
        g += 1
    root = pow(g, (p - 1) // order, p)
    square = root * root % p
    best = current = root
    for _ in range(order // 2):
        best = min(best, current)
        current = current * square % p
    return best


def centred(value: int, p: int) -> float:
    """An integer modulo p as the float64 of least magnitude."""
    value %= p
    return float(value - p if value > p // 2 else value)


class _Twiddles:
    """Bit-reversed powers of one root, plain and in the transposed layers' order."""

    def __init__(self, p: int, n: int, root: int) -> None:
        powers = [1] * n
        for i in range(1, n):
            powers[i] = powers[i - 1] * root % p
        self.early = np.array([centred(powers[i], p) for i in bit_reversal(n)])
        columns = 1 << (n.bit_length() // 2)
        rows = n // columns
        late = np.ones((columns, rows))
        m = 1
        while m < columns:
            # Layer m * rows has twiddle m * rows + b * m + i for block b and group i.
            late[m : 2 * m] = self.early[m * rows : 2 * m * rows].reshape(rows, m).T
            m *= 2
        self.late = late
        self.arrays = (self.early, self.early / p, late, late / p)


class PrimeTables:
    """Twiddle factors of one prime."""

    def __init__(self, p: int, n: int, root: int) -> None:
        self.p = float(p)
        self.shrink = centred(pow(n, -1, p), p)
        self._forward = _Twiddles(p, n, root)
        self._inverse = _Twiddles(p, n, pow(root, -1, p))

    def forward(self, rows: Floats) -> None:
        """NTT of centred (count, N) in place."""
        _forward(rows, *self._forward.arrays, self.p, np.empty(self._forward.late.shape))

    def inverse(self, rows: Floats) -> None:
        """Inverse NTT of centred (count, N) in place."""
        scratch = np.empty(self._inverse.late.shape)
        _inverse(rows, *self._inverse.arrays, self.p, scratch, self.shrink)


@lru_cache
def tables(p: int, n: int) -> PrimeTables:
    """Tables of prime p at degree n; public constants, so a cache is safe."""
    return PrimeTables(p, n, minimal_root(p, 2 * n))


@lru_cache
def subring_tables(p: int, n: int, degree: int) -> PrimeTables:
    """Tables for polynomials in X^(degree / n).

    Value i of their degree-n NTT is what the full one repeats degree / n times, from index
    i * degree / n on.
    """
    return PrimeTables(p, n, pow(minimal_root(p, 2 * degree), degree // n, p))


@lru_cache
def automorphism_order(element: int, n: int) -> NDArray[np.int64]:
    """NTT values of a(X^element) are those of a(X) taken in this order."""
    reverse = bit_reversal(n)
    exponents = (2 * reverse + 1) * element % (2 * n)
    return np.ascontiguousarray(reverse[(exponents - 1) // 2])
