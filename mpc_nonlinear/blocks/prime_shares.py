"""Shares modulo 2^64 to shares modulo an odd number t, and back, truncated on the way."""

from __future__ import annotations

import numpy as np

from mpc_nonlinear.blocks.oblivious_transfer import (
    correlated_ot_cost,
    correlated_ot_receive,
    correlated_ot_send,
)
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from transport.errors import UsageError
from transport.traffic import Party

_MAX_MODULUS_BITS = RING_BITS - 2


def to_prime(x: RingArray, modulus: int) -> RingArray:
    """Shares modulo t, same shape, from shares modulo 2^64, without a message.

    Centred lifts are shares over the integers, so shares modulo t too, except with probability
    |x| / 2^64 an element; "Probabilities of failure" in docs/security.md.
    """
    lifted: RingArray = np.mod(x.view(np.int64), np.int64(modulus)).view(np.uint64)
    return lifted


def from_prime_cost(count: int) -> Cost:
    """Cost of `from_prime` for `count` numbers: one OT of 64 bits each, 1 round."""
    return correlated_ot_cost(count, RING_BITS, Party.SERVER)


def from_prime_limit(modulus: int, shift: int) -> int:
    """Largest |x| that `from_prime` takes: about t / 4."""
    return modulus // 4 >> shift << shift


def from_prime_error_units(modulus: int, shift: int) -> float:
    """Bound on `from_prime`'s error, in units of its result: it stays below, 0 means exact.

    One unit for both shares' floors, and the distance of t / 2^shift from an integer, which is
    2^-shift where t is 1 modulo 2^shift.
    """
    rest = modulus % (1 << shift)
    return (1.0 if shift else 0.0) + min(rest, (1 << shift) - rest) / (1 << shift)


def from_prime(x: RingArray, modulus: int, shift: int, session: Session) -> RingArray:
    """Shares modulo 2^64 of x / 2^shift, same shape, from shares of x modulo an odd t.

    |x| <= `from_prime_limit`; each share is below t < 2^62; 0 <= shift < bits of t - 2. An offset
    of about t / 4 makes x positive and below t / 2: then the shares wrap around t exactly unless
    both are below t / 2. One correlated OT of 64 bits shares the wrap times t / 2^shift. Off by
    less than `from_prime_error_units`, and unbiased up to their part beyond one unit. 1 round. The
    known sign is that of [Huang22] Cheetah, eprint 2022/207, Section 4.2, for an odd modulus.
    """
    bits = modulus.bit_length()
    if not modulus & 1 or bits > _MAX_MODULUS_BITS or not 0 <= shift < bits - 2:
        raise UsageError(
            f"from_prime: modulus {modulus}, shift {shift}; use an odd modulus of at most "
            f"{_MAX_MODULUS_BITS} bits, and a shift that leaves three of them"
        )
    flat, steps = x.reshape(-1), np.uint64(shift)
    offset = from_prime_limit(modulus, shift)
    wrapped = (modulus + (1 << shift >> 1)) >> shift
    server = session.party is Party.SERVER
    if server:
        flat = (flat + np.uint64(offset)) % np.uint64(modulus)
    low_half = flat < np.uint64(modulus // 2 + 1)
    # wrap = 1 - both; x / 2^shift = sum of shares / 2^shift - wrap t / 2^shift - offset / 2^shift.
    if server:
        both = correlated_ot_send(
            low_half.astype(np.uint64) * np.uint64(wrapped), RING_BITS, session
        )
        # Both parties' floors together lose 2^shift - 1 on average.
        up = (flat + np.uint64((1 << shift) - 1)) >> steps
        result = up + both - np.uint64(wrapped + (offset >> shift))
    else:
        both = correlated_ot_receive(low_half.astype(np.uint8), RING_BITS, session)
        result = (flat >> steps) + both
    return result.reshape(x.shape)
