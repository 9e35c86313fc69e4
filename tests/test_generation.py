"""Private answers of small trained decoders between two processes, beside the plain model's."""

from __future__ import annotations

import pytest

from hybrid.planning.risk import MAX_FAILURE_PROBABILITY
from hybrid.runtime.generation_local import LocalGeneration
from tests.generation_setup import (
    generation_config,
    plain_tokens,
    smallest_cosine,
    undeclared,
)
from transport.errors import ConfigError, UsageError

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def spoken():
    """A conversation of two turns, an answer that is left early, and a last one, in one session."""
    with LocalGeneration(generation_config()) as session:
        shown = [[token.text for token in session.generate("What is a mask?")]]
        shown.append([token.text for token in session.generate("And?", 3, goes_on=True)])
        with pytest.raises(ConfigError, match="left; shorten the prompt"):
            session.generate("word " * 40, goes_on=True)
        with pytest.raises(ConfigError, match="announces 1 to 4"):
            session.generate("x", 5)
        left = session.generate("A pad is")
        next(left)
        left.close()
        with pytest.raises(UsageError, match="no conversation to go on"):
            session.generate("More.", goes_on=True)
        shown.append([token.text for token in session.generate("Why two parties?", 2)])
    return session, shown


def test_tokens_are_those_of_the_plain_model(spoken):
    session, shown = spoken
    first, second, left, last = session.answers
    for answer in (first, second, last):
        assert answer.tokens == plain_tokens(session, answer)
        assert smallest_cosine(session, answer) > 0.9999
    assert len(left.tokens) == 1
    assert [first.text, second.text, last.text] == ["".join(texts) for texts in shown]


def test_a_conversation_reads_on_with_its_cache(spoken):
    session, _ = spoken
    first, second = session.answers[:2]
    passes = session.result.client.passes
    turn = passes[second.first_pass]
    fillers = -len(first.read) % session.prompts.settings.prompt_bucket
    assert turn.past == fillers + len(first.read) + len(first.tokens) - 1
    assert turn.rows == second.new == len(second.read) + fillers - turn.past
    assert list(second.read[: len(first.read)]) == list(first.read)
    # The third begins anew.
    assert passes[session.answers[2].first_pass].past == 0


def test_every_step_sends_what_it_declares(spoken):
    session, _ = spoken
    assert undeclared(session) == []
    assert session.result.client.total == session.result.server.total


def test_rows_left_over_serve_later_prompts(spoken):
    session, _ = spoken
    used = sum(record.rows for record in session.result.client.passes)
    kinds = [shared.kind for shared in session.result.client.shared]
    batches = len([s for s in session.result.client.shared if len(s.declared) > 1]) - kinds.count(
        "conversation"
    )
    # Pieces made ahead of need are batches of one layer each.
    assert batches <= -(-used // 32)
    assert kinds.count("conversation") == 3


def test_failures_of_the_session_are_counted(spoken):
    session, _ = spoken
    result = session.result
    assert 0 < result.client.failure_probability == result.server.failure_probability
    assert result.client.failure_probability < MAX_FAILURE_PROBABILITY


def test_only_who_has_both_sides_sees_logits(spoken):
    session, _ = spoken
    for record in (*session.result.client.passes, *session.result.server.passes):
        assert record.outputs == {}
    a, b = session.result.client_logits[0], session.result.server_logits[0]
    for share in (a, b):
        # A share alone is as large as the ring.
        assert share.max() > 2**63


@pytest.mark.parametrize(
    "embedding",
    # Buckets are tested with a public table, in one process.
    ["private", pytest.param("public_table", marks=pytest.mark.slow)],
)
def test_gpt2_answers_as_the_plain_model(embedding):
    config = generation_config("gpt2", model={"embedding": embedding})
    with LocalGeneration(config) as session:
        list(session.generate("What is a mask?"))
    (answer,) = session.answers
    assert answer.tokens == plain_tokens(session, answer)
    assert smallest_cosine(session, answer) > 0.9999
    assert undeclared(session) == []


def test_a_dealer_carries_it_without_ciphertexts():
    with LocalGeneration(generation_config(dealer=True)) as session:
        list(session.generate("What is a mask?"))
    (answer,) = session.answers
    assert answer.tokens == plain_tokens(session, answer)
    assert smallest_cosine(session, answer) > 0.9999
    assert undeclared(session) == []
    assert session.plan.slot_steps is None
    assert session.result.client.dealer_bytes > 0
