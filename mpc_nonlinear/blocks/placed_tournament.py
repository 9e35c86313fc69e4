"""The largest number of shared rows and its place: both go on side by side under one choice.

Levels are searched for: pairs meet while numbers are many, which takes the fewest oblivious
transfers, then three at once, then all of larger groups, which takes the fewest rounds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from mpc_nonlinear.blocks.bit_triples import Conjunctions, conjunctions_cost
from mpc_nonlinear.blocks.compare import Width, less_than_zero, less_than_zero_cost
from mpc_nonlinear.blocks.group_tournament import LARGEST_GROUP, all_set, all_set_cost
from mpc_nonlinear.blocks.riding import riding
from mpc_nonlinear.blocks.select import select_rows, select_rows_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.blocks.wide_digits import LARGEST_DIGIT_BITS
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import BitArray, RingArray
from transport.traffic import Party

_FIELDS = 2
"""Of who takes part: number and place."""
_WEIGHTS = (0.13, 0.04, 4000.0)
"""Microseconds that an oblivious transfer, a byte and a round are worth in the search for levels:
a byte at 200 Mbps, a round between places that are near."""
_MANY, _FEW = 2000, 3
"""Of more numbers in a row no more than these meet at once: the search is shorter."""
_SAMPLE = 1000
"""Groups whose cost is weighed: bits of a few fill no bytes."""


@dataclass(frozen=True)
class Level:
    """One level: as many groups as it takes, the last one filled with its last member again."""

    columns: int
    size: int
    digits: int
    """Of comparisons, as of `Width`."""

    @property
    def groups(self) -> int:
        """Of a row."""
        return -(-self.columns // self.size)

    @property
    def _pairs(self) -> int:
        return self.size * (self.size - 1) // 2

    def cost(self, rows: int, width: Width, bits: int) -> Cost:
        """Of `run`: a comparison, and 1 round for pairs, 2 for threes, 3 for larger groups."""
        groups, width = rows * self.groups, replace(width, digits=self.digits)
        compared, once = less_than_zero_cost(groups * self._pairs, width), groups
        if self.size == 2:
            return compared + select_rows_cost(once, _FIELDS, bits)
        if self.size == 3:
            first = conjunctions_cost([groups]) + select_rows_cost(once, _FIELDS, bits)
            return compared + first + select_rows_cost(once, _FIELDS, bits)
        others = groups * (self.size - 1)
        chosen = select_rows_cost(others, _FIELDS, bits)
        return compared + all_set_cost(others, self.size - 1) + chosen

    def run(self, values: RingArray, width: Width, bits: int, session: Session) -> RingArray:
        """The largest of each group: (rows, columns, fields) to (rows, groups, fields)."""
        rows = len(values)
        places = np.minimum(np.arange(self.groups * self.size), self.columns - 1)
        members = values[:, places].reshape(rows * self.groups, self.size, _FIELDS)
        i, j = np.triu_indices(self.size, 1)
        differences = members[:, i, 0] - members[:, j, 0]
        smaller = less_than_zero(differences, replace(width, digits=self.digits), session)
        if self.size == 2:
            best = _larger(members[:, 0], members[:, 1], smaller[:, 0], bits, session)
        elif self.size == 3:
            best = self._of_three(members, smaller, bits, session)
        else:
            best = self._of_many(members, smaller, bits, session)
        return best.reshape(rows, self.groups, _FIELDS)

    @staticmethod
    def _of_three(members: RingArray, smaller: BitArray, bits: int, session: Session) -> RingArray:
        """The larger of the first two, then of that and the third, which have met already."""
        first, by_first, by_second = (np.ascontiguousarray(part) for part in smaller.T)
        met = Conjunctions([first | (by_first ^ by_second) << np.uint8(1)], session)
        rode, channel = riding(session, met.message)
        larger = _larger(members[:, 0], members[:, 1], first, bits, rode)
        (changed,) = met.results(channel.theirs)
        return _larger(larger, members[:, 2], by_first ^ changed, bits, session)

    def _of_many(
        self, members: RingArray, smaller: BitArray, bits: int, session: Session
    ) -> RingArray:
        """The first, or who has beaten all others instead; of equal ones the first has."""
        one = np.uint8(session.party is Party.SERVER)
        count, others = len(members), ~np.eye(self.size, dtype=bool)
        wins = np.full((count, self.size, self.size), one, np.uint8)
        i, j = np.triu_indices(self.size, 1)
        wins[:, j, i], wins[:, i, j] = smaller, smaller ^ one
        beaten = wins[:, others].reshape(count, self.size, self.size - 1)[:, 1:]
        won = all_set(beaten.reshape(-1, self.size - 1), session)
        gained = members[:, 1:] - members[:, :1]
        found = select_rows(won, gained.reshape(-1, _FIELDS), session, bits)
        total: RingArray = found.reshape(count, self.size - 1, _FIELDS).sum(1, dtype=np.uint64)
        return members[:, 0] + total


def _larger(
    a: RingArray, b: RingArray, smaller: BitArray, bits: int, session: Session
) -> RingArray:
    """Rows a, or b where a is smaller."""
    return a - select_rows(np.ascontiguousarray(smaller), a - b, session, bits)


@lru_cache(maxsize=64)
def levels(rows: int, columns: int, width: Width, bits: int) -> tuple[Level, ...]:
    """The levels that cost least by `_WEIGHTS`."""
    digits = [0, *(k for k in (1, 2) if width.bits - 1 <= k * LARGEST_DIGIT_BITS)]
    prices = {
        (size, k): _price(size, k, width, bits)
        for size in range(2, LARGEST_GROUP + 1)
        for k in digits
    }
    cheapest: dict[int, tuple[float, tuple[Level, ...]]] = {1: (0.0, ())}

    def found(left: int) -> tuple[float, tuple[Level, ...]]:
        if left not in cheapest:
            ways = []
            for (size, k), (group, round_trips) in prices.items():
                if size > 2 and (size > left or (size > _FEW and left > _MANY)):
                    continue
                level = Level(left, size, k)
                later, path = found(level.groups)
                price = later + rows * level.groups * group + round_trips
                ways.append((price, (level, *path)))
            cheapest[left] = min(ways, key=lambda way: way[0])
        return cheapest[left]

    return found(columns)[1]


def _price(size: int, digits: int, width: Width, bits: int) -> tuple[float, float]:
    """Of one group of a level, and of the level's rounds."""
    cost = Level(_SAMPLE * size, size, digits).cost(1, width, bits)
    transfer, byte, round_trip = _WEIGHTS
    group = (transfer * cost.ots.total + byte * cost.traffic.sent_bytes) / _SAMPLE
    return group, round_trip * cost.traffic.rounds


def placed_tournament_cost(rows: int, columns: int, width: Width, bits: int) -> Cost:
    """Cost of `placed_tournament`."""
    path = levels(rows, columns, width, bits)
    return sum((level.cost(rows, width, bits) for level in path), NO_COST)


def placed_tournament(values: RingArray, width: Width, bits: int, session: Session) -> RingArray:
    """Shares modulo 2^bits of the largest number of each row and its place, (rows, 2).

    values (rows, columns, 2): numbers, of which `width` covers differences and drops nothing, and
    places, of any encoding below 2^bits. Exact; of equal numbers the first.
    """
    rows, columns, _ = values.shape
    for level in levels(rows, columns, width, bits):
        values = level.run(values, width, bits, session)
    best: RingArray = values[:, 0]
    return best
