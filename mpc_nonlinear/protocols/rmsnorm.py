"""RMSNorm without gain: it belongs to the linear map that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, log2, prod, sqrt
from typing import Self

import numpy as np

from mpc_nonlinear.blocks.functions import INVERSE_ROOT
from mpc_nonlinear.blocks.octaves import (
    find_octave,
    find_octave_cost,
    octaves,
    scale_by_octave,
    scale_by_octave_cost,
)
from mpc_nonlinear.blocks.ot_products import exact_products
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.session import Context, Products, Session
from mpc_nonlinear.blocks.truncate import truncate, truncate_cost
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.base import Magnitudes, NonlinearProtocol
from mpc_nonlinear.protocols.row_scale import RowScaleErrors, norm_of, normalised, relative_distance
from transport.errors import UsageError
from transport.traffic import Party

_LARGEST_SQUARE = 2.0**28
"""Limit of `Products`."""
_LARGEST = 2.0**16
"""Of `bound` and mean squares."""
_SQUARE_BITS, _MAX_FINER = 12, 12
"""Mean squares are kept multiplied by up to 2^12, so that the largest is about 2^12."""
_SLOT_RANGE = 2.0**6
"""Up to this ratio of mean squares the products may have the errors of slots."""
_LARGEST_RANGE = 2.0**12
_SMALLEST_KEPT = 2.0**-13
"""Of mean squares as kept: `scale` multiplies by less than 2^14."""


@dataclass(frozen=True, slots=True)
class OctavePolynomialRmsNorm(NonlinearProtocol):
    """x / sqrt(mean(x^2) + epsilon) over the last axis, one inverse root a row.

    `bound`: largest |x|; `square_min`, `square_max`: powers of two around every mean square, at
    most 2^12 apart; `square_rms`: their root mean square over all rows; `rms`: that of x. The
    error holds for mean squares from 2^-10 up. Where they lie more than 2^6 apart, the products of
    elements go by an exact engine too: in CKKS slots small rows would drown in the error of large
    ones.
    """

    op = "rmsnorm"
    name = "octave_polynomial"
    source = "octave scaling and polynomial of this project"
    max_error = 2.0**-8
    approximation_error = 2.0**-12

    width: int
    epsilon: float
    square_min: float
    square_max: float
    square_rms: float
    bound: float
    rms: float = _LARGEST

    @classmethod
    def for_operation(
        cls, width: int, bounds: Mapping[str, Magnitudes], constants: Mapping[str, float]
    ) -> Self:
        """From the bounds of "input" and "square" and the constant "epsilon"."""
        return norm_of(cls, "square", width, bounds, constants)

    def __post_init__(self) -> None:
        if self.bound > _LARGEST or self.square_max > _LARGEST:
            raise UsageError(
                f"rmsnorm: bound {self.bound:g}, largest mean square {self.square_max:g}; both "
                f"must be at most {_LARGEST:g}: calibrate on other samples or scale the model"
            )
        if self.square_max * self.width > _LARGEST_SQUARE:
            raise UsageError(
                f"rmsnorm: mean square {self.square_max:g} at width {self.width} allows squares "
                f"above {_LARGEST_SQUARE:g}: calibrate on other samples or scale the model"
            )
        if not 1 <= self.square_max / self.square_min <= _LARGEST_RANGE:
            raise UsageError(
                f"rmsnorm: mean squares from {self.square_min:g} to {self.square_max:g}; the "
                f"largest must be 1 to {_LARGEST_RANGE:g} times the smallest: calibrate on other "
                "samples"
            )
        if self._scaled_range[0] < _SMALLEST_KEPT:
            raise UsageError(
                f"rmsnorm: smallest mean square {self.square_min:g}; it must be at least "
                f"{_SMALLEST_KEPT * 2.0**-self._finer:g}: calibrate on other samples or scale the "
                "model"
            )

    def reference(self, x: FloatArray) -> FloatArray:
        """The polynomial on the scaled mean square, in float64."""
        square = (x**2).mean(-1, keepdims=True) + self.epsilon
        # The kept number is larger by `_stretch` in [1, 2): octaves start at its powers of two.
        kept = np.clip(square * self._stretch, self.square_min, 2 * self.square_max)
        octave = 2.0 ** np.floor(np.log2(kept))
        scaled = square * self._stretch / octave
        result: FloatArray = x * INVERSE_ROOT(scaled) * np.sqrt(self._stretch / octave)
        return result

    def true_function(self, x: FloatArray) -> FloatArray:
        """Float64 RMSNorm."""
        return normalised(x, self.epsilon)

    def protocol_error(self, length: int, context: Context) -> float:
        """Largest for rows of the smallest or the largest mean square; see `RowScaleErrors`."""
        del length
        products = self._products(context)
        smallest = max(self.square_min, self.epsilon)
        errors = RowScaleErrors(
            products.square_errors(self._square(products)),
            products.errors(self._last(products)),
            self.width,
            kept=2.0**self._finer,
            root_shift=self._root_shift,
            centred_units=0.0,
            lowest_octave=self.square_min,
            unit=context.fixed_point.unit,
        )
        return errors.largest([smallest, self.square_max])

    def distance(self, found: FloatArray, wanted: FloatArray) -> FloatArray:
        """Relative where numbers exceed one."""
        return relative_distance(found, wanted)

    @property
    def _stretch(self) -> float:
        """Sums are divided by the power of two below `width`, which a truncation can do."""
        return self.width / 2.0 ** (self.width.bit_length() - 1)

    @property
    def _finer(self) -> int:
        """Bits by which mean squares are finer than other numbers: small ones need more digits."""
        return min(max(0, _SQUARE_BITS - ceil(log2(2 * self.square_max))), _MAX_FINER)

    @property
    def _scaled_range(self) -> tuple[float, float]:
        """Smallest and largest mean square as they are kept."""
        return self.square_min * 2.0**self._finer, 2 * self.square_max * 2.0**self._finer

    def _kept_mean(self, products: Products) -> float:
        """Mean of mean squares as kept: at most that of x^2, and their root mean square."""
        return self._deviation(products) ** 2 * self._stretch * 2.0**self._finer

    def _deviation(self, products: Products) -> float:
        """Root mean square of x, which is at most the root of that of mean squares.

        The closer one only where lifts are counted: others chose their scales by the root.
        """
        known = self.rms if products.needs_largest else _LARGEST
        return min(sqrt(self.square_rms), known)

    def _square(self, products: Products) -> Bounds:
        # rms(x^2) <= max |x| * rms(x)
        deviation = self._deviation(products)
        largest = min(self.bound, sqrt(self.square_max * self.width))
        return Bounds(deviation, deviation, largest * deviation, -self._finer, 2 * largest**2)

    @property
    def _root_shift(self) -> int:
        """Inverse roots are kept multiplied by 2^this: those of large mean squares are small."""
        return max(0, ceil(log2(self.square_max) / 2))

    def _last(self, products: Products) -> Bounds:
        factor = 2.0**self._root_shift
        largest = 4 * factor * sqrt(self.width)
        inverse = factor * sqrt(1 / self.square_min)
        deviation, shift = self._deviation(products), self._root_shift
        # x is the one that was squared, and a row shares its inverse root.
        fresh = {"x_fresh": 0.0, "y_fresh": 1 / self.width}
        return Bounds(deviation, inverse, 2 * factor, shift, largest, **fresh)

    def _products(self, context: Context) -> Products:
        """Of elements."""
        if self.square_max / self.square_min <= _SLOT_RANGE:
            return context.products
        return exact_products(context)

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """One square and one product an element, everything else once a row."""
        n, rows = prod(shape), prod(shape[:-1])
        products, bits = self._products(context), context.fixed_point.fraction_bits
        low, high = self._scaled_range
        count = len(octaves(low, high)) + 1
        cost = products.square_cost(n, self._square(products))
        if self._mean_shift:
            cost += truncate_cost(rows, self._mean_shift)
        return (
            cost
            + find_octave_cost(rows, low, high, bits)
            + scale_by_octave_cost(rows, count, self._kept_mean(products) * 2.0**bits)
            + exact_products(context).polynomial_cost(rows, INVERSE_ROOT)
            + scale_by_octave_cost(rows, count, 2 * 2.0**bits)
            + products.multiply_cost(n, self._last(products))
        )

    @property
    def _mean_shift(self) -> int:
        return self.width.bit_length() - 1

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of the normalised rows."""
        products, fixed = self._products(session.context), session.fixed_point
        # 1. mean square, times `_stretch` and 2^finer
        total = products.square(x, session, self._square(products)).sum(axis=-1, dtype=np.uint64)
        kept = truncate(total, self._mean_shift, session) if self._mean_shift else total
        if session.party is Party.CLIENT:
            kept = kept + fixed.encode(self.epsilon * self._stretch * 2.0**self._finer)
        # 2. scaled = kept * 2^-octave in [1, 2)
        low, high = self._scaled_range
        starts = [low, *octaves(low, high)]
        octave = find_octave(kept, low, high, session)
        scaled = scale_by_octave(kept, octave, [1 / s for s in starts], session)
        # 3. the polynomial, and back by 2^(-octave / 2)
        root = exact_products(session.context).polynomial(scaled, INVERSE_ROOT, session)
        back = 2.0 ** (2 * self._root_shift + self._finer) * self._stretch
        inverse = scale_by_octave(root, octave, [sqrt(back / s) for s in starts], session)
        # 4. one product an element
        spread = np.ascontiguousarray(np.broadcast_to(inverse[..., None], x.shape))
        return products.multiply(x, spread, session, self._last(products))
