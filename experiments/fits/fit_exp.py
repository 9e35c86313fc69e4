"""Regenerate the exponential of `mpc_nonlinear.protocols.softmax` and print its error."""

from __future__ import annotations

import numpy as np
from minimax import Array, factors_of, quadratics, refine

LOW, HIGH, INPUT_SHIFT = -12.0, 0.2, 3
MULTIPLES = ((1, 8), (1, 1), (3, 2), (7, 4))
_START = np.array([1.788, 0.115, 1.19, 1.45, 2.04, 2.47])


def factors() -> tuple[Array, float, float]:
    """Rows (shift, offset) and leading factor of p(x)^2, close to exp(x), and the error.

    To first order the error is 2 e^(x / 2) |p - e^(x / 2)|; it may be larger where exp is, because
    softmax divides by a sum of at least one and adds up many small terms. The shifts are multiples
    of one number, so that one square serves all factors.
    """
    x = LOW + (HIGH - LOW) * (1 - np.cos(np.linspace(0, np.pi, 1200))) / 2
    y, target = x / 2**INPUT_SHIFT, np.exp(x / 2)
    model = quadratics(MULTIPLES)
    weight = 2 * target / (1e-3 * target + 1e-5)
    found, _ = refine(lambda p: model(p, y), target, weight, _START)
    error = np.abs(model(found, y) ** 2 - np.exp(x)).max()
    return factors_of(found, MULTIPLES), float(found[1]) ** 2, float(error)


if __name__ == "__main__":
    rows, leading, error = factors()
    print("factors", ", ".join(f"({s:.12g}, {o:.9g})" for s, o in rows), f"leading {leading:.9g}")
    print(f"error {error:.2e}")
