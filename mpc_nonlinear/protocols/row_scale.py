"""Errors of rows that are divided by the root of their mean square, by that of the square."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import inf, sqrt
from typing import TypeVar

import numpy as np

from mpc_nonlinear.blocks.functions import INVERSE_ROOT
from mpc_nonlinear.blocks.products import ProductErrors
from mpc_nonlinear.fixed_point import FloatArray
from mpc_nonlinear.protocols.base import Magnitudes

Norm = TypeVar("Norm")

_ROOT_ERROR = 2.0**-13
"""Relative, of `INVERSE_ROOT` by an exact engine."""


def normalised(x: FloatArray, epsilon: float) -> FloatArray:
    """Rows by the root of their mean square and epsilon, float64."""
    result: FloatArray = x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon)
    return result


def relative_distance(found: FloatArray, wanted: FloatArray) -> FloatArray:
    """Difference of normalised numbers; of those above one, relative to them.

    Rows have a root mean square of one, and what is off is mostly a row's factor: a row of one
    spike is then off by as much as any other.
    """
    away: FloatArray = np.abs(found - wanted) / np.maximum(1.0, np.abs(wanted))
    return away


@dataclass(frozen=True, slots=True)
class RowScaleErrors:
    """What a normalised row is off by, as a function of its mean square."""

    square: ProductErrors
    """Of elements, as mean squares are kept."""
    last: ProductErrors
    """Of elements by their row's inverse root."""
    width: int
    kept: float
    """Mean squares are kept multiplied by this."""
    root_shift: int
    """Inverse roots are kept multiplied by two to this."""
    centred_units: float
    """Units by which elements are off."""
    lowest_octave: float
    """Smaller mean squares count as of this octave."""
    unit: float

    def largest(self, mean_squares: Iterable[float]) -> float:
        """Of rows with these."""
        return max(self.of(mean_square) for mean_square in mean_squares)

    def of(self, mean_square: float) -> float:
        """Infinite where the errors of squares may be as large as their mean."""
        root = sqrt(mean_square)
        # 1. The mean square as kept: squares, the division by the width, epsilon.
        squares = self.square.largest_of_mean(root, self.width) + 2 * self.unit
        # 2. Scaled into its octave.
        part = squares / (mean_square * self.kept)
        part += 2 * self.unit / min(1.0, mean_square / self.lowest_octave)
        if part >= 1:
            return inf
        # 3. Its inverse root as kept, and that times a number of the size of the root
        inverse = 2.0**self.root_shift / root
        return float(
            1 / sqrt(1 - part)
            - 1
            + _ROOT_ERROR
            + 2 * self.unit / inverse
            + self.centred_units * self.unit / root
            + self.last.largest(root, inverse)
        )


def clipped_octave_error(mean_square: float, lowest_octave: float) -> float:
    """Relative error of the root's polynomial where a mean square lies below all octaves."""
    below = np.array([min(1.0, mean_square / lowest_octave)])
    return float(np.abs(INVERSE_ROOT(below) * np.sqrt(below) - 1).max())


def norm_of(
    make: Callable[..., Norm],
    statistic: str,
    width: int,
    bounds: Mapping[str, Magnitudes],
    constants: Mapping[str, float],
) -> Norm:
    """A norm from the bounds of "input" and of its statistic and the constant "epsilon"."""
    found, x = bounds[statistic], bounds["input"]
    epsilon = constants["epsilon"]
    return make(width, epsilon, found.low, found.max_abs, found.rms, x.max_abs, x.rms)
