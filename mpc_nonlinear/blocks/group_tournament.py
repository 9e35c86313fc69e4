"""Largest numbers of shared rows in few rounds: groups of up to nine meet at once.

Everybody is compared with everybody of a group, in one pass; who has beaten all others is found by
one table, and selected. Fewer levels than pairs take, for more comparisons.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.blocks.compare import (
    Width,
    comparison_moves,
    less_than_zero,
    less_than_zero_cost,
)
from mpc_nonlinear.blocks.flow import Flow, Move, question
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.blocks.wide_digits import (
    LARGEST_DIGIT_BITS,
    equal_tables,
    wide_leaves_cost,
    wide_receivers,
    wide_senders,
)
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import BitArray, RingArray
from transport.errors import UsageError
from transport.traffic import Party

_FEW = 512
"""Comparisons of a level, at most, that take one digit: 16 kB for two rounds."""
LARGEST_GROUP = LARGEST_DIGIT_BITS + 1
"""Members of a group: as many results as one table's index has bits, and one more."""

_Indices = NDArray[np.intp]


def even_groups(longest: int) -> list[int]:
    """Sizes of the groups of each level, as few levels as can be, as even as can be."""
    levels = 0
    while LARGEST_GROUP**levels < longest:
        levels += 1
    sizes = []
    for left in range(levels, 0, -1):
        size = 2
        while size**left < longest:
            size += 1
        sizes.append(size)
        longest = ceil(longest / size)
    return sizes


def fewest_meetings(longest: int) -> list[int]:
    """Sizes of the groups of each level, as few levels as can be, with the fewest comparisons."""
    even = even_groups(longest)
    if len(even) != 2:
        return even
    choices = [[size, -(-longest // size)] for size in range(2, LARGEST_GROUP + 1)]
    return min((c for c in choices if c[1] <= LARGEST_GROUP), key=lambda c: _meetings(longest, *c))


def _meetings(longest: int, first: int, second: int) -> int:
    """Comparisons of two levels."""
    whole, rest = divmod(longest, first)
    return sum(n * (n - 1) for n in [first] * whole + [rest, second])


@dataclass(frozen=True)
class _Level:
    """Groups of one level: members are columns of (rows, columns)."""

    size: int
    lengths: _Indices
    """Of each row, before the level."""
    index: int

    @property
    def left(self) -> _Indices:
        """Groups of each row."""
        found: _Indices = -(-self.lengths // self.size)
        return found

    @cached_property
    def members(self) -> tuple[_Indices, _Indices]:
        """Row of each group, and how many members it has."""
        row = np.repeat(np.arange(len(self.lengths)), self.left)
        place = np.concatenate([np.arange(n) for n in self.left])
        return row, np.minimum(self.size, self.lengths[row] - place * self.size)

    @property
    def pairs(self) -> int:
        """Comparisons."""
        counts = self.members[1]
        return int((counts * (counts - 1) // 2).sum())

    @property
    def others(self) -> int:
        """Members that are not their group's first."""
        return int((self.members[1] - 1).sum())

    def after(self, flow: Flow, width: Width, bits: int) -> Flow:
        """`flow`, and `run` after it."""
        compared = self._compared(width)
        asker = self._asker(compared)
        compare = less_than_zero_cost(self.pairs, compared, asker)
        flow = flow.then(compare, *comparison_moves(compared, asker))
        if self.size > 2:
            leaves = all_set_cost(self.others, self.size - 1, asker.peer)
            flow = flow.then(leaves, *question(asker.peer))
        return flow.then(select_cost(self.others, bits), Move.BOTH)

    def _asker(self, compared: Width) -> Party:
        """Who asks in the comparison; then the other one does, and in the next level first."""
        return Party(self.index % 2) if compared.digits else Party.CLIENT

    def run(self, values: RingArray, width: Width, bits: int, session: Session) -> RingArray:
        """The largest of each group, (rows, groups)."""
        row, counts = self.members
        starts = np.concatenate([np.arange(n) for n in self.left]) * self.size
        columns = np.minimum(starts[:, None] + np.arange(self.size), values.shape[1] - 1)
        groups = values[row[:, None], columns]
        first, second = np.triu_indices(self.size, 1)
        meets = np.nonzero(second < counts[:, None])
        i, j = first[meets[1]], second[meets[1]]
        differences = groups[meets[0], i] - groups[meets[0], j]
        compared = self._compared(width)
        asker = self._asker(compared)
        smaller = less_than_zero(differences, compared, session, asker)
        group, member = np.nonzero((np.arange(self.size) < counts[:, None])[:, 1:])
        wins = self._wins(smaller, (meets[0], i, j), len(groups), session)[group, member + 1]
        won = np.ascontiguousarray(wins[:, 0])
        if self.size > 2:
            won = all_set(wins, session, asker.peer)
        # The first, or who has beaten all others instead.
        differences = groups[group, member + 1] - groups[group, 0]
        gained = np.zeros(groups.shape, np.uint64)
        gained[group, member + 1] = select(won, differences, session, bits)
        best = groups[:, 0] + gained.sum(axis=1, dtype=np.uint64)
        out = np.zeros((len(self.lengths), int(self.left.max())), np.uint64)
        out[row, starts // self.size] = best
        return out

    def _compared(self, width: Width) -> Width:
        """In one digit where few are compared and one holds all: fewer rounds for more bytes."""
        short = width.digits or width.bits - 1 > LARGEST_DIGIT_BITS or self.pairs > _FEW
        return width if short else replace(width, digits=1)

    def _wins(
        self, smaller: BitArray, meets: tuple[_Indices, ...], groups: int, session: Session
    ) -> BitArray:
        """Shares of who beats whom (groups, members, others), one where there is nobody."""
        one = np.uint8(session.party is Party.SERVER)
        wins = np.full((groups, self.size, self.size), one, np.uint8)
        group, i, j = meets
        wins[group, j, i] = smaller
        wins[group, i, j] = smaller ^ one
        others = ~np.eye(self.size, dtype=bool)
        return wins[:, others].reshape(groups, self.size, self.size - 1)


def all_set_cost(count: int, bits: int, asker: Party = Party.CLIENT) -> Cost:
    """Cost of `all_set` for rows of so many bits."""
    return wide_leaves_cost(count, [(bits, 1)], asker.peer)


def all_set(bits: BitArray, session: Session, asker: Party = Party.CLIENT) -> BitArray:
    """Shares of the conjunction of all bits (n, m) of a row, (n,). 2 rounds."""
    count = bits.shape[1]
    digits = (bits.astype(np.uint64) << np.arange(count, dtype=np.uint64)).sum(1, dtype=np.uint64)
    session.channel.next_round()
    if session.party is not asker:
        # All are set where the asker's digit is the complement of ours.
        tables = equal_tables(digits, count)[:, None]
        (found,) = wide_senders([tables], [count], session)
    else:
        (found,) = wide_receivers([(digits.astype(np.uint8), count)], [1], session)
    return np.ascontiguousarray(found[:, 0])


def _levels(lengths: _Indices, sizes: list[int]) -> Iterator[_Level]:
    for index, size in enumerate(sizes):
        if not 2 <= size <= LARGEST_GROUP:
            raise UsageError(f"tournament in groups of {size}; use 2 to {LARGEST_GROUP}")
        level = _Level(size, lengths, index)
        yield level
        lengths = level.left
    if lengths.size and lengths.max() > 1:
        raise UsageError(f"tournament: groups of {sizes} leave {lengths.max()} numbers in a row")


def group_tournament_cost(
    lengths: _Indices, sizes: list[int], width: Width, luggage_bits: int = 0
) -> Cost:
    """Cost of `group_tournament` for rows of these lengths."""
    if not lengths.size:
        return NO_COST
    bits = width.ring_bits + luggage_bits
    # Each of its protocols begins in step.
    costs = (level.after(Flow(), width, bits).cost for level in _levels(lengths, sizes))
    return sum(costs, NO_COST)


def group_tournament_flow(
    flow: Flow, lengths: _Indices, sizes: list[int], width: Width, luggage_bits: int = 0
) -> Flow:
    """`flow`, and `group_tournament` after it: 3 rounds a level in long digits, and one more."""
    for level in _levels(lengths, sizes):
        flow = level.after(flow, width, width.ring_bits + luggage_bits)
    return flow


def group_tournament(
    values: RingArray,
    lengths: _Indices,
    sizes: list[int],
    width: Width,
    session: Session,
    luggage_bits: int = 0,
) -> RingArray:
    """Shares of the largest of the first `lengths` of each row, of equal ones the first.

    values (rows, columns), result (rows,) modulo 2^(width.ring_bits + luggage_bits), the numbers in
    the low width.ring_bits, as of `extrema.tournament`. `width` covers differences and drops
    nothing: with inexact comparisons a group might have no winner. sizes: of groups, level by
    level. A level takes a comparison, a table of 2 rounds and a selection.
    """
    if width.dropped:
        raise UsageError("tournament in groups: comparisons must be exact; drop bits before")
    bits = width.ring_bits + luggage_bits
    for level in _levels(lengths, sizes):
        values = level.run(values, width, bits, session)
    first: RingArray = values[:, 0]
    return first
