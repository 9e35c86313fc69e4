"""Products of shared numbers prepared before the operands are known: triples modulo 2^bits.

Made from correlated OTs, no dealer. The online product is one opening of masked operands.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpc_nonlinear.blocks.ot_products import cross_products, cross_products_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from transport.bitpack import low_mask, pack_bits, packed_bytes, unpack_bits
from transport.errors import UsageError
from transport.traffic import Party, Traffic


@dataclass
class ArithmeticTriples:
    """One party's shares modulo 2^bits, shape (n,) each: c = a b over both parties' sums."""

    a: RingArray
    b: RingArray
    c: RingArray
    bits: int
    used: bool = False

    def take(self) -> tuple[RingArray, RingArray, RingArray]:
        """The shares, once: masks must not serve twice."""
        if self.used:
            raise UsageError("arithmetic triples: used twice; make new ones for every product")
        self.used = True
        return self.a, self.b, self.c


def arithmetic_triples_cost(n: int, bits: int = RING_BITS) -> Cost:
    """Cost of `arithmetic_triples`: one OT in each direction for every bit."""
    return cross_products_cost(n, bits) if n else NO_COST


def arithmetic_triples(n: int, session: Session, bits: int = RING_BITS) -> ArithmeticTriples:
    """N triples of uniform a and b modulo 2^bits (1 to 64) and their products. 1 round.

    [Gilboa99]; triples of [Beaver91].
    """
    if not 1 <= bits <= RING_BITS or n < 0:
        raise UsageError(f"arithmetic triples: {n} of {bits} bits; use 1 to {RING_BITS} bits")
    mask = low_mask(bits)
    a, b = (session.randomness.uint64((n,)) & mask for _ in range(2))
    if not n:
        return ArithmeticTriples(a, b, a.copy(), bits)
    cross = cross_products(a, b, bits, session)
    return ArithmeticTriples(a, b, (a * b + cross) & mask, bits)


def multiply_with_triples_cost(n: int, bits: int = RING_BITS) -> Cost:
    """Cost of `multiply_with_triples`."""
    if not n:
        return NO_COST
    size = 2 * packed_bytes(n, bits)
    return Cost.of(Traffic.exchange(size, size))


def multiply_with_triples(
    x: RingArray, y: RingArray, triples: ArithmeticTriples, session: Session
) -> RingArray:
    """Shares of x y modulo 2^bits, same shape as both; not truncated. Exact. 1 round. [Beaver91].

    Both parties learn x - a and y - b, uniform and used once.
    """
    if x.shape != y.shape or triples.a.size != x.size:
        raise UsageError(
            f"multiply_with_triples: operands {x.shape} and {y.shape}, {triples.a.size} triples; "
            "use one shape and a triple for every element"
        )
    a, b, c = triples.take()
    n, bits, mask = x.size, triples.bits, low_mask(triples.bits)
    if not n:
        return np.zeros(x.shape, np.uint64)
    own = [(x.reshape(-1) - a) & mask, (y.reshape(-1) - b) & mask]
    message = b"".join(pack_bits(part, bits) for part in own)
    session.channel.next_round()
    data = memoryview(session.channel.exchange(message, len(message)))
    half = packed_bytes(n, bits)
    d = own[0] + unpack_bits(data[:half], n, bits)
    e = own[1] + unpack_bits(data[half:], n, bits)
    product: RingArray = c + d * b + e * a
    if session.party is Party.SERVER:
        product = product + d * e
    result: RingArray = (product & mask).reshape(x.shape)
    return result
