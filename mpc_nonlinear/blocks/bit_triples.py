"""Conjunctions of shared bits with prepared triples: one bit times one to three bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mpc_nonlinear.blocks.riding import riding_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.preprocessing import triple_kind
from mpc_nonlinear.cost import NO_COST, Cost, Demand
from mpc_nonlinear.fixed_point import BitArray
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.errors import UsageError
from transport.traffic import Party, Traffic


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
    size, demand = _conjunctions([single, double])
    return Cost.of(Traffic.exchange(size, size), demand)


def ands(single: BitArray, double: BitArray, session: Session) -> tuple[BitArray, BitArray]:
    """Shares of x & y from bytes x | y << 1; of x & y | (x & z) << 1 from x | y << 1 | z << 2.

    Shapes (n,) and (m,), results the same. Exact. 1 round. A double conjunction masks x once and
    takes one OT in each direction, of two bits. [Rathee20] eprint 2020/1002, Section 3.1.1.
    """
    if not len(single) + len(double):
        return single, double
    session.channel.next_round()
    both = Conjunctions([single, double], session)
    first, second = both.results(session.channel.exchange(both.message, len(both.message)))
    return first, second


def conjunctions_cost(counts: Sequence[int]) -> Cost:
    """Cost of `Conjunctions` whose message rides on another block's: how many by 1, 2, 3 bits."""
    return riding_cost(*_conjunctions(counts))


def _conjunctions(counts: Sequence[int]) -> tuple[int, Demand]:
    """Bytes each way, and triples."""
    size, demand = 0, Demand()
    for bits, count in enumerate(counts, 1):
        size += packed_bytes(count, bits + 1)
        demand += Demand.of(triple_kind(bits), count)
    return size, demand


class Conjunctions:
    """As `ands`, of x with one, two and three bits: first a message, then, with the peer's, shares.

    operands: bytes x | y << 1 | ..., (n,) of each size. `message` may travel alone or with another
    one. [Beaver91].
    """

    def __init__(self, operands: Sequence[BitArray], session: Session) -> None:
        self._first = session.party is Party.CLIENT
        self._triples = [
            session.prepared.triples(triple_kind(bits), len(own)) if len(own) else own
            for bits, own in enumerate(operands, 1)
        ]
        self._own = [
            own ^ triples & np.uint8((2 << bits) - 1)
            for bits, (own, triples) in enumerate(zip(operands, self._triples, strict=True), 1)
        ]
        self.message = b"".join(pack_bits(own, bits + 1) for bits, own in enumerate(self._own, 1))

    def results(self, data: bytes) -> list[BitArray]:
        """Bytes x & y | (x & z) << 1 | ..., (n,) of each size."""
        view, found, at = memoryview(data), [], 0
        for bits, (own, triples) in enumerate(zip(self._own, self._triples, strict=True), 1):
            end = at + packed_bytes(len(own), bits + 1)
            opened = own ^ unpack_bits(view[at:end], len(own), bits + 1, np.uint8)
            at = end
            found.append(_products(opened, triples, bits, self._first))
        return found


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
