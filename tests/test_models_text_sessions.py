"""Texts, prompts and token ids in sessions: what is refused is refused before anything is sent."""

from __future__ import annotations

import json
import threading
import warnings
from io import StringIO
from queue import Queue

import numpy as np
import pytest
from rich.console import Console

from hybrid.config.loading import load_config
from hybrid.models.loading import load_model
from hybrid.models.public_table import receive_table
from hybrid.reports.run_report import markdown
from hybrid.reports.session_report import party_reports
from hybrid.reports.terminal import print_report
from hybrid.runtime import parties
from hybrid.runtime.generation_words import RefusedError
from hybrid.runtime.remote import RemoteSession, serve_sessions
from hybrid.runtime.serving import Client, Server
from hybrid.runtime.text_checks import TextWarning
from hybrid.testing.tiny import WORDS
from tests.processes import ANY_PORT, run
from tests.prompted import config_of, converse
from tests.text_folders import wordpiece, write_json
from tests.tiny_model import write_tiny_config
from tests.waiting import GUARD_S
from transport.errors import ConfigError, UsageError
from transport.local import run_both
from transport.traffic import Party

PROMPTS = {"prompts": {"of": "of of "}, "default_prompt_name": "of"}


def both(tmp_path, change):
    """Configs of a server and a client; `change` edits the client's tokenizer.json."""
    server = load_config(write_tiny_config(tmp_path / "server", correlations="softspoken"))
    client = load_config(write_tiny_config(tmp_path / "client", correlations="softspoken"))
    path = tmp_path / "client" / "model" / "tokenizer.json"
    raw = json.loads(path.read_text())
    change(raw)
    write_json(path, raw)
    return server, client


def with_prompt(folder, **settings):
    """A config whose model has a prompt and a tokenizer that drops control characters."""
    path = write_tiny_config(folder, correlations="softspoken")
    wordpiece(words=WORDS).save(str(folder / "model" / "tokenizer.json"))
    write_json(folder / "model" / "config_sentence_transformers.json", PROMPTS | settings)
    return path


def swapped(raw):
    raw["model"]["vocab"] |= {"test": WORDS.index("small"), "small": WORDS.index("test")}


def far(raw):
    raw["model"]["vocab"]["inference"] = 5000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (swapped, "'tokenizer' of this model folder is not what the server's folder says; use the"),
        (far, "ids reach 5000, the server's model has 10 rows for them; use the model folder"),
    ],
)
def test_a_client_with_other_words_ends_before_it_looks_any_up(
    change, message, tmp_path, monkeypatch
):
    """What the server sees of it does not depend on a text."""
    server, client = both(tmp_path, change)
    tables = []

    def receive(*arguments):
        tables.append(arguments)
        return receive_table(*arguments)

    monkeypatch.setattr(parties, "receive_table", receive)

    def party(channel):
        if channel.party is Party.SERVER:
            return Server(server).serve_session(channel)
        return Client(client).open(channel)

    with pytest.raises(ConfigError, match=message):
        run_both(party)
    assert not tables


def test_a_remote_session_stays_open_where_ids_are_wrong(tmp_path):
    config, said, served = load_config(with_prompt(tmp_path)), Queue(), []

    def serve():
        served.extend(serve_sessions(config, ANY_PORT, keep=False, say=said.put))

    server = threading.Thread(target=serve)
    server.start()
    session = RemoteSession(config, said.get(timeout=GUARD_S).split()[-1])
    assert session.prompt == "of"
    with session:
        before = session._channel.total
        for wrong in ([[2, 10, 3]], [[2, -1, 3]], [[]], [[2.0]], [], [[2] * 9]):
            with pytest.raises(UsageError, match="query: "):
                session.ask(wrong)
        for wrong in (["a", "\u0000 \u0001"], ["a " * 9], [" "]):
            with pytest.raises(ConfigError, match="text: "):
                session.embed(wrong)
        assert session._channel.total == before
        found = session.embed(["a small test"])
    server.join(GUARD_S)
    assert len(served) == len(session.record.requests) == 1
    model = load_model(config)
    ids = np.array([2, *(WORDS.index(word) for word in ("of", "of", "a", "small", "test")), 3])
    wanted = model.public.head.finished(model.plain(ids))
    assert np.abs(found[0] - wanted).max() < 5e-3
    (report,) = party_reports(config, session.plan, session.record, session.prompt)
    assert report["prompt"] == "of"
    (tmp_path / "report.md").write_text(markdown(report), encoding="utf-8")
    assert "Prompt before every text: `'of'`." in (tmp_path / "report.md").read_text()
    print_report(Console(file=(said := StringIO()), width=100), report, "text", None)
    assert "prompt before every text: of" in said.getvalue()
    (report,) = party_reports(config, session.plan, session.record)
    assert "prompt" not in report


def test_a_command_says_which_text_has_only_unknown_words(tmp_path):
    path = with_prompt(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code, output = run("run", path, "--text", "zzz", "--text", "a " * 9, cwd=tmp_path)
    assert code == 2
    assert output.count("hybrid: text: 'zzz' has only words that the model does not know") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--text", "\u0001", "--text", "a"], "has no tokens, since the model's tokenizer"),
        (
            ["--text", "a", "--text", "a " * 9],
            "has 11 tokens, model.tokens is 8; shorten it, raise",
        ),
        (["--set", "model.prompt=offf"], "model has no prompt 'offf'; did you mean 'of'?"),
    ],
)
@pytest.mark.parametrize("command", [["run"], ["query", "--connect", "tcp://127.0.0.1:9"]])
def test_texts_are_refused_before_a_session(command, arguments, message, tmp_path, monkeypatch):
    def fail(*_arguments):
        raise AssertionError("a session was opened")

    monkeypatch.setattr("hybrid.runtime.opened.open_client", fail)
    monkeypatch.setattr("hybrid.runtime.opened.Processes", fail)
    path = with_prompt(tmp_path, default_prompt_name=None)
    code, output = run(command[0], path, *command[1:], *arguments, cwd=tmp_path, waits=False)
    assert code == 2
    assert message in output, output


def test_what_a_folder_leaves_open_is_warned_of_once_a_session(tmp_path):
    path = write_tiny_config(tmp_path, correlations="softspoken")
    write_json(tmp_path / "model" / "tokenizer_config.json", {"padding_side": "left"})
    config = load_config(path)
    with pytest.warns(TextWarning, match="padding_side is left and ignored") as seen:
        RemoteSession(config, "tcp://127.0.0.1:9")
    assert len(seen) == 1


@pytest.mark.parametrize("embedding", ["public_table", "private"])
def test_a_decoder_is_asked_nothing_with_ids_that_it_lacks(embedding):
    """A negative id would be another token, and one too large an error after set-up."""

    def ask(client):
        for wrong in ([1, -1], [512]):
            with pytest.raises(
                RefusedError, match=f"token id {wrong[-1]}; the model's are 0 to 511"
            ):
                next(client.answer(np.array(wrong), 1, fresh=True))
        return [found.token for found in client.answer(np.array([5, 6]), 1, fresh=True)]

    found, opened = converse(config_of("llama", embedding=embedding), ask)
    assert len(found) == len(opened.client.passes) == 1


def test_samples_that_cannot_be_encoded_say_where_they_stand(tmp_path):
    path = with_prompt(tmp_path)
    (tmp_path / "samples.txt").write_text("a test\n\u200b\u200d\n")
    with pytest.raises(ConfigError, match="ranges.sentences: text: .* has no tokens, since"):
        load_model(load_config(path))
