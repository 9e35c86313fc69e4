"""Prompts in buckets: answers as without fillers, whose columns and number nobody else notices."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from hybrid.models.generator import client_rows, load_prompts
from hybrid.operators import cached_attention, cached_prefix
from hybrid.planning.generation import plan_generation
from hybrid.reports.generation_trust import generation_trust_model
from hybrid.runtime import generating
from hybrid.runtime.answers import Answers
from hybrid.runtime.generation_words import Ready, RefusedError, Word
from tests.prompted import config_of, converse, plain
from transport.errors import ConfigError, FrameError
from transport.traffic import Party

BUCKET, TOKENS = 8, 2
FAMILIES = ("llama", "gpt2")
CLIPPED = 3 * 2.0**-16
"""Most that a column gets whose exponential is clipped: e^-12 and what products are off by."""
TEXT = "What is a mask, and who must not see it before a product is opened by both?"


@lru_cache(maxsize=4)
def model(family):
    return plain(config_of(family))


@lru_cache(maxsize=4)
def ids(family):
    return load_prompts(config_of(family)).first(TEXT).private


def ask_each(family, lengths):
    """A conversation for each length of a prompt: what was read, and the tokens."""

    def ask(client):
        found = []
        for length in lengths:
            read = ids(family)[:length]
            answer = [n.token for n in client.answer(read, TOKENS, fresh=True)]
            found.append((read, answer))
        return found

    return ask


def cosines(family, found, opened):
    """Of every pass's logits with the plain model's; the token is always the plain one's."""
    cosine, logits = [], iter(opened.logits)
    for read, answer in found:
        whole = np.concatenate([read, answer[:-1]]).astype(np.int64)
        rows = model(family).plain_logits(whole)[-len(answer) :]
        for token, row, mine in zip(answer, rows, logits, strict=False):
            assert token == mine.argmax() == row.argmax()
            cosine.append(row @ mine / np.linalg.norm(row) / np.linalg.norm(mine))
    assert len(cosine) == len(opened.logits)
    return np.array(cosine)


def as_declared(opened):
    """Every step's measured traffic, at both parties, is the plan's."""
    assert opened.client.total == opened.server.total
    for record in opened.client.passes:
        plan = opened.plan.of_pass(record.rows, record.past)
        assert [s.cost.traffic for s in plan.steps] == [
            m.traffic for m in record.steps[-len(plan.steps) :]
        ]
    for shared in opened.client.shared:
        assert [m.traffic for m in shared.steps[-len(shared.declared) :]] == list(shared.declared)


@pytest.mark.parametrize(("family", "bucket"), [("llama", 8), ("gpt2", 4)])
def test_prompts_of_every_length_modulo_the_bucket(family, bucket):
    lengths = range(5, 5 + bucket)
    found, opened = converse(config_of(family, prompt_bucket=bucket), ask_each(family, lengths))
    assert cosines(family, found, opened).min() > 0.9999
    rows = [p.rows for p in opened.server.passes if not p.past]
    assert rows == [-(-length // bucket) * bucket for length in lengths]
    as_declared(opened)


@pytest.mark.parametrize("bucket", [1, 16])
def test_other_buckets(bucket):
    config = config_of("llama", prompt_bucket=bucket)
    found, opened = converse(config, ask_each("llama", [3]))
    assert cosines("llama", found, opened).min() > 0.9999
    assert opened.server.passes[0].rows == max(3, bucket)
    as_declared(opened)


def test_without_a_prefix():
    """The first token then sees nothing but itself, and fillers nothing but each other."""
    config = config_of("llama", prompt_bucket=BUCKET, chat=False)
    read = load_prompts(config).first("A mask is").private

    def ask(client):
        assert not len(client.prompts.prefix)
        return [(read, [n.token for n in client.answer(read, TOKENS, fresh=True)])]

    found, opened = converse(config, ask)
    expected = plain(config).plain_logits(np.concatenate([read, found[0][1][:-1]]))[-TOKENS:]
    for row, mine in zip(expected, opened.logits, strict=True):
        assert row @ mine / np.linalg.norm(row) / np.linalg.norm(mine) > 0.9999
    as_declared(opened)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_conversation_goes_on(family):
    """Fillers of the first prompt stay in the cache; a later prompt has none."""
    first, second = ids(family)[:11], ids(family)[11:16]

    def ask(client):
        one = [n.token for n in client.answer(first, 3, fresh=True)]
        again = np.concatenate([one[-1:], second])
        two = [n.token for n in client.answer(again, 2, fresh=False)]
        return [(first, one), (np.concatenate([first, one, second]), two)]

    found, opened = converse(config_of(family, prompt_bucket=BUCKET), ask)
    assert cosines(family, found, opened).min() > 0.9999
    passes = [(p.rows, p.past) for p in opened.server.passes]
    assert passes == [(16, 0), (1, 16), (1, 17), (6, 18), (1, 24)]
    as_declared(opened)


def test_a_private_embedding():
    config = config_of("gpt2", embedding="private", prompt_bucket=4)
    found, opened = converse(config, ask_each("gpt2", [6]))
    assert cosines("gpt2", found, opened).min() > 0.9999


# -- what would go unnoticed if fillers made no difference -------------------------------------


def test_keys_that_are_not_turned_are_noticed(monkeypatch):
    take = cached_prefix.take_tables
    monkeypatch.setattr(cached_prefix, "take_tables", lambda _choices, *rest: take([0], *rest))
    found, opened = converse(config_of("llama"), ask_each("llama", [9]))
    assert np.abs(opened.logits[0] - model("llama").plain_logits(found[0][0])[-1]).max() > 0.1


@pytest.mark.parametrize("family", FAMILIES)
def test_fillers_that_are_not_masked_are_noticed(family, monkeypatch):
    made = client_rows

    def unmasked(*arguments):
        rows = made(*arguments)
        rows.visible[:] = 1
        return rows

    monkeypatch.setattr(generating, "client_rows", unmasked)
    found, opened = converse(config_of(family), ask_each(family, [9]))
    assert np.abs(opened.logits[0] - model(family).plain_logits(found[0][0])[-1]).max() > 0.1


# -- weights ---------------------------------------------------------------------------------


def test_weights_of_fillers(monkeypatch):
    """A token gives a filler no more than any column whose exponential is clipped."""
    kept = {party: [] for party in Party}
    context = cached_attention.cached_context

    def keeping(values, weights, past, session):
        kept[session.party].append(weights)
        return context(values, weights, past, session)

    monkeypatch.setattr(cached_attention, "cached_context", keeping)
    converse(config_of("llama"), ask_each("llama", [9]))
    prefix, fillers, group = len(model("llama").public.prefix), 7, 2
    for mine, theirs in zip(kept[Party.CLIENT], kept[Party.SERVER], strict=True):
        # (key/value heads, rows * group, positions), tokens behind the fillers.
        weights = (mine + theirs).view(np.int64) / 2.0**16
        is_first = weights.shape[2] == prefix + 16
        assert weights.shape[1] == group * (16 if is_first else 1)
        tokens = weights[:, group * fillers * is_first :]
        np.testing.assert_allclose(tokens.sum(-1), 1, atol=2.0**-8)
        assert np.abs(tokens[..., prefix : prefix + fillers]).max() <= CLIPPED


# -- what the client puts in -------------------------------------------------------------------


def test_rows_of_the_client():
    public = model("gpt2").public
    prefix, vocabulary = len(public.prefix), public.architecture.vocabulary
    first = client_rows(public, [7, 8], 0, 6)
    assert first.ids.tolist() == [7] * 7 + [8]
    assert first.positions.tolist() == [prefix] * 7 + [prefix + 1]
    assert first.visible.tolist() == [[1] * prefix + [0] * 6 + [1, 1]]
    hot = first.one_hot(public)
    assert np.argwhere(hot[-1]).ravel().tolist() == [8, vocabulary + prefix + 1]
    later = client_rows(public, [9], 8, 6)
    assert later.ids.tolist() == [9]
    assert later.positions.tolist() == [prefix + 2]
    assert later.visible.tolist() == [[1] * prefix + [0] * 6 + [1, 1, 1]]


def test_keys_are_turned_as_by_later_positions():
    generator = model("llama")
    family, sizes = generator.public.family, generator.public.architecture
    rows, plainly = generator.prefix_rows(), generator.prefix_cache.layers[0][0].double().numpy()
    assert rows["layer0.keys"].shape == (BUCKET, *plainly.shape)
    # A key of position p turned by 1 and then by 2 stands at p + 3.
    twice = family.turned(sizes, family.turned(sizes, plainly, 1), 2)
    np.testing.assert_allclose(rows["layer0.keys"][3], twice, atol=1e-9)
    np.testing.assert_allclose(rows["layer0.keys"][0], plainly)
    assert rows["layer0.values"].shape == plainly.shape
    assert model("gpt2").prefix_rows()["layer0.keys"].ndim == 3


# -- what does not fit -------------------------------------------------------------------------


def test_a_config_names_what_is_wrong():
    with pytest.raises(ConfigError, match="prompt_bucket"):
        config_of("llama", prompt_bucket=6)
    with pytest.raises(ConfigError, match="prompt_bucket 16 and max_new_tokens 8 need 23"):
        config_of("llama", positions=22, prompt_bucket=16)
    config = config_of("llama", positions=23, prompt_bucket=16)
    assert "generation.prompt_bucket" in str(config.agreed())


def test_the_padded_prompt_must_fit():
    class Nobody(Answers):
        def _passes(self, asked):
            del asked
            yield from ()

    config = config_of("llama", positions=23, prompt_bucket=16)
    answers = Nobody(config, load_prompts(config))
    assert not list(answers.generate("A mask."))
    new = len(load_prompts(config).first(TEXT).private)
    filled = -new % 16
    message = f"{new} private tokens, {filled} rows to fill generation.prompt_bucket and 1 new ones"
    with pytest.raises(ConfigError, match=f"{message} need {new + filled} positions, 23 of"):
        answers.generate(TEXT, 1)


def test_what_the_client_refuses_leaves_the_session_as_it_is():
    """The server is told nothing of it."""
    first, second = ids("llama")[:5], ids("llama")[5:8]

    def ask(client):
        refused = [(first, False, "no conversation has begun")]
        found = []
        for read, count in ((first, 2), (second, 1)):
            for too_much, fresh, message in refused:
                sent = client._channel.total
                with pytest.raises(RefusedError, match=message):
                    list(client.answer(too_much, 1, fresh=fresh))
                assert client._channel.total == sent
            before = np.concatenate([*found[0]]) if found else read[:0]
            asked = np.concatenate([before[-1:], read])
            tokens = [n.token for n in client.answer(asked, count, fresh=not found)]
            found.append((np.concatenate([before, read]), tokens))
            refused = [
                (np.arange(56), False, "56 tokens and 0 rows of padding, .* room for 55"),
                (np.arange(65), True, "65 tokens and 7 rows of padding, .* room for 64"),
                (first[:0], False, "0 tokens"),
            ]
        return found

    found, opened = converse(config_of("llama"), ask)
    assert cosines("llama", found, opened).min() > 0.9999
    assert [(p.rows, p.past) for p in opened.server.passes] == [(8, 0), (1, 8), (4, 9)]
    as_declared(opened)


def test_the_server_refuses_what_is_not_padded():
    def ask(client):
        client._session.begin(Ready(3, (5,), (0,), {}))
        client._session._say(Word.PASS, 3)
        client._channel.recv()

    with pytest.raises(FrameError, match="cannot be"):
        converse(config_of("llama"), ask)


def test_what_is_said_of_it():
    config = config_of("llama")
    lines = generation_trust_model(plan_generation(config, model("llama").public))
    assert any("first prompt rounded up to a multiple of 8" in line for line in lines)
    exact = config_of("llama", prompt_bucket=1)
    plan = plan_generation(exact, plain(exact).public)
    assert any(
        "the exact number of private tokens of every" in x for x in generation_trust_model(plan)
    )
    assert "mask" not in [edge.name for edge in plan.one.graph.inputs]
