"""Fits in |x| for `fit_silu.py` and `fit_tanh.py`: polynomials of odd degree, zero at zero."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from minimax import Array, fit


def fitted(
    function: Callable[[Array], Array], low: float, high: float, degree: int, input_shift: int
) -> tuple[Array, float, float]:
    """Rows (shift, offset), leading factor and error of leading z prod ((z + shift)^2 + offset).

    z = a / 2^input_shift for a in [low, high]. Real roots are paired too; their offset is negative.
    """
    a = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, 2000))) / 2
    t = 2 * (a - low) / (high - low) - 1
    basis = np.polynomial.chebyshev.chebvander(t, degree - 1) * a[:, None]
    found, error = fit(basis, function(a), np.ones_like(a))
    series = np.polynomial.Chebyshev(found, domain=[low, high]).convert(
        kind=np.polynomial.Polynomial, domain=[-1, 1]
    )
    scale = 2.0**input_shift
    return pairs(series.coef, scale), float(series.coef[-1] * scale**degree), error


def pairs(coefficients: Array, scale: float) -> Array:
    """Rows (shift, offset) of all quadratics of sum c_i y^i in z = y / scale, by shift.

    Conjugate roots belong together; of the real ones the smallest and the largest.
    """
    roots = np.roots(coefficients[::-1]) / scale
    real = np.sort(roots[roots.imag == 0].real)
    assert len(real) % 2 == 0
    rows = [(-r.real, r.imag**2) for r in roots[roots.imag > 0]]
    for low, high in zip(real, real[::-1][: len(real) // 2], strict=False):
        rows.append((-(low + high) / 2, -(((high - low) / 2) ** 2)))
    return np.array(sorted(rows))
