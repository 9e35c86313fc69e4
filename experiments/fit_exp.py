"""Regenerate the exponential of `mpc_nonlinear.protocols.softmax` and print its error."""

from __future__ import annotations

import numpy as np
from minimax import Array, fit, shifted_squares

DEGREE, LOW, HIGH, INPUT_SHIFT = 8, -12.0, 0.2, 3


def factors() -> tuple[Array, float, float]:
    """Rows (shift, offset) and leading factor of p(x)^2, close to exp(x), and the error.

    To first order the error is 2 e^(x / 2) |p - e^(x / 2)|; it may be larger where exp is, because
    softmax divides by a sum of at least one and adds up many small terms.
    """
    x = LOW + (HIGH - LOW) * (1 - np.cos(np.linspace(0, np.pi, 3000))) / 2
    target = np.exp(x / 2)
    # A well-conditioned basis; the powers come from it afterwards.
    t = 2 * (x - LOW) / (HIGH - LOW) - 1
    basis = np.polynomial.chebyshev.chebvander(t, DEGREE)
    found, _ = fit(basis, target, 2 * target / (1e-3 * target + 1e-5))
    series = np.polynomial.Chebyshev(found, domain=[LOW, HIGH]).convert(
        kind=np.polynomial.Polynomial, domain=[-1, 1]
    )
    rows, leading = shifted_squares(series.coef, 2.0**INPUT_SHIFT)
    return rows, leading**2, float(np.abs((basis @ found) ** 2 - np.exp(x)).max())


if __name__ == "__main__":
    rows, leading, error = factors()
    print("factors", ", ".join(f"({s:.9g}, {o:.9g})" for s, o in rows), f"leading {leading:.9g}")
    print(f"error {error:.2e}")
