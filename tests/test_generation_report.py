"""Reports of sessions that answer prompts: shares, what each party may say, what is shown."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hybrid.models.generator_loading import load_generator
from hybrid.planning.generation import plan_generation
from hybrid.planning.plan import offline_name
from hybrid.reports.files import write_text
from hybrid.reports.generation_accuracy import Compared, compared, with_accuracy
from hybrid.reports.generation_costs import Ledger, differing_steps, line_rows, phases, total
from hybrid.reports.generation_report import (
    client_generation_reports,
    generation_reports,
    server_generation_reports,
)
from hybrid.reports.generation_text import generation_markdown, print_generation_report
from hybrid.reports.markdown import plain_cell
from hybrid.reports.run_report import Accuracy
from hybrid.runtime.generation_local import LocalGeneration
from tests.generation_data import SETUP, Script, answers, tiny_config, two_conversations

COUNTS = {"seconds", "client_sent_bytes", "server_sent_bytes", "rounds"}
OF_TEXT = {"text", "plain_text", "equal_tokens", "equal_choices", "token", "plain_token", "logits"}
OF_TEXT |= {"token_text"}
HOSTILE = "[bold]x[/bold] | <b>*y*</b> \x1b[31m`z`"


@pytest.fixture(scope="module")
def planned():
    config = tiny_config()
    generator = load_generator(config)
    return config, generator, plan_generation(config, generator.public)


@pytest.fixture(scope="module")
def plan(planned):
    return planned[2]


@pytest.fixture(scope="module")
def record(plan):
    return two_conversations(plan)


# -- shares ---------------------------------------------------------------------------------


def shares(ledger, index):
    return [line for line in ledger.lines(index) if line.is_share]


def test_rows_are_paid_from_the_batch_that_they_are_of(plan, record):
    ledger, name = Ledger(plan, record), "layer0.qkv"
    batches = [
        step.seconds
        for shared in record.shared if shared.kind == "batch"
        for step in shared.steps if step.name == offline_name(name)
    ]  # fmt: skip
    assert len(batches) == 4
    prices = [seconds / plan.batch_rows for seconds in batches for _ in range(plan.batch_rows)]
    for index, done in enumerate(record.passes):
        (line,) = [x for x in shares(ledger, index) if x.about["name"] == offline_name(name)]
        first = sum(before.rows for before in record.passes[:index])
        expected = sum(prices[first : first + done.rows])
        assert line.measured.seconds == pytest.approx(expected, rel=1e-12)
    # The sixth pass takes its rows, 12 to 16, from two of them.
    assert sum(done.rows for done in record.passes[:5]) == 12
    assert prices[15] != prices[16]


def test_shares_and_what_is_left_are_all_that_was_prepared(plan, record):
    ledger = Ledger(plan, record)
    given = [line for i in range(len(record.passes)) for line in shares(ledger, i)]
    consumed, left = total(line.measured for line in given), ledger.left()
    steps = [step for shared in record.shared for step in shared.steps]
    assert (consumed + left).seconds == pytest.approx(sum(s.seconds for s in steps))
    both = (consumed + left).client_sent_bytes
    assert both == pytest.approx(sum(s.traffic.client_sent_bytes for s in steps))
    assert (consumed + left).rounds == pytest.approx(sum(s.traffic.rounds for s in steps))
    assert left.seconds > 0
    # 12 of 40 positions of the first conversation, 6 of the second.
    first, second = (
        sum(step.seconds for step in shared.steps)
        for shared in record.shared if shared.kind == "conversation"
    )  # fmt: skip
    names = {offline_name(operator.node.name) for operator, _ in plan.conversation}
    found = sum(line.measured.seconds for line in given if line.about["name"] in names)
    assert found == pytest.approx(first * 12 / 40 + second * 6 / 40)


def test_a_layer_of_the_newest_row_alone_consumes_one_row_a_pass(plan, record):
    ledger = Ledger(plan, record)
    batch = next(shared for shared in record.shared if shared.kind == "batch")
    (seconds,) = [s.seconds for s in batch.steps if s.name == offline_name("logits")]
    (line,) = [x for x in shares(ledger, 0) if x.about["name"] == offline_name("logits")]
    assert record.passes[0].rows == 6
    assert line.measured.seconds == pytest.approx(seconds / plan.batch_rows)


def test_a_pass_is_its_own_steps_and_its_shares(plan, record):
    ledger, done = Ledger(plan, record), record.passes[1]
    before, after = phases(ledger.lines(1))
    own = {phase: sum(s.seconds for s in done.steps if s.phase == phase)
           for phase in ("offline", "online")}  # fmt: skip
    assert after.seconds == pytest.approx(own["online"])
    shared = sum(line.measured.seconds for line in shares(ledger, 1))
    assert shared > 0
    assert before.seconds == pytest.approx(own["offline"] + shared)


def test_shared_correlations_are_spread_over_what_they_are_for(plan):
    script = Script(plan).prepare("conversation").prepare("batch").run(2, 0)
    batch = script.shared[1]
    made = dataclasses.replace(batch.steps[0], name="correlations", seconds=7.0)
    steps = (made, *batch.steps)
    script.shared[1] = dataclasses.replace(batch, steps=steps)
    ledger = Ledger(plan, script.record())
    with_them = total(x.measured for x in shares(ledger, 0)) + ledger.left()
    prepared = sum(s.seconds for shared in script.shared for s in shared.steps)
    assert with_them.seconds == pytest.approx(prepared)


def test_triples_belong_to_the_steps_that_consume_them(planned):
    _, generator, _ = planned
    plan = plan_generation(tiny_config(multiply="slot_triples"), generator.public)
    script = Script(plan).prepare("conversation").prepare("batch").run(2, 0)
    rows = line_rows(Ledger(plan, script.record()).lines(0), {})
    made, *_ = rows
    own = sum(row["correlation_bytes"] for row in rows)
    sent = made["measured"]["client_sent_bytes"] + made["measured"]["server_sent_bytes"]
    assert own == pytest.approx(sent, rel=1e-3)
    # A product of elements takes few oblivious transfers, but triples too.
    all_of = sum(row["correlations"] for row in rows)
    products = [row for row in rows if row["op"] == "product"]
    assert products
    for row in products:
        by_count = sent * row["correlations"] / all_of
        assert row["offline_share"]["sent_bytes"] == pytest.approx(row["correlation_bytes"], abs=2)
        assert row["correlation_bytes"] > 1.5 * by_count
    # A row of a norm is one correlation, and of 64 numbers, each worth more than a triple.
    of_norm = next(row["correlation_bytes"] for row in rows if row["op"] == "rmsnorm")
    assert of_norm / (2 * 64) > products[0]["correlation_bytes"] / (2 * 160)


# -- declared and measured ------------------------------------------------------------------


def test_what_is_as_declared_differs_nowhere(plan, record):
    assert differing_steps(plan, record, "client") == []


@pytest.mark.parametrize("part", ["passes", "shared"])
@pytest.mark.parametrize("index", [0, 1])
def test_one_byte_too_many_is_told(planned, record, part, index):
    config, _, plan = planned
    whole = getattr(record, part)
    steps = list(whole[index].steps)
    traffic = steps[-1].traffic
    more = dataclasses.replace(traffic, client_payload_bytes=traffic.client_payload_bytes + 1)
    steps[-1] = dataclasses.replace(steps[-1], traffic=more)
    changed = list(whole)
    changed[index] = dataclasses.replace(whole[index], steps=tuple(steps))
    wrong = dataclasses.replace(record, **{part: tuple(changed)})
    (found,) = differing_steps(plan, wrong, "client")
    assert found["step"] == steps[-1].name
    assert found["where"].endswith(f" {index}")
    for report in server_generation_reports(config, plan, wrong):
        assert not report["declared_equals_measured"]
        assert [step["step"] for step in report["differing_steps"]] == [found["step"]]


# -- reports --------------------------------------------------------------------------------


def client_reports(planned, record, texts=("one", "two", "three")):
    config, _, plan = planned
    return client_generation_reports(config, plan, record, answers(texts), str)


def test_a_report_has_every_key(planned, record):
    reports = client_reports(planned, record)
    assert [r["generation"]["prompt_tokens"] for r in reports] == [6, 3, 5]
    assert [r["generation"]["new_tokens"] for r in reports] == [3, 2, 2]
    for report in reports:
        generation = report["generation"]
        assert set(generation) >= {"prompt_tokens", "new_tokens", "text", "prefill", "tokens"}
        assert len(generation["tokens"]) == generation["new_tokens"] - 1
        for one in (generation["prefill"], *generation["tokens"]):
            assert set(one["offline"]) == set(one["online"]) == COUNTS
        assert set(report["seconds_per_token"]) == {"offline", "online", "total"}
        assert report["time_to_first_token_seconds"] == 1.0
        assert report["declared_equals_measured"]
        assert "texts" not in report["config"]
        parts = [one[phase]["seconds"] for one in (generation["prefill"], *generation["tokens"])
                 for phase in ("offline", "online")]  # fmt: skip
        assert report["total"]["seconds"] == pytest.approx(sum(parts))
        assert report["counted"]["steps_and_setup"] == report["counted"]["session"]
        assert report["setup"]["rounds"] == SETUP.rounds
        json.dumps(report)
    (later,) = reports[1]["generation"]["tokens"]
    mean = later["offline"]["seconds"] + later["online"]["seconds"]
    assert reports[1]["seconds_per_token"]["total"] == pytest.approx(mean)


def test_steps_add_up_to_a_token(planned, record):
    report = client_reports(planned, record)[0]
    for name, seconds in (
        ("mean_token", report["seconds_per_token"]["total"]),
        ("last_token", sum(report["generation"]["tokens"][-1][phase]["seconds"]
                           for phase in ("offline", "online"))),
    ):  # fmt: skip
        rows = report["steps"][name]
        assert sum(row["measured"]["seconds"] for row in rows) == pytest.approx(seconds)
        for row in rows:
            seen = {key: row["measured"][key] for key in row["predicted"]}
            assert seen == row["predicted"]


def test_an_answer_of_one_token_has_no_mean(planned, plan):
    config = planned[0]
    record = Script(plan).prepare("conversation").prepare("batch").run(4, 0).record()
    (report,) = server_generation_reports(config, plan, record)
    assert report["seconds_per_token"] is None
    assert report["generation"]["tokens"] == report["steps"]["last_token"] == []


def keys_of(value):
    if isinstance(value, dict):
        return set(value) | {key for inner in value.values() for key in keys_of(inner)}
    return {key for inner in value for key in keys_of(inner)} if isinstance(value, list) else set()


def test_the_servers_report_has_nothing_that_was_decrypted(planned, plan):
    config = planned[0]
    reports = [
        server_generation_reports(config, plan, two_conversations(plan, outputs=given))
        for given in (False, True)
    ]
    assert reports[0] == reports[1]
    assert [r["generation"]["new_tokens"] for r in reports[0]] == [3, 2, 2]
    for report in reports[0]:
        assert not keys_of(report["generation"]) & OF_TEXT
        assert "accuracy" not in report
        assert "time_to_first_token_seconds" not in report


def test_trust_model_says_what_lengths_show(planned):
    config, generator, plan = planned
    (report, *_) = server_generation_reports(config, plan, two_conversations(plan))
    said = " ".join(report["trust_model"])
    assert "first prompt rounded up to a multiple of 8" in said
    assert "exact number of those of later prompts" in said
    assert "An answer ends with the model's end token" in said
    assert "N=8192, 204 modulus bits" in said
    assert "The public prefix of" in said
    assert not plan.one.key_sets
    assert said.count("RLWE") == 1 + len(plan.one.ring_sets)
    late = tiny_config(stop_early=False)
    settings = dataclasses.replace(generator.public, settings=late.run.generation)
    other = plan_generation(late, settings)
    (report, *_) = server_generation_reports(late, other, two_conversations(other))
    said = " ".join(report["trust_model"])
    assert "says nothing of the answer" in said
    assert "An answer ends with" not in said


# -- accuracy -------------------------------------------------------------------------------


def accuracies(count):
    return [Accuracy("plain float32 model", 1 - i / 100, i / 10) for i in range(count)]


def test_equal_tokens_are_counted_place_by_place(planned, record):
    report = client_reports(planned, record)[0]
    found = with_accuracy(report, Compared([40, 9, 42], "the plain one", accuracies(3), ""))
    generation = found["generation"]
    assert generation["equal_tokens"] == 2
    assert generation["plain_text"] == "the plain one"
    assert generation["logits_cosine_min"] == found["accuracy"]["cosine"] == pytest.approx(0.98)
    assert found["accuracy"]["max_abs_error"] == pytest.approx(0.2)
    assert [one["plain_token"] for one in generation["tokens"]] == [9, 42]
    # The plain model ended earlier: the places behind its end are not equal.
    found = with_accuracy(report, Compared([40], "", accuracies(3), ""))
    assert found["generation"]["equal_tokens"] == 1


def test_sampled_tokens_are_not_compared(planned):
    _, generator, _ = planned
    prompts = LocalGeneration(tiny_config(temperature=0.5, top_k=4)).prompts
    (answer, *_) = answers()
    ids = np.concatenate([answer.read, answer.tokens[:-1]]).astype(np.int64)
    plain = list(generator.plain_logits(ids)[-3:])
    seen = compared(generator, prompts, answer, [1.0 * logits for logits in plain])
    assert seen.tokens is None
    assert "sampled" in seen.note
    assert min(one.cosine for one in seen.logits) == pytest.approx(1.0)


# -- for a reader ---------------------------------------------------------------------------


def shown(report, title="title"):
    console = Console(width=200, record=True, force_terminal=False)
    with console.capture() as captured:
        print_generation_report(console, report, title, Path("/tmp/[red]here"))
    return captured.get()


def hostile(planned, record):
    texts = (HOSTILE, "two", "three")
    config, _, plan = planned
    found = client_generation_reports(config, plan, record, answers(texts), lambda _: HOSTILE)
    return with_accuracy(found[0], Compared([40, 9, 42], HOSTILE, accuracies(3), ""))


def test_a_terminal_takes_text_as_text(planned, record):
    said = shown(hostile(planned, record), HOSTILE)
    assert "\x1b" not in said
    assert said.count("[bold]x[/bold]") >= 3 + 3
    assert "[red]here" in said
    assert "2 of 3 tokens are those of the plain model" in said
    assert "exactly as declared" in said


def test_markdown_takes_text_as_text(planned, record, tmp_path):
    write_text(generation_markdown(hostile(planned, record)), tmp_path / "report.md")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "\x1b" not in text
    lines = text.splitlines()
    blocks = [line for line in lines if "<b>" in line.replace("\\<", "")]
    assert len(blocks) == 2
    assert all(line.startswith("    [bold]") for line in blocks)
    (head,) = [i for i, line in enumerate(lines) if line.startswith("| pass |")]
    for row in lines[head : head + 5]:
        assert row.replace("\\|", "").count("|") == 9


def test_a_cell_has_no_formatting():
    assert plain_cell("a *b*\n<i> `c`") == "a \\*b\\* \\<i\\> \\`c\\`"


def test_a_server_has_a_report_for_a_reader_too(planned, plan, record, tmp_path):
    report = server_generation_reports(planned[0], plan, record)[0]
    assert "prefill of 6" in shown(report)
    write_text(generation_markdown(report), tmp_path / "report.md")
    assert "This party does not see it." in (tmp_path / "report.md").read_text(encoding="utf-8")


# -- a session ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def session():
    found = LocalGeneration(tiny_config(positions=52, max_new_tokens=3))
    with found:
        list(found.generate("What is a mask?", 3))
        list(found.generate("And then?", 1, goes_on=True))
    return found


@pytest.mark.long
def test_a_session_sends_what_was_declared_and_answers_as_the_plain_model(session):
    reports = generation_reports(session)
    assert len(reports) == 2
    for report in reports:
        assert report["declared_equals_measured"]
        assert report["differing_steps"] == []
        counted = report["counted"]
        assert counted["session_at_client"] == counted["session_at_server"]
        assert counted["steps_and_setup"] == counted["session_at_client"]
        generation = report["generation"]
        assert generation["equal_tokens"] == generation["new_tokens"]
        assert generation["text"] == generation["plain_text"]
        assert 0.9999 < generation["logits_cosine_min"] <= 1
        assert int(report["environment"]["peak_memory_bytes_server"]) > 0
    assert [r["generation"]["new_tokens"] for r in reports] == [3, 1]
    assert reports[1]["generation"]["tokens_before"] > 0


@pytest.mark.long
def test_both_parties_count_alike(session):
    result, plan = session.result, session.plan
    client = client_generation_reports(session.config, plan, result.client, session.answers)
    server = server_generation_reports(session.config, plan, result.server)
    for mine, theirs in zip(client, server, strict=True):
        for phase in ("offline", "online"):
            for key in COUNTS - {"seconds"}:
                assert mine[phase][key] == theirs[phase][key]
        assert mine["plan_hash"] == theirs["plan_hash"]
