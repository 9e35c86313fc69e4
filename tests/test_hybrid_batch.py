"""Several texts in one request: each as if it were alone, whatever the others are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from hybrid.config.schema import load_config
from hybrid.models.reference import PlainEncoder
from hybrid.planning import plan
from hybrid.planning.plan import build_plan
from hybrid.runtime.launch import Client, Server, make_plan, outputs_of
from tests.processes import run
from tests.tiny_model import write_tiny_config
from transport.errors import ConfigError
from transport.local import run_both
from transport.traffic import Party

TEXTS = [np.array([2, 4, 5, 6, 3]), np.array([7]), np.arange(2, 10), np.array([9, 9])]
"""Four texts: of several lengths, one of a single token, one of all eight."""
COUNTS = ("client_sent_bytes", "server_sent_bytes", "rounds")


def batched(folder, batch, **changes):
    """The tiny config with a batch and other protocols."""
    path = write_tiny_config(folder, correlations=changes.pop("correlations", "softspoken"))
    config = yaml.safe_load(path.read_text())
    config["model"]["batch"] = batch
    config["ckks"]["linear_phase"] = changes.pop("linear_phase", "online")
    config["protocols"] |= changes
    path.write_text(yaml.safe_dump(config))
    return path


def asked(loaded, texts):
    """Both parties in this process; the client's report, the server and the server's report."""
    server, client = Server(loaded), Client(loaded)

    def party(channel):
        if channel.party is Party.SERVER:
            return server.serve_session(channel)
        return client.ask(channel, texts)

    mine, theirs, _ = run_both(party)
    return mine, server, theirs


def check(report, server, texts, tokens=8):
    """Every text's output beside the plain model, every step's traffic beside its declaration."""
    plain = PlainEncoder(server.model.weights, server.model.architecture)
    found = [output for request in report["requests"] for output in outputs_of(request)]
    assert len(found) == len(texts)
    for output, ids in zip(found, texts, strict=True):
        expected = plain.embed(ids, tokens)
        expected = expected / np.linalg.norm(expected)
        assert np.abs(np.array(output) - expected).max() < 5e-3
    for request in report["requests"]:
        for step in request["steps"]:
            assert step["predicted"] == {key: step["measured"][key] for key in COUNTS}


@pytest.mark.parametrize(
    "changes",
    [
        {"linear_phase": "offline"},
        {"linear": "column_bsgs"},
        {"linear": "coefficients", "attention": "coefficients_interleaved", "multiply": "ot"},
    ],
)
def test_each_text_of_a_batch_is_as_if_alone(changes, tmp_path):
    loaded = load_config(batched(tmp_path, 3, **changes))
    report, server, _ = asked(loaded, TEXTS)
    assert len(report["requests"]) == 2
    check(report, server, TEXTS)


def test_the_server_cannot_tell_how_many_texts_there_are(tmp_path):
    loaded = load_config(batched(tmp_path, 3, linear_phase="offline"))
    report, server, served = asked(loaded, TEXTS)
    full, last = report["requests"]
    assert len(outputs_of(full)) == 3
    assert len(outputs_of(last)) == 1
    traffic = [[(s["name"], s["measured"]) for s in r["steps"]] for r in served["requests"]]
    for (name, one), (same, other) in zip(*traffic, strict=True):
        assert name == same
        assert all(one[key] == other[key] for key in COUNTS)
    assert not any("output" in key for request in served["requests"] for key in request)
    assert any("the batch of 3 texts" in line for line in full["trust_model"])


def test_a_batch_of_one_is_what_it_was(tmp_path):
    loaded = load_config(write_tiny_config(tmp_path, correlations="softspoken"))
    report, server, _ = asked(loaded, TEXTS[:2])
    assert all("outputs" not in request for request in report["requests"])
    check(report, server, TEXTS[:2])
    explicit = load_config(batched(tmp_path, 1, linear_phase="offline"))
    parts = server.model.architecture, server.model.bounds, server._catalog
    assert build_plan(explicit.run, *parts).digest() == build_plan(loaded.run, *parts).digest()


@pytest.mark.long
def test_a_batch_between_processes_with_a_dealer(tmp_path):
    changes = {"correlations": "dealer", "linear": "beaver", "attention": "beaver"}
    config = batched(tmp_path, 2, **changes, multiply="dealer")
    texts = ["a small test", "private", "of inference a"]
    options = [word for text in texts for word in ("--text", text)]
    code, output = run("run", config, *options, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    assert "texts 1 to 2 of 3" in output
    assert "text 3 of 3" in output
    for folder in (tmp_path / "out", tmp_path / "out" / "text2"):
        report = json.loads((folder / "report.json").read_text())
        assert report["accuracy"]["cosine"] > 0.999
        assert "The request carries 2 texts" in (folder / "report.md").read_text()


@pytest.mark.long
def test_a_compared_batch_says_what_a_text_costs(tmp_path):
    config = batched(tmp_path, 2)
    command = ("compare", config, "--repetitions", 1, "--no-warm-up", "--out", "out")
    code, output = run(*map(str, command), cwd=tmp_path)
    assert code == 0, output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (row,) = report["runs"]
    assert "has 2 texts a request" in (tmp_path / "out" / "report.md").read_text()
    assert row["accuracy"]["cosine"] > 0.999


@pytest.mark.parametrize(("batch", "message"), [(0, "greater"), (65, "less"), (1.5, "integer")])
def test_wrong_batches_are_refused(batch, message, tmp_path):
    code, output = run("plan", batched(tmp_path, batch), cwd=tmp_path)
    assert code == 2
    assert "model.batch: input should be" in " ".join(output.split())
    assert message in output


@pytest.mark.parametrize(
    ("batch", "exact", "remedy"),
    [
        (2, False, "set ckks.exact: true, or lower model.batch, calibration.margin"),
        (1, True, "; lower calibration.margin or model.tokens"),
    ],
)
def test_too_likely_failures_name_what_would_help(batch, exact, remedy, tmp_path, monkeypatch):
    monkeypatch.setattr(plan, "MAX_FAILURE_PROBABILITY", 1e-12)
    config = batched(tmp_path, batch)
    made = yaml.safe_load(config.read_text())
    made["ckks"]["exact"] = exact
    config.write_text(yaml.safe_dump(made))
    with pytest.raises(ConfigError, match=r"most of it in \w+") as raised:
        make_plan(load_config(config))
    assert remedy in str(raised.value)
