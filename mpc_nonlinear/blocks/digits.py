"""Digits of two numbers compared by 1-of-2^m OTs: the leaves of a comparison or an equality.

The sender's table for a digit holds what is asked for ("less", "equal" or both) for every digit
the receiver may have.
Its own share is a free choice: it is made so that the masked entry 0 is zero and need not be sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import ceil, log2

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.preprocessing import leaf_kind
from mpc_nonlinear.correlations.random_ots import narrowest
from mpc_nonlinear.cost import Cost, Demand, Kind
from mpc_nonlinear.fixed_point import BitArray, RingArray
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.traffic import Party, Traffic

_LARGEST_DIGIT_BITS = 4


def digit_sizes(bits: int) -> tuple[int, ...]:
    """Bits of each digit, lowest first: as even as can be, a power of two of them, at most 4 bits.

    As few levels above as digits of 4 bits would need, and the shortest tables for these.
    """
    count = 1 << ceil(log2(ceil(bits / _LARGEST_DIGIT_BITS)))
    size, longer = divmod(bits, count)
    return (size + 1,) * longer + (size,) * (count - longer)


class Relation(IntEnum):
    """What a leaf says of the complement of the sender's digit and the receiver's digit."""

    LESS = 1
    EQUAL = 2
    BOTH = 3
    """Less in the lower bit, equal in the upper one."""


@dataclass(frozen=True, slots=True)
class Group:
    """Neighbouring digits of one size: where they start, and what one OT of theirs says."""

    first: int
    count: int
    size: int
    shift: int
    relation: Relation

    @property
    def bits(self) -> int:
        """Of one table entry."""
        return 2 if self.relation is Relation.BOTH else 1

    def kind(self, sender: Party, rows: int) -> Kind:
        """Prepared randomness of one digit."""
        return leaf_kind(self.size, self.bits, sender, rows)

    @property
    def message_bits(self) -> int:
        """All table entries but the first."""
        return self.bits * ((1 << self.size) - 1)


def comparison_groups(bits: int) -> list[Group]:
    """Digits of `bits` bits; the lowest one's "equal" is never read."""
    sizes = digit_sizes(bits)
    return [Group(0, 1, sizes[0], 0, Relation.LESS), *_groups(sizes, 1, Relation.BOTH)]


def equality_groups(bits: int) -> list[Group]:
    """Digits of `bits` bits, all for equality."""
    return _groups(digit_sizes(bits), 0, Relation.EQUAL)


def _groups(sizes: Sequence[int], start: int, relation: Relation) -> list[Group]:
    groups = []
    for size in sorted(set(sizes[start:]), reverse=True):
        first = sizes.index(size, start)
        count = sizes[start:].count(size)
        groups.append(Group(first, count, size, sum(sizes[:first]), relation))
    return groups


def leaves_cost(count: int, rows: int, groups: Sequence[Group], sender: Party) -> Cost:
    """Cost of these digits of `count` numbers (receiver) and `rows` others each (sender)."""
    flips, tables, demand = 0, 0, Demand()
    for group in groups:
        instances = group.count * count
        flips += packed_bytes(instances, group.size)
        tables += packed_bytes(instances * rows, group.message_bits)
        demand += Demand.of(group.kind(sender, rows), instances)
    traffic = Traffic.message(sender.peer, flips) + Traffic.message(sender, tables)
    return Cost.of(traffic, demand)


def digits_of(groups: Sequence[Group]) -> int:
    """How many digits there are."""
    return sum(group.count for group in groups)


def sender_leaves(values: RingArray, groups: Sequence[Group], session: Session) -> BitArray:
    """Shares (rows, digits, n) of each digit's relation: [complement of our digit < peer's digit].

    values: (rows, n). The peer calls `receiver_leaves` with numbers (n,). 2 rounds.
    [Rathee20] eprint 2020/1002, Section 3.1; free entry as in random OT of [Asharov13].
    """
    rows, n = values.shape
    channel = session.channel
    masks = [
        session.prepared.masks_sender(g.kind(session.party, rows), g.count * n) for g in groups
    ]
    data = memoryview(channel.recv(sum(packed_bytes(g.count * n, g.size) for g in groups)))
    leaves = np.empty((rows, digits_of(groups), n), np.uint8)
    messages = []
    at = 0
    for group, words in zip(groups, masks, strict=True):
        size = packed_bytes(group.count * n, group.size)
        flips = unpack_bits(data[at : at + size], group.count * n, group.size, np.uint8)
        at += size
        message = np.empty((group.count * n, rows), narrowest(group.message_bits))
        out = leaves[:, group.first : group.first + group.count]
        layout = (group.shift, group.size, group.bits)
        constants = _tables(group), _swaps(group)
        _send_group(values, layout, *constants, flips, words, message, out)
        messages.append(pack_bits(message, group.message_bits))
    channel.send(b"".join(messages))
    return leaves


def receiver_leaves(
    values: RingArray, rows: int, groups: Sequence[Group], session: Session
) -> BitArray:
    """The receiver's shares (rows, digits, n), see `sender_leaves`. 2 rounds."""
    n = values.size
    channel, sender = session.channel, session.party.peer
    prepared = [session.prepared.masks_receiver(g.kind(sender, rows), g.count * n) for g in groups]
    digits = []
    flips = []
    for group, ots in zip(groups, prepared, strict=True):
        shifts = np.arange(group.count, dtype=np.uint64) * np.uint64(group.size)
        moved = values >> (shifts + np.uint64(group.shift))[:, None]
        digits.append(moved.astype(np.uint8).reshape(-1) & np.uint8((1 << group.size) - 1))
        flips.append(pack_bits(digits[-1] ^ ots.index, group.size))
    channel.send(b"".join(flips))
    sizes_of = [packed_bytes(g.count * n * rows, g.message_bits) for g in groups]
    data = memoryview(channel.recv(sum(sizes_of)))
    leaves = np.empty((rows, digits_of(groups), n), np.uint8)
    at = 0
    for group, ots, own, size in zip(groups, prepared, digits, sizes_of, strict=True):
        dtype = narrowest(group.message_bits)
        entries = group.count * n * rows
        message = unpack_bits(data[at : at + size], entries, group.message_bits, dtype)
        at += size
        out = leaves[:, group.first : group.first + group.count]
        _receive_group(message.reshape(-1, rows), own, ots.mask, np.uint64(group.bits), out)
    return leaves


def _tables(group: Group) -> NDArray[np.uint32]:
    """Packed table for each digit of the sender: slot v says how its complement compares with v."""
    top = (1 << group.size) - 1
    tables = np.zeros(top + 1, np.uint32)
    for digit in range(top + 1):
        for v in range(top + 1):
            less, equal = int(top - digit < v), int(top - digit == v)
            entry = {Relation.LESS: less, Relation.EQUAL: equal}.get(
                group.relation, less | equal << 1
            )
            tables[digit] |= entry << (v * group.bits)
    return tables


def _swaps(group: Group) -> NDArray[np.uint32]:
    """For each bit of a slot's index, the slots that do not have it."""
    slot = (1 << group.bits) - 1
    swaps = np.zeros(group.size, np.uint32)
    for bit in range(group.size):
        for v in range(1 << group.size):
            swaps[bit] |= (0 if v >> bit & 1 else slot) << (v * group.bits)
    return swaps


@njit(cache=True)
def _send_group(  # type: ignore[no-untyped-def]
    values, layout, tables, swaps, flips, masks, message, out
):
    """Mask each table by the words whose slots are moved by the flips; own share: entry 0."""
    shift, size, bits = layout
    rows, count, n = out.shape
    low, slot = np.uint64((1 << size) - 1), np.uint32((1 << bits) - 1)
    # One slot, repeated over all of them.
    repeat = np.uint32(0)
    for v in range(1 << size):
        repeat |= np.uint32(1) << np.uint32(v * bits)
    for j in range(count):
        place = np.uint64(shift + j * size)
        for i in range(n):
            flip = np.uint32(flips[j * n + i])
            for k in range(rows):
                word = np.uint32(masks[j * n + i, k])
                for b in range(size):
                    step, without = np.uint32(bits << b), swaps[b]
                    swapped = ((word >> step) & without) | ((word & without) << step)
                    flipped = np.uint32(0) - (flip >> np.uint32(b) & np.uint32(1))
                    word ^= (word ^ swapped) & flipped
                word ^= tables[(values[k, i] >> place) & low]
                own = word & slot
                out[k, j, i] = own
                message[j * n + i, k] = (word ^ np.uint32(own * repeat)) >> np.uint32(bits)


@njit(cache=True)
def _receive_group(message, digits, masks, bits, out):  # type: ignore[no-untyped-def]
    """Entry digit - 1 of each message, zero for digit 0, and the mask."""
    rows, count, n = out.shape
    slot = (np.uint64(1) << bits) - np.uint64(1)
    for j in range(count):
        for i in range(n):
            at = j * n + i
            shift = np.uint64(digits[at]) * bits
            for k in range(rows):
                # The entry that was not sent comes back as zero.
                entry = ((np.uint64(message[at, k]) << bits) >> shift) & slot
                out[k, j, i] = entry ^ np.uint64(masks[at, k])
