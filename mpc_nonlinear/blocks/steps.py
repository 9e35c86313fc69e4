"""Comparisons of a number in coarse steps with many public thresholds, in two digits and one pass.

Both parties cut their shares, so the number of steps is off by one; thresholds are whole steps.
Those that are equal modulo the lower digit share its table and what is carried out of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numba import njit

from mpc_nonlinear.blocks.bit_triples import Conjunctions, conjunctions_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.preprocessing import leaf_kind
from mpc_nonlinear.correlations.random_ots import narrowest
from mpc_nonlinear.cost import Cost, Demand, Kind
from mpc_nonlinear.fixed_point import BitArray, RingArray
from transport.bitpack import low_mask, pack_bits, packed_bytes, unpack_bits
from transport.errors import UsageError
from transport.traffic import Party, Traffic

MAX_DIGIT_BITS = 6
"""A table is one word: a bit for every digit of the receiver."""
_MAX_SHARED = 3
"""Bits by which one conjunction takes what is carried."""


@dataclass(frozen=True)
class Steps:
    """Thresholds in whole steps, and the bits of both digits.

    Numbers of steps differ from thresholds by less than 2^(low + high), in either direction.
    """

    thresholds: tuple[int, ...]
    low: int
    high: int

    def __post_init__(self) -> None:
        if not all(1 <= bits <= MAX_DIGIT_BITS for bits in (self.low, self.high)):
            raise UsageError(
                f"steps: digits of {self.low} and {self.high} bits; use 1 to {MAX_DIGIT_BITS}"
            )

    @cached_property
    def classes(self) -> list[list[int]]:
        """Places of the thresholds that are equal modulo the lower digit."""
        found: dict[int, list[int]] = {}
        for place, threshold in enumerate(self.thresholds):
            found.setdefault(threshold % (1 << self.low), []).append(place)
        return list(found.values())

    @cached_property
    def shared(self) -> list[list[tuple[int, list[int]]]]:
        """Conjunctions by one, two and three bits: class and places of each."""
        found: list[list[tuple[int, list[int]]]] = [[] for _ in range(_MAX_SHARED)]
        for number, places in enumerate(self.classes):
            for start in range(0, len(places), _MAX_SHARED):
                part = places[start : start + _MAX_SHARED]
                found[len(part) - 1].append((number, part))
        return found

    @property
    def kinds(self) -> tuple[Kind, Kind]:
        """Of the tables of a number: less, a class; less and equal, a threshold."""
        lower = leaf_kind(self.low, 1, Party.SERVER, len(self.classes))
        return lower, leaf_kind(self.high, 1, Party.SERVER, 2 * len(self.thresholds))

    def message_bytes(self, count: int) -> tuple[int, int]:
        """Of both digits' tables for `count` numbers: all entries but the first."""
        sizes = ((1 << kind.choice_bits) - 1 for kind in self.kinds)
        low, high = (
            packed_bytes(count * kind.width, size)
            for kind, size in zip(self.kinds, sizes, strict=True)
        )
        return low, high

    def cost(self, count: int) -> Cost:
        """Of `SteppedComparison`: 2 rounds, and a message that rides."""
        flips = sum(packed_bytes(count, kind.choice_bits) for kind in self.kinds)
        tables = Traffic.message(Party.SERVER, sum(self.message_bytes(count)))
        demand = sum((Demand.of(kind, count) for kind in self.kinds), Demand())
        carried = conjunctions_cost([count * len(parts) for parts in self.shared])
        return Cost.of(Traffic.message(Party.CLIENT, flips) + tables, demand) + carried


class SteppedComparison:
    """Shares of [x < threshold] for every threshold, (thresholds, n).

    x (n,): shares of numbers of steps over the integers. 2 rounds; then `message` goes to the peer
    in any frame of the next one, and `results` takes the peer's. Exact. Leaves of [Rathee20] eprint
    2020/1002, Section 3.1, with the free entry of [Asharov13].
    """

    def __init__(self, x: RingArray, steps: Steps, session: Session) -> None:
        session.channel.next_round()
        self._steps, self._count = steps, x.size
        values = x[None]
        if session.party is Party.SERVER:
            thresholds = np.array(steps.thresholds, np.int64).view(np.uint64)
            values = values - thresholds[:, None]
        bits = np.uint64(steps.low + steps.high)
        sign = (values >> bits).astype(np.uint8) & np.uint8(1)
        low = values & low_mask(steps.low)
        high = values >> np.uint64(steps.low) & low_mask(steps.high)
        if session.party is Party.SERVER:
            low = low[[places[0] for places in steps.classes]]
            carried, found = _send([low], [high, high], steps, session)
        else:
            carried, found = _receive(low[0], high[0], steps, session)
        less, equal = found[: len(steps.thresholds)], found[len(steps.thresholds) :]
        self._less = less ^ sign
        self._conjunctions = Conjunctions(
            [self._operands(parts, carried, equal) for parts in steps.shared], session
        )

    @property
    def message(self) -> bytes:
        """To the peer."""
        return self._conjunctions.message

    def results(self, data: bytes) -> BitArray:
        """With the peer's message: what the lower digit carries counts where the upper is full."""
        out = self._less.copy()
        found = self._conjunctions.results(data)
        for parts, results in zip(self._steps.shared, found, strict=True):
            for (_, places), bits in zip(
                parts, results.reshape(len(parts), self._count), strict=True
            ):
                for k, place in enumerate(places):
                    out[place] ^= bits >> np.uint8(k) & np.uint8(1)
        return out

    @staticmethod
    def _operands(
        parts: list[tuple[int, list[int]]], carried: BitArray, equal: BitArray
    ) -> BitArray:
        """Of conjunctions of one size: carried | equal << 1 | ..., flat."""
        out = np.empty((len(parts), carried.shape[1]), np.uint8)
        for row, (number, places) in zip(out, parts, strict=True):
            row[:] = carried[number]
            for k, place in enumerate(places, 1):
                row |= equal[place] << np.uint8(k)
        return out.reshape(-1)


def _send(
    low: list[RingArray], high: list[RingArray], steps: Steps, session: Session
) -> tuple[BitArray, BitArray]:
    """The server's shares: less of the lower digits; less, then equal, of the upper ones."""
    count = low[0].shape[1]
    masks = [session.prepared.masks_sender(kind, count) for kind in steps.kinds]
    sizes = [packed_bytes(count, kind.choice_bits) for kind in steps.kinds]
    data = memoryview(session.channel.recv(sum(sizes)))
    found, messages = [], []
    for digits, kind, words, part in zip(
        (low, high), steps.kinds, masks, (data[: sizes[0]], data[sizes[0] :]), strict=True
    ):
        flips = unpack_bits(part, count, kind.choice_bits, np.uint8)
        message = np.empty((count, kind.width), narrowest((1 << kind.choice_bits) - 1))
        out, rows = np.empty((kind.width, count), np.uint8), len(digits[0])
        for equal, own in enumerate(digits):
            there = slice(equal * rows, (equal + 1) * rows)
            sizes_of = np.uint64(kind.choice_bits), np.uint64(equal)
            _mask(own, *sizes_of, flips, words[:, there], message[:, there], out[there])
        found.append(out)
        messages.append(pack_bits(message, (1 << kind.choice_bits) - 1))
    session.channel.send(b"".join(messages))
    return found[0], found[1]


def _receive(
    low: RingArray, high: RingArray, steps: Steps, session: Session
) -> tuple[BitArray, BitArray]:
    """The client's shares of the same."""
    count, digits = low.size, (low.astype(np.uint8), high.astype(np.uint8))
    prepared = [session.prepared.masks_receiver(kind, count) for kind in steps.kinds]
    session.channel.send(
        b"".join(
            pack_bits(own ^ ots.index, kind.choice_bits)
            for own, ots, kind in zip(digits, prepared, steps.kinds, strict=True)
        )
    )
    sizes = steps.message_bytes(count)
    data = memoryview(session.channel.recv(sum(sizes)))
    found = []
    for own, ots, kind, part in zip(
        digits, prepared, steps.kinds, (data[: sizes[0]], data[sizes[0] :]), strict=True
    ):
        entries = (1 << kind.choice_bits) - 1
        message = unpack_bits(part, count * kind.width, entries, narrowest(entries))
        out = np.empty((kind.width, count), np.uint8)
        _unmask(message.reshape(count, kind.width), own, ots.mask, out)
        found.append(out)
    return found[0], found[1]


@njit(cache=True)
def _mask(values, size, equal, flips, masks, message, out):  # type: ignore[no-untyped-def]
    """Tables (rows, n) of digits, masked by words whose bits the flips move; own share: entry 0."""
    swaps = np.array(
        [0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x00FF00FF00FF00FF,
         0x0000FFFF0000FFFF, 0x00000000FFFFFFFF], np.uint64,
    )  # fmt: skip
    one, all_ones = np.uint64(1), ~np.uint64(0)
    top = (one << size) - one
    for i in range(out.shape[1]):
        flip = np.uint64(flips[i])
        for k in range(out.shape[0]):
            word = np.uint64(masks[i, k])
            for b in range(np.int64(size)):
                step, low = one << np.uint64(b), swaps[b]
                swapped = ((word >> step) & low) | ((word & low) << step)
                word ^= (word ^ swapped) & (np.uint64(0) - (flip >> np.uint64(b) & one))
            complement = top - values[k, i]
            # Entries above the complement are less; the complement itself is equal.
            table = (one << complement) if equal else (all_ones << complement) ^ (one << complement)
            word ^= table
            own = word & one
            out[k, i] = own
            message[i, k] = (word ^ (np.uint64(0) - own)) >> one


@njit(cache=True)
def _unmask(message, digits, masks, out):  # type: ignore[no-untyped-def]
    """Entry digit - 1 of each message, zero for digit 0, and the mask."""
    one = np.uint64(1)
    for i in range(out.shape[1]):
        shift = np.uint64(digits[i])
        for k in range(out.shape[0]):
            # The entry that was not sent comes back as zero.
            entry = ((np.uint64(message[i, k]) << one) >> shift) & one
            out[k, i] = entry ^ np.uint64(masks[i, k])
