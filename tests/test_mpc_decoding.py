"""Tokens from shared logits: greedy ones exact, sampled ones from the exact distribution."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chisquare

from mpc_nonlinear.blocks.decoding import GreedyDecoding, TemperatureSampling
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.session import Context
from tests.ot_sources import quick_session
from tests.test_mpc_contract import FIXED, run
from transport.errors import UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

CONTEXT = Context(FIXED, OtProducts(16))


def drawn_tokens(protocol, logits, context=CONTEXT):
    """One token a row, with exactly the declared cost."""
    cost = protocol.cost(logits.shape, context)
    left, right = run(lambda s, v: protocol.run(v, s), cost, FIXED.encode(logits))
    return (left + right).astype(np.int64)


def sampled_quickly(protocol, logits):
    """As `drawn_tokens` without the seconds that producing correlations takes."""
    cost = protocol.cost(logits.shape, CONTEXT)
    first = SecureRandom().uint64(logits.shape)
    pair = first, FIXED.encode(logits) - first

    def role(channel):
        session = quick_session(channel, cost.ots, products=OtProducts(16))
        return protocol.run(pair[session.party], session)

    client, server, _ = run_both(role)
    return (client + server).astype(np.int64)


@pytest.mark.parametrize("shape", [(1,), (2,), (7, 5), (2, 3, 33)])
def test_greedy_decoding(shape):
    logits = np.random.default_rng(1).normal(0, 4, shape).clip(-16, 16)
    logits.reshape(-1)[0] = 16.0
    tokens = drawn_tokens(GreedyDecoding(16.0), logits)
    assert np.array_equal(tokens, FIXED.encode(logits).view(np.int64).argmax(-1))


@pytest.mark.parametrize("shape", [(2,), (3, 40), (2, 700)])
def test_greedy_decoding_in_steps_is_near_the_largest(shape):
    step, bound = 2.0**-10, 16.0
    logits = np.random.default_rng(3).normal(0, 4, shape).clip(-bound, bound)
    logits.reshape(-1, shape[-1])[0, :2] = bound - 1.5 * step, bound
    protocol = GreedyDecoding(bound, step)
    tokens = drawn_tokens(protocol, logits)
    x = FIXED.decode(FIXED.encode(logits))
    found = np.take_along_axis(x, tokens[..., None], -1)[..., 0]
    assert np.all(x.max(-1) - found < 2 * step)
    exact = GreedyDecoding(bound).cost(shape, CONTEXT)
    assert shape[-1] < 40 or protocol.cost(shape, CONTEXT).ots.total < 0.8 * exact.ots.total


DISTRIBUTIONS = {
    "flat": np.zeros(5),
    "one sure": np.array([0.0, 14.0, -3.0]),
    "mixed": np.array([1.0, 0.5, 0.0, -1.0, -2.0, 2.0, 1.5, 1.0]),
    "far apart": np.array([0.0, -15.0, -15.0, -1.0]),
    "two": np.array([0.3, -0.3]),
}


@pytest.mark.parametrize(
    ("name", "temperature"),
    [(name, t) for name in ("mixed", "far apart") for t in (0.5, 1.0, 3.0)]
    + [("flat", 1.0), ("one sure", 0.5), ("one sure", 3.0), ("two", 0.5)],
)
def test_samples_have_the_distribution_of_softmax(name, temperature):
    """Chi-square; a true sampler fails once in 10^9 runs, one off by 0.05 nearly always."""
    logits, draws = DISTRIBUTIONS[name], 3000
    protocol = TemperatureSampling(16.0, temperature)
    tokens = sampled_quickly(protocol, np.tile(logits, (draws, 1)))
    assert_distributed(tokens, protocol.reference(logits))


@pytest.mark.long
@pytest.mark.parametrize("k", [1, 2, 5])
def test_samples_of_the_k_largest(k):
    logits = np.array([0.0, 2.0, 1.0, 1.5, -1.0, 1.75, 2.0])
    protocol = TemperatureSampling(4.0, 1.0, top_k=k)
    tokens = sampled_quickly(protocol, np.tile(logits, (3000, 1)))
    assert_distributed(tokens, protocol.reference(logits))


def assert_distributed(tokens, probabilities):
    seen = np.bincount(tokens, minlength=probabilities.size)
    assert seen.size == probabilities.size
    expected = probabilities * tokens.size
    # Rare ones together: the test wants five of a kind.
    rare = expected < 5
    assert seen[rare].sum() <= expected[rare].sum() + 30
    seen, expected = seen[~rare].astype(float), expected[~rare]
    if seen.size > 1:
        assert chisquare(seen, expected * seen.sum() / expected.sum()).pvalue > 1e-9


def test_a_wrong_sampler_would_fail():
    """The chi-square test rejects a distribution moved by five in a hundred."""
    p = TemperatureSampling(16.0).reference(DISTRIBUTIONS["mixed"])
    moved = p + np.where(np.arange(p.size) == 0, 0.05, -0.05 * (np.arange(p.size) == 5))
    tokens = np.random.default_rng(2).choice(p.size, 6000, p=moved)
    with pytest.raises(AssertionError):
        assert_distributed(tokens, p)


def test_sampling_declares_its_cost():
    rng = np.random.default_rng(3)
    for shape, k in (((3, 9), 4), ((2, 1), None), ((1, 40), None), ((2, 2, 6), 6)):
        logits = rng.normal(0, 2, shape).clip(-8, 8)
        tokens = drawn_tokens(TemperatureSampling(8.0, 0.7, k), logits)
        assert tokens.shape == shape[:-1]
        kept = TemperatureSampling(8.0, 0.7, k).reference(logits) > 0
        assert np.take_along_axis(kept, tokens[..., None], -1).all()


def test_neither_party_decides_the_draw():
    """With the client's randomness fixed the draws still vary, and the other way round."""
    logits = np.zeros((200, 16))
    protocol = TemperatureSampling(1.0)
    cost = protocol.cost(logits.shape, CONTEXT)

    def draw(fixed: Party, seed: bytes):
        def role(channel):
            session = quick_session(channel, cost.ots, products=OtProducts(16))
            if channel.party is fixed:
                object.__setattr__(session, "randomness", SecureRandom(seed, domain="fixed"))
            own = FIXED.encode(logits) if channel.party is Party.CLIENT else 0 * logits
            return protocol.run(own.astype(np.uint64), session)

        client, server, _ = run_both(role)
        return client + server

    for party in Party:
        assert not np.array_equal(draw(party, bytes(32)), draw(party, bytes(32)))


def test_what_cannot_be_sampled():
    with pytest.raises(UsageError, match="needs top_k"):
        TemperatureSampling(8.0).cost((1, 1000), CONTEXT)
    with pytest.raises(UsageError, match="temperature 0"):
        TemperatureSampling(8.0, 0.0)
    with pytest.raises(UsageError, match="top_k 0"):
        TemperatureSampling(8.0, 1.0, 0)
