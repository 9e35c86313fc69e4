"""Digits of six to eight bits compared by 1-of-64 to 1-of-256 OTs of single bits.

Comparisons of few numbers take fewer rounds with longer tables: a whole number is one digit or two.
The table of a digit is a row of bits, one for every digit that the receiver may have; the sender's
share is drawn, and every bit of the table is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.preprocessing import leaf_kind
from mpc_nonlinear.cost import NO_COST, Cost, Demand
from mpc_nonlinear.fixed_point import BitArray, RingArray
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.errors import UsageError
from transport.traffic import Party, Traffic

_WORD_BITS = 6
"""Of an index into a word: shorter digits take a table of one word too."""
LARGEST_DIGIT_BITS = 8


def wide_digit_bits(bits: int) -> int:
    """Index bits of the table of a digit of so many bits."""
    if not 1 <= bits <= LARGEST_DIGIT_BITS:
        raise UsageError(f"digits of {bits} bits; use 1 to {LARGEST_DIGIT_BITS}")
    return max(_WORD_BITS, bits)


def wide_leaves_cost(count: int, digits: Sequence[tuple[int, int]], sender: Party) -> Cost:
    """Cost of `wide_senders` with its receiver: `count` numbers, (bits, tables) of each digit.

    2 rounds.
    """
    if not count:
        return NO_COST
    flips, sent, demand = 0, 0, Demand()
    for bits, tables in digits:
        size = wide_digit_bits(bits)
        flips += packed_bytes(count, size)
        sent += count * tables << (size - 3)
        demand += Demand.of(leaf_kind(size, 1, sender, tables), count)
    return Cost.of(Traffic.message(sender.peer, flips) + Traffic.message(sender, sent), demand)


def less_tables(digits: RingArray, bits: int) -> RingArray:
    """For sender's digits (...): bit v says [complement of the digit < v]; (..., words)."""
    found: RingArray = _tables(bits)[0][digits]
    return found


def equal_tables(digits: RingArray, bits: int) -> RingArray:
    """For sender's digits (...): bit v says [complement of the digit = v]; (..., words)."""
    found: RingArray = _tables(bits)[1][digits]
    return found


@lru_cache
def _tables(bits: int) -> tuple[RingArray, RingArray]:
    """Of every digit of the sender, (digits, words): what is less, what is equal."""
    v = np.arange(1 << wide_digit_bits(bits))
    complement = (1 << bits) - 1 - np.arange(1 << bits)[:, None]
    less, equal = (
        np.packbits(relation, axis=1, bitorder="little").view(np.uint64)
        for relation in (v > complement, v == complement)
    )
    return less, equal


def wide_senders(
    tables: Sequence[RingArray], bits: Sequence[int], session: Session
) -> list[BitArray]:
    """For every digit shares (count, tables) of the bits of its tables at the peer's digits.

    tables: (count, tables, words) of digits of so many bits. The peer calls `wide_receivers`. 2
    rounds. Each share is a fresh bit that inverts a whole table. After [Naor-Pinkas 99], with the
    tables of [Rathee20] eprint 2020/1002, Section 3.1.
    """
    channel, count = session.channel, len(tables[0])
    sizes = [wide_digit_bits(size) for size in bits]
    masks = [
        session.prepared.masks_sender(leaf_kind(size, 1, session.party, rows.shape[1]), count)
        for rows, size in zip(tables, sizes, strict=True)
    ]
    data = memoryview(channel.recv(sum(packed_bytes(count, size) for size in sizes)))
    found, messages, at = [], [], 0
    for rows, size, mask in zip(tables, sizes, masks, strict=True):
        end = at + packed_bytes(count, size)
        flips = unpack_bits(data[at:end], count, size, np.uint8)
        at = end
        drawn = np.frombuffer(session.randomness.bytes(rows.shape[0] * rows.shape[1]), np.uint8)
        shares: BitArray = drawn.reshape(rows.shape[:2]) & np.uint8(1)
        message = np.empty(rows.shape, np.uint64)
        _mask(rows, mask.reshape(rows.shape), flips, shares, message)
        found.append(shares)
        messages.append(message.tobytes())
    channel.send(b"".join(messages))
    return found


def wide_receivers(
    digits: Sequence[tuple[NDArray[np.uint8], int]], tables: Sequence[int], session: Session
) -> list[BitArray]:
    """The receiver's shares (count, tables) for digits (count,) of so many bits. 2 rounds."""
    channel, sender = session.channel, session.party.peer
    count = len(digits[0][0])
    sizes = [wide_digit_bits(bits) for _, bits in digits]
    prepared = [
        session.prepared.masks_receiver(leaf_kind(size, 1, sender, width), count)
        for size, width in zip(sizes, tables, strict=True)
    ]
    flips = [
        pack_bits(own ^ ots.index, size)
        for (own, _), ots, size in zip(digits, prepared, sizes, strict=True)
    ]
    channel.send(b"".join(flips))
    lengths = [count * width << (size - 3) for size, width in zip(sizes, tables, strict=True)]
    data = memoryview(channel.recv(sum(lengths)))
    found, at = [], 0
    for (own, _), ots, width, length in zip(digits, prepared, tables, lengths, strict=True):
        message = np.frombuffer(data[at : at + length], np.uint64).reshape(count, width, -1)
        at += length
        found.append(_bits_at(message, own) ^ ots.mask)
    return found


def _bits_at(message: RingArray, index: NDArray[np.uint8]) -> BitArray:
    """Bit index[i] of rows (count, tables, words): (count, tables)."""
    place = index.astype(np.uint64)
    word = (place >> np.uint64(_WORD_BITS)).astype(np.intp)[:, None, None]
    words = np.take_along_axis(message, word, 2)[:, :, 0]
    found: BitArray = (words >> (place & np.uint64(63))[:, None]).astype(np.uint8) & np.uint8(1)
    return found


@njit(cache=True)
def _mask(tables, masks, flips, shares, out):  # type: ignore[no-untyped-def]
    """Bit v of a table takes the mask at v xor flip, and the table's share."""
    swaps = np.array(
        [0x5555555555555555, 0x3333333333333333, 0x0F0F0F0F0F0F0F0F, 0x00FF00FF00FF00FF,
         0x0000FFFF0000FFFF, 0x00000000FFFFFFFF], np.uint64,
    )  # fmt: skip
    for i in range(tables.shape[0]):
        flip = np.uint64(flips[i])
        high = np.int64(flip >> np.uint64(6))
        for k in range(tables.shape[1]):
            inverted = np.uint64(0) - np.uint64(shares[i, k])
            for w in range(tables.shape[2]):
                word = masks[i, k, w ^ high]
                for b in range(6):
                    step, low = np.uint64(1 << b), swaps[b]
                    swapped = ((word >> step) & low) | ((word & low) << step)
                    word ^= (word ^ swapped) & (
                        np.uint64(0) - (flip >> np.uint64(b) & np.uint64(1))
                    )
                out[i, k, w] = word ^ tables[i, k, w] ^ inverted
