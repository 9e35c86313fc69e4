"""The complex FFT of the CKKS embedding on pairs of doubles, vectorised.

A real number is a pair (high, low): high is a multiple of a grid U and below 2^53 U, so that sums
of highs are exact; low is a double of about U. A product is put on the grid at once: with
C = 1.5 * 2^52 U,
    high = fma(x, w, C) - C, low = fma(x, w, -high)
loses 2^-54 U. That is 104 bits below the largest number for half the operations of the usual
double-double sums, whose grid is each number's own ([Dekker71]; the fused form as in [Ogita05]).

The transform evaluates a(X) of degree below H at the roots of X^H = i: the block of angle t, a
polynomial modulo X^L - e^(it), splits into those of t/2 and t/2 + pi, two layers at a time. The
order of the leaves is this tree's. H = r c: the first log r layers run on panels of 8 columns of
the (r, c) matrix, the others on panels of 8 rows, so that 8 lanes never mix.

Layouts: `natural` (count, 4, H), `leaves` (count, r / 8, c, 4, 8); the 4 are real high, real low,
imaginary high, imaginary low; leaf number (8 q + lane) c + column.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from he_linear.kernels.fft_butterflies import (
    CELL,
    fold_four,
    fold_four_panels,
    fold_two,
    fold_two_panels,
    split_four,
    split_four_panels,
    split_two,
    split_two_panels,
)
from he_linear.kernels.scalars import ROUND, odd_power
from he_linear.kernels.vectors import LANES
from transport.errors import ParameterError

Doubles = NDArray[np.float64]
MIN_LENGTH = LANES * LANES
_TWIDDLE_BITS = 160
"""Fixed point of the integers that twiddles are computed with."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the grid U lies: 2^first, times 2^growth after every pass of one or two layers.

    High parts must stay below 2^51 U. Growth 0 with U = 2^-51 of the largest possible sum is safe
    for any input; growth 1 follows the root mean square of random inputs.
    """

    first: int
    growth: int = 0

    @property
    def start(self) -> float:
        """Constant that rounds to the first grid when it is added and subtracted."""
        return float(ROUND * 2.0**self.first)

    @property
    def factor(self) -> float:
        """Between the constants of two passes."""
        return float(2.0**self.growth)


@dataclass(frozen=True, slots=True)
class Plan:
    """Public constants of one length."""

    rows: int
    columns: int
    wide: Doubles
    """Twiddles of the first layers, 4 doubles each, in the order of their use."""
    narrow: Doubles
    """Of the others, for each panel of 8 rows (rows / 8, twiddles, 4, 8)."""
    angles: NDArray[np.int64]
    """Angle of each leaf in units of pi / (2 H), shape (rows / 8, columns, 8): 1 modulo 4."""

    @property
    def length(self) -> int:
        """The number H of complex coefficients."""
        return self.rows * self.columns

    def natural(self, count: int) -> Doubles:
        """Room for `count` polynomials."""
        return aligned((count, 4, self.length))

    def leaves(self, count: int) -> Doubles:
        """Room for the values of `count` polynomials."""
        return aligned((count, self.rows // LANES, self.columns, 4, LANES))

    def forward(self, natural: Doubles, grid: Grid, leaves: Doubles) -> None:
        """Values at the leaves."""
        panel = aligned((self.rows * CELL,))
        _forward(natural, leaves, panel, self.wide, self.narrow, grid.start, grid.factor)

    def inverse(self, leaves: Doubles, grid: Grid, natural: Doubles) -> None:
        """H times the coefficients; `leaves` is overwritten."""
        panel = aligned((self.rows * CELL,))
        _inverse(leaves, natural, panel, self.wide, self.narrow, grid.start, grid.factor)


def aligned(shape: tuple[int, ...]) -> Doubles:
    """Uninitialised, on a cache line, which vector loads are faster for."""
    size = int(np.prod(shape))
    raw = np.empty(size + LANES)
    start = -raw.ctypes.data // 8 % LANES
    return raw[start : start + size].reshape(shape)


@lru_cache
def plan(length: int) -> Plan:
    """Constants of length H, a power of two from 64 on."""
    if length < MIN_LENGTH or length & (length - 1):
        raise ParameterError(
            f"embedding: {length} slots in double-double; use a power of two from {MIN_LENGTH} on"
        )
    columns = 1 << ((length.bit_length() - 1) // 2)
    rows = length // columns
    period = 4 * length
    roots = _roots(period)
    angles, wide = _passes(np.array([length]), rows, period)
    angles, narrow = _passes(angles[0], columns, period)
    panels = roots[narrow].reshape(rows // LANES, LANES, -1, 4).transpose(0, 2, 3, 1)
    leaves = angles.reshape(rows // LANES, LANES, columns).transpose(0, 2, 1)
    return Plan(
        rows, columns, _copied(roots[wide[0]]), _copied(panels), np.ascontiguousarray(leaves)
    )


def _copied(values: Doubles) -> Doubles:
    out = aligned(values.shape)
    out[...] = values
    return out


def _passes(
    angles: NDArray[np.int64], size: int, period: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split every block into `size`: angles of the parts, and of the twiddles in order of use.

    angles: (blocks,), in units of the full circle / period; results (blocks, ...).
    """
    blocks = angles.reshape(-1, 1)
    used = []
    for step in ([2] if odd_power(size) else []) + [4] * ((size.bit_length() - 1) // 2):
        half = blocks // 2
        if step == 2:
            used.append(half)
            blocks = np.stack([half, half + period // 2], axis=-1).reshape(len(angles), -1)
            continue
        quarter = blocks // 4
        used.append(np.stack([quarter, half, half + quarter], axis=-1).reshape(len(angles), -1))
        turns = period // 4 * np.array([0, 2, 1, 3])
        blocks = (quarter[..., None] + turns).reshape(len(angles), -1)
    return blocks, np.concatenate(used, axis=-1) % period


def _roots(period: int) -> Doubles:
    """exp(2 pi i k / period) for all k: (period, 4), parts as pairs that are exact to 2^-106.

    Powers of one root in integers with 160 bits behind the point.
    """
    one = 1 << _TWIDDLE_BITS
    cosine, sine = _rotation(2 * _pi() // period)
    quarter = period // 4
    x, y = one, 0
    out = np.empty((quarter + 1, 4))
    for k in range(quarter + 1):
        out[k] = (*_pair(x), *_pair(y))
        x, y = (x * cosine - y * sine) >> _TWIDDLE_BITS, (x * sine + y * cosine) >> _TWIDDLE_BITS
    first = out[:-1]
    second = np.concatenate([-first[:, 2:], first[:, :2]], axis=1)
    return np.concatenate([first, second, -first, -second])


def _pair(value: int) -> tuple[float, float]:
    """The nearest double, and the nearest one of the rest."""
    # The integers' own error is about 2^-145; without this, the axes would not be exact.
    value = (value + (1 << 39)) >> 40 << 40
    high = value / (1 << _TWIDDLE_BITS)
    return high, (value - int(high * 2.0**_TWIDDLE_BITS)) / (1 << _TWIDDLE_BITS)


def _pi() -> int:
    """Machin: pi = 16 atan(1/5) - 4 atan(1/239)."""

    def arctangent(inverse: int) -> int:
        term = (1 << (_TWIDDLE_BITS + 16)) // inverse
        total, k = 0, 1
        while term:
            total += term // k if k % 4 == 1 else -(term // k)
            term //= inverse * inverse
            k += 2
        return total

    return (16 * arctangent(5) - 4 * arctangent(239)) >> 16


def _rotation(angle: int) -> tuple[int, int]:
    """Cosine and sine of a small angle by their series."""
    sums = [0, 0]
    term, k = 1 << _TWIDDLE_BITS, 0
    while term:
        sums[k % 2] += -term if k % 4 > 1 else term
        k += 1
        term = (term * angle >> _TWIDDLE_BITS) // k
    return sums[0], sums[1]


# -- the passes over one panel -------------------------------------------------------------


@njit(cache=True, nogil=True)
def _split_wide(panel, size, twiddles, c, factor):  # type: ignore[no-untyped-def]
    """All layers of `size` cells with twiddles that the lanes share; returns the next constant."""
    at, m, t = 0, 1, size
    if odd_power(size):
        t //= 2
        for k in range(t):
            split_two(panel, k * CELL, t * CELL, twiddles, 0, c)
        at, m, c = 4, 2, c * factor
    while m < size:
        t //= 4
        for i in range(m):
            for k in range(4 * i * t, 4 * i * t + t):
                split_four(panel, k * CELL, t * CELL, twiddles, at, c)
            at += 12
        m *= 4
        c *= factor
    return c


@njit(cache=True, nogil=True)
def _split_narrow(panel, size, twiddles, c, factor):  # type: ignore[no-untyped-def]
    """The same where every lane has its own twiddles."""
    at, m, t = 0, 1, size
    if odd_power(size):
        t //= 2
        for k in range(t):
            split_two_panels(panel, k * CELL, t * CELL, twiddles, 0, c)
        at, m, c = 4 * LANES, 2, c * factor
    while m < size:
        t //= 4
        for i in range(m):
            for k in range(4 * i * t, 4 * i * t + t):
                split_four_panels(panel, k * CELL, t * CELL, twiddles, at, c)
            at += 12 * LANES
        m *= 4
        c *= factor


@njit(cache=True, nogil=True)
def _fold_narrow(panel, size, twiddles, c, factor):  # type: ignore[no-untyped-def]
    """Undoes `_split_narrow`, times `size`; returns the next constant."""
    at, m, t = twiddles.size, size // 4, 1
    while m >= 1:
        at -= 12 * LANES * m
        for i in range(m):
            for k in range(4 * i * t, 4 * i * t + t):
                fold_four_panels(panel, k * CELL, t * CELL, twiddles, at + i * 12 * LANES, c)
        m //= 4
        t *= 4
        c *= factor
    if odd_power(size):
        for k in range(t):
            fold_two_panels(panel, k * CELL, t * CELL, twiddles, 0, c)
        c *= factor
    return c


@njit(cache=True, nogil=True)
def _fold_wide(panel, size, twiddles, c, factor):  # type: ignore[no-untyped-def]
    at, m, t = twiddles.size, size // 4, 1
    while m >= 1:
        at -= 12 * m
        for i in range(m):
            for k in range(4 * i * t, 4 * i * t + t):
                fold_four(panel, k * CELL, t * CELL, twiddles, at + i * 12, c)
        m //= 4
        t *= 4
        c *= factor
    if odd_power(size):
        for k in range(t):
            fold_two(panel, k * CELL, t * CELL, twiddles, 0, c)


@njit(cache=True, nogil=True)
def _copy_columns(natural, cells, first, stride):  # type: ignore[no-untyped-def]
    """Columns `first` to `first` + 7 of the (rows, stride) matrix into a panel."""
    for i in range(cells.shape[0]):
        for word in range(4):
            for lane in range(LANES):
                cells[i, word, lane] = natural[word, i * stride + first + lane]


@njit(cache=True, nogil=True)
def _copy_columns_back(cells, natural, first, stride):  # type: ignore[no-untyped-def]
    for i in range(cells.shape[0]):
        for word in range(4):
            for lane in range(LANES):
                natural[word, i * stride + first + lane] = cells[i, word, lane]


@njit(cache=True, nogil=True)
def _turn(cells, target):  # type: ignore[no-untyped-def]
    """Swap lanes and cells, both 8."""
    for lane in range(LANES):
        for word in range(4):
            for i in range(LANES):
                target[lane, word, i] = cells[i, word, lane]


@njit(cache=True, nogil=True)
def _forward(natural, leaves, panel, wide, narrow, start, factor):  # type: ignore[no-untyped-def]
    panels, columns = leaves.shape[1], leaves.shape[2]
    rows = panels * LANES
    cells = panel.reshape(rows, 4, LANES)
    for index in range(natural.shape[0]):
        c = start
        for p in range(0, columns, LANES):
            _copy_columns(natural[index], cells, p, columns)
            c = _split_wide(panel, rows, wide.reshape(-1), start, factor)
            for q in range(panels):
                _turn(cells[q * LANES : q * LANES + LANES], leaves[index, q, p : p + LANES])
        for q in range(panels):
            block = leaves[index, q].reshape(-1)
            _split_narrow(block, columns, narrow[q].reshape(-1), c, factor)


@njit(cache=True, nogil=True)
def _inverse(leaves, natural, panel, wide, narrow, start, factor):  # type: ignore[no-untyped-def]
    panels, columns = leaves.shape[1], leaves.shape[2]
    rows = panels * LANES
    cells = panel.reshape(rows, 4, LANES)
    for index in range(natural.shape[0]):
        c = start
        for q in range(panels):
            block = leaves[index, q].reshape(-1)
            c = _fold_narrow(block, columns, narrow[q].reshape(-1), start, factor)
        for p in range(0, columns, LANES):
            for q in range(panels):
                _turn(leaves[index, q, p : p + LANES], cells[q * LANES : q * LANES + LANES])
            _fold_wide(panel, rows, wide.reshape(-1), c, factor)
            _copy_columns_back(cells, natural[index], p, columns)
