"""Regenerate the constants of `mpc_nonlinear.protocols.gelu` and print their error."""

from __future__ import annotations

import numpy as np
from minimax import Array, fit, shifted_squares
from scipy.special import erf

THRESHOLD, SLACK, DEGREE, INPUT_SHIFT = 3.3, 0.02, 5, 2


def coefficients() -> tuple[Array, float]:
    """P(u) = a1 u + ... + a5 u^5 for gelu(x) - x / 2 on |x| <= threshold + slack, u = x^2."""
    x = np.linspace(0, THRESHOLD + SLACK, 1200)
    basis = np.stack([x ** (2 * i) for i in range(1, DEGREE + 1)], axis=1)
    return fit(basis, x * erf(x / np.sqrt(2)) / 2, np.ones_like(x))


def factors() -> tuple[Array, float, float]:
    """Rows (shift, offset) of P / u in u / 2^(2 INPUT_SHIFT), leading factor of P, error."""
    found, error = coefficients()
    rows, leading = shifted_squares(found, 4.0**INPUT_SHIFT)
    return rows, leading * 4.0**INPUT_SHIFT, error


if __name__ == "__main__":
    rows, leading, error = factors()
    print("factors", ", ".join(f"({s:.9g}, {o:.9g})" for s, o in rows), f"leading {leading:.9g}")
    tail = THRESHOLD * (1 - erf(THRESHOLD / np.sqrt(2))) / 2
    print(f"error inside {error:.2e}, of the identity at the threshold {tail:.2e}")
