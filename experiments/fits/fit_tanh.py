"""Regenerate the constants of `mpc_nonlinear.protocols.tanh` and print their error."""

from __future__ import annotations

import numpy as np
from fit_magnitude import fitted
from minimax import Array

THRESHOLD, SLACK, DEGREE, INPUT_SHIFT = 4.125, 2.0**-6, 7, 1


def factors() -> tuple[Array, float, float]:
    """Rows (shift, offset), leading factor and error of P(a), -tanh(a) up to the threshold."""
    return fitted(lambda a: -np.tanh(a), -SLACK, THRESHOLD + SLACK, DEGREE, INPUT_SHIFT)


if __name__ == "__main__":
    rows, leading, error = factors()
    print("factors", ", ".join(f"({s:.12g}, {o:.12g})" for s, o in rows), f"leading {leading:.12g}")
    tail = 1 - np.tanh(THRESHOLD)
    print(f"error inside {error:.2e}, of one at the threshold {tail:.2e}")
