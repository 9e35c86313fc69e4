"""Chosen-input oblivious transfers from random correlated ones.

The receiver first sends `flip = random choice ^ wanted choice`, after which pad b of the
sender means message b ([Beaver95]); then the sender sends its messages under the pads. Both
parties call matching functions with equal public sizes; with zero elements nothing moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mpc_nonlinear.correlations.base import BitArray, OtReceiver, OtSender
from mpc_nonlinear.cost import NO_COST, Cost, OtCount
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from mpc_nonlinear.hashing import wide_pads
from mpc_nonlinear.session import Session
from transport.bitpack import low_mask, pack_bits, packed_bytes, unpack_bits
from transport.errors import UsageError
from transport.traffic import Party, Traffic

MAX_CHOICE_BITS = 4
Words = NDArray[np.uint64]

# -- correlated OT: additive shares of choice * x ------------------------------------------


def correlated_ot_cost(n: int, bits: int, sender: Party, width: int = 1) -> Cost:
    """Cost of `correlated_ot_send` with its receiver, n OTs of `width` ring elements."""
    if not n:
        return NO_COST
    return Cost(
        Traffic.message(sender.peer, packed_bytes(n, 1))
        + Traffic.message(sender, packed_bytes(n * width, bits)),
        _ots(n, sender),
    )


def correlated_ot_send(x: RingArray, bits: int, session: Session) -> RingArray:
    """Sender's share a of choice * x: a + b = choice * x modulo 2^bits, exact, same shape.

    x has shape (n,), or (n, width) for one choice per row. Shares are below 2^bits. 2 rounds.
    Correlated OT of [Asharov13] (eprint 2013/552).
    """
    x = _checked_correlation(x)
    if not len(x):
        return np.zeros_like(x)
    session.channel.next_round()
    ots = session.correlations.take_sender(len(x))
    flips = unpack_bits(session.channel.recv(packed_bytes(len(x), 1)), len(x), 1, np.uint8)
    share, message = _correlation_message(x, flips, ots, bits)
    session.channel.send(message)
    return share


def correlated_ot_receive(
    choices: BitArray, bits: int, session: Session, width: int | None = None
) -> RingArray:
    """Receiver's share b, see `correlated_ot_send`: shape (n,), or (n, width) if given."""
    choices = _checked_choices(choices, 1)
    n, columns = len(choices), 1 if width is None else width
    shape = (n,) if width is None else (n, width)
    if not n:
        return np.zeros(shape, np.uint64)
    session.channel.next_round()
    ots = session.correlations.take_receiver(n)
    session.channel.send(pack_bits(choices ^ ots.choices, 1))
    message = session.channel.recv(packed_bytes(n * columns, bits))
    return _received_correlation(message, choices, ots, bits, columns).reshape(shape)


def correlated_ot_both_cost(n: int, bits: int, width: int = 1) -> Cost:
    """Cost of `correlated_ot_both` with n OTs of `width` elements in each direction."""
    if not n:
        return NO_COST
    flips, message = packed_bytes(n, 1), packed_bytes(n * width, bits)
    return Cost(Traffic.exchange(flips, flips) + Traffic.exchange(message, message), OtCount(n, n))


def correlated_ot_both(
    x: RingArray, choices: BitArray, bits: int, session: Session
) -> tuple[RingArray, RingArray]:
    """Two correlated OTs at once: shares of (peer's choice * my x, my choice * peer's x).

    x has shape (n,) or (n, width), choices (n,); the peer's have the same shapes. With the
    peer's results reversed: mine[0] + peers[1] = peer's choices * my x modulo 2^bits. 2 rounds.
    """
    x, choices = _checked_correlation(x), _checked_choices(choices, 1)
    n = len(x)
    if len(choices) != n:
        raise UsageError(f"correlated_ot_both: {n} correlations, {len(choices)} choices")
    if not n:
        return np.zeros_like(x), np.zeros_like(x)
    session.channel.next_round()
    sending, receiving = session.correlations.take_sender(n), session.correlations.take_receiver(n)
    mine = pack_bits(choices ^ receiving.choices, 1)
    flips = unpack_bits(session.channel.exchange(mine, len(mine)), n, 1, np.uint8)
    sent_share, message = _correlation_message(x, flips, sending, bits)
    message = session.channel.exchange(message, len(message))
    received = _received_correlation(message, choices, receiving, bits, x.size // n)
    return sent_share, received.reshape(x.shape)


def _correlation_message(
    x: RingArray, flips: BitArray, ots: OtSender, bits: int
) -> tuple[RingArray, bytes]:
    """Sender's share -pad_0 and the packed corrections x + pad_0 - pad_1."""
    width = x.size // len(x)
    zero = wide_pads(ots.blocks, ots.first_index, width)
    one = wide_pads(ots.blocks ^ ots.delta, ots.first_index, width)
    flipped = flips[:, None] != 0
    zero, one = np.where(flipped, one, zero), np.where(flipped, zero, one)
    corrections = x.reshape(len(x), width) + zero - one
    share = ((np.uint64(0) - zero) & low_mask(bits)).reshape(x.shape)
    return share, pack_bits(corrections, bits)


def _received_correlation(
    message: bytes, choices: BitArray, ots: OtReceiver, bits: int, width: int
) -> RingArray:
    """Receiver's share pad + choice * correction, shape (n, width)."""
    n = len(choices)
    corrections: Words = unpack_bits(message, n * width, bits).reshape(n, width)
    pad = wide_pads(ots.blocks, ots.first_index, width)
    # A mask instead of a branch, so that the time does not depend on the choices.
    chosen = np.uint64(0) - choices[:, None].astype(np.uint64)
    return (pad + (corrections & chosen)) & low_mask(bits)


# -- 1-of-N OT of short chosen messages ----------------------------------------------------


def one_of_many_cost(n: int, choice_bits: int, bits: int, sender: Party) -> Cost:
    """Cost of n OTs of one out of 2^choice_bits messages of `bits` bits."""
    if not n:
        return NO_COST
    return Cost(
        Traffic.message(sender.peer, packed_bytes(n * choice_bits, 1))
        + Traffic.message(sender, packed_bytes(n << choice_bits, bits)),
        _ots(n * choice_bits, sender),
    )


def one_of_many_send(tables: NDArray[Any], bits: int, session: Session) -> None:
    """Offer row i of `tables` (n, 2^m), m = 1 to 4, to a receiver who learns one entry of it.

    Entries are unsigned and below 2^bits, bits = 1 to 64. 2 rounds, m random OTs per row.
    After [Naor-Pinkas 99]: entry v is masked by one pad per bit of v, and each pad is a
    string of which every v uses its own part.
    """
    tables = np.ascontiguousarray(tables)
    n, entries = tables.shape
    choice_bits = entries.bit_length() - 1
    if entries != 1 << choice_bits or not 1 <= choice_bits <= MAX_CHOICE_BITS:
        raise UsageError(f"one_of_many_send: tables have {entries} entries; use 2, 4, 8 or 16")
    if not n:
        return
    dtype, words = _slots(choice_bits, bits)
    session.channel.next_round()
    ots = session.correlations.take_sender(n * choice_bits)
    flips = session.channel.recv(packed_bytes(n * choice_bits, 1))
    masks = np.empty((n, words), np.uint64)
    _combine_pads(
        wide_pads(ots.blocks, ots.first_index, words).reshape(n, choice_bits, words),
        wide_pads(ots.blocks ^ ots.delta, ots.first_index, words).reshape(n, choice_bits, words),
        unpack_bits(flips, n * choice_bits, 1, np.uint8).reshape(n, choice_bits),
        _selection_masks(choice_bits, dtype, words),
        masks,
    )
    message = tables.astype(dtype) ^ masks.view(dtype)[:, :entries]
    session.channel.send(pack_bits(message, bits))


def one_of_many_receive(
    choices: NDArray[np.uint8], choice_bits: int, bits: int, session: Session
) -> NDArray[Any]:
    """Entry choices[i] of the sender's row i, shape (n,), the narrowest dtype for `bits`."""
    if not 1 <= choice_bits <= MAX_CHOICE_BITS:
        raise UsageError(f"one_of_many_receive: choice_bits is {choice_bits}; use 1 to 4")
    choices = _checked_choices(choices, choice_bits)
    n, entries = len(choices), 1 << choice_bits
    dtype, words = _slots(choice_bits, bits)
    if not n:
        return np.zeros(0, dtype)
    session.channel.next_round()
    ots = session.correlations.take_receiver(n * choice_bits)
    wanted = choices[:, None] >> np.arange(choice_bits, dtype=np.uint8) & np.uint8(1)
    session.channel.send(pack_bits(wanted.reshape(-1) ^ ots.choices, 1))
    data = session.channel.recv(packed_bytes(n * entries, bits))
    message = unpack_bits(data, n * entries, bits, dtype).reshape(n, entries)
    strings = wide_pads(ots.blocks, ots.first_index, words).view(dtype)
    pads = np.bitwise_xor.reduce(strings.reshape(n, choice_bits, -1), axis=1)
    rows = np.arange(n)
    chosen: NDArray[Any] = message[rows, choices] ^ pads[rows, choices]
    chosen &= dtype.type((1 << bits) - 1)
    return chosen


def one_of_16_cost(n: int, bits: int, sender: Party) -> Cost:
    """Cost of n 1-of-16 OTs of `bits` bits."""
    return one_of_many_cost(n, 4, bits, sender)


def one_of_16_send(tables: NDArray[Any], bits: int, session: Session) -> None:
    """Offer tables (n, 16), see `one_of_many_send`. 2 rounds."""
    if tables.shape[1:] != (16,):
        raise UsageError(f"one_of_16_send: tables have shape {tables.shape}; use (n, 16)")
    one_of_many_send(tables, bits, session)


def one_of_16_receive(choices: NDArray[np.uint8], bits: int, session: Session) -> NDArray[Any]:
    """Entry choices[i] (0 to 15) of the sender's row i. 2 rounds."""
    return one_of_many_receive(choices, 4, bits, session)


def _slots(choice_bits: int, bits: int) -> tuple[np.dtype[Any], int]:
    """Dtype of one masked entry and words of pad string per OT."""
    if not 1 <= bits <= RING_BITS:
        raise UsageError(f"one_of_many: messages of {bits} bits; use 1 to {RING_BITS}")
    size = next(size for size in (1, 2, 4, 8) if bits <= 8 * size)
    return np.dtype(f"u{size}"), -(-(size << choice_bits) // 8)


def _selection_masks(choice_bits: int, dtype: np.dtype[Any], words: int) -> Words:
    """Row j is all ones in the slots of the entries whose index has bit j, (m, words)."""
    slots = np.arange(8 * words // dtype.itemsize)
    bits = slots >> np.arange(choice_bits)[:, None] & 1
    masks: NDArray[Any] = dtype.type(0) - bits.astype(dtype)
    return masks.view(np.uint64)


@njit(cache=True)
def _combine_pads(zero: Words, one: Words, flips: BitArray, selection: Words, out: Words) -> None:
    """out[i] = sum over bits j of the pad string that belongs to bit j of each slot's index.

    zero, one: (n, m, words), pads of random choice 0 and 1; flips (n, m); out (n, words).
    """
    for i in range(out.shape[0]):
        for w in range(out.shape[1]):
            total = np.uint64(0)
            for j in range(zero.shape[1]):
                flip = np.uint64(0) - np.uint64(flips[i, j])
                use_one = selection[j, w] ^ flip
                total ^= (zero[i, j, w] & ~use_one) | (one[i, j, w] & use_one)
            out[i, w] = total


# -- argument checks -----------------------------------------------------------------------


def _ots(n: int, sender: Party) -> OtCount:
    return OtCount(n, 0) if sender is Party.CLIENT else OtCount(0, n)


def _checked_correlation(x: RingArray) -> RingArray:
    if x.dtype != np.uint64 or x.ndim not in (1, 2):
        raise UsageError(
            f"correlated OT: correlations are {x.dtype} of shape {x.shape}; "
            "use uint64 of shape (n,) or (n, width)"
        )
    return np.ascontiguousarray(x)


def _checked_choices(choices: BitArray, choice_bits: int) -> BitArray:
    if choices.dtype != np.uint8 or choices.ndim != 1:
        raise UsageError(
            f"oblivious transfer: choices are {choices.dtype} of shape {choices.shape}; "
            "use uint8 of shape (n,)"
        )
    if choices.size and choices.max() >> choice_bits:
        raise UsageError(f"oblivious transfer: choices exceed {choice_bits} bits; reduce them")
    return np.ascontiguousarray(choices)
