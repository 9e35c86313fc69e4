"""LayerNorm without gain and bias: they belong to the linear map that follows."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np

from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.products import Bounds
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.rows import octaves, per_octave, per_octave_cost
from mpc_nonlinear.session import Context, Session
from mpc_nonlinear.truncate import truncate, truncate_cost
from transport.traffic import Party

# x^(-1/2) on [1, 2] as a straight line, relative error 2.3e-2; experiments/fit_rows.py
START = (1.26411423, -0.2863736)
NEWTON_STEPS = 2
"""A relative error e becomes 1.5 e^2: 2.3e-2, 7.5e-4, 8.5e-7."""
_MEAN_BITS = 24
"""Precision of 1 / width."""
_NORMALISED = Bounds(2.0, 1.7, 2.0)
_UNIT_SQUARE = Bounds(1.3, 1.3, 1.7)
_UNIT_PRODUCT = Bounds(1.3, 2.0, 2.6, 1)


@dataclass(frozen=True, slots=True)
class NewtonLayerNorm(NonlinearProtocol):
    """(x - mean) / sqrt(variance + epsilon) over the last axis, one inverse root a row.

    `bound`: largest |x|; `variance_min`, `variance_max`: powers of two around every variance;
    `variance_rms`: their root mean square over all rows. With products in slots the error grows
    with the ratio of the largest square to the smallest variance: 2^-9 where all rows have similar
    variances, 2^-6 at a ratio of 2^12 of variances.
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
        return max(self.variance_min, 2.0**-14)

    @property
    def _high(self) -> float:
        return max(self.variance_max, self._low)

    @property
    def _square(self) -> Bounds:
        # rms(c^2) <= max |c| * rms(c), and rms(c) <= sqrt(rms(variance))
        deviation = sqrt(self.variance_rms)
        largest = min(2 * self.bound, sqrt(self._high * self.width))
        return Bounds(deviation, deviation, largest * deviation)

    @property
    def _scale(self) -> Bounds:
        return Bounds(self._high, 1 / self._low, 2.0)

    @property
    def _root(self) -> Bounds:
        return Bounds(1.0, sqrt(1 / self._low), sqrt(1 / self._low))

    @property
    def _last(self) -> Bounds:
        return Bounds(sqrt(self._high), sqrt(1 / self._low), 2.0)

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
            + per_octave_cost(rows, self._low, self._high, bits, 2)
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
            variance = variance + session.fixed_point.encode(self.epsilon)
        # 3. scaled = variance * 2^-octave in [1, 2), and 2^(-octave / 2)
        starts = [self._low, *octaves(self._low, self._high)]
        factors = [[1 / s for s in starts], [1 / sqrt(s) for s in starts]]
        shrink, root = per_octave(variance, self._low, self._high, factors, session)
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
