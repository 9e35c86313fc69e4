"""Experiments on private generation: what they compute from reports, and that they start."""

from __future__ import annotations

import importlib
import json
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hybrid.config.loading import load_config
from hybrid.planning.risk import MAX_FAILURE_PROBABILITY, Risk
from tests.forked import forked_script
from tests.processes import ROOT

BENCHMARKS = ROOT / "experiments" / "benchmarks"
SCRIPTS = ("prompts", "perplexity", "context")


@pytest.fixture
def experiment(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def python(script: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    return forked_script(script, *arguments, cwd=ROOT, path=[ROOT])


@pytest.mark.long
@pytest.mark.parametrize("name", SCRIPTS)
def test_help_names_the_options(name):
    done = python(BENCHMARKS / f"{name}.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "--set KEY=VALUE" in done.stdout


@pytest.mark.parametrize("name", ["tiny_llama", "tiny_gpt2"])
def test_configs_of_the_small_decoders_are_whole(name):
    config = load_config(BENCHMARKS / f"{name}.yaml")
    assert config.decoder_place.is_dir()
    assert config.run.name == name
    shape = load_config(ROOT / "configs" / "gpt2_shape.yaml").run
    assert (shape.model.shape, shape.generation.chat) == ("gpt2", False)


class FakePlan:
    """Every row and every batch of four fails with a tenth of what is allowed."""

    batch_rows = 4
    model = SimpleNamespace(settings=SimpleNamespace(padded=lambda tokens: tokens))

    def passes(self, prompt, tokens):
        return [prompt, *[1] * (tokens - 1)]

    def pass_risk(self, rows):
        return Risk(rows * MAX_FAILURE_PROBABILITY / 10)

    def batch_cost(self):
        return SimpleNamespace(failure_probability=MAX_FAILURE_PROBABILITY / 10)

    def conversation_cost(self):
        return SimpleNamespace(failure_probability=0.0)


def test_a_session_takes_prompts_as_far_as_failures_allow(experiment):
    budget = experiment("sessions").Budget(FakePlan())
    # One batch ahead, one for three rows, and the rows.
    assert budget.after(2, 2) == pytest.approx(MAX_FAILURE_PROBABILITY * 0.5)
    budget.take(2, 2)
    # The fourth row is left of the first batch.
    assert budget.after(1, 1) == pytest.approx(MAX_FAILURE_PROBABILITY * 0.6)
    assert budget.allows(2, 2)
    budget.take(2, 2)
    assert not budget.allows(2, 1)


def row(new, equal, seconds):
    per_phase = None if seconds is None else dict.fromkeys(("offline", "online", "total"), seconds)
    return {
        "new_tokens": new, "equal_tokens": equal, "logits_cosine_min": 1 - new / 100,
        "equal_choices": min(new, equal + 1),
        "logits_max_abs_error": new / 10, "seconds_per_token": per_phase,
        "megabytes_per_token": per_phase, "rounds_per_token": per_phase, "first_token_seconds": 2.0,
        "memory_gb": {"client": new, "server": 2 * new}, "declared_equals_measured": True,
        "prompt_tokens": 9,
    }  # fmt: skip


def test_longer_answers_count_for_more(experiment):
    prompts = experiment("prompts")
    rows = [row(3, 3, 1.0), row(5, 2, 4.0), row(1, 1, None)]
    found = prompts.summary(rows)
    assert (found["equal_tokens"], found["new_tokens"]) == (6, 9)
    assert found["seconds_per_token"]["total"] == pytest.approx((2 * 1 + 4 * 4) / 6)
    assert found["logits_cosine_min"] == pytest.approx(0.95)
    assert found["memory_gb"] == {"client": 5, "server": 10}
    assert "66.7 %, 7 (77.8 %) behind the same tokens" in prompts.summary_lines(found)[0]
    assert all(len(prompts.table_line(one)) == len(prompts.HEAD) for one in rows)
    alone = prompts.summary(rows[2:])
    assert alone["seconds_per_token"]["total"] is None
    assert len(prompts.prompts_of(BENCHMARKS / "prompts.txt")) == 10


def test_a_batch_in_a_row_of_a_table(experiment):
    batches, one = experiment("batches"), report()
    one["environment"] = {f"peak_memory_bytes_{p}": "2000000000" for p in ("client", "server")}
    one["generation"] |= {"equal_tokens": 3, "logits_cosine_min": 0.5}
    alone = batches.row_of([one])
    assert (alone["rounds_a_pass"], alone["rounds_a_token"]) == (2, 2)
    a_pass = {p: step("", 0, p)["measured"] | {"rounds": 4} for p in ("offline", "total")}
    two = {**one, "batch": {"per_pass": a_pass}}
    slow = {**two, "time_to_first_token_seconds": 5.0, "declared_equals_measured": False}
    row = batches.row_of([two, slow])
    assert (row["conversations"], row["rounds_a_pass"], row["rounds_a_token"]) == (2, 4, 2)
    assert (row["equal_tokens"], row["new_tokens"], row["first_token_seconds"]) == (6, 8, 5.0)
    assert not row["declared_equals_measured"]
    assert len(batches.cells(row)) == len(batches.HEAD)
    assert batches.cells(row)[4] == "100 %"
    assert batches.sizes("1,4,16") == [1, 4, 16]
    with pytest.raises(ValueError, match="65"):
        batches.sizes("1,65")


def test_perplexity_of_known_logits(experiment):
    perplexity = experiment("perplexity")
    even, following = np.ones((3, 8)), np.array([0, 5, 7])
    sure = np.where(np.arange(8) == following[:, None], 50.0, 0.0)
    found = perplexity.compared(sure, even, following)
    assert found["plain_perplexity"] == pytest.approx(8)
    assert found["perplexity"] == pytest.approx(1)
    assert found["bits_a_token_more"] == pytest.approx(-3)
    # Of equal logits the first is taken.
    assert found["argmax_agrees_percent"] == pytest.approx(100 / 3)
    assert [len(p) for p in perplexity.pieces_of(np.arange(7), 3)] == [3, 2, 2]


def step(name, layer, phase, op="linear", seconds=1.0):
    measured = {
        "seconds": seconds, "client_sent_bytes": 4e5, "server_sent_bytes": 6e5, "rounds": 2,
    }  # fmt: skip
    return {
        "name": name, "layer": layer, "phase": phase, "op": op, "correlations": 0,
        "measured": measured,
    }  # fmt: skip


def report():
    steps = [
        step("prepare layer0.up", 0, "offline"),
        step("layer0.up", 0, "online"),
        step("layer1.up", 1, "online"),
        step("next_token", -1, "online", "next_token", 0.5),
    ]
    mean = {p: step("", 0, p)["measured"] for p in ("offline", "online", "total")}
    return {
        "model": "a shape", "per_token": mean, "steps": {"mean_token": steps},
        "time_to_first_token_seconds": 3.0, "failure_probability": 1e-9,
        "declared_equals_measured": True,
        "generation": {
            "tokens_before": 0, "prompt_tokens": 10, "new_tokens": 4, "prefix_tokens": 3,
        },
    }  # fmt: skip


def test_tokens_are_projected_by_layers_and_drawn(experiment, tmp_path):
    context = experiment("context")
    point = context.point_of(report(), 16, 30)
    assert point["PROJECTION"]["online"]["seconds"] == pytest.approx(2 * 15 + 0.5)
    assert point["PROJECTION"]["offline"]["megabytes"] == pytest.approx(15)
    assert point["by_operation"]["linear (online)"]["steps"] == 2
    assert "30 layers PROJECTION online" in context.shown(point)
    path = tmp_path / "report.json"
    path.write_text(json.dumps(report()))
    whole = context.whole_point(path)
    # What the last token was chosen behind: the prefix, the prompt and three tokens.
    assert whole["context"] == 16
    found = {
        "points": [point, {**point, "context": 64}], "whole_model": whole, "name": "a shape",
        "layers_measured": 2, "layers": 30,
    }  # fmt: skip
    context.drawn(found, tmp_path / "figures" / "context.png")
    assert (tmp_path / "figures" / "context.png").stat().st_size > 10_000


def test_a_context_has_as_many_positions_as_it_needs(experiment):
    config = experiment("context").configured("smollm2-135m", 2, 16, ["generation.rows=32"])
    settings = config.run.generation
    assert (settings.positions, settings.max_new_tokens, settings.rows) == (16, 4, 32)
    assert not settings.chat
    assert config.run.texts is None


@pytest.mark.long
def test_a_text_is_read_between_two_processes(tmp_path):
    done = python(BENCHMARKS / "perplexity.py", "--tokens", 6, "--pieces", 2)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["predicted_tokens"] == 4
    assert found["argmax_agrees_percent"] == 100
    assert found["perplexity"] == pytest.approx(found["plain_perplexity"], rel=1e-2)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("What is a mask?\n\nAnd a pad?\n")
    script = [BENCHMARKS / "prompts.py", BENCHMARKS / "tiny_gpt2.yaml", "--prompts", prompts]
    done = python(*script, "--tokens", 2)
    assert done.returncode == 0, done.stderr
    *rows, last = map(json.loads, done.stdout.splitlines())
    assert [one["prompt"] for one in rows] == ["What is a mask?", "And a pad?"]
    assert last["summary"]["equal_tokens"] == last["summary"]["new_tokens"] == 4
    assert last["summary"]["declared_equals_measured"]


@pytest.mark.long
def test_wrong_options_are_one_line(tmp_path):
    empty = tmp_path / "none.txt"
    empty.write_text("\n")
    done = python(BENCHMARKS / "prompts.py", "--prompts", empty)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("is empty; write one text a line")
