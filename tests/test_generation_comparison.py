"""`hybrid compare` of decoders: what is asked, a token as what is compared, what is shown."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import yaml

from hybrid.reports.comparison.configs import Options, plan_runs
from hybrid.reports.comparison.groups import by_group, sent
from hybrid.reports.comparison.run import Hooks, run_comparison
from hybrid.reports.comparison.summary import failures
from hybrid.reports.comparison.words import summary_sentences
from hybrid.reports.generation_accuracy import Compared, with_accuracy
from hybrid.reports.generation_report import client_generation_reports
from hybrid.reports.generation_text import accuracy_line
from hybrid.reports.run_report import Accuracy
from hybrid.runtime.generation_local import LocalGeneration
from hybrid.runtime.local import LocalSession
from tests.generation_data import answers, raw_config, two_conversations
from tests.tiny_model import write_tiny_config
from transport.errors import ConfigError

PROMPT = "What is a mask?"
ANSWER = "<script>alert(1)</script> | *x*"


def write_decoders(folder, **generation):
    """Two that differ in who multiplies."""
    paths = []
    for name, multiply in (("ot", "ot"), ("cheapest", "cheapest")):
        config = raw_config(name, multiply, **generation)
        paths.append(folder / f"{name}.yaml")
        paths[-1].write_text(yaml.safe_dump(config))
    return paths


def made_answers(session, prompt, count):
    """Reports as a session would give them, made from its plan without running it."""
    assert prompt == PROMPT
    assert count == 2
    record = two_conversations(session.plan)
    texts = [ANSWER] * 3
    found = client_generation_reports(session.config, session.plan, record, answers(texts), str)
    reports = []
    for report in found[:count]:
        tokens = [40, 41, 42][: report["generation"]["new_tokens"]]
        close = [Accuracy("plain float32 model", 0.9999, 0.01)] * len(tokens)
        report = with_accuracy(report, Compared(tokens, "plain", close, ""))
        report["counted"] |= {"dealer_bytes": 0}
        reports.append(report)
    return reports


def compared(paths, out, measure=made_answers, prepare=LocalGeneration):
    hooks = Hooks(
        LocalSession, lambda *_: nullcontext(), lambda _: None,
        prepare_answers=prepare, measure_answers=measure,
    )  # fmt: skip
    return run_comparison(paths, Options(out, repetitions=1, text=PROMPT), hooks)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder, loaded = tmp_path_factory.mktemp("compared"), []

    def prepare(config):
        loaded.append(config.run.name)
        return LocalGeneration(config)

    found = compared(write_decoders(folder), folder / "out", prepare=prepare)
    # For its check and again for its run: memory may not hold all of them.
    assert loaded == ["ot", "cheapest", "ot", "cheapest"]
    return folder / "out", found


def test_a_row_is_a_token(made):
    out, found = made
    assert found["unit"] == "token"
    assert found["published"] == []
    for row in found["runs"]:
        (path,) = row["reports"]
        report = json.loads((out / path).read_text())
        assert row["total"]["seconds"] == report["seconds_per_token"]["total"]
        assert row["online"]["seconds"] == report["seconds_per_token"]["online"]
        assert sent(row["total"]) == report["bytes_per_token"]
        assert row["traffic_differs"] == []
        parts = by_group(row["steps"], "seconds")
        assert sum(parts.values()) == pytest.approx(row["total"]["seconds"])
        assert set(parts) == {
            "linear", "prepared", "attention", "softmax", "activation", "norm", "token",
            "correlations", "other",
        }  # fmt: skip
        assert row["answer"]["prefill"]["online"] == report["generation"]["prefill"]["online"]
        assert row["answer"]["equal_tokens"] == row["answer"]["new_tokens"]
        assert row["accuracy"]["cosine"] == 0.9999
        assert (out / path).with_name("report.md").is_file()


def test_the_page_says_that_it_is_of_tokens(made):
    out, found = made
    page = (out / "report.html").read_text()
    assert "Totals of a token" in page
    assert "Seconds of a token after the prompt" in page
    assert "one request" not in page
    assert "Published figures" not in page
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<script>") == 1
    assert "s a token" in summary_sentences(found)[0]
    assert "MB a token" in " ".join(summary_sentences(found))
    ids = {figure["id"] for figure in found["figures"]}
    assert ids >= {"fig-operator-seconds", "fig-operator-megabytes", "fig-accuracy"}


def test_markdown_says_the_same(made):
    text = (made[0] / "report.md").read_text()
    assert "## Totals of a token" in text
    assert "## Prompt and answer" in text
    assert "\\<script\\>alert" in text
    assert "Published figures" not in text
    rows = [line for line in text.splitlines() if "\\>alert" in line]
    assert len(rows) == 2
    assert all(row.replace("\\|", "").count("|") == 10 for row in rows)


def test_written_configs_run_again(tmp_path):
    runs = plan_runs(write_decoders(tmp_path), Options(tmp_path / "out"))
    assert [run.answers for run in runs] == [True, True]
    written = yaml.safe_load(runs[0].config.path.read_text())
    assert written["generation"]["positions"] == 40
    assert "tokens" not in written["model"]


def test_encoders_and_decoders_are_not_mixed(tmp_path):
    encoder, decoders = write_tiny_config(tmp_path / "encoder"), write_decoders(tmp_path)
    with pytest.raises(ConfigError, match=r"ot\.yaml answers prompts and .*tiny\.yaml does not"):
        compared([encoder, *decoders], tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"positions": 20}, "18 private tokens in 24 rows and 4 new ones need 27 positions"),
        ({"max_new_tokens": 1}, "give at least 2"),
    ],
)
def test_every_config_is_checked_before_the_first_run(tmp_path, generation, message):
    def never(*_):
        raise AssertionError

    with pytest.raises(ConfigError, match=message):
        compared(write_decoders(tmp_path, **generation), tmp_path / "out", never)
    assert not (tmp_path / "out" / "report.json").exists()


def test_sessions_that_would_fail_too_often_are_refused(tmp_path):
    paths, options = (
        write_decoders(tmp_path, positions=48),
        Options(tmp_path / "out", repetitions=100_000),
    )
    hooks = Hooks(LocalSession, lambda *_: nullcontext(), lambda _: None)
    with pytest.raises(ConfigError, match="fewer --repetitions"):
        run_comparison(paths, options, hooks)


def test_an_answer_of_one_token_is_a_failed_run(tmp_path):
    def ended_at_once(session, prompt, count):
        return [
            {**r, "per_token": None, "seconds_per_token": None}
            for r in made_answers(session, prompt, count)
        ]

    found = compared(write_decoders(tmp_path)[:1], tmp_path / "out", ended_at_once)
    (row,) = failures(found)
    assert "no token after the first" in row["error"]


def test_choices_are_compared_behind_the_same_tokens():
    """Where an answer has left the plain model's, tokens behind say little."""
    passes = [{"token": token} for token in (40, 8, 42)]
    generation = {"prefill": passes[0], "tokens": passes[1:], "new_tokens": 3}
    report = {"generation": generation, "accuracy": None}
    found = with_accuracy(report, Compared([40, 9, 7], "", None, "", choices=[40, 9, 42]))
    assert found["generation"]["equal_tokens"] == 1
    assert found["generation"]["equal_choices"] == 2
    assert (
        accuracy_line(found)
        == "1 of 3 tokens are those of the plain model (2 of 3 behind the same tokens)"
    )
    whole = with_accuracy(report, Compared([40, 8, 42], "", None, "", choices=[40, 8, 42]))
    assert accuracy_line(whole) == "3 of 3 tokens are those of the plain model"
    unknown = with_accuracy(report, Compared([40, 8, 1], "", None, ""))
    assert unknown["generation"]["equal_choices"] is None
    assert accuracy_line(unknown) == "2 of 3 tokens are those of the plain model"
