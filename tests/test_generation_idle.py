"""While nobody asks: what a client's thread prepares with a server in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from multiprocessing import Pipe

import pytest

from hybrid.config.loading import load_config
from hybrid.models.generator_loading import load_generator
from hybrid.planning.ahead import AHEAD
from hybrid.planning.generation import CACHE, CONVERSATION
from hybrid.planning.plan import OFFLINE
from hybrid.reports.generation_costs import differing_steps
from hybrid.reports.generation_waits import first_token_waits, waits_line
from hybrid.runtime import child
from hybrid.runtime.answers import STOP
from hybrid.runtime.generation_local import plain_answer
from hybrid.runtime.generation_remote import RemoteGeneration
from hybrid.runtime.idle import WhileIdle
from tests.generation_setup import write_generation_config
from tests.processes import ROOT, ended, finish, lines_of, serving
from tests.waiting import GUARD_S, wait_until
from transport.errors import HybridError, PeerLostError, UsageError

PATIENCE = "runtime: {timeout_s: 36000.0, pin_cores: false}\n"
"""Only a lost connection ends a wait."""
IN_PIECES = {"cached_attention": "matrix_correlations"}
"""A cache that small models, too, make in several pieces."""


# -- the thread ---------------------------------------------------------------------------------


def test_work_goes_on_until_there_is_none():
    pieces, done = [True, True, False], threading.Event()

    def work():
        found = pieces.pop(0)
        if not found:
            done.set()
        return found

    idle = WhileIdle(work, pytest.fail, wait_s=0.0)
    idle.start()
    idle.start()
    assert done.wait(GUARD_S)
    idle.stop()
    assert pieces == []
    idle.stop()


def test_a_session_whose_work_breaks_is_told(monkeypatch):
    """Stocks may differ then, whatever broke it."""
    told = []
    monkeypatch.setattr(threading, "excepthook", lambda _: None)

    def work():
        raise MemoryError

    idle = WhileIdle(work, told.append, wait_s=0.0)
    idle.start()
    idle.stop()
    assert [str(error) for error in told] == [
        "preparing ahead of need: MemoryError; open a new session"
    ]


def test_whoever_stops_it_waits_for_the_piece_under_way():
    begun, may_end, order = threading.Event(), threading.Event(), []

    def work():
        begun.set()
        may_end.wait(GUARD_S)
        order.append("piece")
        return True

    idle = WhileIdle(work, pytest.fail, wait_s=0.0)
    for _ in range(2):
        begun.clear()
        may_end.clear()
        idle.start()
        assert begun.wait(GUARD_S)
        idle._stopping.set()
        may_end.set()
        idle.stop()
        order.append("stopped")
    assert order == ["piece", "stopped"] * 2


def test_what_is_asked_at_once_waits_for_nothing():
    idle = WhileIdle(lambda: pytest.fail("asked at once"), pytest.fail, wait_s=GUARD_S)
    idle.start()
    idle.stop()


def test_an_error_ends_it_and_is_told():
    told = []

    def work():
        raise PeerLostError("gone")

    idle = WhileIdle(work, told.append, wait_s=0.0)
    idle.start()
    wait_until(lambda: told, "the error")
    idle.stop()
    assert [str(error) for error in told] == ["gone"]


def test_a_caller_who_has_had_enough_is_followed_by_work_too(monkeypatch):
    """In a client's process of its own: what stops an answer is no question."""
    monkeypatch.setattr(child, "IDLE_S", 0.0)
    parent, pipe = Pipe()
    made = []

    class Client:
        def ahead(self):
            made.append(True)
            parent.send(None)
            return True

    parent.send(STOP)
    assert child._next(pipe, Client()) is None
    assert made == [True]


# -- two processes ------------------------------------------------------------------------------


def opened(tmp_path, **settings):
    path = write_generation_config(tmp_path, positions=96, max_new_tokens=4, **settings)
    path.write_text(path.read_text() + PATIENCE)
    served, endpoint = serving(path)
    return load_config(path), served, endpoint


def made_ahead(session, kind=AHEAD):
    return [one for one in session._client._session.shared if one.kind == kind]


def is_plain(session, model):
    """Tokens of all answers are the plain model's."""
    for answer in session.answers:
        count = len(answer.tokens)
        assert plain_answer(model, session.prompts, answer.read, count)[0] == answer.tokens


@pytest.mark.long
def test_the_next_answer_of_a_conversation_is_ready(tmp_path):
    config, served, endpoint = opened(tmp_path, ahead_tokens=24, prompt_bucket=4)
    with ended(served):
        with RemoteGeneration(config, endpoint) as session:
            list(session.generate("What is a mask?", 2))
            wait_until(lambda: not session._idle._thread.is_alive(), "the end of preparation")
            list(session.generate("Why?", 2, goes_on=True))
        asked = session.answers[1]
        record = session.record
        first = record.passes[asked.first_pass]
        # The last token of the answer before is read with the prompt where it was no end.
        assert first.rows in (asked.new, asked.new + 1)
        assert not sum(s.traffic.sent_bytes for s in first.steps if s.phase == OFFLINE)
        waits = first_token_waits(record, asked.first_pass)
        assert waits["rows"] == waits["conversation"] == 0 < min(waits["ahead"], waits["online"])
        earlier = first_token_waits(record, 0)
        assert min(earlier[name] for name in ("rows", "conversation", "correlations")) > 0
        assert ["nobody asked" in waits_line(one) for one in (earlier, waits)] == [False, True]
        assert differing_steps(session.plan, record, "client") == []
        is_plain(session, load_generator(config))
        assert served.wait(GUARD_S) == 0


@pytest.mark.long
def test_a_prompt_may_come_in_the_midst_of_it(tmp_path):
    config, served, endpoint = opened(tmp_path, ahead_tokens=64)
    with ended(served):
        with RemoteGeneration(config, endpoint) as session:
            list(session.generate("What is a mask?", 1))
            wait_until(lambda: made_ahead(session), "the first piece")
            list(session.generate("Why?", 2, goes_on=True))
        asked = session.answers[1].first_pass
        # What was there by then was taken.
        assert made_ahead(session)[0].passes == asked
        first = session.record.passes[asked].steps[0].traffic.sent_bytes
        assert first < session.record.passes[0].steps[0].traffic.sent_bytes
        assert differing_steps(session.plan, session.record, "client") == []
        is_plain(session, load_generator(config))
        assert served.wait(GUARD_S) == 0


@pytest.mark.long
def test_a_server_that_is_killed_in_the_midst_of_it(tmp_path):
    config, served, endpoint = opened(tmp_path, ahead_tokens=64)
    session = RemoteGeneration(config, endpoint)
    with ended(served), pytest.raises(HybridError, match="server") as raised, session:
        list(session.generate("What is a mask?", 1))
        wait_until(lambda: made_ahead(session), "the first piece")
        served.kill()
        wait_until(lambda: not session._idle._thread.is_alive(), "the end of preparation")
        list(session.generate("Why?", 2, goes_on=True))
    assert isinstance(raised.value, PeerLostError)
    with pytest.raises(UsageError, match="failed"):
        list(session.generate("Why?"))


@pytest.mark.long
def test_the_next_conversation_begins_at_once(tmp_path):
    """Every one finds its cache: the first, and each that is asked for some time after another."""
    config, served, endpoint = opened(tmp_path, ahead_tokens=4)
    with ended(served):
        with RemoteGeneration(config, endpoint) as session:
            for _ in range(2):
                wait_until(lambda: not session._idle._thread.is_alive(), "the end of preparation")
                list(session.generate("What is a mask?", 1))
        record, plan = session.record, session.plan
        begun = [one for one in record.shared if one.kind == CONVERSATION]
        assert [one.pieces for one in begun] == [len(plan.cache_pieces)] * 2
        assert differing_steps(plan, record, "client") == []
        is_plain(session, load_generator(config))
        assert served.wait(GUARD_S) == 0


@pytest.mark.long
def test_a_first_prompt_in_the_midst_of_its_cache(tmp_path):
    """It waits for the piece under way, takes what is there and makes the rest."""
    config, served, endpoint = opened(tmp_path, protocols=IN_PIECES)
    with ended(served):
        with RemoteGeneration(config, endpoint) as session:
            wait_until(lambda: made_ahead(session, CACHE), "the first piece")
            list(session.generate("What is a mask?", 2))
        (begun,) = made_ahead(session, CONVERSATION)
        assert begun.pieces == len(made_ahead(session, CACHE)) > 0
        assert differing_steps(session.plan, session.record, "client") == []
        is_plain(session, load_generator(config))
        assert served.wait(GUARD_S) == 0


@pytest.mark.long
def test_a_server_that_is_killed_while_a_cache_is_made(tmp_path):
    config, served, endpoint = opened(tmp_path, protocols=IN_PIECES)
    session = RemoteGeneration(config, endpoint)
    with ended(served), pytest.raises(PeerLostError, match="server"), session:
        wait_until(lambda: made_ahead(session, CACHE), "the first piece")
        served.kill()
        wait_until(lambda: not session._idle._thread.is_alive(), "the end of preparation")
        list(session.generate("What is a mask?", 1))
    with pytest.raises(UsageError, match="failed"):
        list(session.generate("Why?"))


@pytest.mark.long
def test_a_conversation_from_the_console(tmp_path):
    config, served, endpoint = opened(tmp_path, ahead_tokens=2)
    command = [sys.executable, "-m", "hybrid.cli", "chat", str(config.path), "--connect", endpoint]
    typed = f"What is a mask?\n\nWhy?\n{'word ' * 200}\n/new\nAnd a pad?\n"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--max-new-tokens", "2"], input=typed, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    with ended(served):
        assert done.returncode == 0, done.stdout
        lines = done.stdout.splitlines()
        assert sum(line.startswith("answer: ") for line in lines) == 3
        refused = [line for line in lines if line.startswith("not answered: prompt: ")]
        assert len(refused) == 1
        assert refused[0].endswith("/new begins a new conversation")
        code, output = finish(served)
        assert code == 0
        assert output.splitlines()[-1].startswith("served ")


CLIENT = """
import sys
from pathlib import Path
from hybrid.config.loading import load_config
from hybrid.planning.ahead import AHEAD
from hybrid.runtime.generation_remote import RemoteGeneration
with RemoteGeneration(load_config(Path(sys.argv[1])), sys.argv[2]) as session:
    kind = sys.argv[3]
    if kind == AHEAD:
        list(session.generate("What is a mask?", 1))
    shared = session._client._session.shared
    while session._idle._thread.is_alive():
        if any(one.kind == kind for one in shared):
            print("ahead", flush=True)
            sys.stdin.read()
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", [AHEAD, CACHE])
def test_a_client_that_is_killed_in_the_midst_of_it(tmp_path, kind):
    config, served, endpoint = opened(tmp_path, ahead_tokens=64, protocols=IN_PIECES)
    command = [sys.executable, "-c", CLIENT, str(config.path), endpoint, kind]
    client = subprocess.Popen(
        command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with ended(served), client:
        assert next(lines_of(client)) == "ahead\n"
        client.send_signal(signal.SIGKILL)
        code, output = finish(served)
        assert code == 2, output
        assert "client" in output.splitlines()[-1]
