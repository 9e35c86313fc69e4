"""Sampled tokens of a real model: their distribution, and a whole answer among the k largest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import chi2

from hybrid.models.decoder_graph import NEXT_TOKEN
from hybrid.models.generator import load_prompts
from hybrid.models.generator_loading import load_generator
from hybrid.models.sampling import Sampling
from hybrid.operators.base import Choice, RunState
from hybrid.operators.next_token import ChosenOnShares, NextTokenOperator
from hybrid.runtime.generation_local import LocalGeneration
from mpc_nonlinear.blocks.decoding import TemperatureSampling
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.session import Context
from mpc_nonlinear.fixed_point import FixedPoint
from tests.clear_graph import ClearConversation
from tests.generation_setup import generation_config, smallest_cosine
from tests.ot_sources import quick_session
from tests.parties import plan_context
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

FIXED = FixedPoint(16)
DRAWS, AT_ONCE = 4000, 200
CHANCE = 1e-7
"""Of a true sampler to fail one of these tests."""


def private_node(temperature, top_k):
    """The choice of the small llama behind a prompt, and the logits that it chooses by."""
    config = generation_config(temperature=temperature, top_k=top_k)
    generator = load_generator(config)
    ids = load_prompts(config).first("What is a mask?").private
    logits = ClearConversation(generator).logits(ids)
    (node,) = [n for n in generator.public.graph(1, 0).nodes if n.name == NEXT_TOKEN]
    assert np.abs(logits).max() <= node.bounds["input"].max_abs
    return node, logits


def opened(run, cost, rows):
    """What two parties choose from shares of these rows, with correlations that cost nothing."""
    first = SecureRandom().uint64(rows.shape)
    pair = first, FIXED.encode(rows) - first

    def role(channel):
        session = quick_session(channel, cost.ots, products=OtProducts(16))
        return run(pair[channel.party is Party.SERVER], session)

    client, server, _ = run_both(role)
    return client, server


def assert_drawn(tokens, wanted):
    """Chi-square; candidates that are expected less than five times count together."""
    seen = np.bincount(tokens, minlength=len(wanted))
    # Nothing outside the k largest is ever drawn.
    assert not seen[wanted == 0].any()
    expected, rare = wanted * len(tokens), wanted * len(tokens) < 5
    pooled = [(seen[~rare], expected[~rare]), ([seen[rare].sum()], [expected[rare].sum()])]
    pairs = [(s, e) for some, many in pooled for s, e in zip(some, many, strict=True) if e > 0]
    # Too few in the pool for the distribution of chi-square: they are a bound by themselves.
    pairs = [(s, e) for s, e in pairs if e >= 5 or s > 40]
    statistic = sum((s - e) ** 2 / e for s, e in pairs)
    assert len(pairs) > 1
    assert chi2.sf(statistic, len(pairs) - 1) > CHANCE


@pytest.mark.parametrize("temperature", [0.8, 2.0])
@pytest.mark.parametrize(
    "vocabulary",
    # A draw among 512 takes a fifteenth of a second; the smallest logits are never drawn.
    [pytest.param(28, marks=pytest.mark.long), pytest.param(512, marks=pytest.mark.slow)],
)
def test_first_tokens_have_the_plain_distribution(temperature, vocabulary):
    node, logits = private_node(temperature, 20)
    logits = logits[np.sort(np.argsort(-logits)[:vocabulary])]
    bounds = node.bounds["input"]
    sampler = TemperatureSampling(bounds.max_abs, temperature, 20)
    rows = np.tile(logits, (AT_ONCE, 1))
    cost = sampler.cost(rows.shape, Context(FIXED, OtProducts(16)))
    found = []
    for _ in range(DRAWS // AT_ONCE):
        client, server = opened(sampler.run, cost, rows)
        found.append((client + server).astype(np.int64))
    wanted = Sampling(temperature, top_k=20).probabilities(logits)
    assert (wanted > 0).sum() == 20
    assert_drawn(np.concatenate(found), wanted)


@pytest.mark.parametrize(
    ("temperature", "others"),
    [
        (0.8, [(0.64, 20), (1.0, 20), (0.8, 21), (0.8, 16)]),
        (2.0, [(1.4, 20), (3.0, 20), (2.0, 21), (2.0, 18)]),
    ],
)
def test_another_distribution_would_be_noticed(temperature, others):
    """Another temperature, one candidate more, a few less."""
    _, logits = private_node(temperature, 20)
    wanted = Sampling(temperature, top_k=20).probabilities(logits)
    rng = np.random.default_rng(1)
    assert_drawn(rng.choice(len(wanted), DRAWS, p=wanted), wanted)
    for warmth, k in others:
        other = Sampling(warmth, top_k=k).probabilities(logits)
        with pytest.raises(AssertionError):
            assert_drawn(rng.choice(len(wanted), DRAWS, p=other), wanted)


def test_the_operator_opens_a_drawn_token_to_the_client_alone():
    """Among twenty that are equally likely: as good as never is one of them drawn every time."""
    node, logits = private_node(0.8, 20)
    likely = np.random.default_rng(2).choice(len(logits), 20, replace=False)
    logits = np.full(len(logits), -1.0)
    logits[likely] = 1.0
    choice, products = Choice("on_shares", "ot"), {"ot": OtProducts(16)}
    context = replace(plan_context(), products=products)
    operator = NextTokenOperator(node, ChosenOnShares, choice, context)
    wanted = Sampling(0.8, top_k=20).probabilities(logits)
    assert np.allclose(wanted[likely], 1 / 20)

    def run(share, session):
        state = RunState(session, None, products=products)  # type: ignore[arg-type]
        return operator.run([share], state)[0]

    drawn = set()
    for _ in range(12):
        client, server = opened(run, operator.cost(), logits[None])
        assert client.shape == server.shape == (1,)
        assert server[0] == 0
        assert wanted[client[0]] > 0
        drawn.add(int(client[0]))
    # Were it greedy, one of them alone would come.
    assert len(drawn) > 1


@pytest.mark.long
def test_a_sampled_answer_stays_among_the_largest():
    config = generation_config(temperature=2.0, top_k=5, max_new_tokens=8, stop_early=False)
    with LocalGeneration(config) as session:
        list(session.generate("What is a mask?"))
    (answer,) = session.answers
    assert len(answer.tokens) == 8
    assert smallest_cosine(session, answer) > 0.9999
    ids = np.array([*answer.read, *answer.tokens[:-1]], np.int64)
    plain = session.model.plain_logits(ids)[-8:]
    private = session.result.logits(16)
    for token, mine, other in zip(answer.tokens, private, plain, strict=True):
        # Among the k largest of the very logits, and of the plain ones but for what they differ by.
        assert np.sum(mine > mine[token]) < 5
        fifth = np.sort(other)[-5]
        assert other[token] >= fifth - 2 * np.abs(mine - other).max()
