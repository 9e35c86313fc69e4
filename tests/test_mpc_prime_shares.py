"""Shares modulo an odd number become shares modulo 2^64."""

import numpy as np
import pytest

from mpc_nonlinear.blocks.prime_shares import (
    from_prime,
    from_prime_cost,
    from_prime_error_units,
    from_prime_limit,
)
from tests.ot_sources import quick_session
from transport.errors import UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

PRIME = 17592186028033
"""Of 44 bits, 1 modulo 2^14."""


def converted(values, modulus, shift, client=None):
    """Results for shares of these integers; the client's uniform unless given."""
    wanted = np.array([v % modulus for v in values], np.uint64)
    if client is None:
        client = SecureRandom().uint64(len(values)) % np.uint64(modulus)
    server = (wanted + np.uint64(modulus) - client) % np.uint64(modulus)
    cost = from_prime_cost(len(values))

    def role(channel):
        session = quick_session(channel, cost.ots)
        with channel.step("test"):
            own = client if channel.party is Party.CLIENT else server
            return from_prime(own.reshape(1, -1), modulus, shift, session)

    first, second, channel = run_both(role)
    assert channel.traffic("test") == cost.traffic
    assert cost.traffic.rounds == 1
    assert first.shape == (1, len(values))
    return (first + second)[0].view(np.int64)


@pytest.mark.parametrize("modulus", [PRIME, (1 << 40) + 15, 1023, (1 << 62) - 57])
def test_every_place_of_the_wrap_is_right(modulus):
    shift = 5
    limit = from_prime_limit(modulus, shift)
    values = [v for x in (0, 1, 31, 32, limit // 3, limit - 1, limit) for v in (x, -x)]
    half = modulus // 2
    for edge in (0, 1, limit, half, half + 1, half + 2, modulus - limit, modulus - 1):
        client = np.full(len(values), edge, np.uint64)
        got = converted(values, modulus, shift, client)
        away = [abs(int(g) * 2**shift - v) / 2**shift for g, v in zip(got, values, strict=True)]
        assert max(away) < from_prime_error_units(modulus, shift)


@pytest.mark.parametrize("shift", [0, 1, 14, 16, 20, 41])
def test_errors_stay_below_the_declared_bound(shift):
    limit = from_prime_limit(PRIME, shift)
    draw = np.random.default_rng(shift).integers(-limit, limit + 1, 4000)
    values = [0, 1, -1, limit, -limit, *draw.tolist()]
    away = converted(values, PRIME, shift) - np.array(values) / 2**shift
    bound = from_prime_error_units(PRIME, shift)
    if not shift:
        assert bound == 0
        assert not away.any()
        return
    assert np.abs(away).max() < bound
    # Unbiased but for what t / 2^shift is away from an integer.
    assert abs(away.mean()) < 0.04 + (bound - 1)
    assert bound == 1 + 2.0**-shift if shift <= 14 else bound <= 1.5


def test_limits():
    assert from_prime_limit(PRIME, 14) <= PRIME // 4
    assert from_prime_limit(PRIME, 14) > PRIME // 4 - 2**14
    for modulus, shift in ((PRIME + 1, 3), ((1 << 63) - 1, 3), (PRIME, 43), (PRIME, -1)):
        with pytest.raises(UsageError, match="use an odd modulus"):
            from_prime(np.zeros(1, np.uint64), modulus, shift, None)
