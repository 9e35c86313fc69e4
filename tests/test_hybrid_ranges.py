"""Ranges in sessions: the client's refusal, scaled openings, what runs say afterwards."""

from __future__ import annotations

import json

import numpy as np
import pytest

import hybrid
from hybrid.config.loading import load_config
from hybrid.models.folding import LinearMap
from hybrid.operators.whole_matrix import whole_integers
from hybrid.runtime.generation_words import RefusedError
from hybrid.runtime.serving import Client, Server
from mpc_nonlinear.fixed_point import FixedPoint
from tests.changed_model import (
    LAST,
    LOUD,
    QUIET,
    cosine,
    gained,
    ids_of,
    mean_vector,
    published,
    write_changed,
    write_narrow,
)
from tests.processes import run
from tests.tiny_model import TEXT
from transport.errors import ConfigError
from transport.local import run_both
from transport.traffic import Party


def both(config, ask):
    """What `ask` makes of the client in a session of this process, and the server's record."""
    server, client = Server(config), Client(config)

    def party(channel):
        if channel.party is Party.SERVER:
            return server.serve_session(channel)
        client.open(channel)
        found = ask(client, channel)
        client.close()
        return found

    found, served, _ = run_both(party)
    return found, served


# -- scaled openings ----------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2.0**-12, 1e8])
def test_gains_of_any_size_on_the_last_norm_give_transformers_vector(factor, tmp_path):
    path = write_changed(tmp_path, gained(LAST, factor))
    config = hybrid.load(path, set=["model.normalize=false"])
    ids = ids_of(TEXT)
    found, _ = both(config, lambda client, _channel: client.ask([ids]))
    expected = mean_vector(published(tmp_path / "model"), ids)
    assert cosine(found[0], expected) > 0.999
    assert np.linalg.norm(found[0]) == pytest.approx(np.linalg.norm(expected), rel=1e-2)


def test_weights_that_vanish_in_units_are_refused_by_node():
    linear = LinearMap(np.full((3, 2), 2.0**-14), np.zeros(2))
    with pytest.raises(ConfigError, match=r"layer0.output: weights have .* units of"):
        whole_integers(linear, FixedPoint(16), "layer0.output")
    assert not whole_integers(LinearMap(np.zeros((3, 2)), np.zeros(2)), FixedPoint(16), "a").any()
    assert (whole_integers(linear.times(4.0), FixedPoint(16), "a") == 16).all()


# -- what a client sends in ---------------------------------------------------------------------


def marked(tensors):
    """One word alone has the column on which the embedding's norm has a large gain."""
    for name in ("word", "position", "token_type"):
        tensors[f"embeddings.{name}_embeddings.weight"][:, 0] = 0
    word = tensors["embeddings.word_embeddings.weight"][8]
    word[:], word[0] = 0, 100
    tensors["embeddings.LayerNorm.weight"][0] = 40


MESSAGE = (
    r"text 2: a token's embedding reaches 1\d\d.* on edge 'embedding', the server's ranges hold \d+"
    r", so the answer would be wrong; use other words, .*ranges.margin .*ranges.sentences"
)


def test_a_client_sends_nothing_of_what_ranges_do_not_hold(tmp_path):
    config = load_config(write_changed(tmp_path, marked, f"{QUIET}\n"))

    def ask(client, channel):
        before = channel.total
        with pytest.raises(RefusedError, match=MESSAGE):
            client.ask([ids_of(QUIET), ids_of(LOUD)])
        assert channel.total == before
        return client.ask([ids_of(QUIET)])

    found, served = both(config, ask)
    assert len(found) == len(served.requests) == 1


@pytest.mark.long
def test_a_refusal_leaves_a_session_open(tmp_path):
    config = write_changed(tmp_path, marked, f"{QUIET}\n")
    with hybrid.local(config) as session:
        with pytest.raises(hybrid.UsageError, match=MESSAGE):
            session.embed([QUIET, LOUD])
        assert session.embed([QUIET]).shape == (1, 24)
    (report,) = session.reports()
    assert report["accuracy"]["cosine"] > 0.999
    code, output = run("run", config, "--text", LOUD, "--out", "out", cwd=tmp_path)
    assert code == 2 and "text 1: a token's embedding reaches" in " ".join(output.split())


# -- what runs say ------------------------------------------------------------------------------


@pytest.mark.long
def test_a_run_says_loudly_that_ranges_were_exceeded(tmp_path):
    config = write_narrow(tmp_path)
    texts = ("--text", QUIET, "--text", LOUD)
    code, output = run("run", config, *texts, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    said = " ".join(output.split())
    assert "THE RESULT MAY BE WRONG. text 1: layer0." in said
    assert "RANGES EXCEEDED in 1 of 2 requests: results may be wrong" in said
    assert "Ranges held: every bound leaves room for at least" in said
    quiet, loud = (
        json.loads((tmp_path / "out" / part / "report.json").read_text()) for part in (".", "text2")
    )
    assert quiet["accuracy"]["cosine"] > 0.999 > loud["accuracy"]["cosine"]
    assert not quiet["ranges"]["exceeded"] and quiet["ranges"]["headroom"]["times"] >= 4
    edges = {row["edge"]: row for row in loud["ranges"]["exceeded"] if row["of"] == "max_abs"}
    row = edges["layer0.intermediate"]
    assert row["times"] == pytest.approx(row["seen"] / row["bound"]) and row["times"] > 1
    assert loud["ranges"]["headroom"] is None
    assert "1 samples with 6 different tokens" in loud["ranges"]["caution"]
    assert "**RANGES EXCEEDED" in (tmp_path / "out" / "text2" / "report.md").read_text()
    assert "Ranges held" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.long
def test_reports_of_a_session_carry_ranges(tmp_path):
    with hybrid.local(hybrid.load(write_narrow(tmp_path), set=["model.batch=2"])) as session:
        session.embed([QUIET, LOUD])
    (report,) = session.reports()
    assert {row["text"] for row in report["ranges"]["exceeded"]} == {2}
