"""Regenerate the constants of `mpc_nonlinear.protocols.silu` and print their error."""

from __future__ import annotations

import numpy as np
from fit_cubics import pieces, show
from fit_magnitude import fitted
from minimax import Array

THRESHOLD, SLACK, DEGREE, INPUT_SHIFT = 10.0, 2.0**-6, 9, 2
KNOTS, SLACKS, STEPS = (0.0, 2.42, 8.42), (0.096, 0.096, 0.138), 1820.0
"""Of cubic pieces; with these steps the outer cube's best coefficient is near 2 of its units."""


def silu_below(a: Array) -> Array:
    """silu(-a)."""
    result: Array = -a / (1 + np.exp(a))
    return result


def factors() -> tuple[Array, float, float]:
    """Rows (shift, offset), leading factor and error of P(a), silu(-a) up to the threshold."""
    return fitted(silu_below, -SLACK, THRESHOLD + SLACK, DEGREE, INPUT_SHIFT)


def cubics() -> tuple[Array, list[float]]:
    """Rows of coefficients of silu(-a) between the knots, and their errors."""
    return pieces(silu_below, KNOTS, SLACKS, STEPS)


if __name__ == "__main__":
    rows, leading, error = factors()
    print("factors", ", ".join(f"({s:.12g}, {o:.12g})" for s, o in rows), f"leading {leading:.12g}")
    tail = -float(silu_below(np.array(THRESHOLD)))
    print(f"error inside {error:.2e}, of max(x, 0) at the threshold {tail:.2e}")
    show(*cubics(), float(silu_below(np.array(KNOTS[-1] - SLACKS[-1]))))
