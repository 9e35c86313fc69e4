"""LayerNorm without gain and bias: they belong to the linear map that follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import ceil, floor, log2, prod, sqrt
from typing import Self

import numpy as np

from mpc_nonlinear.blocks.functions import INVERSE_ROOT
from mpc_nonlinear.blocks.local import scale, scale_cost
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
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.base import Magnitudes, NonlinearProtocol
from mpc_nonlinear.protocols.row_scale import (
    RowScaleErrors,
    clipped_octave_error,
    norm_of,
    normalised,
    relative_distance,
)
from transport.errors import UsageError
from transport.traffic import Party

_LARGEST_SQUARE = 2.0**28
"""Limit of `Products`."""
_LARGEST = 2.0**16
"""Of `bound` and variances."""
_VARIANCE_BITS, _MAX_FINER = 8, 12
"""Variances are kept multiplied by up to 2^12, so that the largest is about 2^8."""
_LEAST_BITS = -6
"""Larger ones are divided for it while the smallest stays at 2^-6, which has ten bits."""
_SMALLEST_BITS = 13
"""Octaves start at 2^-13 of what is kept: `scale` multiplies by less than 2^14."""


@dataclass(frozen=True, slots=True)
class OctavePolynomialLayerNorm(NonlinearProtocol):
    """(x - mean) / sqrt(variance + epsilon) over the last axis, one inverse root a row.

    `bound`: largest |x|; `variance_min`, `variance_max`: powers of two around every variance;
    `variance_rms`: their root mean square over all rows; `rms`: that of x. The error holds for
    variances from 2^-10 up; by oblivious transfer it stays below 2^-8 for variance_max /
    variance_min up to 2^12. `protocol_error` says what it is at the bounds by an engine: in slots
    rows of small variance drown in the noise of the largest, until nothing is left of them.
    """

    op = "layernorm"
    name = "octave_polynomial"
    source = "octave scaling and polynomial of this project"
    max_error = 2.0**-6
    approximation_error = 2.0**-12

    width: int
    epsilon: float
    variance_min: float
    variance_max: float
    variance_rms: float
    bound: float
    rms: float = _LARGEST

    @classmethod
    def for_operation(
        cls, width: int, bounds: Mapping[str, Magnitudes], constants: Mapping[str, float]
    ) -> Self:
        """From the bounds of "input" and "variance" and the constant "epsilon"."""
        return norm_of(cls, "variance", width, bounds, constants)

    def __post_init__(self) -> None:
        if self.bound > _LARGEST or self.variance_max > _LARGEST:
            raise UsageError(
                f"layernorm: bound {self.bound:g}, largest variance {self.variance_max:g}; both "
                f"must be at most {_LARGEST:g}: calibrate on other samples or scale the model"
            )

        if self.variance_max * self.width > _LARGEST_SQUARE:
            raise UsageError(
                f"layernorm: variance {self.variance_max:g} at width {self.width} allows squares "
                f"above {_LARGEST_SQUARE:g}: calibrate on other samples or scale the model"
            )

    def reference(self, x: FloatArray) -> FloatArray:
        """The polynomial on the scaled variance, in float64."""
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True) + self.epsilon
        octave = np.floor(np.log2(np.clip(variance, self._low, self._high)))
        result: FloatArray = centred * INVERSE_ROOT(variance / 2**octave) / np.sqrt(2**octave)
        return result

    def true_function(self, x: FloatArray) -> FloatArray:
        """Float64 LayerNorm."""
        return normalised(x - x.mean(-1, keepdims=True), self.epsilon)

    def approximation_error_within(self, length: int) -> float:
        """More where variances lie below the smallest octave."""
        del length
        return self.approximation_error + clipped_octave_error(self._smallest, self._low)

    def protocol_error(self, length: int, context: Context) -> float:
        """Largest for rows of the smallest or the largest variance; see `RowScaleErrors`."""
        del length
        products = context.products
        errors = RowScaleErrors(
            products.square_errors(self._square(products)),
            products.errors(self._last(products)),
            self.width,
            kept=2.0**self._finer,
            root_shift=self._root_shift,
            centred_units=2.0,
            lowest_octave=self._low,
            unit=context.fixed_point.unit,
        )
        return errors.largest([self._smallest, self._high])

    def distance(self, found: FloatArray, wanted: FloatArray) -> FloatArray:
        """Relative where numbers exceed one."""
        return relative_distance(found, wanted)

    @property
    def _smallest(self) -> float:
        """Of variances plus epsilon."""
        return max(self.variance_min, self.epsilon)

    @property
    def _low(self) -> float:
        return max(self.variance_min, 2.0 ** -(_SMALLEST_BITS + self._finer))

    @property
    def _high(self) -> float:
        return max(self.variance_max, self._low)

    @property
    def _finer(self) -> int:
        """Bits by which variances are finer than other numbers: small ones need more digits.

        Negative: coarser, since sums of large squares are lifted wrongly more often.
        """
        coarsest = min(0, _LEAST_BITS - floor(log2(self.variance_min)))
        return min(max(coarsest, _VARIANCE_BITS - ceil(log2(self.variance_max))), _MAX_FINER)

    @property
    def _lifted(self) -> tuple[float, float]:
        """Means over all rows of what is scaled: of a row's mean and of its variance as kept.

        A mean is at most the root mean square of x, a variance that of x^2.
        """
        kept = min(self.variance_rms, self.rms**2) * 2.0**self._finer
        return min(self.bound, self.rms), kept

    @property
    def _scaled_range(self) -> tuple[float, float]:
        """`_low` and `_high` of variances as they are kept."""
        return self._low * 2.0**self._finer, self._high * 2.0**self._finer

    def _square(self, products: Products) -> Bounds:
        # rms(c^2) <= max |c| * rms(c), and rms(c) <= sqrt(rms(variance))
        deviation = sqrt(self.variance_rms)
        largest = min(2 * self.bound, sqrt(self._high * self.width))
        bounds = Bounds(deviation, deviation, largest * deviation, -self._finer)
        return replace(bounds, largest=2 * largest**2) if products.needs_largest else bounds

    @property
    def _root_shift(self) -> int:
        """Inverse roots are kept multiplied by 2^this: those of large variances are small."""
        return max(0, ceil(log2(self._high) / 2))

    def _last(self, products: Products) -> Bounds:
        factor, shift = 2.0**self._root_shift, self._root_shift
        bounds = Bounds(sqrt(self._high), factor * sqrt(1 / self._low), 2 * factor, shift)
        # c is the one that was squared, and a row shares its inverse root.
        bounds = replace(bounds, x_fresh=0.0, y_fresh=1 / self.width)
        if products.needs_largest:
            return replace(bounds, largest=4 * factor * sqrt(self.width))
        return bounds

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """One square and one product an element, everything else once a row."""
        n, rows = prod(shape), prod(shape[:-1])
        products, bits = context.products, context.fixed_point.fraction_bits
        exact, units = exact_products(context), 2.0**bits
        count = len(octaves(*self._scaled_range)) + 1
        mean, variance = self._lifted
        return (
            scale_cost(rows, mean * self.width * units)
            + products.square_cost(n, self._square(products))
            + scale_cost(rows, variance * self.width * units)
            + find_octave_cost(rows, *self._scaled_range, bits)
            + scale_by_octave_cost(rows, count, variance * units)
            + exact.polynomial_cost(rows, INVERSE_ROOT)
            + scale_by_octave_cost(rows, count, 2 * units)
            + products.multiply_cost(n, self._last(products))
        )

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of the normalised rows."""
        products, exact = session.products, exact_products(session.context)
        # 1. mean and centred rows
        centred = x - self._mean(x)[..., None]
        # 2. variance
        variance = self._mean(products.square(centred, session, self._square(products)))
        if session.party is Party.CLIENT:
            variance = variance + session.fixed_point.encode(self.epsilon * 2.0**self._finer)
        # 3. scaled = variance * 2^-octave in [1, 2)
        low, high = self._scaled_range
        starts = [low, *octaves(low, high)]
        octave = find_octave(variance, low, high, session)
        scaled = scale_by_octave(variance, octave, [1 / s for s in starts], session)
        # 4. the polynomial, and back by 2^(-octave / 2)
        finer, root_scale = 2.0**self._finer, 2.0**self._root_shift
        factors = [root_scale * sqrt(finer / s) for s in starts]
        root = exact.polynomial(scaled, INVERSE_ROOT, session)
        inverse = scale_by_octave(root, octave, factors, session)
        # 5. one product an element
        spread = np.ascontiguousarray(np.broadcast_to(inverse[..., None], x.shape))
        return products.multiply(centred, spread, session, self._last(products))

    def _mean(self, x: RingArray) -> RingArray:
        return scale(x.sum(axis=-1, dtype=np.uint64), 1 / self.width)
