"""Whole sessions without ciphertexts: products from a dealer, between real processes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.forked import forked_script
from tests.processes import KEYS, run
from tests.tiny_model import write_tiny_config, write_tiny_model

ROOT = Path(__file__).resolve().parent.parent

PURE = {
    "linear: token_periodic": "linear: beaver",
    "attention: rotated_slots": "attention: beaver",
    "multiply: cheapest": "multiply: dealer",
}


def pure_config(folder, *, without=(), correlations="dealer"):
    write_tiny_model(folder / "model")
    config = write_tiny_config(folder, correlations=correlations)
    text = config.read_text()
    for before, after in PURE.items():
        assert before in text
        if after not in without:
            text = text.replace(before, after)
    config.write_text(text)
    return config


@pytest.mark.long
def test_two_parties_and_a_dealer(tmp_path):
    config = pure_config(tmp_path)
    texts = ["--text", "a small test", "--text", "of private inference"]
    code, output = run("run", config, *texts, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    for folder in (tmp_path / "out", tmp_path / "out" / "text2"):
        report = json.loads((folder / "report.json").read_text())
        assert report["accuracy"]["cosine"] > 0.9999
        for step in report["steps"]:
            assert step["predicted"] == {key: step["measured"][key] for key in KEYS}
            assert step["engine"] == "mpc_nonlinear"
        # No keys of ciphertexts: the client sends words of the handshake only.
        assert report["setup"]["client_sent_bytes"] < 20_000
        assert report["offline"]["client_sent_bytes"] == 0
        trust = " ".join(report["trust_model"])
        assert "WEAKER TRUST" in trust
        assert "RLWE" not in trust
        assert report["counted"]["dealer_bytes"] > 100_000


@pytest.mark.parametrize(
    "without,words",
    [
        (("multiply: dealer",), "protocols.linear: 'beaver' takes products from a dealer"),
        (
            ("linear: beaver", "multiply: dealer"),
            "protocols.attention: 'beaver' takes products from a dealer",
        ),
        (("linear: beaver", "attention: beaver"), "'dealer' needs mpc.correlations: dealer"),
    ],
)
def test_products_of_a_dealer_need_a_dealer(tmp_path, without, words):
    config = pure_config(tmp_path, without=without, correlations="softspoken")
    code, output = run("plan", config, cwd=tmp_path)
    assert code == 2
    assert words in " ".join(output.split())


def test_dealt_layers_are_prepared(tmp_path):
    config = pure_config(tmp_path)
    config.write_text(config.read_text().replace("phase: offline", "phase: online"))
    code, output = run("plan", config, cwd=tmp_path)
    assert code == 2
    assert "'beaver' makes half of its products before the input" in " ".join(output.split())


@pytest.mark.long
def test_the_error_of_one_layer(tmp_path):
    script = ROOT / "experiments" / "benchmarks" / "layer_error.py"
    config = pure_config(tmp_path)
    options = ("--shape", "minilm-l6", "--tokens", "6", "--runs", "1")
    done = forked_script(script, config, *options, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["config"], found["tokens"]) == ("tiny", 6)
    assert 0 < found["mean_error"] < found["max_error"] < 5e-3 < found["largest_value"]
    assert found["total_s"] >= found["offline_s"] + found["online_s"] > 0
    assert found["MB"] > 0.1
    assert found["rounds"] > 100
    done = forked_script(script, tmp_path / "none.yaml", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr
