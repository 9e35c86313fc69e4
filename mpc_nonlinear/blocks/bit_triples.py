"""Conjunctions of shared bits with prepared triples: one bit times one or two bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.preprocessing import triple_kind
from mpc_nonlinear.cost import NO_COST, Cost, Demand
from mpc_nonlinear.fixed_point import BitArray
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.errors import UsageError
from transport.traffic import Party, Traffic


@dataclass(frozen=True, slots=True)
class BitTriples:
    """One party's shares, shape (n,): the xor of the parties' c is the and of a and b."""

    a: BitArray
    b: BitArray
    c: BitArray


def bit_triples(n: int, session: Session) -> BitTriples:
    """Take n random triples, one random OT in each direction; says nothing to the peer."""
    packed = session.prepared.triples(triple_kind(1), n)
    one = np.uint8(1)
    return BitTriples(packed & one, packed >> one & one, packed >> np.uint8(2))


def and_cost(n: int) -> Cost:
    """Cost of `and_bits` on n bits: 2 bits each way and one OT in each direction per bit."""
    return ands_cost(n, 0)


def and_bits(x: BitArray, y: BitArray, session: Session) -> BitArray:
    """Shares of x & y from boolean shares, same shape. Exact. 1 round. [Beaver91].

    x and y hold one bit per byte, 0 or 1, and have the same shape.
    """
    if x.shape != y.shape or x.dtype != np.uint8 or y.dtype != np.uint8:
        raise UsageError(
            f"and_bits: operands are {x.dtype} {x.shape} and {y.dtype} {y.shape}; "
            "use uint8 of one shape"
        )
    single, _ = ands((x | y << np.uint8(1)).reshape(-1), np.zeros(0, np.uint8), session)
    return single.reshape(x.shape)


def ands_cost(single: int, double: int) -> Cost:
    """Cost of `ands`: 2 bits each way for a single conjunction, 3 for a double one."""
    if not single + double:
        return NO_COST
    size = packed_bytes(single, 2) + packed_bytes(double, 3)
    demand = Demand.of(triple_kind(1), single) + Demand.of(triple_kind(2), double)
    return Cost.of(Traffic.exchange(size, size), demand)


def ands(single: BitArray, double: BitArray, session: Session) -> tuple[BitArray, BitArray]:
    """Shares of x & y from bytes x | y << 1; of x & y | (x & z) << 1 from x | y << 1 | z << 2.

    Shapes (n,) and (m,), results the same. Exact. 1 round. A double conjunction masks x once and
    takes one OT in each direction, of two bits. [Rathee20] eprint 2020/1002, Section 3.1.1.
    """
    n, m = len(single), len(double)
    if not n + m:
        return single, double
    session.channel.next_round()
    triples = (
        session.prepared.triples(triple_kind(1), n),
        session.prepared.triples(triple_kind(2), m),
    )
    mine = single ^ triples[0] & np.uint8(3), double ^ triples[1] & np.uint8(7)
    payload = pack_bits(mine[0], 2) + pack_bits(mine[1], 3)
    data = memoryview(session.channel.exchange(payload, len(payload)))
    cut = packed_bytes(n, 2)
    opened = (
        mine[0] ^ unpack_bits(data[:cut], n, 2, np.uint8),
        mine[1] ^ unpack_bits(data[cut:], m, 3, np.uint8),
    )
    first = session.party is Party.CLIENT
    return _products(opened[0], triples[0], 1, first), _products(opened[1], triples[1], 2, first)


def _products(
    opened: NDArray[np.uint8], triples: NDArray[np.uint8], bits: int, first: bool
) -> BitArray:
    out = np.empty(len(opened), np.uint8)
    _beaver(opened, triples, np.uint8(bits), np.uint8((1 << bits) - 1), np.uint8(first), out)
    return out


@njit(cache=True)
def _beaver(opened, triples, bits, mask, first, out):  # type: ignore[no-untyped-def]
    """Compute c ^ d b ^ e a, and at one party d e, for the opened d = x ^ a and e = y ^ b."""
    one, zero = np.uint8(1), np.uint8(0)
    for i in range(opened.size):
        d = np.uint8(zero - (opened[i] & one))
        e = np.uint8(opened[i] >> one)
        t = triples[i]
        a = np.uint8(zero - (t & one))
        b = np.uint8(t >> one) & mask
        own = np.uint8(zero - first)
        out[i] = ((t >> (one + bits)) ^ (b & d) ^ (e & a) ^ (e & d & own)) & mask
