"""Multiplication triples of bits, and the conjunction of shared bits with them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpc_nonlinear.correlations.base import BitArray
from mpc_nonlinear.cost import NO_COST, Cost, OtCount
from mpc_nonlinear.hashing import pads
from mpc_nonlinear.session import Session
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.errors import UsageError
from transport.traffic import Party, Traffic

_OPENED_BITS = 2


@dataclass(frozen=True, slots=True)
class BitTriples:
    """One party's shares, shape (n,): the xor of the parties' c is the and of a and b."""

    a: BitArray
    b: BitArray
    c: BitArray


def bit_triples(n: int, session: Session) -> BitTriples:
    """Make n random triples from one random OT in each direction; says nothing to the peer.

    a is the difference of the two pads where this party sends, b the choice where it
    receives; each OT shares one cross term. [Asharov13] (eprint 2013/552).
    """
    sending, receiving = session.correlations.take_sender(n), session.correlations.take_receiver(n)
    zero = pads(sending.blocks, sending.first_index, 1).astype(np.uint8)
    one = pads(sending.blocks ^ sending.delta, sending.first_index, 1).astype(np.uint8)
    chosen = pads(receiving.blocks, receiving.first_index, 1).astype(np.uint8)
    a, b = zero ^ one, receiving.choices
    return BitTriples(a, b, (a & b) ^ zero ^ chosen)


def and_cost(n: int) -> Cost:
    """Cost of `and_bits` on n bits: 2 bits each way and one OT in each direction per bit."""
    if not n:
        return NO_COST
    size = packed_bytes(n * _OPENED_BITS, 1)
    return Cost(Traffic.exchange(size, size), OtCount(n, n))


def and_bits(x: BitArray, y: BitArray, session: Session) -> BitArray:
    """Shares of x & y from boolean shares, same shape. Exact. 1 round. [Beaver91].

    x and y hold one bit per byte, 0 or 1, and have the same shape.
    """
    if x.shape != y.shape or x.dtype != np.uint8 or y.dtype != np.uint8:
        raise UsageError(
            f"and_bits: operands are {x.dtype} {x.shape} and {y.dtype} {y.shape}; "
            "use uint8 of one shape"
        )
    n = x.size
    if not n:
        return np.zeros_like(x)
    triples = bit_triples(n, session)
    mine = np.concatenate([x.reshape(n) ^ triples.a, y.reshape(n) ^ triples.b])
    payload = pack_bits(mine, 1)
    session.channel.next_round()
    theirs = session.channel.exchange(payload, len(payload))
    d, e = (mine ^ unpack_bits(theirs, 2 * n, 1, np.uint8)).reshape(2, n)
    share: BitArray = triples.c ^ (d & triples.b) ^ (e & triples.a)
    if session.party is Party.CLIENT:
        share ^= d & e
    return share.reshape(x.shape)
