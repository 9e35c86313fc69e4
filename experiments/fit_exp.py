"""Regenerate the exponential of `mpc_nonlinear.protocols.softmax` and print its error."""

from __future__ import annotations

import numpy as np
from minimax import fit

DEGREE, SQUARINGS, LOW, HIGH = 4, 3, -1.5, 0.05


def coefficients() -> tuple[np.ndarray, float]:  # type: ignore[type-arg]
    """p(s) with p(s)^8 close to exp(8 s): to first order the error is 8 e^(7 s) |p - e^s|."""
    power = 1 << SQUARINGS
    s = np.linspace(LOW, HIGH, 3000)
    basis = np.stack([s**i for i in range(DEGREE + 1)], axis=1)
    found, _ = fit(basis, np.exp(s), power * np.exp((power - 1) * s))
    error = np.abs((basis @ found) ** power - np.exp(power * s)).max()
    return found, float(error)


if __name__ == "__main__":
    found, error = coefficients()
    print("coefficients", ", ".join(f"{c:.9g}" for c in found))
    print(f"error of the eighth power {error:.2e}")
