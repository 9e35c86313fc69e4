"""Minimax fits by linear programming, shared by the scripts that regenerate constants."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linprog

Array = NDArray[np.float64]


def fit(basis: Array, target: Array, weight: Array) -> tuple[Array, float]:
    """Coefficients that minimise max |weight * (basis @ c - target)|, and that maximum.

    basis: (points, functions). Columns are scaled to one before solving.
    """
    size = np.abs(basis).max(0)
    scaled = basis / size * weight[:, None]
    bound = -np.ones((len(target), 1))
    rows = np.block([[scaled, bound], [-scaled, bound]])
    limits = np.concatenate([weight * target, -weight * target])
    functions = basis.shape[1]
    solved = linprog(
        np.append(np.zeros(functions), 1.0),
        A_ub=rows,
        b_ub=limits,
        bounds=[(None, None)] * functions + [(0, None)],
        method="highs",
    )
    return solved.x[:-1] / size, float(solved.x[-1])


def shifted_squares(coefficients: Array, scale: float) -> tuple[Array, float]:
    """A polynomial sum c_i y^i with complex roots as leading * prod ((z + shift)^2 + offset).

    z = y / scale. Returns rows (shift, offset), largest offset first, and the leading factor.
    """
    roots = np.roots(coefficients[::-1]) / scale
    upper = roots[roots.imag > 0]
    assert 2 * len(upper) == len(roots)
    rows = np.stack([-upper.real, upper.imag**2], axis=1)
    order = np.argsort(-rows[:, 1])
    return rows[order], float(coefficients[-1] * scale ** (len(coefficients) - 1))
