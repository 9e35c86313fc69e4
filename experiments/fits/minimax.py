"""Minimax fits by linear programming, shared by the scripts that regenerate constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares, linprog

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


def refine(
    model: Callable[[Array], Array], target: Array, weight: Array, start: Array
) -> tuple[Array, float]:
    """Parameters of a nonlinear model that minimise max |weight * (model - target)|, from a start.

    Lawson's iteration: least squares with weights that grow where the error is large.
    """
    parameters, importance = start, np.ones_like(target)
    for _ in range(200):
        root = np.sqrt(importance) * weight
        parameters = least_squares(
            lambda p, root=root: root * (model(p) - target), parameters, max_nfev=15
        ).x
        error = np.abs(weight * (model(parameters) - target))
        importance *= error / error.max() + 1e-3
        importance /= importance.mean()
    return parameters, float(error.max())


def quadratics(multiples: Sequence[tuple[int, int]]) -> Callable[[Array, Array], Array]:
    """Model c prod (y^2 + r m / k y + b) of parameters (r, c, b...), as a function of y too."""

    def model(parameters: Array, y: Array) -> Array:
        r, c, *constants = parameters
        result = np.full_like(y, c)
        for (m, k), b in zip(multiples, constants, strict=True):
            result = result * (y * y + r * m / k * y + b)
        return result

    return model


def factors_of(parameters: Array, multiples: Sequence[tuple[int, int]]) -> Array:
    """Rows (shift, offset) of the quadratics' shifted squares."""
    r, _, *constants = parameters
    shifts = np.array([r * m / k / 2 for m, k in multiples])
    return np.stack([shifts, np.array(constants) - shifts**2], axis=1)
