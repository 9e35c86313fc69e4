"""Public tables of sixteen entries, read at a shared index."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpc_nonlinear.blocks.compare import carry, carry_cost
from mpc_nonlinear.blocks.oblivious_transfer import (
    one_of_16_cost,
    one_of_16_receive,
    one_of_16_send,
)
from mpc_nonlinear.blocks.select import bit_to_arithmetic, bit_to_arithmetic_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.blocks.truncate import widen, widen_cost
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from transport.bitpack import low_mask
from transport.traffic import Party

_ENTRIES = 16


def split_cost(count: int, low_bits: int) -> Cost:
    """Cost of `split`."""
    return carry_cost(count, low_bits) + bit_to_arithmetic_cost(count)


def split(x: RingArray, low_bits: int, session: Session) -> tuple[RingArray, RingArray]:
    """Shares of floor(x / 2^low_bits) modulo 2^(64 - low_bits), and of what is left, modulo 2^64.

    Exact. 3 + ceil(log2(low_bits / 4)) rounds. [Rathee21] SIRNN, eprint 2021/459, digit
    decomposition.
    """
    carried = bit_to_arithmetic(carry(x, low_bits, session), session)
    high = (x >> np.uint64(low_bits)) + carried
    return high, (x & low_mask(low_bits)) - (carried << np.uint64(low_bits))


def lookup_cost(count: int, bits: int) -> Cost:
    """Cost of `lookup`."""
    return one_of_16_cost(count, bits, Party.SERVER) + widen_cost(count, bits)


def lookup(index: RingArray, table: Sequence[int], bits: int, session: Session) -> RingArray:
    """Shares of table[index modulo 16], entries below 2^(bits - 2) in magnitude, same shape.

    Exact. 3 rounds. One 1-of-16 OT of the rotated table under a fresh mask. [Rathee21] SIRNN,
    eprint 2021/459, lookup tables.
    """
    low = (index.reshape(-1) & np.uint64(_ENTRIES - 1)).astype(np.uint8)
    if session.party is Party.SERVER:
        entries = np.array([entry % 2**64 for entry in table], np.uint64)
        places = (np.arange(_ENTRIES, dtype=np.uint8) + low[:, None]) % _ENTRIES
        own = session.randomness.uint64(low.shape) & low_mask(bits)
        one_of_16_send((entries[places] - own[:, None]) & low_mask(bits), bits, session)
    else:
        own = one_of_16_receive(low, bits, session).astype(np.uint64)
    return widen(own, bits, session).reshape(index.shape)
