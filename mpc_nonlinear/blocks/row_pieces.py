"""A power of one positive number a row by lines: octaves cut alike, all ends compared at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from mpc_nonlinear.blocks.compare import (
    MAX_THRESHOLDS,
    Width,
    less_than_constants,
    less_than_constants_cost,
)
from mpc_nonlinear.blocks.local import scale_all, scale_cost
from mpc_nonlinear.blocks.public_numbers import exact_power, exact_powers
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.blocks.wide_digits import LARGEST_DIGIT_BITS
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import BitArray, FloatArray, RingArray
from transport.computing import Work, units
from transport.errors import UsageError
from transport.traffic import Party

_COMPARED_BITS = 9
"""Of a number scaled into its octave."""
_LONG_BYTES = 16384
"""Of a comparison, up to which fewer rounds are worth more."""
_ROOM_BITS = 1
"""Comparisons are right up to this many octaves above the last."""
_MARGIN = 2.0**-8
"""Relative, by which lines hold beyond the ends of their pieces. What is compared is off by a unit
of scaling, ends by half a unit: 3/4 of this of an octave's start."""
RESULT_ERROR_UNITS = 1.5
"""Of what `row_pieces` returns, beside the lines' error: the product's, the constant's."""


@dataclass(frozen=True, slots=True)
class RowPieces:
    """factor s^power for low <= s < low 2^octaves by lines, as many to an octave as `pieces`.

    Each goes from one power of 2^(1 / pieces) times `low` to the next, so that all have one
    relative error, `error`. Smaller numbers get the first line, down to factor low^power
    (1 - power) at zero; numbers up to twice `high` the last one, which falls below the power; what
    is larger is compared wrongly.
    """

    power: float
    """-1 or -1/2."""
    low: float
    octaves: int
    factor: float = 1.0
    pieces: int = 12

    def __post_init__(self) -> None:
        if not -1 <= self.power < 0 or not self.low > 0 or self.octaves < 1:
            raise UsageError(
                f"row pieces: power {self.power:g} from {self.low:g} over {self.octaves} octaves; "
                "use a power from -1 to below 0, a positive start and one octave or more"
            )
        if not 2 <= self.pieces <= MAX_THRESHOLDS:
            raise UsageError(
                f"row pieces: {self.pieces} pieces an octave; use 2 to {MAX_THRESHOLDS}, which "
                "one comparison takes"
            )

    @property
    def high(self) -> float:
        """Where the last octave ends."""
        return self.low * 2.0**self.octaves

    @property
    def count(self) -> int:
        """Pieces in all."""
        return self.octaves * self.pieces

    @property
    def error(self) -> float:
        """Largest relative distance of the right line from the power, `_MARGIN` beyond its ends."""
        return _line(self.power, self.pieces).error

    @property
    def growth(self) -> float:
        """Largest relative change of a line's value by that of its argument: about |power|."""
        line, end = _line(self.power, self.pieces), _end(self.pieces)
        return float(-line.slope * end / (line.constant + line.slope * end))

    @property
    def lines(self) -> tuple[FloatArray, FloatArray]:
        """Constants and slopes, (count,): value = constant + slope s."""
        return _lines(self)

    def __call__(self, s: FloatArray) -> FloatArray:
        """In the clear, float64."""
        place = np.floor(np.log2(np.maximum(s, self.low) / self.low) * self.pieces)
        index = np.minimum(place, self.count - 1).astype(int)
        constants, slopes = self.lines
        value: FloatArray = constants[index] + slopes[index] * s
        return value

    @property
    def _thresholds(self) -> tuple[int, ...]:
        """Starts of an octave's pieces, in compared units."""
        return _thresholds(self.pieces)

    def _width(self, rows: int) -> Width:
        """Of the lowest octave, where the largest numbers are 2^octaves times its own."""
        return _width(self.octaves, self.pieces, rows)


@lru_cache(maxsize=256)
def _width(octaves: int, pieces: int, rows: int) -> Width:
    """In two or three long digits where that is short for so many rows: it saves rounds."""
    width = Width.exact(1 << (_COMPARED_BITS + octaves + _ROOM_BITS))
    for digits in (2, 3):
        if width.bits - 1 <= digits * LARGEST_DIGIT_BITS:
            long = replace(width, digits=digits)
            cost = less_than_constants_cost(rows * octaves, pieces, long)
            return long if cost.traffic.sent_bytes <= _LONG_BYTES else width
    return width


@lru_cache
def _thresholds(pieces: int) -> tuple[int, ...]:
    starts = exact_powers(2.0, np.arange(pieces) / pieces)
    return tuple(round(float(start) * 2.0**_COMPARED_BITS) for start in starts)


@dataclass(frozen=True, slots=True)
class _Line:
    """constant + slope s near s^power, for s from 1 to the end of the first piece."""

    constant: float
    slope: float
    error: float


def _end(pieces: int) -> float:
    return exact_power(2.0, 1 / pieces) * (1 + _MARGIN)


@lru_cache
def _line(power: float, pieces: int) -> _Line:
    """The chord over the piece and its margins, lowered until it is off alike above and below."""
    a, b = 1 - _MARGIN, _end(pieces)
    first, last = exact_power(a, power), exact_power(b, power)
    slope = (last - first) / (b - a)
    constant = first - slope * a
    # The chord is furthest above the power, relative to it, where their slopes' ratio is theirs.
    at = power * constant / (slope * (1 - power))
    above = (constant + slope * at) * exact_power(at, -power)
    lowered = 2 / (1 + above)
    return _Line(constant * lowered, slope * lowered, 1 - lowered)


@lru_cache(maxsize=256)
def _lines(pieces: RowPieces) -> tuple[FloatArray, FloatArray]:
    """Of all pieces, the same on every machine: both parties multiply their shares by slopes."""
    line, power = _line(pieces.power, pieces.pieces), pieces.power
    place = np.arange(pieces.count) / pieces.pieces
    sizes = pieces.factor * exact_power(pieces.low, power) * exact_powers(2.0, power * place)
    starts = pieces.low * exact_powers(2.0, place)
    return line.constant * sizes, line.slope * sizes / starts


def row_pieces_cost(rows: int, pieces: RowPieces, mean_units: float) -> Cost:
    """Cost of `row_pieces` for numbers of this mean, in ring units.

    All multiples of a number come from one lift of its shares: they fail together.
    """
    others = rows * (pieces.octaves + pieces.count - 1)
    return (
        scale_cost(rows, mean_units)
        + Cost(work=Work.together(units(scaled=others)))
        + less_than_constants_cost(rows * pieces.octaves, pieces.pieces, pieces._width(rows))
        + select_cost(rows * pieces.count)
    )


def row_pieces(s: RingArray, pieces: RowPieces, session: Session) -> RingArray:
    """Shares of the function at shares of s, same shape; its line's error and 1.5 units.

    One comparison, whose ends may be off by the lines' margin, and a selection among all lines'
    values, which are local: rounds of `less_than_constants` and 1. After the splines of [Liu17]
    MiniONN, eprint 2017/452, Section 5.3, with ends repeated in every octave.
    """
    chosen = _pieces_of(s, pieces, session)
    constants, slopes = pieces.lines
    values = scale_all(s, slopes)
    if session.party is Party.CLIENT:
        values += session.fixed_point.encode(constants).reshape(-1, *[1] * s.ndim)
    total: RingArray = select(chosen, values, session).sum(axis=0, dtype=np.uint64)
    return total


def _pieces_of(s: RingArray, pieces: RowPieces, session: Session) -> BitArray:
    """Boolean shares (count, *shape) of which piece a number is in: one bit of a column is set.

    Ends are further apart than comparisons are off, so their bits ascend: neighbours' differences
    are those of one place.
    """
    start = 2.0**_COMPARED_BITS * session.fixed_point.unit / pieces.low
    starts = np.ldexp(start, -np.arange(pieces.octaves))
    scaled = scale_all(s, starts)
    below = less_than_constants(scaled, pieces._thresholds, pieces._width(s.size), session)
    # (pieces, octaves, ...) to ascending ends; nothing asks for the first.
    ends = np.swapaxes(below, 0, 1).reshape(pieces.count, *s.shape)[1:]
    ones = np.full((1, *s.shape), int(session.party is Party.CLIENT), np.uint8)
    ends = np.concatenate([ends, ones])
    found: BitArray = ends ^ np.concatenate([np.zeros_like(ones), ends[:-1]])
    return found
