"""Shares modulo 2^64 to shares modulo an odd number t, and back, truncated on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpc_nonlinear.blocks.oblivious_transfer import (
    correlated_ot_cost,
    correlated_ot_receive,
    correlated_ot_send,
    residue_ot_cost,
    residue_ot_receive,
    residue_ot_send,
)
from mpc_nonlinear.blocks.prime_arithmetic import quotients
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from transport.errors import UsageError
from transport.traffic import Party

_MAX_MODULUS_BITS = RING_BITS - 2
SCALED_ERROR_UNITS = 1.125
"""Bound on the error of `scaled_from_prime`, in units of its result; it stays below."""


def to_prime(x: RingArray, modulus: int) -> RingArray:
    """Shares modulo t, same shape, from shares modulo 2^64, without a message.

    Centred lifts are shares over the integers, so shares modulo t too, except with probability
    |x| / 2^64 an element; "Probabilities of failure" in docs/security.md.
    """
    lifted: RingArray = np.mod(x.view(np.int64), np.int64(modulus)).view(np.uint64)
    return lifted


def from_prime_cost(count: int, bits: int = RING_BITS) -> Cost:
    """Cost of `from_prime` for `count` numbers: one OT of so many bits each, 1 round."""
    return correlated_ot_cost(count, bits, Party.SERVER)


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


@dataclass(frozen=True, slots=True)
class _Floors:
    """Own part of x / 2^shift as an integer: parts - wrapped [they wrap around t] add up to it."""

    part: RingArray
    low_half: RingArray
    """[own share below t / 2]: the shares wrap unless both parties' are."""
    wrapped: int

    def shared(self, session: Session, bits: int = RING_BITS) -> RingArray:
        """Shares modulo 2^bits, not reduced. One OT a number, 1 round."""
        if session.party is Party.SERVER:
            payload = self.low_half * np.uint64(self.wrapped)
            return self.part + correlated_ot_send(payload, bits, session)
        choices = self.low_half.astype(np.uint8)
        return self.part + correlated_ot_receive(choices, bits, session)

    def shared_modulo(self, modulus: int, session: Session) -> RingArray:
        """Shares modulo t. One OT a number, 1 round."""
        if session.party is Party.SERVER:
            payload = self.low_half * np.uint64(self.wrapped)
            both = residue_ot_send(payload, modulus, session)
        else:
            both = residue_ot_receive(self.low_half.astype(np.uint8), modulus, session)
        # Parts are below t / 2 in magnitude, so the sum fits a signed word.
        return to_prime(self.part + both, modulus)


def from_prime(
    x: RingArray, modulus: int, shift: int, session: Session, bits: int = RING_BITS
) -> RingArray:
    """Shares modulo 2^64 of x / 2^shift, same shape, from shares of x modulo an odd t.

    |x| <= `from_prime_limit`; each share is below t < 2^62; 0 <= shift < bits of t - 2. An offset
    of about t / 4 makes x positive and below t / 2: then the shares wrap around t exactly unless
    both are below t / 2. One correlated OT of 64 bits shares the wrap times t / 2^shift. Off by
    less than `from_prime_error_units`, and unbiased up to their part beyond one unit. 1 round. The
    known sign is that of [Huang22] Cheetah, eprint 2022/207, Section 4.2, for an odd modulus. With
    fewer `bits` the OTs are as short, and only so many low bits are shares of the result.
    """
    return _floors(x, modulus, shift, session).shared(session, bits).reshape(x.shape)


def rescale_cost(count: int, modulus: int) -> Cost:
    """Cost of `rescale` for `count` numbers: one OT modulo t each, 1 round."""
    return residue_ot_cost(count, modulus, Party.SERVER)


def rescale(x: RingArray, modulus: int, shift: int, session: Session) -> RingArray:
    """Shares modulo t of x / 2^shift, same shape, from shares of x modulo an odd t. 1 round.

    Limits, error and OTs as `from_prime`: both parties' parts and the wrap add up to the same
    integer, of at most t / 4 and so known modulo t, where the OT shares the wrap's multiple. What
    comes next needs no lift, which could fail.
    """
    return _floors(x, modulus, shift, session).shared_modulo(modulus, session).reshape(x.shape)


def _floors(x: RingArray, modulus: int, shift: int, session: Session) -> _Floors:
    _check(modulus, shift)
    steps, offset = np.uint64(shift), from_prime_limit(modulus, shift)
    flat, low_half = _moved(x, offset, modulus, session)
    wrapped = (modulus + (1 << shift >> 1)) >> shift
    # wrap = 1 - both; x / 2^shift = sum of shares / 2^shift - wrap t / 2^shift - offset / 2^shift.
    if session.party is Party.CLIENT:
        return _Floors(flat >> steps, low_half, wrapped)
    # Both parties' floors together lose 2^shift - 1 on average.
    up = (flat + np.uint64((1 << shift) - 1)) >> steps
    return _Floors(up - np.uint64(wrapped + (offset >> shift)), low_half, wrapped)


def scaled_from_prime(x: RingArray, modulus: int, factor: float, session: Session) -> RingArray:
    """Shares modulo 2^64 of factor * x for a public |factor| < 1, same shape. 1 round.

    From shares of x, |x| <= t / 4, modulo an odd t below 2^50. As `from_prime`, with R / t for the
    factor, R an integer: shares over the integers, of which the wrap is known, may be multiplied by
    any number. A wrap then takes exactly R, and the offset's remainder is added before the server's
    floor, so both floors together are off by less than a unit; R / t is off by 1 / 2t, which is
    |x| / 2t <= 1/8 of a unit: in all less than `SCALED_ERROR_UNITS`.
    """
    _check(modulus, 0)
    wrapped = round(abs(factor) * modulus)
    if wrapped >= modulus:
        raise UsageError(f"from_prime: factor {factor:g}; stay below one in magnitude")
    if factor < 0:
        x = (np.uint64(modulus) - x) % np.uint64(modulus)
    offset = from_prime_limit(modulus, 0)
    flat, low_half = _moved(x, offset, modulus, session)
    part = quotients(flat, wrapped, 0, modulus)
    if session.party is Party.SERVER:
        # Both parties' floors together lose t - 1 of t on average: the server's is moved up.
        whole, rest = divmod(offset * wrapped, modulus)
        part = quotients(flat, wrapped, modulus - 1 - rest, modulus)
        part = part - np.uint64(whole + wrapped)
    return _Floors(part, low_half, wrapped).shared(session).reshape(x.shape)


def _moved(
    x: RingArray, offset: int, modulus: int, session: Session
) -> tuple[RingArray, RingArray]:
    """Shares of x + offset, flat, and whether the own one is in the lower half."""
    flat = x.reshape(-1)
    if session.party is Party.SERVER:
        flat = (flat + np.uint64(offset)) % np.uint64(modulus)
    return flat, (flat < np.uint64(modulus // 2 + 1)).astype(np.uint64)


def _check(modulus: int, shift: int) -> None:
    bits = modulus.bit_length()
    if not modulus & 1 or bits > _MAX_MODULUS_BITS or not 0 <= shift < bits - 2:
        raise UsageError(
            f"from_prime: modulus {modulus}, shift {shift}; use an odd modulus of at most "
            f"{_MAX_MODULUS_BITS} bits, and a shift that leaves three of them"
        )
