"""How a polynomial's products are laid out where rounds count: squares together, then a tree.

All squares of factors go in one trip, neighbours are multiplied level by level, the input comes
last. Bounds of every level come from values on a grid: tight, so that products fit a small modulus.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from functools import lru_cache
from math import floor, log2, sqrt

import numpy as np

from mpc_nonlinear.blocks.products import Bounds, FactoredPolynomial
from mpc_nonlinear.fixed_point import FloatArray

_POINTS = 4097
_MARGIN = 1.02
"""Of bounds, for what lies between grid points and for errors of operands."""
_SMALLEST = 2.0**-6
"""Products are bounded by no less."""
_CONTRACT = 256.0
"""Of all products but squares of the input, where a polynomial does not say where x lies."""


class Operand(Enum):
    """By what the values of a level are multiplied."""

    NEIGHBOUR = auto()
    BASE = auto()
    ITSELF = auto()


@dataclass(frozen=True, slots=True)
class FactorTree:
    """Bounds of all products of one polynomial, in the order in which they are made.

    Values between them are y 2^stretch (called base), and products of factors.
    """

    centre: int
    """What is taken from x where that makes it smaller, to be added again to what is lifted."""
    input_rms: float
    """Of x less this."""
    base: Bounds | None
    """Of x^2, where the polynomial is even; else base is x itself."""
    stretch: int
    squares: Bounds
    """Of base + shift 2^stretch, all factors' in one; the result is not stretched."""
    levels: tuple[Bounds, ...]
    """Of neighbours, an odd one at the end waits."""
    last: Bounds | None
    """By base."""
    squarings: tuple[Bounds, ...]
    leading: float
    """What the last of these is multiplied by."""

    @property
    def steps(self) -> list[tuple[Operand, Bounds]]:
        """All products after the squares of factors, and by what."""
        last = [(Operand.BASE, self.last)] if self.last else []
        levels = [(Operand.NEIGHBOUR, bounds) for bounds in self.levels]
        return [*levels, *last, *((Operand.ITSELF, bounds) for bounds in self.squarings)]

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, polynomial: FactoredPolynomial, largest: float) -> FactorTree:
        """For products that are at best below `largest`, in reals."""
        p, x = polynomial, _grid(polynomial)
        known = p.interval is not None or p.even
        cap = np.inf if known else _CONTRACT
        stretch, squared, base = p.input_shift, None, x
        if p.even:
            stretch = _even_stretch(p, x, largest)
            drop = 2 * p.input_shift - stretch
            squared, base = _bounds(x, x, drop), x**2 / 2.0**drop
        moved = [base + shift * 2.0**stretch for shift, _ in p.factors]
        squares = _together([_bounds(v, v, 2 * stretch) for v in moved])
        offsets = [offset for _, offset in p.factors]
        factors = [(v / 2.0**stretch) ** 2 + o for v, o in zip(moved, offsets, strict=True)]
        levels, value, leading = _levels(factors, p, cap)
        last = None
        if p.with_input:
            last = _bounds(value, base, stretch, cap)
            value = value * base / 2.0**stretch
        squarings = []
        for _ in range(p.squarings):
            squarings.append(_bounds(value, value, 0, cap))
            value = value**2
        middle, rms = _centred(p, x)
        kept = tuple(squarings)
        return cls(middle, rms, squared, stretch, squares, levels, last, kept, leading)


def _centred(p: FactoredPolynomial, x: FloatArray) -> tuple[int, float]:
    """Centre and root mean square: the middle of the interval, or zero where x is mostly small."""
    middle = round((x[0] + x[-1]) / 2)
    half, rms = _rms(x - middle), min(_rms(x), p.input_rms)
    return (middle, half) if half < rms else (0, rms)


def _levels(
    values: list[FloatArray], p: FactoredPolynomial, cap: float
) -> tuple[tuple[Bounds, ...], FloatArray, float]:
    """Bounds of a tree over these factors, their product, and what is left of the leading one."""
    levels, leading = [], p.leading
    while len(values) > 1:
        shift = _damping(p) if len(values) == 2 else 0
        neighbours = list(zip(values[::2], values[1::2], strict=False))
        levels.append(_together([_bounds(a, b, shift, cap) for a, b in neighbours]))
        odd = values[-1:] if len(values) % 2 else []
        values = [a * b / 2.0**shift for a, b in neighbours] + odd
        leading *= 2.0 ** (shift << p.squarings)
    return tuple(levels), values[0], leading


def _grid(polynomial: FactoredPolynomial) -> FloatArray:
    low, high = polynomial.interval or (-polynomial.largest, polynomial.largest)
    return np.linspace(low, high, _POINTS)


def _even_stretch(p: FactoredPolynomial, x: FloatArray, largest: float) -> int:
    """As many bits more than y has as its moved squares leave room for."""
    moved = max(abs(shift) for shift, _ in p.factors)
    top = (float(np.abs(x).max()) / 2.0**p.input_shift) ** 2 + moved
    room = floor((log2(largest / _MARGIN) - 2 * log2(top)) / 2)
    return max(0, min(2 * p.input_shift, room))


def _damping(p: FactoredPolynomial) -> int:
    """Bits by which the product of all factors is made smaller: a part of a small leading factor.

    So that it fits; what is left of the factor still makes errors smaller.
    """
    return max(0, floor((-log2(p.leading) - 1) * 0.5**p.squarings))


def _rms(values: FloatArray, cap: float = np.inf) -> float:
    """Their largest: where in the interval inputs lie is not known."""
    return min(float(np.abs(values).max()), sqrt(cap))


def _bounds(a: FloatArray, b: FloatArray, shift: int, cap: float = np.inf) -> Bounds:
    product = float(np.abs(a * b).max())
    largest = min(max(product * _MARGIN, _SMALLEST), cap)
    return Bounds(_rms(a, cap), _rms(b, cap), min(product, cap), shift, largest)


def _together(each: list[Bounds]) -> Bounds:
    """Of products with the same shift, made in one."""
    return Bounds(
        _mean_square(b.x_rms for b in each),
        _mean_square(b.y_rms for b in each),
        _mean_square(b.product_rms for b in each),
        each[0].shift,
        max(b.largest for b in each),
    )


def _mean_square(values: Iterable[float]) -> float:
    """Root of it."""
    squares = [value**2 for value in values]
    return sqrt(sum(squares) / len(squares))
