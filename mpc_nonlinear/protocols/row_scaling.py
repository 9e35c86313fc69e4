"""Rows by the inverse root of their mean square, from one opening modulo a prime."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, floor, inf, log2, prod, sqrt

import numpy as np

from mpc_nonlinear.blocks.local import scale
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.prime_shares import (
    from_prime,
    from_prime_cost,
    from_prime_error_units,
    from_prime_limit,
    to_prime,
)
from mpc_nonlinear.blocks.row_pieces import (
    RESULT_ERROR_UNITS,
    RowPieces,
    row_pieces,
    row_pieces_cost,
)
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
_SUM_BITS = 17
"""Of the smallest sum of squares at least, when it comes back: more fails to lift more often."""
_ROOT_BITS = 23
"""Of the largest inverse root at most, for the same reason: the smallest has 17."""
_MAX_SHIFT = 32
"""Of sums of squares."""
_PRODUCT_ROOM = 1.25
"""By which products may exceed the root of the width, for errors and rows outside the range."""
_CUT_ROOM = 1 - 2.0**-7
"""Part of the room that stays where numbers are cut, in spite of their rounding."""
_EPSILON_PART = 2.0**-10
"""Of the largest mean square: a smaller epsilon moves it within a piece's margin."""
_BLOCK = "lift of numbers modulo a prime"


@dataclass(frozen=True, slots=True)
class Sizes:
    """Public sizes of a run with a prime."""

    modulus: int
    fraction_bits: int
    cut: int
    """Bits that a row's numbers lose before they are opened."""
    sum_shift: int
    """Bits that sums of squares lose on the way back."""
    root_bits: int
    """Inverse roots are kept multiplied by 2^this."""
    kept: float
    """A sum of squares q comes back as the fixed-point number q * kept."""

    @property
    def last_shift(self) -> int:
        """Bits by which products are too large."""
        return self.root_bits - self.cut

    @property
    def number_error(self) -> float:
        """Of a number that is cut, in reals."""
        return 2.0 ** (self.cut - self.fraction_bits) if self.cut else 0.0

    def kept_pieces(self, pieces: RowPieces, width: int) -> RowPieces:
        """From those of mean squares to those of what is kept; results in units of 2^-root_bits."""
        stretch = width * self.kept
        factor = sqrt(stretch) * 2.0 ** (self.root_bits - self.fraction_bits)
        return RowPieces(pieces.power, pieces.low * stretch, pieces.octaves, factor, pieces.pieces)


@dataclass(frozen=True, slots=True)
class RowScaling:
    """x / sqrt(mean(x^2) + epsilon) over the last axis, for rows whose mean squares are known.

    Sums of squares stay exact modulo t but for the numbers' cut, which is what one sum of the
    largest rows needs to fit. Rows of mean squares below `low` are multiplied by the first line's
    value, 1 to 1.5 times the inverse root of `low`: the same wherever they are small. Above `high`
    results fall short of the true ones; above twice `high` anything may come.
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
    def pieces(self) -> RowPieces:
        """The inverse root, from mean squares plus epsilon."""
        moved = self.epsilon if self.epsilon > _EPSILON_PART * self.high else 0.0
        octaves = ceil(log2((self.high + moved) / self.lowest))
        return RowPieces(-0.5, self.lowest, max(1, octaves))

    def sizes(self, context: Context) -> Sizes:
        """`ParameterError` by other products than those modulo a prime."""
        products, bits = context.products, context.fixed_point.fraction_bits
        if not isinstance(products, PrimeProducts):
            raise ParameterError(
                f"{self.op}/pieces: products {products.name} have no prime; set "
                "protocols.multiply: slot_triples or use octave_polynomial"
            )
        t = products.modulus
        # The sum's sign is known: half of the prime, not a quarter, is room.
        room = 2 * from_prime_limit(t, _MAX_SHIFT) * _CUT_ROOM
        largest = _ROOM * self.high * self.width * 4.0**bits
        cut = max(0, ceil(log2(largest / room) / 2))
        smallest = floor(log2(self.lowest * self.width)) + 2 * (bits - cut)
        shift = min(max(0, smallest - _SUM_BITS), _MAX_SHIFT)
        products_room = from_prime_limit(t, bits) * _CUT_ROOM
        factor = _PRODUCT_ROOM * sqrt(self.width) * 2.0 ** (bits - cut)
        root_bits = floor(log2(products_room / factor))
        root_bits = min(root_bits, _ROOT_BITS + floor(log2(self.lowest) / 2))
        if cut > bits or not cut <= root_bits:
            raise ParameterError(
                f"{self.op}/pieces: mean squares from {self.low:g} to {self.high:g} at width "
                f"{self.width} with {bits} fraction bits do not fit a prime of "
                f"{t.bit_length()} bits; use octave_polynomial"
            )
        kept = 2.0 ** (bits - 2 * cut - shift)
        return Sizes(t, bits, cut, shift, root_bits, kept)

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
        # 1. The mean square: of numbers that are off, the way back, epsilon.
        back = from_prime_error_units(sizes.modulus, sizes.sum_shift) + 0.5
        part = (2 * number * root + number**2) / mean_square
        part += back * unit / (mean_square * self.width * sizes.kept)
        if part >= 0.5:
            return inf
        # 2. Its inverse root by the line, or by a neighbour near its end.
        pieces = self.pieces
        inverse = pieces.growth * part + 2 * pieces.error
        inverse += RESULT_ERROR_UNITS * root * 2.0**-sizes.root_bits
        # 3. The product, of a number of the size of the root or more.
        last = from_prime_error_units(sizes.modulus, sizes.last_shift) * unit
        return inverse + number / root * (1 + inverse) + last

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Every number is opened once, and comes back once."""
        n, rows = prod(shape), prod(shape[:-1])
        sizes = self.sizes(context)
        whole = 2.0**sizes.fraction_bits
        known = min(sqrt(self.square_rms), self.rms)
        cut = Work.together(units(scaled=n)) if sizes.cut else NO_WORK
        lifted = n * known * whole
        root = rows * 2.0**sizes.root_bits / sqrt(self.lowest)
        mean = (min(self.square_rms, self.rms**2) + self.epsilon) * self.width * sizes.kept * whole
        pieces = sizes.kept_pieces(self.pieces, self.width)
        return (
            Cost.failing(_BLOCK, lifted * 2.0**-RING_BITS, cut)
            + scaled_rows_cost(rows, self.width, sizes.modulus)
            + from_prime_cost(rows)
            + row_pieces_cost(rows, pieces, mean)
            + Cost.failing(_BLOCK, root * 2.0**-RING_BITS)
            + from_prime_cost(n)
        )

    # -- what it computes ----------------------------------------------------------------------

    def value(self, x: FloatArray) -> FloatArray:
        """By lines, in float64."""
        square = (x**2).mean(-1, keepdims=True) + self.epsilon
        result: FloatArray = x * self.pieces(square)
        return result

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of the scaled rows, same shape. 5 rounds and those of one comparison."""
        sizes = self.sizes(session.context)
        t = sizes.modulus
        # 1. one opening
        cut = scale(x, 2.0**-sizes.cut) if sizes.cut else x
        rows = ScaledRows.open(to_prime(cut, t).reshape(-1, self.width), t, session)
        # 2. the sum of squares, moved to where its sign is not
        square = self._back(rows.sum_of_squares(session), sizes, session)
        if session.party is Party.CLIENT:
            square = square + session.fixed_point.encode(self.epsilon * self.width * sizes.kept)
        # 3. the inverse root by lines
        inverse = row_pieces(square, sizes.kept_pieces(self.pieces, self.width), session)
        # 4. one product a number
        scaled = rows.times(to_prime(inverse, t), session)
        return from_prime(scaled, t, sizes.last_shift, session).reshape(x.shape)

    @staticmethod
    def _back(square: RingArray, sizes: Sizes, session: Session) -> RingArray:
        """Shares modulo 2^64 of sums of squares below t / 2, truncated. 1 round."""
        t, shift = sizes.modulus, sizes.sum_shift
        middle = from_prime_limit(t, shift)
        if session.party is Party.SERVER:
            return from_prime(square, t, shift, session)
        moved = (square + np.uint64(t - middle)) % np.uint64(t)
        return from_prime(moved, t, shift, session) + np.uint64(middle >> shift)
