"""Regenerate the cubic pieces of `mpc_nonlinear.protocols.gelu_tanh` and print their errors."""

from __future__ import annotations

import numpy as np
from fit_cubics import pieces, show
from minimax import Array

KNOTS, SLACKS, STEPS = (0.0, 1.68, 3.4), (0.054, 0.054, 0.1), 1776.0


def gelu_below(a: Array) -> Array:
    """gelu_tanh(-a)."""
    result: Array = -a / 2 * (1 - np.tanh(np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)))
    return result


def cubics() -> tuple[Array, list[float]]:
    """Rows of coefficients of gelu_tanh(-a) between the knots, and their errors."""
    return pieces(gelu_below, KNOTS, SLACKS, STEPS)


if __name__ == "__main__":
    show(*cubics(), float(gelu_below(np.array(KNOTS[-1] - SLACKS[-1]))))
