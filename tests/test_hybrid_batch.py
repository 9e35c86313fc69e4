"""Several texts in one request: each as if it were alone, whatever the others are."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml

from hybrid.config.loading import load_config
from hybrid.config.overrides import overrides_of
from hybrid.models.loading import load_model
from hybrid.planning import plan
from hybrid.planning.planner import make_plan
from hybrid.reports.session_report import outputs_of, party_reports
from hybrid.runtime.serving import Client, Server
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


def asked(config, texts):
    """Both parties in this process; the client's reports, the server and the server's reports."""
    server, client = Server(config), Client(config)

    def party(channel):
        if channel.party is Party.SERVER:
            return server.serve_session(channel)
        client.open(channel)
        client.ask(texts)
        return client.close()

    mine, theirs, _ = run_both(party)
    found = [party_reports(config, server.plan, record) for record in (mine, theirs)]
    return found[0], server, found[1]


def check(requests, server, texts):
    """Every text's output beside the plain model, every step's traffic beside its declaration."""
    model = server.model
    found = [output for request in requests for output in outputs_of(request)]
    assert len(found) == len(texts)
    for output, ids in zip(found, texts, strict=True):
        expected = model.public.head.finished(model.plain(ids))
        assert np.linalg.norm(expected) == pytest.approx(1.0)
        assert np.abs(np.array(output) - expected).max() < 5e-3
    for request in requests:
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
    requests, server, _ = asked(load_config(batched(tmp_path, 3, **changes)), TEXTS)
    assert len(requests) == 2
    check(requests, server, TEXTS)


def test_the_server_cannot_tell_how_many_texts_there_are(tmp_path):
    config = load_config(batched(tmp_path, 3, linear_phase="offline"))
    (full, last), _, served = asked(config, TEXTS)
    assert len(outputs_of(full)) == 3
    assert len(outputs_of(last)) == 1
    traffic = [[(s["name"], s["measured"]) for s in r["steps"]] for r in served]
    for (name, one), (same, other) in zip(*traffic, strict=True):
        assert name == same
        assert all(one[key] == other[key] for key in COUNTS)
    assert not any("output" in key for request in served for key in request)
    assert any("the batch of 3 texts" in line for line in full["trust_model"])


def test_a_batch_of_one_is_what_it_was(tmp_path):
    config = load_config(write_tiny_config(tmp_path, correlations="softspoken"))
    requests, server, _ = asked(config, TEXTS[:2])
    assert all("outputs" not in request for request in requests)
    check(requests, server, TEXTS[:2])
    explicit = load_config(batched(tmp_path, 1, linear_phase="offline"))
    public = server.model.public
    assert make_plan(explicit, public, None).digest() == make_plan(config, public, None).digest()


@pytest.mark.long
def test_a_batch_between_processes_with_a_dealer(tmp_path):
    changes = {"correlations": "dealer", "linear": "beaver", "attention": "beaver"}
    changes["linear_phase"] = "offline"
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
    ("batch", "exact", "limit", "block", "remedy"),
    [
        (2, False, 5e-9, "lift of a ciphertext's coefficients", "ckks.exact: true"),
        (1, True, 8e-11, "local product with public numbers", "model.tokens: 4"),
    ],
)
def test_too_likely_failures_name_block_and_what_would_help(  # noqa: PLR0913
    batch, exact, limit, block, remedy, tmp_path, monkeypatch
):
    monkeypatch.setattr(plan, "MAX_FAILURE_PROBABILITY", limit)
    path = batched(tmp_path, batch)
    config = load_config(path, overrides_of([f"ckks.exact={str(exact).lower()}"]))
    with pytest.raises(ConfigError, match=r"is in layer0\.\w+") as raised:
        make_plan(config, load_model(config).public, None)
    said = str(raised.value)
    assert block in said
    assert remedy in said
    # Only what helps is advised.
    assert ("ckks.exact" in said) == (not exact)
    assert "none is enough" not in said
