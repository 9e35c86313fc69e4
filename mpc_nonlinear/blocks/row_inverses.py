"""Reciprocals of one positive number a row by lines: its octave, and its place in every octave.

A number scaled into an octave is cut to a few bits: in its own octave they say which line is right,
in all others they say anything. What every octave would answer is selected while the octave is
still sought.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from mpc_nonlinear.blocks.compare import (
    Width,
    comparison_moves,
    less_than_constants,
    less_than_constants_cost,
)
from mpc_nonlinear.blocks.flow import Flow, Move, question
from mpc_nonlinear.blocks.local import scale, scale_all, scale_cost
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.blocks.side_by_side import side_by_side
from mpc_nonlinear.blocks.wide_digits import (
    LARGEST_DIGIT_BITS,
    wide_leaves_cost,
    wide_receivers,
    wide_senders,
)
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import BitArray, FloatArray, RingArray
from transport.computing import Work, units
from transport.errors import UsageError
from transport.traffic import Party

_PLACE_BITS = 7
_START = 64
"""Where an octave starts, in units of places; they are known up to one."""
_RATIO = 1.105
"""Largest ratio of the ends of a line's interval, what places are off by included."""
_OCTAVE_START = 8
"""Where the first octave starts, in units in which octaves are told apart, up to one."""
RESULT_ERROR_UNITS = 1.5
"""Of what `row_inverses` returns, beside the lines' error: the product's, the constant's."""


@dataclass(frozen=True, slots=True)
class RowInverses:
    """factor / s for low <= s < low 2^octaves by lines, the same in every octave.

    Each line is off by the same above and below, relative to the reciprocal, `error` at most.
    Smaller numbers get the first line or, like those above, anything.
    """

    low: float
    octaves: int
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not self.low > 0 or not 1 <= self.octaves <= 2 * LARGEST_DIGIT_BITS:
            raise UsageError(
                f"row inverses: {self.octaves} octaves from {self.low:g}; use 1 to "
                f"{2 * LARGEST_DIGIT_BITS} from a positive start"
            )

    @property
    def error(self) -> float:
        """Largest relative distance of the right line from the reciprocal."""
        _, ends = _intervals()
        return float(max((b - a) ** 2 / ((a + b) ** 2 + 4 * a * b) for a, b in ends))

    @property
    def lines(self) -> tuple[FloatArray, FloatArray]:
        """Constants and slopes (octaves, lines): value = constant + slope s."""
        return _lines(self)

    @property
    def width(self) -> Width:
        """Of the comparison that tells octaves apart."""
        bits = Width.exact((_OCTAVE_START << self.octaves) - 1).bits
        return Width(bits, 0, -(-(bits - 1) // LARGEST_DIGIT_BITS))


@lru_cache
def _intervals() -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
    """Places where lines end but for the last, and the ends of what each line is right for."""
    # Octaves but the first begin up to one of 2 _OCTAVE_START units before their start.
    low, starts, ends = _START - _START // (2 * _OCTAVE_START), list[int](), []
    while (end := int(_RATIO * low)) < 2 * _START:
        starts.append(end)
        ends.append((low, end))
        low = end - 1
    ends.append((low, 2 * _START))
    return tuple(starts), tuple(ends)


@lru_cache(maxsize=256)
def _lines(inverses: RowInverses) -> tuple[FloatArray, FloatArray]:
    """Of s in all octaves; sums and quotients only, which every machine rounds alike."""
    a, b = np.array(_intervals()[1], np.float64).T * (inverses.low / _START)
    # s (a + b - s) is as far from its mean over [a, b] at the ends as in the middle.
    slope = -inverses.factor / ((a * b + (a + b) * (a + b) / 4) / 2)
    sizes = np.ldexp(1.0, np.arange(inverses.octaves))[:, None]
    return -slope * (a + b) / sizes, slope / (sizes * sizes)


@lru_cache
def _tables() -> RingArray:
    """Of every place of the sender (places, ends, words): whether the sum's is below an end.

    Sums are modulo 2^7, from half an octave below the start on.
    """
    places, first = np.arange(1 << _PLACE_BITS), _START // 2
    sums = (places[:, None] + places - first) % len(places) + first
    below = sums[:, None] < np.array(_intervals()[0])[:, None]
    return np.packbits(below, axis=-1, bitorder="little").view(np.uint64)


def row_inverses_flow(
    flow: Flow, rows: int, inverses: RowInverses, mean_units: float, asker: Party
) -> Flow:
    """`flow`, and `row_inverses` after it, for numbers of this mean in ring units.

    All multiples of a number come from one lift of its shares: they fail together.
    """
    if not rows:
        return flow
    octaves, ends = inverses.octaves, len(_intervals()[0])
    others = Work.together(units(scaled=rows * (octaves * (ends + 2))))
    flow = flow.then(scale_cost(rows, mean_units) + Cost(work=others))
    octave, places = _costs(rows, inverses, asker)
    told = flow.branch.then(octave, *comparison_moves(inverses.width, asker))
    placed = flow.branch.then(places[0], *question(asker)).then(places[1], Move.BOTH)
    return flow.beside([told, placed]).then(select_cost(rows * (octaves - 1)), Move.BOTH)


def _costs(rows: int, inverses: RowInverses, asker: Party) -> tuple[Cost, tuple[Cost, Cost]]:
    """Of octaves; of places and of what is selected by them."""
    octaves, ends = inverses.octaves, len(_intervals()[0])
    octave = NO_COST
    if octaves > 1:
        octave = less_than_constants_cost(rows, octaves - 1, inverses.width, asker)
    places = wide_leaves_cost(rows * octaves, [(_PLACE_BITS, ends)], asker.peer)
    return octave, (places, select_cost(rows * octaves * ends))


def row_inverses(s: RingArray, inverses: RowInverses, asker: Party, session: Session) -> RingArray:
    """Shares of the reciprocal at shares of s (rows,), same shape; its line's error and 1.5 units.

    asker: who gets the tables. A table and a selection among lines, beside the comparison with
    the octaves' starts, and a selection among octaves. After the splines of [Liu17] MiniONN, eprint
    2017/452, Section 5.3.
    """
    octave, (places, selections) = _costs(s.size, inverses, asker)
    above, answers = side_by_side(
        [
            (octave, lambda branch: _octaves_above(s, inverses, asker, branch)),
            (places + selections, lambda branch: _answers(s, inverses, asker, branch)),
        ],
        session,
    )
    if inverses.octaves == 1:
        first: RingArray = answers[0]
        return first
    more = select(above, answers[1:] - answers[:-1], session)
    found: RingArray = answers[0] + more.sum(axis=0, dtype=np.uint64)
    return found


def _octaves_above(s: RingArray, inverses: RowInverses, asker: Party, session: Session) -> BitArray:
    """Boolean shares (octaves - 1, rows): whether s is in this octave, from the second, or above.

    Said up to a unit below an octave's start; it has 2 _OCTAVE_START units or more.
    """
    if inverses.octaves == 1:
        return np.zeros((0, s.size), np.uint8)
    scaled = scale(s, _OCTAVE_START * session.fixed_point.unit / inverses.low)
    starts = [_OCTAVE_START << octave for octave in range(1, inverses.octaves)]
    below = less_than_constants(scaled, starts, inverses.width, session, asker)
    return below ^ np.uint8(session.party is Party.CLIENT)


def _answers(s: RingArray, inverses: RowInverses, asker: Party, session: Session) -> RingArray:
    """Shares (octaves, rows) of the reciprocal if s is in an octave; elsewhere of anything."""
    fixed, octaves = session.fixed_point, inverses.octaves
    start = _START * fixed.unit / inverses.low
    scaled = scale_all(s, np.ldexp(start, -np.arange(octaves)))
    below = _places_below(scaled.reshape(-1), asker, session)
    beyond = (below ^ np.uint8(session.party is Party.CLIENT)).reshape(octaves, s.size, -1)
    constants, slopes = inverses.lines
    values = scale_all(s, slopes.reshape(-1)).reshape(octaves, -1, s.size)
    if session.party is Party.CLIENT:
        values += fixed.encode(constants)[:, :, None]
    steps = values[:, 1:] - values[:, :-1]
    chosen = select(np.ascontiguousarray(beyond.transpose(0, 2, 1)), steps, session)
    answers: RingArray = values[:, 0] + chosen.sum(axis=1, dtype=np.uint64)
    return answers


def _places_below(scaled: RingArray, asker: Party, session: Session) -> BitArray:
    """Boolean shares (n, ends) of whether places are below the lines' ends. 2 rounds."""
    own = (scaled & np.uint64((1 << _PLACE_BITS) - 1)).astype(np.uint8)
    session.channel.next_round()
    if session.party is asker:
        return wide_receivers([(own, _PLACE_BITS)], [len(_intervals()[0])], session)[0]
    return wide_senders([_tables()[own]], [_PLACE_BITS], session)[0]
