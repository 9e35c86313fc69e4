"""Cubic pieces for `fit_silu.py` and `fit_gelu.py`, with what a prime of 44 bits has room for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from minimax import Array, fit

SCALE_BITS = 43
"""Values of pieces are multiples of 2^-43."""


def cubic(
    function: Callable[[Array], Array], low: float, high: float, step: float
) -> tuple[Array, float]:
    """Coefficients (4,) by power of a minimax cubic on [low, high], and its error.

    That of the cube is a multiple of `step`: the better of the two next to the best one.
    """
    a = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, 2000))) / 2
    powers, target, weight = a[:, None] ** np.arange(4), function(a), np.ones_like(a)
    best = fit(powers, target, weight)[0][3] / step
    found = []
    for multiple in (np.floor(best), np.ceil(best)):
        last = multiple * step
        rest, error = fit(powers[:, :3], target - last * a**3, weight)
        found.append((np.append(rest, last), error))
    return min(found, key=lambda one: one[1])


def pieces(
    function: Callable[[Array], Array],
    knots: Sequence[float],
    slacks: Sequence[float],
    steps: float,
) -> tuple[Array, list[float]]:
    """Rows of coefficients between the knots, of which zero is the first, and their errors.

    Each holds beyond its ends by the slacks there. steps: of one, to which operands of the cube are
    cut.
    """
    ends = list(zip(knots, slacks, strict=True))
    found = [
        cubic(function, low - below, high + above, steps**3 * 2.0**-SCALE_BITS)
        for (low, below), (high, above) in zip(ends, ends[1:], strict=False)
    ]
    return np.stack([c for c, _ in found]), [error for _, error in found]


def show(rows: Array, errors: Sequence[float], tail: float) -> None:
    """Print constants and errors; tail: the function at the last knot, halved by the constant."""
    for row, error in zip(rows, errors, strict=True):
        print("piece", ", ".join(f"{c:.12g}" for c in row), f"error {error:.2e}")
    print(f"outside: the constant {tail / 2:.3e}")
