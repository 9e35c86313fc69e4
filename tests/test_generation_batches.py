"""Conversations that share passes: each as if it were alone, in the rounds of one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest

from hybrid.config.schema import GenerationConfig
from hybrid.models.generator import client_rows, load_prompts
from hybrid.models.prompts import Prompts, ShapeTokenizer
from hybrid.operators.cached_attention import CachedAttentionOperator
from hybrid.operators.local_steps import RotaryOperator
from hybrid.planning import generation
from hybrid.planning.generation import check_failures, plan_generation
from hybrid.reports.comparison.answering import check_prompt
from hybrid.reports.generation_plan import generation_plan_to_dict
from hybrid.reports.generation_report import generation_reports
from hybrid.reports.generation_trust import generation_trust_model
from hybrid.runtime.answers import Answers
from hybrid.runtime.generation_local import LocalGeneration
from hybrid.runtime.generation_words import Ready, RefusedError, Word, packed_idle, parsed_idle
from tests.generation_setup import generation_config, plain_tokens, undeclared
from tests.prompted import config_of, converse, plain
from tests.test_hybrid_buckets import as_declared
from transport.errors import ConfigError, FrameError, UsageError

TEXT = "What is a mask, and who must not see it before a product is opened by both?"
LENGTHS = (3, 17, 9)
"""Of three buckets of 8."""
TOKENS = 3


@lru_cache(maxsize=8)
def model(family, chat=True):
    return plain(config_of(family, chat=chat))


def prompts(family, lengths=LENGTHS, *, chat=True):
    """Different from their first token on."""
    ids = load_prompts(config_of(family, chat=chat)).first(TEXT).private
    return [ids[start : start + length] for start, length in enumerate(lengths)]


def together(read, tokens=TOKENS):
    def ask(client):
        return [n.tokens for n in client.answer(read[0], tokens, fresh=True, beside=read[1:])]

    return ask


def cosines(generator, read, found, opened, batch):
    """Of each conversation's logits at its own ids; the token is always the plain one's."""
    cosine = []
    for place, ids in enumerate(read):
        answer = [tokens[place] for tokens in found]
        whole = np.concatenate([ids, answer[:-1]]).astype(np.int64)
        rows = generator.plain_logits(whole)[-len(answer) :]
        for token, row, every in zip(answer, rows, opened.logits, strict=True):
            mine = every.reshape(batch, -1)[place]
            assert token == mine.argmax() == row.argmax()
            cosine.append(row @ mine / np.linalg.norm(row) / np.linalg.norm(mine))
    return min(cosine)


@pytest.mark.parametrize(("family", "bucket"), [("llama", 8), ("gpt2", 8), ("llama", 1)])
def test_each_is_answered_as_if_it_were_alone(family, bucket):
    read = prompts(family)
    config = config_of(family, batch=3, prompt_bucket=bucket)
    found, opened = converse(config, together(read))
    assert cosines(model(family), read, found, opened, 3) > 0.9999
    longest = config.run.generation.padded(17)
    assert [(p.rows, p.past) for p in opened.server.passes] == [
        (longest, 0), (1, longest), (1, longest + 1)
    ]  # fmt: skip
    as_declared(opened)
    assert [shared.kind for shared in opened.client.shared].count("conversation") == 1


def test_without_a_prefix_no_length_but_the_longest_is_said():
    read, said = prompts("llama", chat=False), []

    def watch(client, _server):
        put = client._put
        client._put = lambda frame: (said.append(bytes(frame.payload)), put(frame))

    found, opened = converse(config_of("llama", batch=3, chat=False), together(read), watch)
    assert cosines(model("llama", chat=False), read, found, opened, 3) > 0.9999
    assert packed_idle((0, 0, 0)) in said


def test_a_private_embedding():
    read = prompts("gpt2")[:2]
    found, opened = converse(config_of("gpt2", batch=2, embedding="private"), together(read, 2))
    assert cosines(model("gpt2"), read, found, opened, 2) > 0.9999


def test_fewer_prompts_than_conversations():
    """The first is answered more than once; the server sees as many as ever."""
    read = prompts("gpt2", (5,))
    found, opened = converse(config_of("gpt2", batch=3), together(read))
    assert cosines(model("gpt2"), read, found, opened, 3) > 0.9999
    # Copies read the same, and choose the same.
    assert all(len(set(tokens)) == 1 for tokens in found)
    assert all(record.outputs == {} for record in opened.server.passes)


def test_sampled_tokens_are_each_conversations_own():
    """Drawn among the largest logits of its own row."""
    config = config_of("gpt2", batch=2, temperature=1.0, top_k=2)
    found, opened = converse(config, together(prompts("gpt2")[:2]))
    for tokens, every in zip(found, opened.logits, strict=True):
        for token, row in zip(tokens, every.reshape(2, -1), strict=True):
            assert token in np.argsort(row)[-2:]
    as_declared(opened)


# -- what would go unnoticed -------------------------------------------------------------------


def farthest(family, monkeypatch, target, name, other):
    """Largest distance of any conversation's logits of the first pass from the plain model's."""
    monkeypatch.setattr(target, name, other)
    read = prompts(family)
    _, opened = converse(config_of(family, batch=3), together(read, 1))
    first = opened.logits[0].reshape(3, -1)
    rows = [model(family).plain_logits(ids)[-1] for ids in read]
    return [np.abs(mine - row).max() for mine, row in zip(first, rows, strict=True)]


def test_positions_that_ignore_idle_rows_are_noticed(monkeypatch):
    run = RotaryOperator.run

    def ignoring(self, inputs, state):
        idle, state = state.idle, type(state)(state.session, None)
        assert idle in ((16, 0, 8), ())
        return run(self, inputs, state)

    far = farthest("llama", monkeypatch, RotaryOperator, "run", ignoring)
    assert far[0] > 0.1 and far[2] > 0.1
    # The longest has none.
    assert far[1] < 0.1


def test_caches_that_are_mixed_up_are_noticed(monkeypatch):
    split = CachedAttentionOperator._split

    def mixed(self, qkv):
        queries, keys, values = split(self, qkv)
        return queries, np.roll(keys, len(keys) // 3, 0), values

    far = farthest("gpt2", monkeypatch, CachedAttentionOperator, "_split", mixed)
    assert min(far) > 0.1


# -- answers, whoever gives them ---------------------------------------------------------------

SETTINGS = GenerationConfig(positions=64, max_new_tokens=4, chat=False, prompt_bucket=4)
END = 99


class Scripted(Answers):
    """Gives each conversation the tokens that are written for it."""

    def __init__(self, *scripts, stop_early=True, batch=3):
        settings = SETTINGS.model_copy(update={"stop_early": stop_early})
        tokenizer = ShapeTokenizer(512)
        tokenizer.end_ids = frozenset({END})
        super().__init__(generation_config(model={"batch": batch}), Prompts(tokenizer, settings))
        self.scripts, self.asked = scripts, []

    def _passes(self, asked):
        self.asked.append(asked)
        for tokens in zip(*self.scripts, strict=True):
            yield tokens, None


def test_each_answer_is_cut_at_its_own_end():
    session = Scripted((1, 2, 3, 4), (5, END, 6, 7), (8, 9, 8, 9))
    found = list(session.generate_batch(["one two three", "four five six seven eight"]))
    shown = [[token and token.id for token in tokens] for tokens in found]
    # The last conversation repeats the first, and nobody waits for it.
    assert shown == [[1, 5], [2, None], [3, None], [4, None]]
    first, second = session.answers
    assert (first.tokens, second.tokens) == ([1, 2, 3, 4], [5, END])
    assert len(second.seconds) == 2
    assert (first.text, second.text) == ("<1> <2> <3> <4>", "<5>")
    assert (first.place, second.place, second.together) == (0, 1, 2)
    assert first.first_pass == second.first_pass == 0
    (asked,) = session.asked
    assert [len(asked.ids), *map(len, asked.beside)] == [3, 5]
    # One alone is a batch of one, whose passes come after these.
    assert [token.id for token in session.generate("nine")] == [1, 2, 3, 4]
    assert (session.answers[-1].first_pass, session.answers[-1].together) == (4, 1)


def test_answers_of_full_length_hide_their_end():
    session = Scripted((1, 2), (5, END), (5, END), stop_early=False)
    found = list(session.generate_batch(["one", "two"], 2))
    assert [[token and token.id for token in tokens] for tokens in found] == [[1, 5], [2, None]]
    assert session.answers[1].tokens == [5, END]


def test_a_batch_that_is_left():
    session = Scripted((1, 2), (3, 4), (5, 6))
    left = session.generate_batch(["one", "two"])
    next(left)
    left.close()
    assert [answer.tokens for answer in session.answers] == [[1], [3]]
    assert [answer.text for answer in session.answers] == ["<1>", "<3>"]


def test_refused_by_name():
    session = Scripted((1,), (2,), (3,))
    with pytest.raises(UsageError, match="4 prompts; give 1 to model.batch, 3"):
        session.generate_batch(["a", "b", "c", "d"])
    with pytest.raises(UsageError, match="0 prompts"):
        session.generate_batch([])
    with pytest.raises(UsageError, match="give a list of texts"):
        session.generate_batch("a")
    # The longest decides how much room all have.
    with pytest.raises(ConfigError, match="left; shorten the prompt"):
        session.generate_batch(["a", "word " * 62])
    for refused in (
        lambda: session.generate("more", goes_on=True),
        lambda: session.check(["a", "b"], is_conversation=True),
        lambda: session.force([1, 2]),
    ):
        with pytest.raises(ConfigError, match=r"model\.batch: 3: .* set it to 1"):
            refused()
    assert session.asked == session.answers == []


def test_the_client_refuses_before_it_says_anything():
    read = prompts("gpt2", (3, 4, 5))

    def ask(client):
        sent = client._channel.total
        for refused in (
            lambda: client.answer(read[0], 1, fresh=True, beside=read[1:]),
            lambda: client.answer(read[0], 1, fresh=False),
            lambda: client.answer(read[0], 2, fresh=True, forced=[5]),
            lambda: client.answer(read[0], 1, fresh=True, beside=[np.array([10**6])]),
        ):
            with pytest.raises(RefusedError, match=r"model.batch|token id"):
                list(refused())
            assert client._channel.total == sent
        return list(client.answer(read[0], 1, fresh=True, beside=read[1:2]))

    found, opened = converse(config_of("gpt2", batch=2), ask)
    assert len(found) == len(opened.server.passes) == 1


def test_a_comparison_refuses():
    class Session:
        config = generation_config(model={"batch": 2})
        prompts = load_prompts(config)
        plan = plan_generation(config, plain(config).public)

    with pytest.raises(ConfigError, match=r"model\.batch: 2; a comparison is of one prompt"):
        check_prompt(Session, "x", 1)


# -- what the server is told -------------------------------------------------------------------


def test_idle_rows_from_outside():
    public = model("llama").public
    assert parsed_idle(packed_idle((16, 0, 8)), public) == (16, 0, 8)
    with pytest.raises(FrameError, match="idle rows cannot be"):
        parsed_idle(packed_idle((3, 0, 8)), public)
    with pytest.raises(FrameError, match="idle rows cannot be"):
        parsed_idle(packed_idle((16, 0, 8)), model("gpt2").public)


def test_the_server_refuses_a_pass_of_idle_rows_alone():
    def ask(client):
        client._session.begin(Ready(8, (0, 0), (8, 0), {}))
        client._session._say(Word.PASS, 8)
        client._channel.recv()

    with pytest.raises(FrameError, match="asks for what cannot be"):
        converse(config_of("llama", batch=2), ask)


def test_fillers_and_idle_rows():
    public = model("llama").public
    fillers, idle = public.padding([3, 17, 9])
    assert (fillers, idle) == ((5, 7, 7), (16, 0, 8))
    assert all(number < public.turns for number in fillers)
    # Where distances to a prefix make no difference the server learns nothing of the others.
    assert model("gpt2").public.padding([3, 17, 9]) == ((21, 7, 15), (0, 0, 0))
    rows = client_rows(public, [7, 8], 0, 22)
    prefix = len(public.prefix)
    assert rows.visible.tolist() == [[1] * prefix + [0] * 22 + [1, 1]]


# -- the plan ----------------------------------------------------------------------------------


@lru_cache(maxsize=4)
def plan_of(batch):
    config = generation_config(model={"batch": batch})
    return plan_generation(config, plain(config).public)


def test_rounds_hardly_grow():
    """Where more is compared, shorter messages are worth a round more."""
    one, four = plan_of(1), plan_of(4)
    token, tokens = one.of_pass(1, 20), four.of_pass(1, 20)
    assert tokens.cost.traffic.rounds <= 1.05 * token.cost.traffic.rounds
    assert four.offline_traffic(tokens).rounds == one.offline_traffic(token).rounds
    assert four.conversation_cost().traffic.rounds == one.conversation_cost().traffic.rounds
    # Frames and ciphertexts are fuller.
    assert four.offline_traffic(tokens).sent_bytes < 2 * one.offline_traffic(token).sent_bytes
    assert four.cache_bytes() == 4 * one.cache_bytes()


def test_a_plan_says_what_each_token_costs():
    found = generation_plan_to_dict(plan_of(4))
    shares = found["token"]["with_shares"]
    assert found["model_batch"] == 4
    assert shares["each"]["rounds"] == pytest.approx(shares["total"]["rounds"] / 4, abs=0.01)
    assert "each" not in generation_plan_to_dict(plan_of(1))["token"]["with_shares"]
    lines = " ".join(generation_trust_model(plan_of(4)))
    assert "4 conversations share every pass" in lines
    assert "how long the longest of the model's own answers is" in lines


def test_too_many_that_share_a_pass(monkeypatch):
    """What may go wrong counts for all together."""
    allowed = 2 * plan_of(1).announced_risk().failure_probability
    assert plan_of(4).announced_risk().failure_probability > allowed
    monkeypatch.setattr(generation, "MAX_FAILURE_PROBABILITY", allowed)
    check_failures(plan_of(1))
    message = r"4 conversations .* lower generation\.positions or model\.batch"
    with pytest.raises(ConfigError, match=message):
        check_failures(plan_of(4))


# -- two processes -----------------------------------------------------------------------------

ASKED = ("What is a mask?", "Why two parties, and a pad, is it what a mask is?", "A")


@pytest.mark.long
@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_between_processes(family):
    """Three at once, then one; each as by the plain model, and alone."""
    config = generation_config(family, model={"batch": 3}, max_new_tokens=3)
    with LocalGeneration(config) as session:
        found = list(session.generate_batch(ASKED))
        list(session.generate("What is a mask?", 2))
    assert len(session.answers) == 4
    for answer in session.answers:
        assert answer.tokens == plain_tokens(session, answer)
    said = [[t.text for t in tokens if t is not None] for tokens in zip(*found, strict=True)]
    assert ["".join(texts) for texts in said] == [a.text for a in session.answers[:3]]
    assert undeclared(session) == []
    result = session.result
    assert result.client.total == result.server.total
    check_reports(generation_reports(session))


def check_reports(reports):
    assert [report["batch"]["prompts"] for report in reports] == [3, 3, 3, 1]
    for report in reports:
        assert report["declared_equals_measured"]
        assert report["batch"]["conversations"] == 3
        assert report["accuracy"]["cosine"] > 0.9999
        assert report["generation"]["equal_tokens"] == report["generation"]["new_tokens"]
        prompts = report["batch"]["prompts"]
        whole, each = report["batch"]["per_pass"]["total"], report["per_token"]["total"]
        assert each["rounds"] == pytest.approx(whole["rounds"] / prompts, abs=0.01)
        assert each["seconds"] == pytest.approx(whole["seconds"] / prompts)
