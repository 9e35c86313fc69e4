"""What a session of answers keeps count of, and what is kept between sessions."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest

from hybrid.models import generator_loading
from hybrid.models.decoder_graph import EMBEDDING
from hybrid.models.generator import load_prompts
from hybrid.models.generator_loading import load_generator
from hybrid.models.prompts import Conversation
from hybrid.models.ranges import Bound
from hybrid.operators.slot_triples import triples_cost
from hybrid.planning import generation, risk
from hybrid.planning.generation import plan_generation
from hybrid.planning.risk import Risk
from hybrid.runtime import generation_serving
from hybrid.runtime.generating import (
    GenerationClient,
    GenerationServer,
    GenerationSession,
)
from hybrid.runtime.generation_words import RefusedError
from tests.generation_setup import DECODERS, both_ends, generation_config
from transport.errors import ConfigError, UsageError

# -- passes -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def plan():
    config = generation_config()
    return plan_generation(config, load_generator(config).public)


def test_equal_passes_cost_the_same(plan):
    """However they come about: what was bound for one pass serves another."""
    config = generation_config()
    other = plan_generation(config, load_generator(config).public)
    order = [(1, 63), (5, 0), (1, 0), (5, 7), (1, 5)]
    first = {place: plan.of_pass(*place) for place in order}
    second = {place: other.of_pass(*place) for place in reversed(order)}
    for place, one in first.items():
        for again in (plan.of_pass(*place), second[place]):
            assert again.digest() == one.digest()
            assert [(s.node.name, s.cost) for s in again.steps] == [
                (s.node.name, s.cost) for s in one.steps
            ]
    # Later rows see more, and more rows cost more.
    sent = {place: one.cost.traffic.client_sent_bytes for place, one in first.items()}
    assert sent[1, 0] < sent[1, 5] < sent[1, 63]
    assert sent[1, 0] < sent[5, 0] < sent[5, 7]
    assert plan.digest() == other.digest()


def test_failures_of_a_conversation_add_up(plan):
    passes = [plan.pass_risk(one).failure_probability for one in plan.passes(5, 3)]
    assert len(passes) == 3
    shared = plan.conversation_cost() + plan.batch_cost()
    whole = plan.risk(5, 3).failure_probability
    assert whole == pytest.approx(sum(passes) + shared.failure_probability)
    # 7 rows are one batch of 32, 33 are two.
    (longer,) = (plan.pass_risk(one).failure_probability for one in plan.passes(33, 1))
    shared = plan.conversation_cost() + plan.batch_cost() * 2
    assert plan.risk(33, 1).failure_probability == pytest.approx(
        longer + shared.failure_probability
    )


def test_what_is_in_stock_cannot_fail_again(plan):
    one = plan.of_pass(1, 5)
    demand, made = one.cost.demand, triples_cost(one.cost.demand).failure_probability
    assert made > 0
    assert plan.pass_risk(one).failure_probability == one.cost.failure_probability + made
    assert plan.pass_risk(one, demand).failure_probability == one.cost.failure_probability
    assert plan.pass_risk(one, demand * 2).failure_probability == one.cost.failure_probability


# -- sessions -----------------------------------------------------------------------------------


def test_hints_of_a_conversation_add_up_in_squares(plan):
    shared = (plan.conversation_cost(), plan.batch_cost(), *(cost for _, cost in plan.first_batch))
    made = [triples_cost(one.cost.demand) for one in plan.passes(5, 3)]
    squares = sum(cost.distance_squares for cost in (*shared, *made))
    assert min(cost.distance_squares for cost in (*shared[:2], *made)) > 0
    assert plan.risk(5, 3).distance == pytest.approx(math.sqrt(squares))
    one = plan.of_pass(1, 0)
    assert plan.pass_risk(one, one.cost.demand).distance_squares == 0


def test_a_plan_whose_hints_tell_too_much_is_refused(monkeypatch, plan):
    likely = plan.announced_risk().distance
    monkeypatch.setattr(generation, "MAX_DISTANCE", likely)
    generation.check_failures(plan)
    monkeypatch.setattr(generation, "MAX_DISTANCE", likely * 0.99)
    with pytest.raises(ConfigError, match="plan: hints of a conversation of 64 positions"):
        generation.check_failures(plan)


@pytest.fixture
def counted(monkeypatch):
    """What each party has spent, and on what, in turn."""
    found, spend = {GenerationClient: [], GenerationServer: []}, GenerationSession._spend

    def keeping(session, more):
        found[type(session)].append((session.risk, more))
        spend(session, more)

    monkeypatch.setattr(GenerationSession, "_spend", keeping)
    return found


LIMITS = {
    "MAX_FAILURE_PROBABILITY": ("failure_probability", "session: what has run may fail with"),
    "MAX_DISTANCE": ("distance", "session: hints sent so far are within"),
}


@pytest.mark.long
@pytest.mark.parametrize("limit", LIMITS)
def test_a_session_that_would_risk_too_much_ends(monkeypatch, plan, counted, limit):
    """A client that did not count would be refused the same step, by what its server counts."""
    measure, words = LIMITS[limit]
    monkeypatch.setattr(GenerationClient, "_risk_ahead", lambda *_rows, **_fresh: Risk())

    def ask(client):
        # Room for all but the pass itself.
        most = Risk.of((plan.conversation_cost(), plan.batch_cost()))
        less = getattr(most + plan.pass_risk(plan.of_pass(3, 0)), measure)
        monkeypatch.setattr(risk, limit, (getattr(most, measure) + less) / 2)
        return list(client.answer(np.array([5, 6, 7]), 1, fresh=True))

    server, client = both_ends(generation_config(), generation_config(), ask)
    assert isinstance(client, UsageError) and isinstance(server, UsageError)
    assert str(server) == str(client)
    assert counted[GenerationServer] == counted[GenerationClient]
    # A conversation and a batch of rows, before the pass that was refused.
    assert len(counted[GenerationServer]) == 3
    assert words in str(client) and "open a new session" in str(client)


@pytest.mark.long
@pytest.mark.parametrize("limit", LIMITS)
def test_a_session_that_would_risk_too_much_is_refused_by_the_client(monkeypatch, counted, limit):
    """Before anything is said: the session stays open, and the server sees no failure."""
    (measure, words), said = LIMITS[limit], []

    def ask(client):
        first = list(client.answer(np.array([5, 6, 7]), 2, fresh=True))
        so_far = getattr(client._session.risk, measure)
        monkeypatch.setattr(risk, limit, so_far * 1.0000001)
        with pytest.raises(RefusedError, match="open a new session") as raised:
            list(client.answer(np.array([first[-1].token, *range(9)]), 1, fresh=False))
        said.append(str(raised.value))
        with pytest.raises(RefusedError):
            list(client.answer(np.array([5]), 1, fresh=True))

    assert both_ends(generation_config(), generation_config(), ask) == (None, None)
    assert words in said[0]
    assert counted[GenerationServer] == counted[GenerationClient]
    # A conversation, a batch of rows, two passes, correlations of several tokens.
    assert len(counted[GenerationServer]) == 5


@pytest.mark.long
def test_a_table_beyond_the_ranges_is_refused_by_the_client(monkeypatch):
    """Before anything is said: the server cannot tell it from a client that asks nothing."""
    real = generation_serving.load_generator

    def narrow(config):
        found = real(config)
        ranges = {**found.public.ranges, EMBEDDING: Bound(2.0**-20, 2.0**-10, 2.0**-10)}
        return replace(found, public=replace(found.public, ranges=ranges))

    monkeypatch.setattr(generation_serving, "load_generator", narrow)
    config = generation_config(model={"embedding": "public_table"})

    def ask(client):
        message = "the server's ranges hold 0.000976562, so the answer would be wrong.*margin"
        with pytest.raises(RefusedError, match=message):
            list(client.answer(np.array([5, 6, 7]), 1, fresh=True))

    assert both_ends(config, config, ask) == (None, None)


@pytest.mark.long
def test_rows_are_made_ahead_of_need_layer_by_layer():
    def ask(client):
        made = 0
        while client.ahead():
            made += 1
        session = client._session
        assert made == len(session.plan.batch)
        assert session.stock() == session.plan.batch_rows
        list(client.answer(np.array([5, 6, 7]), 2, fresh=True))
        # Nothing but the conversation had to be prepared for the answer.
        assert [one.kind for one in session.shared] == ["batch"] * made + ["conversation"]

    config = generation_config(ahead_tokens=0, tokens_at_once=1)
    assert both_ends(config, config, ask) == (None, None)


# -- ranges that are kept -----------------------------------------------------------------------


@pytest.fixture
def searched(monkeypatch):
    """How often ranges were searched for."""
    found, real = [], generator_loading._found

    def counting(*given):
        found.append(1)
        return real(*given)

    monkeypatch.setattr(generator_loading, "_found", counting)
    return found


def test_ranges_are_kept_until_something_changes(tmp_path, searched):
    folder = tmp_path / "model"
    shutil.copytree(DECODERS / "llama", folder)
    samples = tmp_path / "samples.txt"
    samples.write_text("What is a mask?\nAnd a pad?\n")

    def load(**settings):
        ranges = {"sentences": str(samples), "margin": 2.0, **settings.pop("ranges", {})}
        before = len(searched)
        model = {"path": str(folder)}
        public = load_generator(generation_config(model=model, ranges=ranges, **settings)).public
        return public.ranges, len(searched) - before

    first, count = load()
    assert count == 1
    # What ranges do not depend on.
    for same in ({}, {"max_new_tokens": 9}, {"rows": 5}, {"temperature": 1.0, "top_k": 3}):
        again, count = load(**same)
        assert (again, count) == (first, 0), same
    wider, count = load(ranges={"margin": 64.0})
    assert count == 1
    assert wider["layer0.scores"].max_abs > first["layer0.scores"].max_abs
    assert load(system="Be kind.")[1] == 1
    samples.write_text("What is a mask?\nAnd another?\n")
    assert load()[1] == 1
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"comment": "other bytes"}))
    assert load()[1] == 1
    weights = bytearray((folder / "model.safetensors").read_bytes())
    weights[-3] ^= 1
    (folder / "model.safetensors").write_bytes(bytes(weights))
    assert load()[1] == 1
    assert load()[1] == 0


def test_broken_kept_ranges_are_searched_again(searched):
    from hybrid.config.places import cache_folder

    first = load_generator(generation_config()).public.ranges
    (kept,) = cache_folder().glob("ranges-*.json")
    for broken in (b"", b"[]", b'{"ranges": {"logits": [1.0, 3.0, 4.0]}, "outliers": []}'):
        kept.write_bytes(broken)
        assert load_generator(generation_config()).public.ranges == first
    assert len(searched) == 4


# -- conversations ------------------------------------------------------------------------------


@pytest.mark.parametrize("system", [None, "You are a pirate."])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_turns_are_those_of_transformers(family, system):
    """All ids of a conversation, with the ids of its answers, as the template writes them."""
    import transformers

    theirs = transformers.AutoTokenizer.from_pretrained(DECODERS / family)
    prompts = load_prompts(generation_config(family, system=system))
    talk, end = Conversation(prompts), theirs.convert_tokens_to_ids("<|im_end|>")
    opening = [] if system is None else [{"role": "system", "content": system}]
    messages, ids = list(opening), list(prompts.prefix)
    answers = ["Yes:\n  `two` parties.", "A mask hides a number.", "No."]
    for prompt, answer in zip(
        ["What is a mask?", "  Really [INST] so?", "and <|im_end|> now"], answers, strict=True
    ):
        messages.append({"role": "user", "content": prompt})
        ids += talk.ask(prompt).tolist()
        if "<|" not in prompt:
            wanted = theirs.apply_chat_template(
                messages, add_generation_prompt=True, tokenize=True, return_dict=False
            )
            assert ids == list(wanted)
        given = theirs.encode(answer, add_special_tokens=False)
        assert theirs.decode(given) == answer
        # The last id of an answer has not been read; one that ended by itself has its end left.
        ends_by_itself = "Yes" not in answer
        ids += given if ends_by_itself else given[:-1]
        text = talk.answered(given, [] if ends_by_itself else given[-1:])
        assert text == answer
        messages.append({"role": "assistant", "content": answer})
    # What looks like a control token in a prompt stays text.
    assert ids.count(end) == len(messages) - 1 + (system is None)
