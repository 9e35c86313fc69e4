"""A power of a number shared modulo a prime t, by polynomials over cells: what both know of it.

The client's share lies in one of 2^n equal cells of [0, t), at a place that it knows. The server's
share moves all cells to where the number is, so the server knows a polynomial for each of them, in
the place. Cells must be short beside the numbers in them: small numbers are multiplied by a public
integer first and have cells of their own, a window. What a larger number is there means nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, cos, frexp, pi

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.blocks.public_numbers import exact_power
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from transport.errors import UsageError

DEGREE = 3
_TERMS = DEGREE + 1
_LONGEST = 0.52
"""Length of a cell, in terms of the smallest number that it is for: so that 64 cells less the parts
of a prime that sums leave free go over five octaves."""
_CHOICE_BITS = (6, 7, 8)
_MAX_WINDOWS = 4


@dataclass(frozen=True, slots=True)
class Window:
    """Cells for numbers from `start` to `end`, multiplied by `factor`."""

    modulus: int
    choice_bits: int
    factor: int
    start: float
    end: float
    basis_bits: tuple[int, ...]
    """Of polynomials 1 to `DEGREE` of the place: as integers they reach 2^this."""
    copies: int
    """Of its entries: for numbers that are its own, and for those of windows before it."""
    residues: int
    """Of an entry: coefficients; but for the last window's the next one's masks, and which."""

    @property
    def cells(self) -> int:
        """How many."""
        return 1 << self.choice_bits

    @property
    def size(self) -> int:
        """Residues of a cell; the last has less."""
        return -(-self.modulus // self.cells)

    def cell_of(self, share: RingArray) -> tuple[NDArray[np.uint8], RingArray]:
        """The client's cells (n,), and polynomials of its places there modulo t (n, DEGREE)."""
        index, place = np.divmod(share, np.uint64(self.size))
        x = 2.0 * (place / self.size) - 1.0
        found = [x]
        previous = np.ones_like(x)
        for _ in range(DEGREE - 1):
            found.append(2 * x * found[-1] - previous)
            previous = found[-2]
        scaled = np.rint(np.stack(found, axis=-1) * np.ldexp(1.0, self.basis_bits))
        return index.astype(np.uint8), _residues(scaled, self.modulus)

    def starts_of(self, share: RingArray) -> NDArray[np.int64]:
        """Where all cells start for the server's shares (n,): (n, cells) times `factor`.

        The last cell of residues is that of zero from below: no number comes so near the prime.
        """
        t, cells = np.uint64(self.modulus), np.arange(self.cells, dtype=np.uint64)
        starts = ((share[:, None] + cells * np.uint64(self.size)) % t).view(np.int64)
        return np.where(starts >= self.modulus - self.size, starts - self.modulus, starts)


@dataclass(frozen=True, slots=True)
class PowerCells:
    """factor s^power for whole numbers s from `low` to `high`, shared modulo t; results modulo t.

    Numbers below `low` get the Taylor polynomial there, up to `below` times its value at zero.
    Numbers above `high`, which stays below t, may get anything.
    """

    power: float
    """From -1 to below 0."""
    low: float
    high: float
    factor: float
    modulus: int

    def __post_init__(self) -> None:
        if not (-1 <= self.power < 0 and 1 <= self.low <= self.high < self.modulus):
            raise UsageError(
                f"power cells: power {self.power:g} from {self.low:g} to {self.high:g}; use a "
                f"power from -1 to below 0 of numbers from 1 to below {self.modulus}"
            )
        if self.factor * exact_power(self.low, self.power) * self.below >= self.modulus / 4:
            raise UsageError(
                f"power cells: results of up to {self.factor:g} times {self.low:g} to "
                f"{self.power:g} exceed a quarter of {self.modulus}; use a smaller factor"
            )

    @property
    def below(self) -> float:
        """Of the value at `low`, the largest of what is below."""
        return float(sum(abs(c) for c in _binomials(self.power)))

    @property
    def windows(self) -> tuple[Window, ...]:
        """Those of the largest numbers first."""
        return _windows(self)

    def __call__(self, s: FloatArray) -> FloatArray:
        """In the clear, float64."""
        return self.factor * continued_power(s, self.power, self.low)

    def coefficients(self, window: Window, starts: NDArray[np.int64]) -> RingArray:
        """Modulo t, (..., 1 + DEGREE), for cells (...) that start there."""
        nodes, matrix = _chebyshev()
        numbers = (starts[..., None] + nodes * window.size) / window.factor
        found = self(numbers) @ matrix.T
        found[..., 1:] = np.ldexp(found[..., 1:], np.negative(window.basis_bits))
        return _residues(np.rint(found), self.modulus)

    @property
    def error(self) -> float:
        """Largest distance of results from `self`, relative, for numbers from `low` to `high`."""
        return max(_error(self, w, s) for w in self.windows for s in (w.start, w.end))


def continued_power(s: FloatArray, power: float, low: float) -> FloatArray:
    """S^power from `low` on, and below it its Taylor polynomial there: float64, same shape."""
    away, series = np.minimum(s / low - 1, 0.0), np.zeros(np.shape(s))
    for c in reversed(_binomials(power)):
        series = series * away + c
    value: FloatArray = np.maximum(s, low) ** power * series
    return value


def _residues(x: FloatArray, modulus: int) -> RingArray:
    return np.mod(x.astype(np.int64), np.int64(modulus)).view(np.uint64)


@lru_cache
def _binomials(power: float) -> tuple[float, ...]:
    """Of (1 + x)^power, up to DEGREE."""
    found = [1.0]
    for k in range(DEGREE):
        found.append(found[-1] * (power - k) / (k + 1))
    return tuple(found)


@lru_cache
def _chebyshev() -> tuple[FloatArray, FloatArray]:
    """Nodes in [0, 1], and what takes values there to coefficients of Chebyshev polynomials."""
    angles = [(j + 0.5) * pi / _TERMS for j in range(_TERMS)]
    rows = [[(2 - (k == 0)) / _TERMS * cos(k * a) for a in angles] for k in range(_TERMS)]
    return np.array([(1 + cos(a)) / 2 for a in angles]), np.array(rows)


@lru_cache(maxsize=256)
def _windows(powers: PowerCells) -> tuple[Window, ...]:
    """With as many cells as make messages shortest."""
    found = [_cut(powers, bits) for bits in _CHOICE_BITS]
    fitting = [windows for windows in found if 0 < len(windows) <= _MAX_WINDOWS]
    if not fitting:
        raise UsageError(
            f"power cells: from {powers.low:g} to {powers.high:g} modulo {powers.modulus}; the "
            "largest must stay below the prime, and not be too many times the smallest"
        )
    return min(
        fitting, key=lambda w: sum(one.copies * one.residues << one.choice_bits for one in w)
    )


def _cut(powers: PowerCells, choice_bits: int) -> tuple[Window, ...]:
    """In windows of so many cells: each as low as its cells allow."""
    t, spans, end = powers.modulus, list[tuple[int, float, float]](), powers.high
    size = -(-t >> choice_bits)
    while len(spans) <= _MAX_WINDOWS:
        factor = (t - size - 1) // ceil(end)
        if factor < 1:
            return ()
        start = size / (factor * _LONGEST)
        spans.append((factor, max(start, powers.low), end))
        if start <= powers.low:
            break
        # A cell that starts below is the next window's, up to its end.
        end = start + size / factor
    windows, residues = list[Window](), 0
    for place, (factor, start, end) in reversed(list(enumerate(spans))):
        residues = _TERMS + (residues + 1 if windows else 0)
        bits = _basis_bits(powers, size / (factor * start), end)
        shape = start, end, bits, 2 if place else 1, residues
        windows.insert(0, Window(t, choice_bits, factor, *shape))
    return tuple(windows)


def _basis_bits(powers: PowerCells, length: float, end: float) -> tuple[int, ...]:
    """Those for which places rounded at the start and coefficients at the end are off alike.

    length: of the first cell, in terms of the smallest number. The same on every machine: from
    powers that are, and exponents of two.
    """
    last = powers.factor * exact_power(end, powers.power)
    sizes = _normalised(powers.power, length)
    return tuple(max(0, frexp(abs(float(size)) * last)[1] >> 1) for size in sizes[1:])


@lru_cache(maxsize=1024)
def _normalised(power: float, length: float) -> FloatArray:
    """Coefficients of the power over [1, 1 + length]."""
    nodes, matrix = _chebyshev()
    found: FloatArray = matrix @ [exact_power(1 + length * float(u), power) for u in nodes]
    return found


def _error(powers: PowerCells, window: Window, s: float) -> float:
    """Relative, of a number s in a cell that starts there or that ends there."""
    length = window.size / (window.factor * s)
    rest = abs(_binomials(powers.power)[-1] * (powers.power - DEGREE) / _TERMS)
    longer = (1 + _LONGEST) ** -powers.power
    interpolated = 2 * rest * (length / 4) ** _TERMS * longer
    value = powers.factor * s**powers.power
    rounded = 0.5
    for size, bits in zip(_normalised(powers.power, length)[1:], window.basis_bits, strict=True):
        rounded += 0.5 * 2.0**bits + 0.25 + 0.5 * abs(size) * value * longer * 2.0**-bits
    return float(interpolated + rounded / value)
