"""Shares modulo a prime opened to both parties under masks."""

from __future__ import annotations

import numpy as np

from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import Cost, Demand
from mpc_nonlinear.fixed_point import RingArray
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.computing import units
from transport.errors import FrameError
from transport.traffic import Traffic


def opened_cost(
    count: int,
    modulus: int,
    demand: Demand = Demand(),  # noqa: B008
    products: int = 1,
) -> Cost:
    """Cost of `opened` for `count` numbers in all, masks from `demand`. 1 round.

    products: those that follow locally, a number.
    """
    size = packed_bytes(count, modulus.bit_length())
    counts = units(prime_multiply_add=products * count)
    return Cost.of(Traffic.exchange(size, size), demand, counts)


def exchanged(words: RingArray, modulus: int, place: str, session: Session) -> RingArray:
    """The peer's residues modulo t for ours, (n,) each, as many bits a number as t has. 1 round.

    Words of t and above are refused, with `place` in front.
    """
    message = pack_bits(words, modulus.bit_length())
    session.channel.next_round()
    answer = session.channel.exchange(message, len(message))
    theirs = unpack_bits(answer, words.size, modulus.bit_length())
    if theirs.max(initial=0) >= modulus:
        raise FrameError(f"{place}: a word exceeds the prime; the frame is corrupt")
    return theirs


def opened(
    pairs: list[tuple[RingArray, RingArray]], modulus: int, session: Session
) -> list[RingArray]:
    """Numbers minus masks modulo t, of shares (n,) of both, to both parties. 1 round.

    Of pairs of equal length. Masks are uniform modulo t and serve here alone.
    """
    t = np.uint64(modulus)
    own = np.concatenate([(x + t - mask) % t for x, mask in pairs])
    theirs = exchanged(own, modulus, "products", session)
    return np.split((own + theirs) % t, len(pairs))
