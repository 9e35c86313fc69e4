"""From boolean to arithmetic shares: selection of numbers by shared bits."""

from __future__ import annotations

import numpy as np

from mpc_nonlinear.correlations.base import BitArray
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from mpc_nonlinear.oblivious_transfer import (
    correlated_ot_both,
    correlated_ot_both_cost,
    correlated_ot_cost,
    correlated_ot_receive,
    correlated_ot_send,
)
from mpc_nonlinear.session import Session
from transport.traffic import Party


def select_cost(count: int) -> Cost:
    """Cost of `select` for `count` numbers."""
    return correlated_ot_both_cost(count, RING_BITS)


def select(bit: BitArray, x: RingArray, session: Session) -> RingArray:
    """Shares of bit * x, same shape. Exact. 2 rounds. [Rathee20] Section 4.1 (multiplexer).

    With b = b0 xor b1: b x = b0 x0 + b1 x1 + b1 (1 - 2 b0) x0 + b0 (1 - 2 b1) x1; the last two by
    correlated OT.
    """
    own = bit.reshape(-1)
    flat = x.reshape(-1)
    number = own.astype(np.uint64)
    correlation = np.where(own == 1, np.uint64(0) - flat, flat)
    sent, received = correlated_ot_both(correlation, own, RING_BITS, session)
    return (number * flat + sent + received).reshape(x.shape)


def bit_to_arithmetic_cost(count: int) -> Cost:
    """Cost of `bit_to_arithmetic` for `count` bits."""
    return correlated_ot_cost(count, RING_BITS, Party.CLIENT)


def bit_to_arithmetic(bit: BitArray, session: Session) -> RingArray:
    """Arithmetic shares of shared bits, same shape. Exact. 2 rounds.

    b0 xor b1 = b0 + b1 - 2 b0 b1, the product by one correlated OT. [Rathee20] Section 4.1.
    """
    own = bit.reshape(-1).astype(np.uint64)
    if session.party is Party.CLIENT:
        product = correlated_ot_send(own, RING_BITS, session)
    else:
        product = correlated_ot_receive(bit.reshape(-1), RING_BITS, session)
    return (own - np.uint64(2) * product).reshape(bit.shape)
