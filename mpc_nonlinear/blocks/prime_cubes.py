"""First three powers of shared residues from one opening: then any public cubic is local."""

from __future__ import annotations

import numpy as np

from mpc_nonlinear.blocks.prime_arithmetic import multiply_add
from mpc_nonlinear.blocks.riding import riding_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.dealt import prime_cube_kind
from mpc_nonlinear.cost import Cost, Demand
from mpc_nonlinear.fixed_point import RingArray
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.computing import units
from transport.errors import FrameError
from transport.traffic import Party


def powers_cost(count: int, modulus: int) -> Cost:
    """Of `PrimePowers` for `count` numbers whose message rides on another block's."""
    kind = prime_cube_kind(modulus)
    demand = Demand.of(kind, count)
    return riding_cost(packed_bytes(count, kind.bits), demand, units(prime_multiply_add=3 * count))


class PrimePowers:
    """x^2 and x^3 modulo t, exact, from the opened d = x - a and shares of a, a^2, a^3.

    x (n,): this party's residues. `message` goes to the peer in any frame; no round of its own.
    [Beaver91] with powers of one mask instead of products of two.
    """

    def __init__(self, x: RingArray, modulus: int, session: Session) -> None:
        self._kind, self._is_server = prime_cube_kind(modulus), session.party is Party.SERVER
        t = np.uint64(modulus)
        self._masks = session.prepared.dealt(self._kind, x.size)
        self._own = (x + t - self._masks[0]) % t
        self.message = pack_bits(self._own, self._kind.bits)

    def shares(self, data: bytes) -> tuple[RingArray, RingArray]:
        """Of x^2 and x^3, (n,) each; data: the peer's message."""
        (modulus,) = self._kind.shape
        t, (a, square, cube) = np.uint64(modulus), self._masks
        theirs = unpack_bits(data, self._own.size, self._kind.bits)
        if theirs.max(initial=0) >= t:
            raise FrameError("powers: a word exceeds the prime; the frame is corrupt")
        d = (self._own + theirs) % t
        # x^2 = a^2 + d (2 a + d); x^3 = a^3 + d (3 a^2 + d (3 a + d)): d itself is the server's.
        last = d if self._is_server else np.zeros_like(d)
        x_square = multiply_add(d, (a + a + last) % t, square, modulus)
        inner = multiply_add(d, (np.uint64(3) * a + last) % t, np.uint64(3) * square % t, modulus)
        return x_square, multiply_add(d, inner, cube, modulus)
