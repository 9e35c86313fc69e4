"""Regenerate the polynomials for one number a row, in softmax and LayerNorm."""

from __future__ import annotations

import numpy as np
from minimax import Array, fit, shifted_squares

DEGREE, LOW, HIGH = 6, 0.99, 2.01


def _factors(target: Array, s: Array) -> tuple[Array, float, float]:
    """Rows (shift, offset), leading factor and largest relative error."""
    t = 2 * (s - LOW) / (HIGH - LOW) - 1
    basis = np.polynomial.chebyshev.chebvander(t, DEGREE)
    found, error = fit(basis, target, 1 / target)
    series = np.polynomial.Chebyshev(found, domain=[LOW, HIGH]).convert(
        kind=np.polynomial.Polynomial, domain=[-1, 1]
    )
    return *shifted_squares(series.coef, 1.0), error


def inverse_root() -> tuple[Array, float, float]:
    """s^(-1/2) on [1, 2]."""
    s = np.linspace(LOW, HIGH, 2001)
    return _factors(1 / np.sqrt(s), s)


def reciprocal() -> tuple[Array, float, float]:
    """1 / s on [1, 2]."""
    s = np.linspace(LOW, HIGH, 2001)
    return _factors(1 / s, s)


if __name__ == "__main__":
    for name, (rows, leading, error) in (("s^-1/2", inverse_root()), ("1/s", reciprocal())):
        print(name, ", ".join(f"({s:.9g}, {o:.9g})" for s, o in rows), f"leading {leading:.9g}")
        print(f"relative error {error:.2e}")
