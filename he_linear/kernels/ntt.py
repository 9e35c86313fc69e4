"""The negacyclic number-theoretic transform in vectorised float64, bit for bit what SEAL computes.

SEAL's conventions: smallest primitive 2N-th root, bit-reversed output. Rows are centred float64
integers, |x| <= p / 2 up to a few percent, p < 2^51; products are those of `scalars`, exact.

The transform of N = R C values runs log R layers on panels of columns of the (R, C) matrix, the
other layers on panels of its rows, turned: a panel of 8 fits into the first cache, where two layers
at a time work on all its lanes.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from he_linear.kernels.ntt_butterflies import (
    back_four,
    back_four_panels,
    back_two,
    back_two_panels,
    forward_four,
    forward_four_panels,
    forward_two,
    forward_two_panels,
    moved,
    scaled,
    turn,
    wide_back_four,
    wide_back_four_panels,
    wide_forward_four,
    wide_forward_four_panels,
)
from he_linear.kernels.scalars import Floats, centre, centred, odd_power, times
from he_linear.kernels.vectors import LANES

MAX_PRIME_BITS = 49
"""8 layers let values grow below 2^52, see `PrimeTables`."""
MAX_WIDE_PRIME_BITS = 51
"""With more sums centred on the way: a tenth slower."""


@njit(cache=True, nogil=True)
def _shared_layers(panel, size, w, w_over_p, p, inv, wide):  # type: ignore[no-untyped-def]
    """All layers over the rows of a panel (size, 8), two at a time; lanes share twiddles."""
    m, t = 1, size
    if odd_power(size):
        t //= 2
        for k in range(t):
            forward_two(panel, k * LANES, t * LANES, w, w_over_p, 1, p, inv)
        m = 2
    while m < size:
        t //= 4
        for i in range(m):
            for k in range(4 * i * t, 4 * i * t + t):
                if wide:
                    wide_forward_four(panel, k * LANES, t * LANES, w, w_over_p, m + i, p, inv)
                else:
                    forward_four(panel, k * LANES, t * LANES, w, w_over_p, m + i, p, inv)
        m *= 4


@njit(cache=True, nogil=True)
def _own_layers(panel, size, w, w_over_p, p, inv, wide):  # type: ignore[no-untyped-def]
    """`_shared_layers` where every lane has its own twiddles."""
    m, t = 1, size
    if odd_power(size):
        t //= 2
        for k in range(t):
            forward_two_panels(panel, k * LANES, t * LANES, w, w_over_p, LANES, p, inv)
        m = 2
    while m < size:
        t //= 4
        for i in range(m):
            at = (m + i) * LANES
            for k in range(4 * i * t, 4 * i * t + t):
                if wide:
                    wide_forward_four_panels(panel, k * LANES, t * LANES, w, w_over_p, at, p, inv)
                else:
                    forward_four_panels(panel, k * LANES, t * LANES, w, w_over_p, at, p, inv)
        m *= 4


@njit(cache=True, nogil=True)
def _shared_layers_back(panel, size, w, w_over_p, p, inv, wide):  # type: ignore[no-untyped-def]
    """Undoes `_shared_layers`, times the size."""
    m, t = size // 4, 1
    while m >= 1:
        for i in range(m):
            for k in range(4 * i * t, 4 * i * t + t):
                if wide:
                    wide_back_four(panel, k * LANES, t * LANES, w, w_over_p, m + i, p, inv)
                else:
                    back_four(panel, k * LANES, t * LANES, w, w_over_p, m + i, p, inv)
        m //= 4
        t *= 4
    if odd_power(size):
        for k in range(t):
            back_two(panel, k * LANES, t * LANES, w, w_over_p, 1, p, inv)


@njit(cache=True, nogil=True)
def _own_layers_back(panel, size, w, w_over_p, p, inv, wide):  # type: ignore[no-untyped-def]
    """Undoes `_own_layers`, times the size."""
    m, t = size // 4, 1
    while m >= 1:
        for i in range(m):
            at = (m + i) * LANES
            for k in range(4 * i * t, 4 * i * t + t):
                if wide:
                    wide_back_four_panels(panel, k * LANES, t * LANES, w, w_over_p, at, p, inv)
                else:
                    back_four_panels(panel, k * LANES, t * LANES, w, w_over_p, at, p, inv)
        m //= 4
        t *= 4
    if odd_power(size):
        for k in range(t):
            back_two_panels(panel, k * LANES, t * LANES, w, w_over_p, LANES, p, inv)


@njit(cache=True, nogil=True)
def _forward(rows, r, early, late, p, room, wide):  # type: ignore[no-untyped-def]
    """In place over (count, N); early: twiddles of layers over panels of columns, late: of rows."""
    c = rows.shape[1] // r
    turned, panel = room
    inv = 1.0 / p
    block = LANES * c
    for index in range(rows.shape[0]):
        a = rows[index]
        for start in range(0, c, LANES):
            for i in range(r):
                moved(a, i * c + start, panel, i * LANES)
            _shared_layers(panel, r, early[0], early[1], p, inv, wide)
            for q in range(r // LANES):
                to = q * block + start * LANES
                turn(panel, q * LANES * LANES, LANES, turned, to, LANES, p, inv)
        for q in range(r // LANES):
            part = slice(q * block, (q + 1) * block)
            _own_layers(turned[part], c, late[0][part], late[1][part], p, inv, wide)
            for start in range(0, c, LANES):
                at = q * block + start * LANES
                turn(turned, at, LANES, a, q * block + start, c, p, inv)


@njit(cache=True, nogil=True)
def _inverse(rows, r, early, late, p, room, shrink, wide):  # type: ignore[no-untyped-def]
    """In place over (count, N); shrink: 1 / N mod p, centred."""
    c = rows.shape[1] // r
    turned, panel = room
    inv = 1.0 / p
    block = LANES * c
    for index in range(rows.shape[0]):
        a = rows[index]
        for q in range(r // LANES):
            for start in range(0, c, LANES):
                at = q * block + start * LANES
                turn(a, q * block + start, c, turned, at, LANES, p, inv)
            part = slice(q * block, (q + 1) * block)
            _own_layers_back(turned[part], c, late[0][part], late[1][part], p, inv, wide)
        for start in range(0, c, LANES):
            for q in range(r // LANES):
                at = q * block + start * LANES
                turn(turned, at, LANES, panel, q * LANES * LANES, LANES, p, inv)
            _shared_layers_back(panel, r, early[0], early[1], p, inv, wide)
            for i in range(r):
                scaled(panel, i * LANES, a, i * c + start, shrink, shrink / p, p)


@njit(cache=True, nogil=True)
def _forward_short(rows, w, w_over_p, p):  # type: ignore[no-untyped-def]
    """`_forward` where there are fewer numbers than a panel has."""
    n = rows.shape[1]
    for index in range(rows.shape[0]):
        a = rows[index]
        m, t = 1, n // 2
        while m < n:
            for i in range(m):
                for j in range(2 * i * t, 2 * i * t + t):
                    u, v = a[j], times(a[j + t], w[m + i], w_over_p[m + i], p)
                    a[j] = centre(u + v, p, 1.0 / p)
                    a[j + t] = centre(u - v, p, 1.0 / p)
            m, t = 2 * m, t // 2


@njit(cache=True, nogil=True)
def _inverse_short(rows, w, w_over_p, p, shrink):  # type: ignore[no-untyped-def]
    n = rows.shape[1]
    for index in range(rows.shape[0]):
        a = rows[index]
        m, t = n // 2, 1
        while m >= 1:
            for i in range(m):
                for j in range(2 * i * t, 2 * i * t + t):
                    u, v = a[j], a[j + t]
                    a[j] = centre(u + v, p, 1.0 / p)
                    a[j + t] = times(u - v, w[m + i], w_over_p[m + i], p)
            m, t = m // 2, 2 * t
        for j in range(n):
            a[j] = times(a[j], shrink, shrink / p, p)


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


class _Twiddles:
    """Bit-reversed powers of one root, and those of the late layers for each panel of 8 rows."""

    def __init__(self, p: int, n: int, root: int) -> None:
        powers = [1] * n
        for i in range(1, n):
            powers[i] = powers[i - 1] * root % p
        early = np.array([centred(powers[i], p) for i in bit_reversal(n)])
        self.early = early, early / p
        columns = 1 << (n.bit_length() // 2)
        self.rows = rows = n // columns
        late = np.ones((columns, rows))
        m = 1
        while m < columns:
            # Layer m * rows has twiddle m * rows + b * m + i for block b and group i.
            late[m : 2 * m] = early[m * rows : 2 * m * rows].reshape(rows, m).T
            m *= 2
        # (panels, columns, 8)
        lanes = min(rows, LANES)
        panels = late.reshape(columns, -1, lanes).transpose(1, 0, 2).reshape(-1)
        self.late = panels, panels / p

    def scratch(self) -> tuple[Floats, Floats]:
        """Room for all numbers, turned, and for a panel of columns."""
        return np.empty(self.late[0].size), np.empty(self.rows * LANES)


class PrimeTables:
    """Twiddle factors of one prime.

    A product v w is exact for |v| <= 2^52, and within p / 2 + 2^-55 |v| p: w / p is off by 2^-55.
    So a forward layer takes values within a p to a + 1 / 2 + a e, e = 2^-55 p, and 49 bits from
    0.6 p to 4.4 p before the last of 8 layers: below 2^52. Centred sums keep wide primes within
    1.7 p, below 2^52 too. Sums are exact below 2^53. Going back, sums of four are within 2.3 p.
    """

    def __init__(self, p: int, n: int, root: int) -> None:
        assert p.bit_length() <= MAX_WIDE_PRIME_BITS
        self._wide = p.bit_length() > MAX_PRIME_BITS
        self.p = float(p)
        self.shrink = centred(pow(n, -1, p), p)
        self._short = n < LANES * LANES
        self._forward = _Twiddles(p, n, root)
        self._inverse = _Twiddles(p, n, pow(root, -1, p))

    def forward(self, rows: Floats) -> None:
        """NTT of centred (count, N) in place."""
        f, values = self._forward, np.ascontiguousarray(rows)
        if self._short:
            _forward_short(values, *f.early, self.p)
        else:
            _forward(values, f.rows, f.early, f.late, self.p, f.scratch(), self._wide)
        if values is not rows:
            rows[...] = values

    def inverse(self, rows: Floats) -> None:
        """Inverse NTT of centred (count, N) in place."""
        f, values = self._inverse, np.ascontiguousarray(rows)
        if self._short:
            _inverse_short(values, *f.early, self.p, self.shrink)
        else:
            room = f.scratch()
            _inverse(values, f.rows, f.early, f.late, self.p, room, self.shrink, self._wide)
        if values is not rows:
            rows[...] = values


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
