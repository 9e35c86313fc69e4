"""Shares modulo an odd number become shares modulo 2^64."""

import numpy as np
import pytest

from mpc_nonlinear.blocks.oblivious_transfer import residue_ot_receive, residue_ot_send
from mpc_nonlinear.blocks.prime_arithmetic import quotients
from mpc_nonlinear.blocks.prime_shares import (
    SCALED_ERROR_UNITS,
    from_prime,
    from_prime_cost,
    from_prime_error_units,
    from_prime_limit,
    rescale,
    rescale_cost,
    scaled_from_prime,
)
from mpc_nonlinear.correlations.preprocessing import residue_kind
from mpc_nonlinear.cost import Demand
from tests.he_setup import looks_uniform
from tests.ot_sources import quick_session, run_misbehaving
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.errors import FrameError, UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

PRIME = 17592186028033
"""Of 44 bits, 1 modulo 2^14."""


EDGES = (0, 1, 2**42, PRIME // 2, PRIME // 2 + 1, PRIME // 2 + 2, PRIME - 2**42, PRIME - 1)


def converted(values, modulus, shift, client=None):
    """Results for shares of these integers; the client's uniform unless given."""
    cost = from_prime_cost(len(values))
    both = both_of(lambda x, session: from_prime(x, modulus, shift, session),
                   cost, values, modulus, client)  # fmt: skip
    return sum(both).view(np.int64)


def both_of(function, cost, values, modulus, client=None):
    """Both parties' results."""
    wanted = np.array([v % modulus for v in values], np.uint64)
    if client is None:
        client = SecureRandom().uint64(len(values)) % np.uint64(modulus)
    server = (wanted + np.uint64(modulus) - client) % np.uint64(modulus)

    def role(channel):
        session = quick_session(channel, cost.ots)
        with channel.step("test"):
            own = client if channel.party is Party.CLIENT else server
            return function(own.reshape(1, -1), session)

    first, second, channel = run_both(role)
    assert channel.traffic("test") == cost.traffic
    assert cost.traffic.rounds == 1
    assert first.shape == (1, len(values))
    return first[0], second[0]


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


# -- modulo t, and by any factor -----------------------------------------------------------


@pytest.mark.parametrize("modulus", [PRIME, (1 << 40) + 15, 1023, (1 << 62) - 57])
def test_rescaled_numbers_are_the_truncated_ones_modulo_the_same(modulus):
    shift = 5
    limit = from_prime_limit(modulus, shift)
    values = [v for x in (0, 1, 31, 32, limit // 3, limit - 1, limit) for v in (x, -x)]
    half = modulus // 2
    for edge in (0, 1, limit, half, half + 1, half + 2, modulus - limit, modulus - 1):
        client = np.full(len(values), edge % modulus, np.uint64)
        cost = rescale_cost(len(values), modulus)
        both = both_of(lambda x, s: rescale(x, modulus, shift, s), cost, values, modulus, client)
        assert max(int(part.max()) for part in both) < modulus
        got = sum(part.astype(object) for part in both) % modulus
        got = [g - modulus if g > modulus // 2 else g for g in got]
        away = [abs(g * 2**shift - v) / 2**shift for g, v in zip(got, values, strict=True)]
        assert max(away) < from_prime_error_units(modulus, shift)


def test_rescaling_costs_an_ot_of_the_modulus_bits():
    cost = rescale_cost(100, PRIME)
    assert cost.failure_probability == 0
    assert cost.demand == Demand.of(residue_kind(PRIME, Party.SERVER), 100)
    assert cost.traffic.server_payload_bytes == packed_bytes(100, 44)
    assert cost.traffic.client_payload_bytes == packed_bytes(100, 1)
    # Pads are remainders of 128 bits.
    assert dict(cost.demand.offline_units)["pad_word"] == 100 * 2 * 2
    assert rescale_cost(0, PRIME).ots.total == 0


@pytest.mark.parametrize("factor", [2.0**-16, 0.0462271 * 2.0**-18, -2.27 * 2.0**-17, 0.3, 0.0])
def test_any_factor_on_the_way_back(factor):
    limit = from_prime_limit(PRIME, 0)
    draw = np.random.default_rng(7).integers(-limit, limit + 1, 4000).tolist()
    values = [0, 1, -1, limit, -limit, *draw]
    cost = from_prime_cost(len(values))
    for client in (None, *(np.full(len(values), edge, np.uint64) for edge in EDGES)):
        both = both_of(lambda x, s: scaled_from_prime(x, PRIME, factor, s),
                       cost, values, PRIME, client)  # fmt: skip
        away = sum(both).view(np.int64) - np.array(values) * factor
        assert np.abs(away).max() < SCALED_ERROR_UNITS
        if client is None:
            assert abs(away.mean()) < 0.04
    with pytest.raises(UsageError, match="below one"):
        scaled_from_prime(np.zeros(1, np.uint64), PRIME, 1.0, None)


@pytest.mark.parametrize("modulus", [PRIME, 3, (1 << 50) - 27])
def test_quotients_are_those_of_integers(modulus):
    draw = np.random.default_rng(2).integers(0, modulus, 2000).tolist()
    x = np.array([0, 1, modulus // 2, modulus - 1, *draw], np.uint64)
    for factor, addend in ((0, 0), (1, modulus - 1), (modulus - 1, modulus - 1), (modulus // 3, 1)):
        exact = (x.astype(object) * factor + addend) // modulus
        assert (quotients(x, factor, addend, modulus).astype(object) == exact).all()
    with pytest.raises(UsageError, match="at most 50 bits"):
        quotients(x, 1, 0, 1 << 51 | 1)


# -- oblivious transfers modulo t ----------------------------------------------------------


def transferred(party, x, choices):
    """Both shares, and what `party` sends."""
    seen = []

    def role(channel):
        session = quick_session(channel, rescale_cost(x.size, PRIME).ots)
        if channel.party is party:
            exchange = channel.exchange

            def spy(data, size):
                seen.append(data)
                return exchange(data, size)

            channel.exchange = spy
        if channel.party is Party.SERVER:
            return residue_ot_send(x, PRIME, session)
        return residue_ot_receive(choices, PRIME, session)

    client, server, _ = run_both(role)
    return client, server, seen[0]


def test_shares_of_a_choice_are_exact_and_uniform():
    choices = SecureRandom().bits(6000)
    x = np.full(6000, PRIME - 1, np.uint64)
    client, server, message = transferred(Party.SERVER, x, choices)
    assert ((client + server) % np.uint64(PRIME) == x * choices).all()
    for words in (client, server, unpack_bits(message, x.size, 44)):
        assert int(words.max()) < PRIME
        assert int(words.max()) > PRIME * 0.995
        assert looks_uniform(words << np.uint64(20) | words & np.uint64(2**20 - 1))
    *_, flips = transferred(Party.CLIENT, x, np.ones(6000, np.uint8))
    assert 0.45 < unpack_bits(flips, 6000, 1, np.uint8).mean() < 0.55


def test_a_correction_beyond_the_modulus_is_refused():
    def role(channel):
        session = quick_session(channel, rescale_cost(1, PRIME).ots)
        if channel.party is Party.SERVER:
            channel.next_round()
            channel.exchange(pack_bits(np.array([PRIME], np.uint64), 44), 1)
            return
        with pytest.raises(FrameError, match="exceeds the modulus"):
            residue_ot_receive(np.ones(1, np.uint8), PRIME, session)

    run_misbehaving(role)
