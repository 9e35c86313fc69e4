"""Regenerate the straight lines that start Newton's method in softmax and LayerNorm."""

from __future__ import annotations

import numpy as np
from minimax import fit


def inverse_root() -> tuple[np.ndarray, float]:  # type: ignore[type-arg]
    """x^(-1/2) on [1, 2] as a + b x, smallest relative error."""
    x = np.linspace(1, 2, 2001)
    return fit(np.stack([np.ones_like(x), x], axis=1), 1 / np.sqrt(x), np.sqrt(x))


def doubled_reciprocal() -> tuple[float, float]:
    """2 / s on [1, 2] as c - s, so that no multiplication is needed; smallest absolute error."""
    s = np.linspace(1, 2, 2001)
    found, error = fit(np.ones((len(s), 1)), 2 / s + s, np.ones_like(s))
    return float(found[0]), error


if __name__ == "__main__":
    line, error = inverse_root()
    print(f"x^(-1/2): {line[0]:.8f} {line[1]:+.8f} x, relative error {error:.2e}")
    constant, error = doubled_reciprocal()
    print(f"2 / s: {constant:.7f} - s, absolute error {error:.2e}")
