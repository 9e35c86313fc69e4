"""Division of shared numbers by powers of two, when a bound on them is known."""

from __future__ import annotations

import numpy as np

from mpc_nonlinear.blocks.compare import carry, carry_cost
from mpc_nonlinear.blocks.oblivious_transfer import (
    correlated_ot_cost,
    correlated_ot_receive,
    correlated_ot_send,
)
from mpc_nonlinear.blocks.select import bit_to_arithmetic, bit_to_arithmetic_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from transport.bitpack import low_mask
from transport.errors import UsageError
from transport.traffic import Party

_OFFSET_BITS = RING_BITS - 2
MAX_ABS_BITS = _OFFSET_BITS - 1
"""|x| must stay below 2^MAX_ABS_BITS ring units."""


def truncate_cost(count: int, shift: int) -> Cost:
    """Cost of `truncate` for `count` numbers."""
    return correlated_ot_cost(count, shift, Party.SERVER)


def truncate(x: RingArray, shift: int, session: Session) -> RingArray:
    """Shares of x / 2^shift for |x| < 2^61, same shape, 1 <= shift <= 61.

    Off by less than one unit and unbiased: a stochastic rounding. An offset makes the sign
    known; then the shares wrap around exactly unless both top bits are zero, and the wrap is
    needed modulo 2^shift only: one correlated OT of `shift` bits. 1 round. [Huang22] Cheetah,
    eprint 2022/207, Section 4.2 (truncation with known sign).
    """
    # Both floors together lose 2^shift - 1 on average.
    return _floors(x, shift, (1 << shift) - 1, session)


def round_exactly_cost(count: int, shift: int) -> Cost:
    """Cost of `round_exactly` for `count` numbers."""
    return carry_cost(count, shift) + bit_to_arithmetic_cost(count) + truncate_cost(count, shift)


def round_exactly(x: RingArray, shift: int, session: Session) -> RingArray:
    """Shares of floor(x / 2^shift + 1/2) for |x| < 2^61, same shape. Exact.

    For what is opened: the result depends on x alone and not, as with `truncate`, on how its low
    bits are shared. The carry out of the low bits by a comparison, then the floors. 6 rounds for
    9 <= shift <= 16. [Rathee20] Section 4.2 (faithful truncation).
    """
    if session.party is Party.SERVER:
        x = x + np.uint64(1 << (shift - 1))
    carried = bit_to_arithmetic(carry(x, shift, session), session)
    return carried + _floors(x, shift, 0, session)


def _floors(x: RingArray, shift: int, raised: int, session: Session) -> RingArray:
    """Both parties' floors of (x + raised) / 2^shift, without the carry between them."""
    steps = np.uint64(shift)
    flat = x.reshape(-1)
    if session.party is Party.SERVER:
        flat = flat + np.uint64((1 << _OFFSET_BITS) + raised)
    both = _both_tops_zero(flat, RING_BITS, shift, session)
    # wrap = 1 - both; x / 2^shift = sum of floors - wrap * 2^(64 - shift) - offset / 2^shift
    result = (flat >> steps) + (both << np.uint64(RING_BITS - shift))
    if session.party is Party.SERVER:
        constant = (1 << (RING_BITS - shift)) + (1 << (_OFFSET_BITS - shift))
        result = result - np.uint64(constant % 2**RING_BITS)
    return result.reshape(x.shape)


def _both_tops_zero(shares: RingArray, bits: int, result_bits: int, session: Session) -> RingArray:
    """Shares modulo 2^result_bits of [the top bit of both shares (n,) modulo 2^bits is zero]."""
    own = np.uint64(1) - (shares >> np.uint64(bits - 1))
    if session.party is Party.SERVER:
        return correlated_ot_send(own, result_bits, session)
    return correlated_ot_receive(own.astype(np.uint8), result_bits, session)


def widen_cost(count: int, bits: int) -> Cost:
    """Cost of `widen` for `count` numbers."""
    return correlated_ot_cost(count, RING_BITS - bits, Party.SERVER)


def widen(x: RingArray, bits: int, session: Session) -> RingArray:
    """Shares modulo 2^64 of x, |x| < 2^(bits - 2), from shares modulo 2^bits; same shape.

    Exact; 2 <= bits < 64; higher bits of the input shares are not read. An offset makes the sign
    known; then the shares wrap around exactly unless both top bits are zero: one correlated OT of
    64 - bits bits. 1 round. [Huang22] Cheetah, eprint 2022/207, Section 4.2.
    """
    if not 2 <= bits < RING_BITS:
        raise UsageError(f"widen: from {bits} bits; use 2 to {RING_BITS - 1}")
    offset = np.uint64(1 << (bits - 2))
    flat = x.reshape(-1)
    if session.party is Party.SERVER:
        flat = flat + offset
    flat = flat & low_mask(bits)
    both = _both_tops_zero(flat, bits, RING_BITS - bits, session)
    if session.party is Party.SERVER:
        flat = flat - offset - np.uint64(1 << bits)
    return (flat + (both << np.uint64(bits))).reshape(x.shape)
