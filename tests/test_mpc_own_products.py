"""Products of each party's own numbers, and powers of two of shared exponents."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc_nonlinear.blocks.own_products import (
    own_product,
    own_product_cost,
    power_cost,
    power_of_two,
)
from mpc_nonlinear.correlations.dealt import prime_cross_kind
from mpc_nonlinear.cost import OtCount
from tests.he_setup import looks_uniform
from tests.ot_sources import quick_session
from tests.prime_triples import T, run_products
from tests.test_mpc_blocks import client_share, few_examples
from transport.bitpack import pack_bits, unpack_bits
from transport.errors import FrameError, UsageError
from transport.local import run_both
from transport.traffic import Party

EDGES = (0, 1, 2, T // 2, T - 1)
LOG2_E = 1.4426950408889634


def crossed(own):
    """Their product modulo t, of what either party holds."""
    x, y = (np.array(part, np.uint64) for part in own)
    cost = own_product_cost(x.size, T)
    client, server = run_products(lambda s, held: own_product(held, T, s), cost, x + y, shares=[x])
    return list((client.astype(object) + server.astype(object)) % T)


def test_each_party_multiplies_what_it_holds():
    pairs = [(a, b) for a in EDGES for b in EDGES]
    assert crossed(zip(*pairs, strict=True)) == [a * b % T for a, b in pairs]


@given(st.lists(st.tuples(st.integers(0, T - 1), st.integers(0, T - 1)), min_size=1, max_size=9))
@few_examples
def test_any_numbers_of_either_party(pairs):
    assert crossed(zip(*pairs, strict=True)) == [a * b % T for a, b in pairs]


def powers(x, factor, kept, shares=None):
    values = np.rint(np.asarray(x) * 2.0**16).astype(np.int64).view(np.uint64)
    cost = power_cost(values.size, 1.0, T)
    client, server = run_products(
        lambda s, v: power_of_two(v, factor, kept, T, s), cost, values, shares=shares
    )
    total = (client + server) % np.uint64(T)
    return total.astype(float) * 2.0 ** (-2 * kept)


@pytest.mark.parametrize("kept", [4, 11, 16])
def test_powers_are_as_near_as_declared_over_the_whole_range(kept):
    top = 42 - 2 * kept
    x = np.linspace(0.7, top / LOG2_E - 0.01, 500)
    found, wanted = powers(x, LOG2_E, kept), np.exp(x)
    assert np.abs(found / wanted - 1).max() < 2.0**-kept + 2 * LOG2_E * 2.0**-16


@given(st.lists(st.tuples(st.floats(0.7, 12), client_share), min_size=1, max_size=6))
@few_examples
def test_powers_of_any_shares_but_those_that_do_not_lift(drawn):
    values, client = zip(*drawn, strict=True)
    x, shares = np.array(values), np.array(client, np.uint64)
    lifted = shares.view(np.int64).astype(float)
    fits = np.abs(lifted) < 2.0**62
    found = powers(x, LOG2_E, 10, [shares])[fits]
    assert np.all(np.abs(found / np.exp(x[fits]) - 1) < 2.0**-9)


def test_negative_factors_and_whole_exponents():
    assert np.allclose(powers([-3.0, -2.0, -1.5], -1.0, 16), [8.0, 4.0, 2**1.5], rtol=1e-4)


def test_what_is_sent_is_masked_once_and_uniform():
    """Equal inputs, and no word of a run says anything of them; a second run has new masks."""
    sent = []

    def watched(session, held):
        channel = session.channel
        exchange = channel.exchange

        def record(message, size):
            sent.append(unpack_bits(message, held.size, T.bit_length()))
            return exchange(message, size)

        object.__setattr__(channel, "exchange", record)
        return own_product(held, T, session)

    held = np.full(20_000, 5, np.uint64)
    run_products(watched, own_product_cost(held.size, T), held + held, shares=[held])
    assert len(sent) == 2
    for words in sent:
        assert looks_uniform((words << np.uint64(20)) | words >> np.uint64(24))
    assert not np.array_equal(*sent)


def test_words_above_the_prime_are_refused():
    def role(channel):
        session = quick_session(channel, OtCount())
        kind = prime_cross_kind(T)
        session.prepared.store(kind, (np.ones(3, np.uint64), np.ones(3, np.uint64)))
        if channel.party is Party.CLIENT:
            channel.exchange(pack_bits(np.full(3, T, np.uint64), kind.bits))
            return
        with pytest.raises(FrameError, match="exceeds the prime"):
            own_product(np.ones(3, np.uint64), T, session)
        return

    run_both(role)


def test_what_powers_refuse():
    for kept, factor in ((0, 1.0), (32, 1.0), (8, 2.0**17)):
        with pytest.raises(UsageError, match="power of two"):
            run_products(
                lambda s, v, k=kept, f=factor: power_of_two(v, f, k, T, s),
                power_cost(0, 1.0, T),
                np.zeros(0, np.uint64),
            )
