"""Regenerate the coefficients of `mpc_nonlinear.protocols.gelu` and print their error."""

from __future__ import annotations

import numpy as np
from minimax import fit
from scipy.special import erf

THRESHOLD, SLACK, DEGREE = 3.4, 0.02, 5


def coefficients() -> tuple[np.ndarray, float]:  # type: ignore[type-arg]
    """P(u) = a1 u + ... + a5 u^5 for gelu(x) - x / 2 on |x| <= threshold + slack, u = x^2."""
    x = np.linspace(0, THRESHOLD + SLACK, 1200)
    basis = np.stack([x ** (2 * i) for i in range(1, DEGREE + 1)], axis=1)
    return fit(basis, x * erf(x / np.sqrt(2)) / 2, np.ones_like(x))


if __name__ == "__main__":
    found, error = coefficients()
    print("coefficients", ", ".join(f"{c:.9g}" for c in found))
    tail = THRESHOLD * (1 - erf(THRESHOLD / np.sqrt(2))) / 2
    print(f"error inside {error:.2e}, of the identity at the threshold {tail:.2e}")
