"""Rows by the inverse root of their mean square, from one opening modulo a prime."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, inf, log2, prod, sqrt

import numpy as np

from mpc_nonlinear.blocks.local import scale
from mpc_nonlinear.blocks.power_cells import PowerCells, continued_power
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.prime_shares import (
    from_prime,
    from_prime_cost,
    from_prime_error_units,
    from_prime_limit,
    to_prime,
)
from mpc_nonlinear.blocks.row_powers import opened_powers, opened_powers_cost
from mpc_nonlinear.blocks.scaled_rows import ScaledRows, scaled_rows_cost
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, FloatArray, RingArray
from transport.computing import NO_WORK, Work, units
from transport.errors import ParameterError, UsageError
from transport.traffic import Party

_LARGEST_SQUARE = 2.0**28
"""Of a row's sum of squares."""
_LARGEST = 2.0**16
"""Of bounds and mean squares."""
_LARGEST_RANGE = 2.0**12
"""Of mean squares: where the largest fit the prime, the smallest are within 2^-8 of theirs."""
_ROOM = 2.0
"""Sums of squares up to this times the largest do not wrap around the prime."""
_SUM_ROOM = 1 - 2.0**-5
"""Part of the prime for sums: but for a cell, and for the rounding of numbers that are cut."""
_PRODUCT_ROOM = 1.25
"""By which products may exceed the root of the width, for errors and rows outside the range."""
_CUT_ROOM = 1 - 2.0**-7
"""Part of the room for products that stays where numbers are cut, in spite of their rounding."""
_LEAST_SHIFT = 8
"""Bits by which products are too large, at least: roots have some 20 of them more."""
_EPSILON_PART = 2.0**-10
"""Of the largest mean square: a smaller epsilon moves it within its room."""
_BLOCK = "lift of numbers modulo a prime"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Public sizes of a run with a prime."""

    modulus: int
    fraction_bits: int
    cut: float
    """What a row's numbers are multiplied by before they are opened, at most one."""
    last_shift: int
    """Bits by which products are too large."""
    stretch: float
    """A mean square is this part of a sum of squares modulo t."""

    @property
    def number_error(self) -> float:
        """Of a number that is cut, in reals."""
        return 2.0**-self.fraction_bits / self.cut if self.cut < 1 else 0.0


@dataclass(frozen=True, slots=True)
class RowScaling:
    """x / sqrt(mean(x^2) + epsilon) over the last axis, for rows whose mean squares are known.

    Sums of squares stay exact modulo t but for the numbers' cut, which is what one sum of the
    largest rows needs to fit. Rows of mean squares below `low` are multiplied by 1 to 2.2 times the
    inverse root of `low`, the more the smaller; above twice `high` anything may come.
    """

    op: str
    width: int
    epsilon: float
    low: float
    """Smallest mean square."""
    high: float
    square_rms: float
    """Root mean square of mean squares over all rows."""
    rms: float
    """Root mean square of numbers, or more."""
    number_units: float = 0.0
    """Units by which numbers that come are off already."""

    def check(self, statistic: str, bound: float) -> None:
        """`UsageError` where these ranges do not fit."""
        if bound > _LARGEST or self.high > _LARGEST:
            raise UsageError(
                f"{self.op}: bound {bound:g}, largest {statistic} {self.high:g}; both must be at "
                f"most {_LARGEST:g}: calibrate on other samples or scale the model"
            )
        if self.high * self.width > _LARGEST_SQUARE:
            raise UsageError(
                f"{self.op}: {statistic} {self.high:g} at width {self.width} allows sums of "
                f"squares above {_LARGEST_SQUARE:g}: calibrate on other samples or scale the model"
            )
        if not (0 < self.low <= self.high <= _LARGEST_RANGE * self.lowest):
            raise UsageError(
                f"{self.op}: {statistic} from {self.low:g} to {self.high:g}; by one opening the "
                f"largest must be 1 to {_LARGEST_RANGE:g} times the smallest: calibrate on other "
                "samples or use octave_polynomial"
            )

    # -- public sizes --------------------------------------------------------------------------

    @property
    def lowest(self) -> float:
        """Of mean squares plus epsilon."""
        return max(self.low, self.epsilon)

    @property
    def highest(self) -> float:
        """Of mean squares plus epsilon."""
        moved = self.epsilon if self.epsilon > _EPSILON_PART * self.high else 0.0
        return max(self.lowest, self.high + moved)

    def sizes(self, context: Context) -> Sizes:
        """`ParameterError` by other products than those modulo a prime."""
        products, bits = context.products, context.fixed_point.fraction_bits
        if not isinstance(products, PrimeProducts):
            raise ParameterError(
                f"{self.op}/pieces: products {products.name} have no prime; set "
                "protocols.multiply: slot_triples or use octave_polynomial"
            )
        t = products.modulus
        # The sum's sign is known, and cells take all residues: the whole prime is room.
        largest = _ROOM * self.highest * self.width * 4.0**bits
        cut = min(1.0, sqrt(t * _SUM_ROOM / largest))
        products_room = from_prime_limit(t, bits) * _CUT_ROOM
        last_shift = floor(log2(products_room / (_PRODUCT_ROOM * sqrt(self.width)))) - bits
        if cut < 2.0**-bits or last_shift < _LEAST_SHIFT:
            raise ParameterError(
                f"{self.op}/pieces: mean squares from {self.low:g} to {self.high:g} at width "
                f"{self.width} with {bits} fraction bits do not fit a prime of "
                f"{t.bit_length()} bits; use octave_polynomial"
            )
        return Sizes(t, bits, cut, last_shift, self.width * 4.0**bits * cut**2)

    def powers(self, sizes: Sizes) -> PowerCells:
        """Inverse roots of sums of squares modulo t, times what products are too large by."""
        factor = 2.0**sizes.last_shift / sizes.cut * sqrt(sizes.stretch)
        ends = self.lowest * sizes.stretch, _ROOM * self.highest * sizes.stretch
        return PowerCells(-0.5, *ends, factor, sizes.modulus)

    # -- what is declared ----------------------------------------------------------------------

    def error(self, context: Context) -> float:
        """Largest distance from `value` of rows of the smallest or the largest mean square."""
        sizes = self.sizes(context)
        return max(
            self._error_of(m, sizes, context) for m in (self.lowest, max(self.lowest, self.high))
        )

    def _error_of(self, mean_square: float, sizes: Sizes, context: Context) -> float:
        unit, root = context.fixed_point.unit, sqrt(mean_square)
        number = sizes.number_error + self.number_units * unit
        # 1. The mean square: of numbers that are off, and epsilon, rounded.
        part = (2 * number * root + number**2) / mean_square
        part += 0.5 / (mean_square * sizes.stretch)
        if part >= 0.5:
            return inf
        # 2. Its inverse root by the cell's polynomial.
        inverse = 1 / sqrt(1 - part) - 1 + self.powers(sizes).error / sqrt(1 - part)
        # 3. The product, of a number of the size of the root or more.
        last = from_prime_error_units(sizes.modulus, sizes.last_shift) * unit
        return inverse + number / root * (1 + inverse) + last

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Every number is opened once, and comes back once."""
        n, rows = prod(shape), prod(shape[:-1])
        sizes = self.sizes(context)
        known = min(sqrt(self.square_rms), self.rms)
        cut = Work.together(units(scaled=n)) if sizes.cut < 1 else NO_WORK
        lifted = n * known * 2.0**sizes.fraction_bits
        return (
            Cost.failing(_BLOCK, lifted * 2.0**-RING_BITS, cut)
            + scaled_rows_cost(rows, self.width, sizes.modulus)
            + opened_powers_cost(rows, self.powers(sizes))
            + from_prime_cost(n)
        )

    # -- what it computes ----------------------------------------------------------------------

    def value(self, x: FloatArray) -> FloatArray:
        """In float64."""
        square = (x**2).mean(-1, keepdims=True) + self.epsilon
        result: FloatArray = x * continued_power(square, -0.5, self.lowest)
        return result

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of the scaled rows, same shape. 5 rounds."""
        sizes = self.sizes(session.context)
        t = sizes.modulus
        # 1. one opening
        cut = scale(x, sizes.cut) if sizes.cut < 1 else x
        rows = ScaledRows.open(to_prime(cut, t).reshape(-1, self.width), t, session)
        # 2. the inverse root of the mean square, opened under the mask that a product needs
        square = rows.sum_of_squares(session)
        if session.party is Party.CLIENT:
            square = (square + np.uint64(round(self.epsilon * sizes.stretch))) % np.uint64(t)
        opened = opened_powers(square, rows.factor_mask(), self.powers(sizes), session)
        # 3. one product a number
        scaled = rows.times(opened, session)
        return from_prime(scaled, t, sizes.last_shift, session).reshape(x.shape)
