"""`hybrid compare`: configs, medians, ranking, the three reports, failures."""

from __future__ import annotations

import copy
import json
import re

import pytest
import yaml
from typer.testing import CliRunner

from hybrid.cli import commands
from hybrid.cli.app import app
from hybrid.config.loading import load_config
from hybrid.reports.comparison.configs import Options, plan_runs, unique_names
from hybrid.reports.comparison.groups import GROUPS, by_group, group_of, sent
from hybrid.reports.comparison.run import run_comparison
from hybrid.reports.comparison.summary import failures, finished, spread
from hybrid.reports.comparison.words import megabytes, seconds, summary_sentences
from mpc_nonlinear import PROTOCOLS
from tests.comparison_data import made_reports, quiet_hooks, write_pair
from tests.processes import run
from transport.errors import ConfigError, PeerLostError

OPERATORS = {"linear", "prepared", "attention", "softmax", "activation", "norm", "pool"}


def recorded(paths, options, *, broken=(), predicted=True):
    """A comparison whose sessions are made up from their plans; the first config is the faster."""

    def measure(session, ids):
        assert len(ids) == options.requests
        if session.config.run.name in broken:
            raise PeerLostError("server: the peer is gone | <b>at once</b>")
        slowness = 1.0 if session.config.run.name == first else 3.0
        return made_reports(session.config, len(ids), slowness=slowness, predicted=predicted)

    first, said = plan_runs(paths, options)[0].name, []
    made = run_comparison(paths, options, quiet_hooks(measure, said))
    assert any(line.startswith("run 1 of ") for line in said)
    return made


@pytest.mark.parametrize(
    ("candidates", "names"),
    [
        ([("a", "x"), ("b", "y")], ["a", "b"]),
        ([("a", "x"), ("a", "y")], ["x", "y"]),
        ([("a", "x"), ("a", "x"), ("a", "x")], ["x", "x-2", "x-3"]),
        ([("a", "b"), ("a", "c"), ("b", "z")], ["b", "c", "b-2"]),
    ],
)
def test_names_are_unique(candidates, names):
    assert unique_names(candidates) == names


def test_written_configs_are_complete_and_run_from_anywhere(tmp_path):
    paths = write_pair(tmp_path / "configs here")
    options = Options(tmp_path / "out", tokens=5, links=("lan", "none", "lan"))
    runs = plan_runs(paths, options)
    assert [(r.name, r.link) for r in runs] == [
        ("tiny", "lan"), ("ring", "lan"), ("tiny", "none"), ("ring", "none"),
    ]  # fmt: skip
    for planned in runs:
        assert planned.config.path == tmp_path / "out" / "configs" / f"{planned.slug}.yaml"
        config = yaml.safe_load(planned.config.path.read_text())
        assert config["model"]["path"] == str(tmp_path / "configs here" / "model")
        assert config["ranges"]["sentences"] == str(tmp_path / "configs here" / "samples.txt")
        assert config["model"]["tokens"] == 5
        assert config["scheduler"]["policy"] == "fixed"
        assert planned.text(None).startswith("a small test")
        assert planned.text("given") == "given"
    same = load_config(paths[1]).run
    kept = runs[3].config.run
    assert kept.model_copy(update={"model": same.model}).agreed() == same.agreed()


def test_a_config_without_texts_is_asked_any_sentence(tmp_path):
    paths = write_pair(tmp_path)
    paths[0].write_text(paths[0].read_text().replace("texts: texts.txt\n", ""))
    (planned,) = plan_runs(paths[:1], Options(tmp_path / "out"))
    assert planned.text(None)


def test_custom_links_are_named_by_their_numbers(tmp_path):
    paths = write_pair(tmp_path)
    paths[0].write_text(paths[0].read_text() + "link: {bandwidth_mbps: 50.0, latency_ms: 10.0}\n")
    runs = plan_runs(paths, Options(tmp_path / "out"))
    assert [r.link for r in runs] == ["50 Mbps, 10 ms", "none"]


def test_medians_and_spread():
    rows = [
        {"seconds": s, "client_sent_bytes": 1, "server_sent_bytes": 2, "rounds": 3}
        for s in (5.0, 1.0, 2.0)
    ]
    assert spread(rows) == {
        "seconds": 2.0, "seconds_min": 1.0, "seconds_max": 5.0,
        "client_sent_bytes": 1, "server_sent_bytes": 2, "rounds": 3,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0049, "0.005"), (0.9949, "0.995"), (9.99, "9.99"), (31.24, "31.2"), (431, "431")],
)
def test_seconds_as_text(number, text):
    assert seconds(number) == text
    assert megabytes(1_234_000_000) == "1,234"


def test_groups_cover_every_operation_with_colours_of_their_own():
    assert len({group.colour for group in GROUPS}) == len(GROUPS)
    keys = {group.key for group in GROUPS}
    protocols = {protocol.op for protocol in PROTOCOLS}
    for op in ("linear", "scores", "context", "pool", "correlations", *protocols):
        assert group_of({"op": op, "phase": "online"}) in keys - {"other"}
    assert group_of({"op": "linear", "phase": "offline"}) == "prepared"
    assert group_of({"op": "of a plugin", "phase": "online"}) == "other"


@pytest.fixture(scope="module")
def made_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    options = Options(folder / "out", links=("none", "wan2"), repetitions=3)
    return folder / "out", recorded(write_pair(folder), options)


@pytest.fixture
def compared(made_once):
    """Two made-up configs over two links: files to read, a report to change."""
    out, made = made_once
    return out, copy.deepcopy(made)


def test_report_json_holds_medians_ranking_and_paths(compared):
    out, made = compared
    written = json.loads((out / "report.json").read_text())
    assert written == json.loads(json.dumps(made))
    assert written["schema"] == 1
    assert written["complete"]
    assert written["published"]
    assert not any(key.startswith("peak") for key in written["environment"])
    assert [place["link"] for place in written["ranking"]] == ["none", "wan2"]
    for place in written["ranking"]:
        assert [row["name"] for row in place["order"]] == ["tiny", "ring"]
        assert place["order"][0]["ratio"] == 1.0
        assert place["order"][1]["ratio"] > 1
    for row in written["runs"]:
        reports = [json.loads((out / path).read_text()) for path in row["reports"]]
        assert len(reports) == 3
        totals = sorted(report["total"]["seconds"] for report in reports)
        total = row["total"]
        assert [total["seconds_min"], total["seconds"], total["seconds_max"]] == totals
        assert row["online"]["rounds"] == reports[0]["online"]["rounds"]
        assert len(row["steps"]) == len(reports[0]["steps"])
        assert row["traffic_differs"] == []
        assert row["prediction"]["measured_seconds"] == pytest.approx(total["seconds"])
        for what in ("megabytes", "rounds"):
            expected = sent(total) / 1e6 if what == "megabytes" else total["rounds"]
            assert sum(by_group(row["steps"], what).values()) == pytest.approx(expected)
        # The first request of a session is kept apart.
        assert (out / row["reports"][0]).parent.parent.joinpath("warm-up/report.json").is_file()
    first = by_group(written["runs"][0]["steps"], "seconds")
    assert set(first) == OPERATORS | {"correlations"}
    assert list(first) == [group.key for group in GROUPS if group.key in first]


def test_the_page_is_whole_and_loads_nothing(compared):
    out, made = compared
    page = (out / "report.html").read_text()
    assert len(made["figures"]) == 9
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert {f"{figure['id']}-frame" for figure in made["figures"]} <= set(ids)
    used = re.findall(r'(?:href="#|url\(#)([^")]+)', page)
    assert used
    assert set(used) <= set(ids)
    assert not re.search(r"\bsrc=|<link\b|@import|url\((?!#)|xmlns|<image\b", page)
    assert set(re.findall(r'href="(https?://[^/"]+)', page)) <= {
        "https://eprint.iacr.org", "https://github.com",
    }  # fmt: skip
    for words in ("published", "The server learns", "the runner-up takes", "tiny · loopback"):
        assert words in page
    for figure in made["figures"]:
        assert figure["title"] in page
    sentences = summary_sentences(made)
    assert "Over loopback, tiny takes" in sentences[0]
    assert "Over wan2" in sentences[1]
    assert "exactly as predicted" in sentences[3]


def test_report_md_says_the_same(compared):
    out, made = compared
    text = (out / "report.md").read_text()
    assert " ".join(summary_sentences(made)) in text
    for heading in ("Totals", "Seconds by operator", "Accuracy", "Environment", "Files"):
        assert f"## {heading}" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in tables)
    assert made["runs"][0]["reports"][0] in text


def test_an_order_that_may_be_chance_is_told(compared):
    _, made = compared
    assert not any("may be chance" in line for line in summary_sentences(made))
    made["runs"][0]["total"]["seconds_max"] = made["runs"][1]["total"]["seconds"]
    lines = summary_sentences(made)
    names = [ranked["name"] for ranked in made["ranking"][0]["order"]]
    assert (
        f"The repetitions of {names[0]} and {names[1]} overlap, so their order may be" in lines[0]
    )
    assert "may be chance" not in lines[1]


def test_traffic_that_differs_is_told(compared):
    _, made = compared
    made["runs"][0]["traffic_differs"] = ["layer0.gelu"]
    assert any("differ from their prediction" in line for line in summary_sentences(made))


def test_a_run_that_fails_does_not_end_the_others(tmp_path):
    options = Options(tmp_path / "out", repetitions=1, warm_up=False)
    made = recorded(write_pair(tmp_path), options, broken=("tiny",), predicted=False)
    assert [row["name"] for row in failures(made)] == ["tiny"]
    assert [row["name"] for row in finished(made)] == ["ring"]
    assert made["ranking"][0]["order"][0]["ratio"] is None
    assert "fig-prediction" not in {figure["id"] for figure in made["figures"]}
    page = (tmp_path / "out" / "report.html").read_text()
    assert "the peer is gone | &lt;b&gt;at once&lt;/b&gt;" in page
    assert "Failed: tiny" in page
    assert "the peer is gone" in (tmp_path / "out" / "report.md").read_text()
    assert not (tmp_path / "out" / "runs" / "ring" / "warm-up").exists()


def test_a_report_without_any_finished_run_is_still_written(tmp_path):
    options = Options(tmp_path / "out")
    made = recorded(write_pair(tmp_path), options, broken=("tiny", "ring"))
    assert made["figures"] == []
    assert "Runs that failed" in (tmp_path / "out" / "report.html").read_text()


def test_what_is_known_is_written_after_every_run(tmp_path):
    options = Options(tmp_path / "out", repetitions=1)

    def measure(session, ids):
        if session.config.run.name == "ring":
            raise KeyboardInterrupt
        return made_reports(session.config, len(ids))

    with pytest.raises(KeyboardInterrupt):
        run_comparison(write_pair(tmp_path), options, quiet_hooks(measure))
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert not written["complete"]
    assert [row["name"] for row in written["runs"]] == ["tiny"]
    assert "Not all runs have ended" in (tmp_path / "out" / "report.md").read_text()


def test_names_are_data_and_neither_markup_nor_formulas(tmp_path):
    paths = write_pair(tmp_path)
    for path, name in zip(paths, ["<script>alert(1)</script>", "a/../$x_$ & y"], strict=True):
        path.write_text(path.read_text().replace("name: tiny", f"name: '{name}'"))
    options = Options(tmp_path / "out", repetitions=1)
    made = recorded(paths, options)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<script>alert" not in page
    assert page.count("<script>") == 1
    assert "a/../$x_$ &amp; y" in page
    assert len(finished(made)) == 2
    assert {path.parent for path in (tmp_path / "out").rglob("*.yaml")} == {
        tmp_path / "out" / "configs"
    }


def test_every_config_is_checked_before_the_first_run(tmp_path):
    paths = write_pair(tmp_path)
    paths[1].write_text(paths[1].read_text().replace("linear: coefficients", "linear: none_such"))
    options = Options(tmp_path / "out")
    with pytest.raises(ConfigError, match="none_such"):
        commands.compare(paths, options)
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny.yaml"], "Missing option"),
        (
            ["tiny.yaml", "--out", "out", "--link", "moon"],
            "input should be 'none', 'lan'",
        ),
        (["tiny.yaml", "--out", "out", "--tokens", "0"], "--tokens"),
        (["tiny.yaml", "--out", "/proc/none"], "--out /proc/none: cannot be written"),
    ],
)
def test_mistakes_are_named_and_end_with_exit_code_2(tmp_path, arguments, message):
    write_pair(tmp_path)
    code, output = run("compare", *arguments, cwd=tmp_path)
    assert code == 2
    assert message in output


def test_failed_runs_give_exit_code_1(tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "compare", lambda paths, options: not (paths and options))
    write_pair(tmp_path)
    arguments = ["compare", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, arguments).exit_code == 1


@pytest.mark.long
def test_two_configs_compared_for_real(tmp_path):
    write_pair(tmp_path)
    code, output = run(
        "compare", "tiny.yaml", "ring.yaml", "--out", "out", "--repetitions", "2", cwd=tmp_path
    )
    assert code == 0, output
    assert "run 2 of 2: ring" in output
    made = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [row["name"] for row in made["runs"]] == ["tiny", "ring"]
    assert [row["config"]["protocols"]["linear"] for row in made["runs"]] == [
        "token_periodic", "coefficients",
    ]  # fmt: skip
    for row in made["runs"]:
        assert row["accuracy"]["cosine"] >= 0.999
        assert row["traffic_differs"] == []
        assert len(row["reports"]) == 2
        assert row["requests_in_session"] == 3
    page = (tmp_path / "out" / "report.html").read_text()
    for figure in made["figures"]:
        assert f'data-figure="{figure["id"]}"' in page
    # What was run can be run again by hand.
    code, output = run("plan", "out/configs/ring.yaml", cwd=tmp_path)
    assert code == 0, output
