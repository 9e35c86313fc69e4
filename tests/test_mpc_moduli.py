"""Sums, products and openings modulo 2^64 and modulo a prime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.blocks.moduli import WORDS, PrimeModulus
from mpc_nonlinear.cost import OtCount
from tests.ot_sources import quick_session
from transport.bitpack import pack_bits, packed_bytes
from transport.errors import FrameError, UsageError
from transport.local import run_both
from transport.traffic import Party

PRIME_BITS = 43
PRIME = PrimeModulus((1 << PRIME_BITS) - 57)


@pytest.mark.parametrize("modulus", [WORDS, PRIME], ids=["words", "prime"])
def test_several_arrays_open_in_one_round(modulus):
    parts = [np.arange(6, dtype=np.uint64).reshape(2, 3), np.array([7], np.uint64)]
    first = [np.full(part.shape, 1 << 40, np.uint64) for part in parts]
    pairs = [(x, modulus.minus(part, x)) for x, part in zip(first, parts, strict=True)]

    def role(channel):
        session = quick_session(channel, OtCount())
        with channel.step("opened"):
            return modulus.opened([pair[channel.party] for pair in pairs], session)

    *results, channel = run_both(role)
    for found in results:
        assert all(np.array_equal(x, y) for x, y in zip(found, parts, strict=True))
    traffic = channel.traffic("opened")
    assert traffic == modulus.opening_cost(7).traffic
    assert traffic.rounds == 1
    assert traffic.client_payload_bytes == (56 if modulus is WORDS else -(-7 * PRIME_BITS // 8))


@pytest.mark.parametrize("shift", [1, 16])
@pytest.mark.parametrize("modulus", [WORDS, PRIME], ids=["words", "prime"])
def test_results_come_back_to_the_limit(modulus, shift):
    limit = min(modulus.limit(shift), 1 << 50)
    numbers = np.array([0, 1, -1, limit - 1, 1 - limit, limit // 3], np.int64)
    residues = modulus.lifted(numbers.view(np.uint64))
    first = np.arange(6, dtype=np.uint64) * np.uint64(1 << 40)
    pair = first, modulus.minus(residues, first)

    def role(channel):
        session = quick_session(channel, modulus.result_cost(6, shift).ots)
        with channel.step("back"):
            return modulus.result(pair[channel.party], shift, session)

    client, server, channel = run_both(role)
    assert channel.traffic("back") == modulus.result_cost(6, shift).traffic
    away = (client + server).view(np.int64) - numbers / 2**shift
    assert np.abs(away).max() < 1.5


def test_moduli_that_do_not_fit_are_refused():
    one = np.ones((1, 1, 1), np.uint64)
    with pytest.raises(UsageError, match="use a modulus of at most 50 bits"):
        PrimeModulus((1 << 51) - 1).times(one, one)
    long = np.ones((1, 1, 1 << 14), np.uint64)
    with pytest.raises(UsageError, match="sums of 16384; use fewer terms"):
        PrimeModulus((1 << 50) - 27).times(long, long.transpose(0, 2, 1))


def test_a_residue_beyond_the_prime_is_refused():
    def role(channel):
        session = quick_session(channel, OtCount())
        if channel.party is Party.CLIENT:
            # All bits set: one above the largest residue.
            wrong = np.full(3, (1 << PRIME_BITS) - 1, np.uint64)
            channel.next_round()
            channel.exchange(pack_bits(wrong, PRIME_BITS), packed_bytes(3, PRIME_BITS))
            return
        with pytest.raises(FrameError, match="a word exceeds the prime"):
            PRIME.opened([np.zeros(3, np.uint64)], session)

    run_both(role)


@settings(max_examples=20, deadline=None)
@given(
    st.tuples(*[st.integers(1, 5)] * 4),
    st.sampled_from([3, 17592186028033, (1 << 50) - 27]),
    st.integers(0, 2**32),
)
def test_residues_multiply_exactly(shape, modulus, seed):
    batch, n, k, m = shape
    rng, residues = np.random.default_rng(seed), PrimeModulus(modulus)
    x, y = (rng.integers(0, modulus, s, np.uint64) for s in ((batch, n, k), (batch, k, m)))
    x[0, 0], y[0, :, 0] = modulus - 1, modulus - 1
    exact = np.einsum("bnk,bkm->bnm", x.astype(object), y.astype(object)) % modulus
    assert (residues.times(x, y) == exact.astype(np.uint64)).all()
    z = rng.integers(0, modulus, x.shape, np.uint64)
    assert (residues.plus(x, z) == (x + z) % np.uint64(modulus)).all()
    assert (residues.plus(residues.minus(x, z), z) == x).all()


def test_lifts_are_declared():
    assert WORDS.lift_cost(10, 2.0**16).failure_probability == 0
    assert PRIME.lift_cost(10, 2.0**16).failure_probability == 10 * 2.0**-48
    assert (WORDS.limit(16), PRIME.limit(16)) == (2**61, (1 << PRIME_BITS - 2) - (1 << 16))
