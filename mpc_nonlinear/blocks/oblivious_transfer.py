"""Chosen-input oblivious transfers from prepared random ones.

Correlated OTs take one round: the receiver corrects its random choice while the sender corrects
its random correlation ([Beaver95]). In 1-of-N transfers the sender's messages wait for the
receiver's correction. Both parties call matching functions with equal public sizes; with zero
elements nothing moves.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.preprocessing import (
    ProductReceiver,
    ProductSender,
    product_kind,
    residue_kind,
    table_kind,
)
from mpc_nonlinear.correlations.random_ots import narrowest
from mpc_nonlinear.cost import NO_COST, Cost, Demand
from mpc_nonlinear.fixed_point import RING_BITS, BitArray, RingArray
from transport.bitpack import low_mask, pack_bits, packed_bytes, unpack_bits
from transport.errors import FrameError, UsageError
from transport.traffic import Party, Traffic

MAX_CHOICE_BITS = 4

# -- correlated OT: additive shares of choice * x ------------------------------------------
# With pads p0 and p1, random choice r, d = choice xor r and e = x + p0 - p1, the shares are
# d x - (1 - 2d) p0 and (1 - 2d) (p_r + r e).


def correlated_ot_cost(n: int, bits: int, sender: Party, width: int = 1) -> Cost:
    """Cost of `correlated_ot_send` with its receiver, n OTs of `width` ring elements."""
    if not n:
        return NO_COST
    sizes = [packed_bytes(n, 1), packed_bytes(n * width, bits)]
    if sender is Party.CLIENT:
        sizes.reverse()
    demand = Demand.of(product_kind(bits, sender, width), n)
    return Cost.of(Traffic.exchange(*sizes), demand)


def correlated_ot_send(x: RingArray, bits: int, session: Session) -> RingArray:
    """Sender's share a of choice * x: a + b = choice * x modulo 2^bits, exact, same shape.

    x has shape (n,), or (n, width) for one choice per row. Shares are below 2^bits. 1 round.
    Correlated OT of [Asharov13] (eprint 2013/552), both inputs chosen as in [Beaver95].
    """
    x = _checked_correlation(x)
    if not len(x):
        return np.zeros_like(x)
    n, width = len(x), x.size // len(x)
    session.channel.next_round()
    ots = session.prepared.product_sender(product_kind(bits, session.party, width), n)
    rows = x.reshape(n, width)
    received = session.channel.exchange(_corrections(rows, ots, bits), packed_bytes(n, 1))
    return _sent_share(rows, unpack_bits(received, n, 1, np.uint8), ots, bits).reshape(x.shape)


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
    kind = product_kind(bits, session.party.peer, columns)
    ots = session.prepared.product_receiver(kind, n)
    flips = choices ^ ots.choices
    message = session.channel.exchange(pack_bits(flips, 1), packed_bytes(n * columns, bits))
    return _received_share(message, flips, ots, bits).reshape(shape)


def correlated_ot_both_cost(n: int, bits: int, width: int = 1) -> Cost:
    """Cost of `correlated_ot_both` with n OTs of `width` elements in each direction."""
    if not n:
        return NO_COST
    size = packed_bytes(n, 1) + packed_bytes(n * width, bits)
    kinds = (product_kind(bits, sender, width) for sender in Party)
    demand = sum((Demand.of(kind, n) for kind in kinds), Demand())
    return Cost.of(Traffic.exchange(size, size), demand)


def correlated_ot_both(
    x: RingArray, choices: BitArray, bits: int, session: Session
) -> tuple[RingArray, RingArray]:
    """Two correlated OTs at once: shares of (peer's choice * my x, my choice * peer's x).

    x has shape (n,) or (n, width), choices (n,); the peer's have the same shapes. With the
    peer's results reversed: mine[0] + peers[1] = peer's choices * my x modulo 2^bits. 1 round.
    """
    x, choices = _checked_correlation(x), _checked_choices(choices, 1)
    n = len(x)
    if len(choices) != n:
        raise UsageError(f"correlated_ot_both: {n} correlations, {len(choices)} choices")
    if not n:
        return np.zeros_like(x), np.zeros_like(x)
    session.channel.next_round()
    rows = x.reshape(n, x.size // n)
    mine, theirs = (
        product_kind(bits, p, rows.shape[1]) for p in (session.party, session.party.peer)
    )
    sending = session.prepared.product_sender(mine, n)
    receiving = session.prepared.product_receiver(theirs, n)
    flips = choices ^ receiving.choices
    message = pack_bits(flips, 1) + _corrections(rows, sending, bits)
    data = memoryview(session.channel.exchange(message, len(message)))
    cut = packed_bytes(n, 1)
    sent = _sent_share(rows, unpack_bits(data[:cut], n, 1, np.uint8), sending, bits)
    received = _received_share(data[cut:], flips, receiving, bits)
    return sent.reshape(x.shape), received.reshape(x.shape)


def _corrections(rows: RingArray, ots: ProductSender, bits: int) -> bytes:
    """The sender's message x + p0 - p1, packed."""
    return pack_bits(rows.astype(ots.difference.dtype) + ots.difference, bits)


def _sent_share(rows: RingArray, flips: BitArray, ots: ProductSender, bits: int) -> RingArray:
    out = np.empty(rows.shape, np.uint64)
    _sender_share(rows, flips, ots.pad, low_mask(bits), out)
    return out


def _received_share(
    message: bytes | memoryview, flips: BitArray, ots: ProductReceiver, bits: int
) -> RingArray:
    shape = ots.pad.shape
    corrections = unpack_bits(message, ots.pad.size, bits, ots.pad.dtype).reshape(shape)
    out = np.empty(shape, np.uint64)
    _receiver_share(corrections, flips, ots.choices, ots.pad, low_mask(bits), out)
    return out


# Masks instead of branches, so that the time does not depend on choices.


@njit(cache=True)
def _sender_share(x, flips, pad, mask, out):  # type: ignore[no-untyped-def]
    for i in range(x.shape[0]):
        flipped = np.uint64(0) - np.uint64(flips[i])
        kept = ~flipped
        for w in range(x.shape[1]):
            # p0 where flipped, its negative elsewhere
            signed = (np.uint64(pad[i, w]) ^ kept) - kept
            out[i, w] = ((x[i, w] & flipped) + signed) & mask


@njit(cache=True)
def _receiver_share(corrections, flips, choices, pad, mask, out):  # type: ignore[no-untyped-def]
    for i in range(pad.shape[0]):
        flipped = np.uint64(0) - np.uint64(flips[i])
        chosen = np.uint64(0) - np.uint64(choices[i])
        for w in range(pad.shape[1]):
            total = np.uint64(pad[i, w]) + (np.uint64(corrections[i, w]) & chosen)
            out[i, w] = ((total ^ flipped) - flipped) & mask


# -- the same modulo another number --------------------------------------------------------


def residue_ot_cost(n: int, modulus: int, sender: Party) -> Cost:
    """Cost of `residue_ot_send` with its receiver, n OTs."""
    if not n:
        return NO_COST
    sizes = [packed_bytes(n, 1), packed_bytes(n, modulus.bit_length())]
    if sender is Party.CLIENT:
        sizes.reverse()
    return Cost.of(Traffic.exchange(*sizes), Demand.of(residue_kind(modulus, sender), n))


def residue_ot_send(x: RingArray, modulus: int, session: Session) -> RingArray:
    """Sender's share a of choice * x: a + b = choice * x modulo t, exact, (n,). 1 round.

    As `correlated_ot_send`; x is below t. Pads are uniform modulo t up to t / 2^128.
    """
    x, t = _checked_correlation(x), np.uint64(modulus)
    if not len(x):
        return np.zeros_like(x)
    session.channel.next_round()
    ots = session.prepared.product_sender(residue_kind(modulus, session.party), len(x))
    pad, difference = ots.pad[:, 0], ots.difference[:, 0]
    message = pack_bits((x + difference) % t, modulus.bit_length())
    received = session.channel.exchange(message, packed_bytes(len(x), 1))
    flips = unpack_bits(received, len(x), 1, np.uint8)
    out = np.empty(len(x), np.uint64)
    _sender_residue(x, flips, pad, t, out)
    return out


def residue_ot_receive(choices: BitArray, modulus: int, session: Session) -> RingArray:
    """Receiver's share b, see `residue_ot_send`: (n,)."""
    choices, t = _checked_choices(choices, 1), np.uint64(modulus)
    n, bits = len(choices), modulus.bit_length()
    if not n:
        return np.zeros(0, np.uint64)
    session.channel.next_round()
    ots = session.prepared.product_receiver(residue_kind(modulus, session.party.peer), n)
    flips = choices ^ ots.choices
    message = session.channel.exchange(pack_bits(flips, 1), packed_bytes(n, bits))
    corrections = unpack_bits(message, n, bits, np.uint64)
    if corrections.max() >= t:
        raise FrameError("oblivious transfer: a word exceeds the modulus; the frame is corrupt")
    out = np.empty(n, np.uint64)
    _receiver_residue(corrections, flips, ots.choices, ots.pad[:, 0], t, out)
    return out


@njit(cache=True)
def _sender_residue(x, flips, pad, t, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        flipped = np.uint64(0) - np.uint64(flips[i])
        # x + p0 where flipped, -p0 elsewhere
        total = (x[i] & flipped) + ((pad[i] & flipped) | ((t - pad[i]) & ~flipped))
        out[i] = total - (t & (np.uint64(0) - np.uint64(total >= t)))


@njit(cache=True)
def _receiver_residue(corrections, flips, choices, pad, t, out):  # type: ignore[no-untyped-def]
    for i in range(out.size):
        flipped = np.uint64(0) - np.uint64(flips[i])
        total = pad[i] + (corrections[i] & (np.uint64(0) - np.uint64(choices[i])))
        total -= t & (np.uint64(0) - np.uint64(total >= t))
        signed = (total & ~flipped) | ((t - total) & flipped)
        out[i] = signed - (t & (np.uint64(0) - np.uint64(signed >= t)))


# -- 1-of-N OT of short chosen messages ----------------------------------------------------


def one_of_many_cost(n: int, choice_bits: int, bits: int, sender: Party) -> Cost:
    """Cost of n OTs of one out of 2^choice_bits messages of `bits` bits."""
    if not n:
        return NO_COST
    return Cost.of(
        Traffic.message(sender.peer, packed_bytes(n, choice_bits))
        + Traffic.message(sender, packed_bytes(n << choice_bits, bits)),
        Demand.of(table_kind(choice_bits, bits, sender), n),
    )


def one_of_many_send(tables: NDArray[Any], bits: int, session: Session) -> None:
    """Offer row i of `tables` (n, 2^m), m = 1 to 4, to a receiver who learns one entry of it.

    Entries are unsigned and below 2^bits, bits = 1 to 64. 2 rounds, m random OTs per row.
    After [Naor-Pinkas 99]: entry v is masked by one pad per bit of v.
    """
    tables = np.ascontiguousarray(tables)
    n, entries = tables.shape
    choice_bits = entries.bit_length() - 1
    if entries != 1 << choice_bits or not 1 <= choice_bits <= MAX_CHOICE_BITS:
        raise UsageError(f"one_of_many_send: tables have {entries} entries; use 2, 4, 8 or 16")
    if not n:
        return
    _check_message_bits(bits)
    session.channel.next_round()
    kind = table_kind(choice_bits, bits, session.party)
    masks = session.prepared.masks_sender(kind, n)
    data = session.channel.recv(packed_bytes(n, choice_bits))
    message = np.empty(masks.shape, masks.dtype)
    _mask_tables(tables, masks, unpack_bits(data, n, choice_bits, np.uint8), message)
    session.channel.send(pack_bits(message, bits))


def one_of_many_receive(
    choices: NDArray[np.uint8], choice_bits: int, bits: int, session: Session
) -> NDArray[Any]:
    """Entry choices[i] of the sender's row i, shape (n,), the narrowest dtype for `bits`."""
    if not 1 <= choice_bits <= MAX_CHOICE_BITS:
        raise UsageError(f"one_of_many_receive: choice_bits is {choice_bits}; use 1 to 4")
    choices = _checked_choices(choices, choice_bits)
    n, entries = len(choices), 1 << choice_bits
    _check_message_bits(bits)
    dtype = narrowest(bits)
    if not n:
        return np.zeros(0, dtype)
    session.channel.next_round()
    ots = session.prepared.masks_receiver(table_kind(choice_bits, bits, session.party.peer), n)
    session.channel.send(pack_bits(choices ^ ots.index, choice_bits))
    data = session.channel.recv(packed_bytes(n * entries, bits))
    message = unpack_bits(data, n * entries, bits, dtype).reshape(n, entries)
    chosen: NDArray[Any] = message[np.arange(n), choices] ^ ots.mask
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


@njit(cache=True)
def _mask_tables(tables, masks, flips, out):  # type: ignore[no-untyped-def]
    """Entry v takes the mask whose index is the receiver's random one when it wants v."""
    for i in range(out.shape[0]):
        for v in range(out.shape[1]):
            out[i, v] = tables[i, v] ^ masks[i, v ^ flips[i]]


# -- argument checks -----------------------------------------------------------------------


def _check_message_bits(bits: int) -> None:
    if not 1 <= bits <= RING_BITS:
        raise UsageError(f"one_of_many: messages of {bits} bits; use 1 to {RING_BITS}")


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
