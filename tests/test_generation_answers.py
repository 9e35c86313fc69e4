"""When an answer starts, and what a session refuses since; no party computes anything here."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.config.schema import GenerationConfig
from hybrid.models.decoder_graph import LOGITS
from hybrid.models.prompts import Prompts, ShapeTokenizer
from hybrid.runtime.answers import STOP, Answers
from hybrid.runtime.generation_local import LocalGeneration
from hybrid.runtime.generation_records import PassRecord
from hybrid.runtime.generation_words import RefusedError
from hybrid.runtime.processes import ChildError
from tests.generation_setup import generation_config
from transport.errors import UsageError

SETTINGS = GenerationConfig(positions=64, max_new_tokens=3, chat=False, prompt_bucket=4)
UNDER_WAY = "another answer is under way; take all of its tokens or close it first"
MOVED_ON = "the conversation has moved on since; ask again"


class Counting(Answers):
    """Answers every prompt with 100, 101 and so on, and keeps what it was asked."""

    def __init__(self):
        super().__init__(generation_config(), Prompts(ShapeTokenizer(512), SETTINGS))
        self.asked = []

    def _passes(self, asked):
        self.asked.append(asked)
        for token in range(100, 100 + asked.tokens):
            yield (token,), None


@pytest.fixture
def session():
    return Counting()


def texts(tokens):
    return "".join(token.text for token in tokens)


WHOLE = "<100> <101> <102> "


def test_an_answer_that_is_never_started_changes_nothing(session):
    unread = session.generate("one two three")
    assert session.asked == session.answers == []
    with pytest.raises(UsageError, match="no conversation to go on with"):
        session.generate("more", goes_on=True)
    assert texts(session.generate("four five")) == WHOLE
    held = session.generate("and another", goes_on=True)
    closed = session.generate("begin anew")
    closed.close()
    assert texts(session.generate("so on", goes_on=True)) == WHOLE
    del unread, held
    first, second = session.answers
    # Two words, the answer but for its last token, which is read with the next words.
    assert [len(first.read), len(second.read), second.new] == [2, 2 + 2 + 3, 3]
    assert second.read[:4].tolist() == [*first.read.tolist(), 100, 101]
    assert second.read[4] == 102
    assert (first.first_pass, second.first_pass) == (0, 3)
    assert [asked.fresh for asked in session.asked] == [True, False]


def test_an_answer_that_was_held_back_starts_where_the_session_is(session):
    held = session.generate("one two three")
    list(session.generate("four", 2))
    assert texts(held) == WHOLE
    order = [(answer.prompt, answer.first_pass) for answer in session.answers]
    assert order == [("four", 0), ("one two three", 2)]
    # It is the conversation that goes on now, behind one row of padding.
    list(session.generate("more", goes_on=True))
    assert session.answers[-1].read[:3].tolist() == session.answers[1].read.tolist()
    assert session._fillers == 1


@pytest.mark.parametrize("goes_on", [False, True])
def test_two_answers_at_once_are_refused(session, goes_on):
    list(session.generate("begin"))
    first = session.generate("one")
    other = session.generate("two", goes_on=goes_on)
    shown = [next(first)]
    with pytest.raises(UsageError, match=UNDER_WAY):
        next(other)
    # What was refused has ended, and took nothing from the other.
    assert list(other) == []
    assert texts([*shown, *first]) == WHOLE
    assert [answer.prompt for answer in session.answers] == ["begin", "one"]
    assert len(session.asked) == 2
    assert texts(session.generate("three", goes_on=True)) == WHOLE


def test_after_one_is_closed_another_may_start(session):
    first, other = session.generate("one"), session.generate("two")
    next(first)
    first.close()
    assert texts(other) == WHOLE
    assert [len(answer.tokens) for answer in session.answers] == [1, 3]


@pytest.mark.parametrize("between", ["a turn", "a conversation", "one that was left"])
def test_a_turn_of_a_conversation_that_moved_on_is_refused(session, between):
    list(session.generate("begin"))
    late = session.generate("late", goes_on=True)
    other = session.generate("other", goes_on=between == "a turn")
    next(other)
    if between == "one that was left":
        other.close()
    else:
        list(other)
    with pytest.raises(UsageError, match=MOVED_ON):
        next(late)
    assert [answer.prompt for answer in session.answers] == ["begin", "other"]
    assert len(session.asked) == 2
    # Asked again, where there is something to go on with.
    if between != "one that was left":
        assert texts(session.generate("late", goes_on=True)) == WHOLE


RECORD = PassRecord(1, 0, (), 0.0, {LOGITS: np.zeros((1, 4), np.uint64)})


class Scripted:
    """Parties whose client says two tokens, and after it is told to stop what is given."""

    def __init__(self, *late):
        self.said = [((100,), RECORD), ((101,), RECORD), *late]
        self.asked = []

    def ask(self, question):
        self.asked.append(question)

    def answer(self, _kind):
        found = self.said.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def end(self):
        self.asked.append("end")


class Local(LocalGeneration):
    """A session with scripted parties, already open."""

    def __init__(self, processes):
        Answers.__init__(self, generation_config(), Prompts(ShapeTokenizer(512), SETTINGS))
        self._processes, self._is_open, self._logits = processes, True, []


LOST = ChildError("server: interrupted")


def left(*late):
    """A session whose caller has left after one token."""
    session = Local(Scripted(*late))
    answer = session.generate("one two")
    next(answer)
    answer.close()
    return session


def test_a_failure_while_an_answer_is_left_is_told_by_what_comes_next():
    session = left(LOST)
    assert session._processes.asked[1:] == [STOP]
    with pytest.raises(ChildError, match="server: interrupted"):
        next(session.generate("again"))
    with pytest.raises(UsageError, match="it has failed or was interrupted before"):
        next(session.generate("again"))


def test_a_failure_while_an_answer_is_left_is_told_at_the_end():
    session = left(LOST)
    with pytest.raises(ChildError, match="server: interrupted"):
        session.__exit__(None)
    assert session._processes.asked[-1] == "end"
    # A caller's own error goes on as it is.
    session = left(LOST)
    assert session.__exit__(KeyboardInterrupt) is None


def test_a_refusal_of_a_token_that_nobody_waits_for_is_no_failure():
    session = left("no token")
    session._processes.said = [((100,), RECORD), "no token"]
    with pytest.raises(RefusedError, match="no token"):
        list(session.generate("again"))
