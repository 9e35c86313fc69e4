"""Largest numbers of shared rows: maximum and argmax, by tournaments.

Shares stay modulo 2^b with b just wide enough; a place travels beside its number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.blocks.compare import Width, less_than_zero, less_than_zero_cost
from mpc_nonlinear.blocks.placed_tournament import placed_tournament, placed_tournament_cost
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.blocks.truncate import widen, widen_cost
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from transport.errors import UsageError
from transport.traffic import Party

_Indices = NDArray[np.intp]


def tournament_cost(lengths: _Indices, width: Width, luggage_bits: int = 0) -> Cost:
    """Cost of `tournament` for rows of these lengths."""
    bits = width.ring_bits + luggage_bits
    cost, left = NO_COST, lengths
    while left.size and left.max() > 1:
        pairs = left // 2
        count = int(pairs.sum())
        cost += less_than_zero_cost(count, width) + select_cost(count, bits)
        left = left - pairs
    return cost


def tournament(
    values: RingArray,
    lengths: _Indices,
    width: Width,
    session: Session,
    luggage_bits: int = 0,
) -> RingArray:
    """Shares of the largest of the first `lengths` of each row, of equal ones the first.

    values (rows, columns), result (rows,) modulo 2^(width.ring_bits + luggage_bits). Numbers are
    the low width.ring_bits; the bits above go along. `width` covers differences. Every level may
    miss by the width's slack; what is returned is always one of the numbers. One comparison and
    one selection a level, ceil(log2(longest)) levels; rows of any lengths share them. [Rathee20].
    """
    left, bits = lengths, width.ring_bits + luggage_bits
    while left.size and left.max() > 1:
        pairs = left // 2
        row, column = np.nonzero(np.arange(values.shape[1]) < pairs[:, None])
        a, b = values[row, 2 * column], values[row, 2 * column + 1]
        smaller = less_than_zero(a - b, width, session)
        following = np.zeros((len(left), int((left - pairs).max())), np.uint64)
        # max(a, b) = a - [a < b] (a - b)
        following[row, column] = a - select(smaller, a - b, session, bits)
        odd = np.flatnonzero(left % 2)
        following[odd, pairs[odd]] = values[odd, 2 * pairs[odd]]
        values, left = following, left - pairs
    first: RingArray = values[:, 0]
    return first


def maximum_cost(rows: int, columns: int, width: Width) -> Cost:
    """Cost of `maximum`."""
    if columns == 1:
        return NO_COST
    return tournament_cost(np.full(rows, columns), width) + widened_cost(rows, width.ring_bits)


def maximum(x: RingArray, width: Width, session: Session) -> RingArray:
    """Shares of the largest number along the last axis, (...,); see `tournament`.

    `width` covers twice every |x| and differences.
    """
    columns = x.shape[-1]
    if columns == 1:
        return x[..., 0]
    flat = x.reshape(-1, columns)
    highest = tournament(flat, np.full(len(flat), columns), width, session)
    return widened(highest, width.ring_bits, session).reshape(x.shape[:-1])


def widened_cost(count: int, bits: int) -> Cost:
    """Cost of `widened`."""
    return widen_cost(count, bits) if bits < RING_BITS else NO_COST


def widened(x: RingArray, bits: int, session: Session) -> RingArray:
    """Shares modulo 2^64 of x, |x| < 2^(bits - 2), from shares modulo 2^bits; same shape."""
    return widen(x, bits, session) if bits < RING_BITS else x


@dataclass(frozen=True, slots=True)
class _Placed:
    """Numbers and, beside them, their places in a row, less the middle one."""

    columns: int
    max_abs_units: int
    """Of values."""

    def __post_init__(self) -> None:
        if self.max_abs_units < 0 or self.width.bits > RING_BITS - 2:
            raise UsageError(
                f"argmax of numbers up to {self.max_abs_units} units: differences must fit "
                f"{RING_BITS - 2} bits with their sign; lower the bound"
            )

    @property
    def width(self) -> Width:
        """Exact comparison of two numbers."""
        return Width.exact(max(1, 2 * self.max_abs_units))

    @property
    def bits(self) -> int:
        """Of numbers and places, with room to widen both."""
        largest = max(self.max_abs_units, self.columns // 2)
        return max(self.width.bits, largest.bit_length() + 2)

    def cost(self, rows: int) -> Cost:
        """Cost of `argmax`."""
        tree = placed_tournament_cost(rows, self.columns, self.width, self.bits)
        return tree + widened_cost(2 * rows, self.bits)

    def run(self, x: RingArray, session: Session) -> tuple[RingArray, RingArray]:
        """Largest number and its place of rows (rows, columns)."""
        middle = np.uint64(self.columns // 2)
        places = np.zeros(x.shape, np.uint64)
        if session.party is Party.SERVER:
            places += np.arange(self.columns, dtype=np.uint64) - middle
        both = np.stack([x, places], axis=-1)
        best = placed_tournament(both, self.width, self.bits, session)
        value, place = widened(best, self.bits, session).T
        return value, place + middle if session.party is Party.SERVER else place


def argmax_cost(rows: int, columns: int, max_abs_units: int) -> Cost:
    """Cost of `argmax`."""
    if columns == 1 or not rows:
        return NO_COST
    return _Placed(columns, max_abs_units).cost(rows)


def argmax(x: RingArray, max_abs_units: int, session: Session) -> tuple[RingArray, RingArray]:
    """Shares of the largest number along the last axis and of its place, (...,) each.

    For |x| <= max_abs_units. Exact; of equal numbers the first, as numpy does. Places are
    integers, not fixed-point. See `placed_tournament`.
    """
    columns = x.shape[-1]
    if columns == 1 or not x.size:
        return x[..., 0], np.zeros(x.shape[:-1], np.uint64)
    placed = _Placed(columns, max_abs_units)
    value, place = placed.run(x.reshape(-1, columns), session)
    return value.reshape(x.shape[:-1]), place.reshape(x.shape[:-1])
