"""The project's configs: complete, honest about its source, plannable, and running."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from hybrid.config.loading import load_config
from hybrid.machine.prices import cache_file, save
from hybrid.models.loading import load_model
from hybrid.planning.catalog import load_catalog
from hybrid.planning.planner import make_plan
from hybrid.planning.risk import MAX_FAILURE_PROBABILITY
from hybrid.reports.run_report import trust_model
from tests.processes import KEYS, ROOT, run
from tests.tiny_model import write_tiny_config

CONFIGS = ROOT / "configs"
PUBLISHED = ("bolt", "bumblebee", "blb", "encformer_like")
DEALT = ("pure_mpc",)
# By name: a user may keep more files beside them.
ALL = [CONFIGS / f"{n}.yaml" for n in ("bert_base_layer", "minilm", *PUBLISHED, *DEALT)]
SCHEDULE = ("ckks", "mpc", "protocols", "scheduler")
"""The keys of a config that make its schedule, apart from model and machine."""


def header_of(name: str) -> str:
    text = (CONFIGS / f"{name}.yaml").read_text()
    return text[: text.index("\nname:")]


def on_tiny_model(path: Path, folder: Path) -> Path:
    """The schedule of a config with the tiny model's paths, texts and samples."""
    target = write_tiny_config(folder)
    tiny, theirs = (yaml.safe_load(p.read_text()) for p in (target, path))
    own = {key: value for key, value in tiny.items() if key not in SCHEDULE}
    target.write_text(yaml.safe_dump(own | {k: theirs[k] for k in SCHEDULE if k in theirs}))
    return target


def check_traffic(report: dict) -> None:
    """Every step as declared, and their sum as both ends counted it.

    The loopback device is left to tests/test_private_inference.py: others may use it meanwhile.
    """
    for step in report["steps"]:
        assert step["predicted"] == {key: step["measured"][key] for key in KEYS}, step["name"]
    for key in KEYS:
        total = report["setup"][key] + sum(step["measured"][key] for step in report["steps"])
        assert total == report["counted"]["session_at_client"][key]
        assert total == report["counted"]["session_at_server"][key]


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_the_file_is_there(path):
    assert path.is_file()


@pytest.mark.parametrize("name", [*PUBLISHED, *DEALT])
def test_headers_say_what_is_reproduced(name):
    header = header_of(name)
    assert all(line.startswith("#") for line in header.strip().splitlines())
    for part in ("# Source: ", "# Reproduced: ", "# Not reproduced: "):
        assert header.count(part) == 1
    assert "eprint" in header or "arXiv" in header


@pytest.mark.parametrize("name", PUBLISHED)
def test_headers_name_what_was_not_checked_and_what_the_model_keeps(name):
    header = " ".join(header_of(name).replace("#", " ").split())
    assert "verified against the paper's code" in header
    assert " Model: " in header


@pytest.mark.parametrize("name", PUBLISHED)
def test_packings_that_headers_name_are_those_of_the_schedule(name):
    header, catalog = header_of(name), load_catalog()
    protocols = load_config(CONFIGS / f"{name}.yaml").run.protocols
    for op in ("linear", "attention"):
        named = {known for known in catalog.names(op) if f"`{known}`" in header}
        assert named <= {protocols["linear"], protocols["attention"]}
    assert f"`{protocols['linear']}`" in header


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_names_are_registered_and_files_are_named_after_them(path):
    loaded = load_config(path)
    assert loaded.run.name == path.stem
    catalog = load_catalog(loaded.run.plugins)
    assert (loaded.run.protocols is None) == (loaded.run.scheduler.policy != "fixed")
    if loaded.run.protocols is not None:
        assert ("correlations", loaded.run.mpc.correlations) in catalog
        for op in ("linear", "attention", "gelu", "softmax", "layernorm"):
            assert (op, loaded.run.protocols[op]) in catalog


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_systems_rely_on_no_dealer_and_prepare_no_linear_layer(name):
    run_config = load_config(CONFIGS / f"{name}.yaml").run
    assert run_config.mpc.correlations != "dealer"
    assert run_config.ckks.linear_phase == "online"
    assert run_config.scheduler.policy == "fixed"
    assert run_config.link == "none"


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_plans_with_the_model_they_name(path, minilm, prices):  # noqa: ARG001
    loaded = load_config(path)
    save(prices, cache_file())
    plan = make_plan(loaded, load_model(loaded).public, prices)
    if (named := loaded.run.protocols) is not None:
        keys = {node.name: node.key for node in plan.graph.nodes}
        rows = [row for row in plan.rows() if row["phase"] == "online"]
        for key in ("linear", "attention", "gelu", "softmax", "layernorm"):
            assert {r["protocol"] for r in rows if keys[r["name"]] == key} == {named[key]}
    assert plan.cost.failure_probability <= MAX_FAILURE_PROBABILITY
    kept = plan.kept_weights(loaded.run.weights_memory_gb())
    assert kept == set(plan.encoded_bytes())
    assert trust_model(plan)


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedules_fit_other_models(name, tmp_path):
    tiny = load_config(on_tiny_model(CONFIGS / f"{name}.yaml", tmp_path))
    plan = make_plan(tiny, load_model(tiny).public, None)
    assert plan.cost.traffic.sent_bytes > 0


@pytest.mark.slow
@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_schedules_run_between_two_processes(path, tmp_path):
    config = on_tiny_model(path, tmp_path)
    code, output = run("run", config, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    check_traffic(report)
    assert 0 < report["failure_probability"] <= MAX_FAILURE_PROBABILITY
    assert report["accuracy"]["cosine"] >= 0.999
    theirs = load_config(path).run
    assert report["config"]["protocols"] == theirs.protocols
    dealt = theirs.mpc.correlations == "dealer"
    assert (report["counted"]["dealer_bytes"] > 0) == dealt
