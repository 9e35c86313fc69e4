"""From boolean to arithmetic shares: selection of numbers by shared bits."""

from __future__ import annotations

import numpy as np

from mpc_nonlinear.blocks.oblivious_transfer import (
    correlated_ot_both,
    correlated_ot_both_cost,
    correlated_ot_cost,
    correlated_ot_receive,
    correlated_ot_send,
)
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, BitArray, RingArray
from transport.bitpack import low_mask
from transport.traffic import Party


def select_cost(count: int, bits: int = RING_BITS) -> Cost:
    """Cost of `select` for `count` numbers."""
    return correlated_ot_both_cost(count, bits)


def select(bit: BitArray, x: RingArray, session: Session, bits: int = RING_BITS) -> RingArray:
    """Shares of bit * x, same shape, modulo 2^bits and below it: for results read so far only.

    Exact. 1 round. [Rathee20] Section 4.1 (multiplexer). With b = b0 xor b1: b x = b0 x0 + b1 x1
    + b1 (1 - 2 b0) x0 + b0 (1 - 2 b1) x1; the last two by correlated OT.
    """
    own = bit.reshape(-1)
    flat = x.reshape(-1)
    # All ones where the bit is set.
    ones = np.uint64(0) - own.astype(np.uint64)
    sent, received = correlated_ot_both((flat ^ ones) - ones, own, bits, session)
    return _reduced((flat & ones) + sent + received, bits).reshape(x.shape)


def select_rows_cost(count: int, width: int, bits: int) -> Cost:
    """Cost of `select_rows` for `count` rows of `width` numbers."""
    return correlated_ot_both_cost(count, bits, width)


def select_rows(bit: BitArray, x: RingArray, session: Session, bits: int) -> RingArray:
    """Shares of bit * x modulo 2^bits and below it, one bit (n,) for each row (n, width).

    As `select`, all numbers of a row by one OT in each direction. 1 round.
    """
    own = bit.reshape(-1)
    ones = (np.uint64(0) - own.astype(np.uint64))[:, None]
    sent, received = correlated_ot_both((x ^ ones) - ones, own, bits, session)
    return _reduced((x & ones) + sent + received, bits)


def bit_to_arithmetic_cost(count: int, bits: int = RING_BITS) -> Cost:
    """Cost of `bit_to_arithmetic` for `count` bits."""
    return correlated_ot_cost(count, bits - 1, Party.CLIENT)


def bit_to_arithmetic(bit: BitArray, session: Session, bits: int = RING_BITS) -> RingArray:
    """Arithmetic shares of shared bits, same shape, modulo 2^bits (2 to 64) and below it.

    Exact. 1 round. b0 xor b1 = b0 + b1 - 2 b0 b1, the product modulo 2^(bits - 1) by one
    correlated OT. [Rathee20] Section 4.1.
    """
    own = bit.reshape(-1).astype(np.uint64)
    if session.party is Party.CLIENT:
        product = correlated_ot_send(own, bits - 1, session)
    else:
        product = correlated_ot_receive(bit.reshape(-1), bits - 1, session)
    return _reduced(own - np.uint64(2) * product, bits).reshape(bit.shape)


def _reduced(x: RingArray, bits: int) -> RingArray:
    return x if bits == RING_BITS else x & low_mask(bits)
