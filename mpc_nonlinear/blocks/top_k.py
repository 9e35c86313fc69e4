"""The k largest of shared rows, in order or as a mask.

For the order numbers are compared as keys: the number above its place in the row, so that no two
are equal and the winner carries its place along.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from mpc_nonlinear.blocks.bit_triples import and_bits, and_cost, ands, ands_cost
from mpc_nonlinear.blocks.compare import Width, less_than_zero, less_than_zero_cost
from mpc_nonlinear.blocks.lookup import split, split_cost
from mpc_nonlinear.blocks.relations import to_bits, to_bits_cost
from mpc_nonlinear.blocks.select import (
    bit_to_arithmetic,
    bit_to_arithmetic_cost,
    select,
    select_cost,
)
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.blocks.truncate import widen, widen_cost
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RING_BITS, BitArray, RingArray
from transport.errors import UsageError
from transport.traffic import Party


@dataclass(frozen=True, slots=True)
class _Keys:
    """Numbers above their places in a row: value * 2^place_bits + (columns - 1 - place).

    All keys of a row differ; of equal numbers the first has the largest key.
    """

    columns: int
    max_abs_units: int
    """Of values."""

    def __post_init__(self) -> None:
        if self.columns < 1 or self.max_abs_units < 0 or self._bits > RING_BITS - 2:
            raise UsageError(
                f"rows of {self.columns} numbers up to {self.max_abs_units} units: number and "
                f"place must fit {RING_BITS - 3} bits together; lower the bound"
            )

    @property
    def place_bits(self) -> int:
        """Bits of a place."""
        return max(1, (self.columns - 1).bit_length())

    @property
    def width(self) -> Width:
        """Exact comparison of two keys; one bit more, so that a key alone can be widened."""
        return Width(self._bits, 0)

    @property
    def _bits(self) -> int:
        largest = (2 * self.max_abs_units + 1) << self.place_bits
        return largest.bit_length() + 1

    def join(self, x: RingArray, session: Session) -> RingArray:
        """Shares of the keys of rows (..., columns)."""
        keys = x << np.uint64(self.place_bits)
        if session.party is Party.SERVER:
            keys += np.arange(self.columns - 1, -1, -1).astype(np.uint64)
        return keys

    def split_cost(self, count: int) -> Cost:
        """Cost of `split`."""
        bits = self.width.ring_bits
        values = widen_cost(count, RING_BITS - self.place_bits)
        return widen_cost(count, bits) + split_cost(count, self.place_bits) + values

    def split(self, keys: RingArray, session: Session) -> tuple[RingArray, RingArray]:
        """Shares modulo 2^64 of value and place, from keys modulo 2^width.ring_bits."""
        whole = widen(keys, self.width.ring_bits, session)
        high, low = split(whole, self.place_bits, session)
        place = np.uint64(0) - low
        if session.party is Party.SERVER:
            place = place + np.uint64(self.columns - 1)
        return widen(high, RING_BITS - self.place_bits, session), place


def top_k_cost(rows: int, columns: int, k: int, max_abs_units: int) -> Cost:
    """Cost of `top_k`."""
    keys, network = _Keys(columns, max_abs_units), _Network.of(columns, k)
    cost = NO_COST
    for count in network.layers():
        cost += less_than_zero_cost(rows * count, keys.width)
        cost += select_cost(rows * count, keys.width.ring_bits)
    return cost + keys.split_cost(rows * k) if rows else NO_COST


def top_k(
    x: RingArray, k: int, max_abs_units: int, session: Session
) -> tuple[RingArray, RingArray]:
    """Shares of the k largest numbers along the last axis, descending, and of their places.

    (..., k) each, 1 <= k <= columns, |x| <= max_abs_units. Exact; of equal numbers the first.
    Blocks of k are sorted, then pairs of blocks keep their upper half: bitonic networks of
    [Batcher68].
    (log2 k) (log2 k + 1) / 2 + (1 + log2 k) log2(columns / k) layers of a comparison and a
    selection, sizes rounded up.
    """
    columns = x.shape[-1]
    keys, network = _Keys(columns, max_abs_units), _Network.of(columns, k)
    shape = (*x.shape[:-1], k)
    flat = keys.join(x.reshape(-1, columns), session)
    if not flat.size:
        return np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
    best = network.run(flat, keys, session)[:, :k]
    value, place = keys.split(np.ascontiguousarray(best), session)
    return value.reshape(shape), place.reshape(shape)


@dataclass(frozen=True, slots=True)
class _Network:
    """Blocks of a power of two, sorted descending, then merged two by two.

    The last block is filled with the smallest key there can be.
    """

    size: int
    """Of a block."""
    blocks: int

    @classmethod
    def of(cls, columns: int, k: int) -> _Network:
        if not 1 <= k <= columns:
            raise UsageError(f"top-k of {columns} numbers: k is {k}; use 1 to {columns}")
        size = 1 << (k - 1).bit_length()
        return cls(size, ceil(columns / size))

    def layers(self) -> list[int]:
        """Comparators of each layer."""
        half, levels = self.size // 2, self.size.bit_length() - 1
        layers = [self.blocks * half] * (levels * (levels + 1) // 2)
        blocks = self.blocks
        while blocks > 1:
            pairs = blocks // 2
            layers += [pairs * self.size] + [pairs * half] * levels
            blocks -= pairs
        return layers

    def run(self, keys: RingArray, rules: _Keys, session: Session) -> RingArray:
        """The `size` largest keys of each row, descending, (rows, size)."""
        rows, columns = keys.shape
        # Below every real key, and within what differences may be.
        lowest = -(rules.max_abs_units << rules.place_bits) % 2**RING_BITS
        own = lowest if session.party is Party.SERVER else 0
        padded = np.full((rows, self.blocks * self.size), own, np.uint64)
        padded[:, :columns] = keys
        x = padded.reshape(rows, self.blocks, self.size)
        x = self._sorted(x, rules.width, session)
        while x.shape[1] > 1:
            pairs = x.shape[1] // 2
            # The larger of mirrored places: the upper half of both, as a bitonic run.
            a, b = x[:, :pairs], x[:, pairs : 2 * pairs, ::-1]
            smaller = less_than_zero(a - b, rules.width, session)
            kept = a - select(smaller, a - b, session, rules.width.ring_bits)
            merged = self._merged(kept, self.size, rules.width, session)
            x = np.concatenate([merged, x[:, 2 * pairs :]], axis=1)
        return x[:, 0]

    def _sorted(self, x: RingArray, width: Width, session: Session) -> RingArray:
        """Each block descending."""
        run = 2
        while run <= self.size:
            x = self._bitonic(x, run, width, session)
            run *= 2
        return x

    def _bitonic(self, x: RingArray, run: int, width: Width, session: Session) -> RingArray:
        """Runs of half the length, each descending, to runs of `run`, each descending."""
        halves = x.reshape(*x.shape[:2], -1, 2, run // 2)
        # Descending then ascending is bitonic.
        turned = np.concatenate([halves[..., 0, :], halves[..., 1, ::-1]], axis=-1)
        return self._merged(turned.reshape(x.shape), run, width, session)

    @staticmethod
    def _merged(x: RingArray, run: int, width: Width, session: Session) -> RingArray:
        """Bitonic runs to descending ones."""
        step = run // 2
        while step:
            pairs = x.reshape(*x.shape[:2], -1, 2, step)
            a, b = pairs[..., 0, :], pairs[..., 1, :]
            smaller = less_than_zero(np.ascontiguousarray(a - b), width, session)
            moved = select(smaller, np.ascontiguousarray(a - b), session, width.ring_bits)
            x = np.stack([a - moved, b + moved], axis=-2).reshape(x.shape)
            step //= 2
        return x


# -- membership of the k largest -----------------------------------------------------------


def top_k_mask_cost(rows: int, columns: int, k: int, bits: int) -> Cost:
    """Cost of `top_k_mask`."""
    _check_mask(columns, k, bits)
    n, count_bits = rows * columns, _count_bits(columns)
    if not n:
        return NO_COST
    level = (
        bit_to_arithmetic_cost(n, count_bits)
        + less_than_zero_cost(rows, Width(count_bits, 0))
        + ands_cost(0, n)
        + select_cost(rows, count_bits)
    )
    return to_bits_cost(n, bits) + level * bits + and_cost(n) * (bits - 1)


def top_k_mask(x: RingArray, k: int, bits: int, session: Session) -> BitArray:
    """Boolean shares of [x is among the k largest along the last axis], same shape.

    For |x| < 2^(bits - 1) units. Exact; numbers equal to the k-th largest all belong, as in the
    filters of language models. The k-th largest is found bit by bit from the top, with the count
    of those that agree with it so far ([Blum73] selection on a radix). About 4 + log2(columns) / 4
    rounds a bit.
    """
    columns = x.shape[-1]
    _check_mask(columns, k, bits)
    flat = x.reshape(-1, columns)
    if not flat.size:
        return np.zeros(x.shape, np.uint8)
    server = session.party is Party.SERVER
    raised = flat + np.uint64(1 << (bits - 1)) if server else flat
    digits = to_bits(raised, bits, session)
    count_bits = _count_bits(columns)
    width = Width(count_bits, 0)
    # Numbers above the k-th so far; those that agree with it; how many of these belong.
    chosen = np.zeros(flat.shape, np.uint8)
    active = np.full(flat.shape, int(server), np.uint8)
    wanted = np.full(len(flat), k if server else 0, np.uint64)
    for level in range(bits - 1, -1, -1):
        ones = digits[level] if level == bits - 1 else and_bits(active, digits[level], session)
        count = bit_to_arithmetic(ones, session, count_bits).sum(axis=1, dtype=np.uint64)
        fewer = less_than_zero(count - wanted, width, session)
        # Fewer ones than wanted: all of them belong, and the k-th has a zero here.
        spread = np.broadcast_to(fewer[:, None], flat.shape)
        packed = spread | active << np.uint8(1) | ones << np.uint8(2)
        _, both = ands(np.zeros(0, np.uint8), packed.reshape(-1), session)
        both = both.reshape(flat.shape)
        chosen = chosen ^ both >> np.uint8(1)
        active = ones ^ both & np.uint8(1)
        wanted = wanted - select(fewer, count, session, count_bits)
    mask: BitArray = (chosen ^ active).reshape(x.shape)
    return mask


def _count_bits(columns: int) -> int:
    return columns.bit_length() + 2


def _check_mask(columns: int, k: int, bits: int) -> None:
    if not 1 <= k <= columns:
        raise UsageError(f"top-k of {columns} numbers: k is {k}; use 1 to {columns}")
    if not 1 <= bits <= RING_BITS:
        raise UsageError(f"top-k of numbers of {bits} bits; use 1 to {RING_BITS}")
