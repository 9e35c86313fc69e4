"""Regenerate the constants of `mpc_nonlinear.protocols.gelu` and print their error."""

from __future__ import annotations

import numpy as np
from minimax import Array, factors_of, quadratics, refine
from scipy.special import erf

THRESHOLD, SLACK, INPUT_SHIFT = 3.3, 0.02, 2
MULTIPLES = ((-1, 2), (-3, 1))
_START = np.array([0.68, 12.0, 0.42, 1.23])


def factors() -> tuple[Array, float, float]:
    """Rows (shift, offset), leading factor and error of P, gelu(x) - x / 2 for |x| <= threshold.

    P = leading * y * prod (...), y = (x / 2^INPUT_SHIFT)^2, its shifts multiples of one number, so
    that one square of y serves both; without that condition the error would be 8.5e-4.
    """
    x = np.linspace(0, THRESHOLD + SLACK, 1500)
    y = (x / 2**INPUT_SHIFT) ** 2
    model = quadratics(MULTIPLES)
    target = x * erf(x / np.sqrt(2)) / 2
    found, error = refine(lambda p: y * model(p, y), target, np.ones_like(x), _START)
    return factors_of(found, MULTIPLES), float(found[1]), error


if __name__ == "__main__":
    rows, leading, error = factors()
    print("factors", ", ".join(f"({s:.12g}, {o:.9g})" for s, o in rows), f"leading {leading:.9g}")
    tail = THRESHOLD * (1 - erf(THRESHOLD / np.sqrt(2))) / 2
    print(f"error inside {error:.2e}, of the identity at the threshold {tail:.2e}")
