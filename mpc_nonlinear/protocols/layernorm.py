"""LayerNorm without gain and bias: they belong to the linear map that follows."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2, prod, sqrt

import numpy as np

from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.products import Bounds
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.rows import octaves, per_octave, per_octave_cost
from mpc_nonlinear.session import Context, Session
from mpc_nonlinear.truncate import truncate, truncate_cost
from transport.errors import UsageError
from transport.traffic import Party

# x^(-1/2) on [1, 2] as a straight line, relative error 2.3e-2; experiments/fit_rows.py
START = (1.26411423, -0.2863736)
NEWTON_STEPS = 2
"""A relative error e becomes 1.5 e^2: 2.3e-2, 7.5e-4, 8.5e-7."""
_MEAN_BITS = 28
"""Precision of 1 / width."""
_LARGEST_SQUARE = 2.0**28
"""Limit of `Products`."""
_LARGEST = 2.0**16
"""Of `bound` and variances: means times 2^_MEAN_BITS must stay in the range of `truncate`."""
_VARIANCE_BITS, _MAX_FINER = 8, 12
"""Variances are kept multiplied by up to 2^12, so that the largest is about 2^8."""
_NORMALISED = Bounds(2.0, 1.7, 2.0)
_UNIT_SQUARE = Bounds(1.3, 1.3, 1.7)
_UNIT_PRODUCT = Bounds(1.3, 2.0, 2.6, 1)


@dataclass(frozen=True, slots=True)
class NewtonLayerNorm(NonlinearProtocol):
    """(x - mean) / sqrt(variance + epsilon) over the last axis, one inverse root a row.

    `bound`: largest |x|; `variance_min`, `variance_max`: powers of two around every variance;
    `variance_rms`: their root mean square over all rows. The error holds for variances from 2^-10
    up; by oblivious transfer it stays below 2^-8 for variance_max / variance_min up to 2^12. In
    slots it grows with that ratio: 2^-9 at 2^6, 2^-6 at 2^8 for rows of one spike; then no bound.
    """

    op = "layernorm"
    name = "newton"
    source = "Newton's method for the inverse square root, octave scaling of this project"
    max_error = 2.0**-6
    approximation_error = 2.0**-12

    width: int
    epsilon: float
    variance_min: float
    variance_max: float
    variance_rms: float
    bound: float

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
        """Two Newton steps from the straight line, in float64."""
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True) + self.epsilon
        octave = np.floor(np.log2(np.clip(variance, self._low, self._high)))
        scaled = variance / 2**octave
        y = START[0] + START[1] * scaled
        for _ in range(NEWTON_STEPS):
            y = y * (3 - scaled * y * y) / 2
        result: FloatArray = centred * y / np.sqrt(2**octave)
        return result

    def true_function(self, x: FloatArray) -> FloatArray:
        """Float64 LayerNorm."""
        centred = x - x.mean(-1, keepdims=True)
        variance = (centred**2).mean(-1, keepdims=True)
        result: FloatArray = centred / np.sqrt(variance + self.epsilon)
        return result

    @property
    def _low(self) -> float:
        return max(self.variance_min, 2.0 ** -(14 + self._finer))

    @property
    def _high(self) -> float:
        return max(self.variance_max, self._low)

    @property
    def _finer(self) -> int:
        """Bits by which variances are finer than other numbers: small ones need more digits."""
        return min(max(0, _VARIANCE_BITS - ceil(log2(self.variance_max))), _MAX_FINER)

    @property
    def _scaled_range(self) -> tuple[float, float]:
        """`_low` and `_high` of variances as they are kept."""
        return self._low * 2.0**self._finer, self._high * 2.0**self._finer

    @property
    def _square(self) -> Bounds:
        # rms(c^2) <= max |c| * rms(c), and rms(c) <= sqrt(rms(variance))
        deviation = sqrt(self.variance_rms)
        largest = min(2 * self.bound, sqrt(self._high * self.width))
        return Bounds(deviation, deviation, largest * deviation, -self._finer)

    @property
    def _scale(self) -> Bounds:
        low, high = self._scaled_range
        return Bounds(high, 1 / low, 2.0)

    @property
    def _root_shift(self) -> int:
        """Inverse roots are kept multiplied by 2^this: those of large variances are small."""
        return max(0, ceil(log2(self._high) / 2))

    @property
    def _root(self) -> Bounds:
        largest = 2.0**self._root_shift * sqrt(1 / self._low)
        return Bounds(1.0, largest, largest)

    @property
    def _last(self) -> Bounds:
        factor = 2.0**self._root_shift
        return Bounds(sqrt(self._high), factor * sqrt(1 / self._low), 2 * factor, self._root_shift)

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """One square and one product an element, everything else once a row."""
        n, rows = prod(shape), prod(shape[:-1])
        products, bits = context.products, context.fixed_point.fraction_bits
        newton = (
            products.square_cost(rows, _UNIT_SQUARE)
            + products.multiply_cost(rows, _NORMALISED)
            + products.multiply_cost(rows, _UNIT_PRODUCT)
        )
        return (
            truncate_cost(rows, _MEAN_BITS)
            + products.square_cost(n, self._square)
            + truncate_cost(rows, _MEAN_BITS)
            + per_octave_cost(rows, *self._scaled_range, bits)
            + products.multiply_cost(rows, self._scale)
            + truncate_cost(rows, bits)
            + newton * NEWTON_STEPS
            + products.multiply_cost(rows, self._root)
            + products.multiply_cost(n, self._last)
        )

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of the normalised rows."""
        products = session.products
        own_constants = session.party is Party.CLIENT
        # 1. mean and centred rows
        centred = x - self._mean(x, session)[..., None]
        # 2. variance
        squares = products.square(centred, session, self._square)
        variance = self._mean(squares, session)
        if own_constants:
            variance = variance + session.fixed_point.encode(self.epsilon * 2.0**self._finer)
        # 3. scaled = variance * 2^-octave in [1, 2), and 2^(-octave / 2)
        low, high = self._scaled_range
        starts = [low, *octaves(low, high)]
        finer, root_scale = 2.0**self._finer, 2.0**self._root_shift
        factors = [[1 / s for s in starts], [root_scale * sqrt(finer / s) for s in starts]]
        shrink, root = per_octave(variance, low, high, factors, session)
        scaled = products.multiply(variance, shrink, session, self._scale)
        # 4. Newton from a straight line: y (3 - s y^2) / 2
        y = self._start(scaled, session)
        for _ in range(NEWTON_STEPS):
            square = products.square(y, session, _UNIT_SQUARE)
            rest = np.uint64(0) - products.multiply(scaled, square, session, _NORMALISED)
            if own_constants:
                rest = rest + session.fixed_point.encode(3.0)
            y = products.multiply(y, rest, session, _UNIT_PRODUCT)
        # 5. back to the octave, and one product an element
        inverse = products.multiply(y, root, session, self._root)
        spread = np.ascontiguousarray(np.broadcast_to(inverse[..., None], x.shape))
        return products.multiply(centred, spread, session, self._last)

    def _mean(self, x: RingArray, session: Session) -> RingArray:
        total = x.sum(axis=-1, dtype=np.uint64)
        factor = np.uint64(round(2**_MEAN_BITS / self.width))
        return truncate(total * factor, _MEAN_BITS, session)

    def _start(self, scaled: RingArray, session: Session) -> RingArray:
        fixed = session.fixed_point
        slope = fixed.encode(START[1])
        line = truncate(scaled * slope, fixed.fraction_bits, session)
        if session.party is Party.CLIENT:
            line = line + fixed.encode(START[0])
        return line
