"""From boolean to arithmetic shares: selection of numbers by shared bits."""

from __future__ import annotations

import numpy as np

from mpc_nonlinear.blocks.oblivious_transfer import (
    ResidueOts,
    correlated_ot_both,
    correlated_ot_both_cost,
    correlated_ot_cost,
    correlated_ot_receive,
    correlated_ot_send,
    residue_ot_both_cost,
)
from mpc_nonlinear.blocks.riding import riding, riding_cost
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


def select_with_residues_cost(count: int, residues: int, modulus: int) -> Cost:
    """Cost of `select_with_residues` for `count` numbers and `residues` residues."""
    alone = residue_ot_both_cost(residues, modulus)
    return riding_cost(alone.traffic.client_payload_bytes, alone.demand) + select_cost(count)


def select_with_residues(
    bit: BitArray,
    x: RingArray,
    residue_bit: BitArray,
    residues: RingArray,
    modulus: int,
    session: Session,
) -> tuple[RingArray, RingArray]:
    """`select` of x modulo 2^64 and of residues modulo t, in one round together.

    Exact, in their shapes; neither is empty. b r = b0 r0 + b1 r1 + b1 (1 - 2 b0) r0
    + b0 (1 - 2 b1) r1 modulo t as well.
    """
    own, flat, t = residue_bit.reshape(-1), residues.reshape(-1), np.uint64(modulus)
    ones = np.uint64(0) - own.astype(np.uint64)
    ots = ResidueOts((flat & ~ones) + ((t - flat) % t & ones), own, modulus, session)
    rode, channel = riding(session, ots.message)
    selected = select(bit, x, rode)
    sent, received = ots.shares(channel.theirs)
    return selected, (((flat & ones) + sent + received) % t).reshape(residues.shape)


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
