"""Number-theoretic kernels over residue arrays, bit for bit what SEAL computes.

The negacyclic NTT follows SEAL's conventions: smallest primitive 2N-th root, bit-reversed
output. Butterflies use Shoup's precomputed quotients [Harvey14] for primes below 2^61.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numba as nb
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

Residues = NDArray[np.uint64]


@intrinsic
def _mulhi(_typing: Any, _a: Any, _b: Any) -> Any:
    """High 64 bits of a 64 x 64 bit product."""
    signature = types.uint64(types.uint64, types.uint64)

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return signature, generate


@njit(cache=True)
def _forward(rows, roots, quotients, p):  # type: ignore[no-untyped-def]
    n = rows.shape[1]
    for index in range(rows.shape[0]):
        a = rows[index]
        t = n // 2
        m = 1
        while m < n:
            for i in range(m):
                w = roots[m + i]
                ws = quotients[m + i]
                start = 2 * i * t
                for j in range(start, start + t):
                    u = a[j]
                    v = a[j + t]
                    x = v * w - _mulhi(v, ws) * p
                    x = min(x, x - p)
                    y = u + x
                    z = u - x + p
                    a[j] = min(y, y - p)
                    a[j + t] = min(z, z - p)
            m *= 2
            t //= 2


@njit(cache=True)
def _inverse(rows, roots, quotients, p, scale, scale_quotient):  # type: ignore[no-untyped-def]
    n = rows.shape[1]
    for index in range(rows.shape[0]):
        a = rows[index]
        t = 1
        m = n // 2
        while m >= 1:
            for i in range(m):
                w = roots[m + i]
                ws = quotients[m + i]
                start = 2 * i * t
                for j in range(start, start + t):
                    u = a[j]
                    v = a[j + t]
                    y = u + v
                    d = u - v + p
                    a[j] = min(y, y - p)
                    x = d * w - _mulhi(d, ws) * p
                    a[j + t] = min(x, x - p)
            t *= 2
            m //= 2
        for j in range(n):
            v = a[j]
            x = v * scale - _mulhi(v, scale_quotient) * p
            a[j] = min(x, x - p)


@njit(nb.uint64(nb.uint64, nb.uint64, nb.uint64, nb.uint64), cache=True, inline="always")
def _mulmod(a, b, p, barrett):  # type: ignore[no-untyped-def]
    """A * b mod p for a, b < p < 2^50, barrett = floor(2^64 / p)."""
    hi = _mulhi(a, b)
    lo = a * b
    # Fold the high word with 2^64 mod p, then reduce; the true quotient by parts.
    r64 = np.uint64(0) - barrett * p
    while hi:
        flo = hi * r64
        fhi = _mulhi(hi, r64)
        lo2 = lo + flo
        fhi += np.uint64(lo2 < lo)
        lo = lo2
        hi = fhi
    r = lo - _mulhi(lo, barrett) * p
    while r >= p:
        r -= p
    return r


@njit(cache=True)
def _pointwise(a, b, out, p, barrett):  # type: ignore[no-untyped-def]
    for i in range(a.size):
        out[i] = _mulmod(a[i], b[i], p, barrett)


@njit(cache=True)
def _pointwise_add(a, b, out, p, barrett):  # type: ignore[no-untyped-def]
    """Out += a * b mod p."""
    for i in range(a.size):
        x = out[i] + _mulmod(a[i], b[i], p, barrett)
        out[i] = min(x, x - p)


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


def _quotients(values: list[int], p: int) -> Residues:
    return np.array([(v << 64) // p for v in values], np.uint64)


class PrimeTables:
    """Twiddle factors of one prime."""

    def __init__(self, p: int, n: int, root: int) -> None:
        self.p = np.uint64(p)
        self.barrett = np.uint64((1 << 64) // p)
        self.forward = self._table(root, p, n)
        self.inverse = self._table(pow(root, -1, p), p, n)
        shrink = pow(n, -1, p)
        self.shrink = (np.uint64(shrink), np.uint64((shrink << 64) // p))

    @staticmethod
    def _table(root: int, p: int, n: int) -> tuple[Residues, Residues]:
        powers = [1] * n
        for i in range(1, n):
            powers[i] = powers[i - 1] * root % p
        ordered = [powers[i] for i in bit_reversal(n)]
        return np.array(ordered, np.uint64), _quotients(ordered, p)


@lru_cache
def tables(p: int, n: int) -> PrimeTables:
    """Tables of prime p at degree n; public constants, so a cache is safe."""
    return PrimeTables(p, n, minimal_root(p, 2 * n))


@lru_cache
def subring_tables(p: int, n: int, degree: int) -> PrimeTables:
    """Tables for polynomials in X^(degree / n): value i of their degree-n NTT is what the
    full NTT repeats degree / n times from index i * degree / n on.
    """
    return PrimeTables(p, n, pow(minimal_root(p, 2 * degree), degree // n, p))


def subring_ntt(coefficients: NDArray[np.float64], p: int, degree: int) -> Residues:
    """Integer-valued coefficients (rows, n) to their values modulo p, (rows, n)."""
    t = subring_tables(p, coefficients.shape[-1], degree)
    rows = np.mod(coefficients.astype(np.int64), p).astype(np.uint64)
    _forward(rows, *t.forward, t.p)
    return rows


def ntt(residues: Residues, primes: tuple[int, ...]) -> Residues:
    """Forward NTT of (..., primes, N); a new array."""
    out = np.array(residues, np.uint64, order="C")
    n = out.shape[-1]
    for index, p in enumerate(primes):
        t = tables(p, n)
        rows = out[..., index, :].reshape(-1, n).copy()
        _forward(rows, *t.forward, t.p)
        out[..., index, :] = rows.reshape(out[..., index, :].shape)
    return out


def intt(residues: Residues, primes: tuple[int, ...]) -> Residues:
    """Inverse NTT of (..., primes, N); a new array."""
    out = np.array(residues, np.uint64, order="C")
    n = out.shape[-1]
    for index, p in enumerate(primes):
        t = tables(p, n)
        rows = out[..., index, :].reshape(-1, n).copy()
        _inverse(rows, *t.inverse, t.p, *t.shrink)
        out[..., index, :] = rows.reshape(out[..., index, :].shape)
    return out


def multiply(a: Residues, b: Residues, primes: tuple[int, ...]) -> Residues:
    """Elementwise product of (..., primes, N) arrays of equal or broadcastable shape."""
    a, b = np.broadcast_arrays(a, b)
    out = np.empty(a.shape, np.uint64)
    for index, p in enumerate(primes):
        t = tables(p, a.shape[-1])
        product = np.empty(a[..., index, :].size, np.uint64)
        left = a[..., index, :].flatten()
        right = b[..., index, :].flatten()
        _pointwise(left, right, product, t.p, t.barrett)
        out[..., index, :] = product.reshape(out[..., index, :].shape)
    return out


def add(a: Residues, b: Residues, primes: tuple[int, ...]) -> Residues:
    """Elementwise sum modulo each prime of (..., primes, N)."""
    total = a + b
    moduli = np.array(primes, np.uint64)[:, None]
    return np.minimum(total, total - moduli)


def negate(a: Residues, primes: tuple[int, ...]) -> Residues:
    """Elementwise negative modulo each prime."""
    moduli = np.array(primes, np.uint64)[:, None]
    flipped = moduli - a
    return np.minimum(flipped, flipped - moduli)


def reduce_signed(values: NDArray[np.int64], primes: tuple[int, ...]) -> Residues:
    """Signed integers (..., N) to residues (..., primes, N)."""
    moduli = np.array(primes, np.int64)[:, None]
    return np.mod(values[..., None, :], moduli).astype(np.uint64)
