"""The pure parts of two experiments: projections to more layers, verdicts on schedules."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.tiny_model import write_tiny_config

ROOT = Path(__file__).resolve().parent.parent


def experiment(name):
    spec = importlib.util.spec_from_file_location(
        name, ROOT / "experiments" / "benchmarks" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def step(name, layer, phase, seconds, correlations=0, *, sent=100, rounds=2):
    measured = {
        "seconds": seconds, "client_sent_bytes": sent, "server_sent_bytes": 2 * sent,
        "rounds": rounds,
    }  # fmt: skip
    return {
        "name": name, "layer": layer, "phase": phase, "correlations": correlations,
        "measured": measured,
    }  # fmt: skip


STEPS = [
    step("correlations", -1, "offline", 8.0, sent=800, rounds=1),
    step("prepare layer0.qkv", 0, "offline", 1.0),
    step("layer0.qkv", 0, "online", 0.5, 600),
    step("layer1.gelu", 1, "online", 1.5, 200),
    step("pool", -1, "online", 0.25, 200),
]


def test_layers_are_multiplied_and_the_rest_is_not():
    found = experiment("projection").projected(STEPS, 12)
    assert found["kind"] == "PROJECTION"
    assert (found["layers_measured"], found["layers"]) == (2, 12)
    # 1000 correlations, 800 of them inside: 5000 for twelve layers.
    assert found["offline"]["seconds"] == pytest.approx(8.0 * 5 + 1.0 * 6)
    assert found["offline"]["client_sent_bytes"] == pytest.approx(800 * 5 + 100 * 6)
    assert found["offline"]["rounds"] == 1 + 2 * 6
    assert found["online"]["seconds"] == pytest.approx((0.5 + 1.5) * 6 + 0.25)
    assert found["online"]["rounds"] == 2 * 6 + 2 * 6 + 2
    total = found["total"]
    assert total["server_sent_bytes"] == 2 * total["client_sent_bytes"]
    same = experiment("projection").projected(STEPS, 2)
    assert same["total"]["seconds"] == pytest.approx(sum(s["measured"]["seconds"] for s in STEPS))


@pytest.mark.long
def test_a_report_without_layers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no step of a layer"):
        experiment("projection").projected(STEPS[:1], 12)
    path = tmp_path / "report.json"
    path.write_text(json.dumps({"steps": STEPS[:1]}))
    command = [sys.executable, ROOT / "experiments" / "benchmarks" / "projection.py", path]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert "not a report of `hybrid run`" in done.stderr
    assert "Traceback" not in done.stderr


def row(name, seconds, link="lan", choice="a"):
    total = {
        "seconds": seconds, "client_sent_bytes": 10, "server_sent_bytes": 20, "rounds": 3,
    }  # fmt: skip
    steps = [
        {"op": "gelu", "phase": "online", "name": "layer0.gelu", "protocol": choice,
         "multiply": "ot", "why": f"{choice}; next b"},
    ]  # fmt: skip
    return {"name": name, "link": link, "total": total, "online": total, "steps": steps}


def test_verdicts_compare_medians_of_all_rounds():
    policies = experiment("policies")
    rows = [row("fastest", s) for s in (9.0, 1.0, 2.0)] + [row("online", s) for s in (2, 5, 1.9)]
    rows += [row("other", 8.0), row("fastest", 3.0, "wan2"), row("online", 2.0, "wan2")]
    lan, wan = policies.judged(rows)
    assert [v["name"] for v in lan["variants"]][-1] == "other"
    assert lan["fastest_over_best_other"] == pytest.approx(1.0)
    assert lan["holds"]
    assert wan["fastest_over_best_other"] == pytest.approx(1.5)
    assert not wan["holds"]
    assert not policies.judged([row("online", 1.0)])[0]["holds"]


def test_steps_that_the_network_decides_are_listed():
    policies = experiment("policies")
    rows = [row("fastest", 1.0), row("fastest", 1.0, "wan2", "c"), row("online", 1.0, "wan3", "d")]
    found = policies.choices(rows)
    assert set(found) == {"layer0.gelu"}
    assert set(found["layer0.gelu"]) == {"lan", "wan2"}
    assert policies.choices(rows[:1]) == {}
    report = {"links": policies.judged(rows), "choices": found}
    text = policies.markdown(report)
    assert "layer0.gelu: lan: a; next b; wan2: c; next b" in text
    assert "1.000 of the best" not in text


def test_variants_are_complete_configs_in_every_order(tmp_path):
    policies = experiment("policies")
    base = write_tiny_config(tmp_path)
    paths = policies.variants(base, 0.5, tmp_path / "variants")
    configs = {path.stem: yaml.safe_load(path.read_text()) for path in paths}
    assert set(configs) == {"fastest", "least_traffic", "fewest_rounds", "prepared", "online"}
    for name, config in configs.items():
        assert config["name"] == name
        assert config["runtime"]["weights_memory_gb"] == 0.5
        fixed = name in ("prepared", "online")
        assert ("protocols" in config) == fixed
        assert config["scheduler"]["policy"] == ("fixed" if fixed else name)
    assert configs["prepared"]["ckks"]["linear_phase"] == "offline"
    assert configs["online"]["ckks"]["linear_phase"] == "online"
    assert policies.rotated(paths, 1)[0] == paths[1]
    assert sorted(policies.rotated(paths, 7)) == sorted(paths)
