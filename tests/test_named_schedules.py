"""Every YAML in configs/: complete, honest about its source, and plannable."""

from __future__ import annotations

from pathlib import Path

import pytest

from hybrid.catalog import load_catalog
from hybrid.config import load_config
from hybrid.launch import load_server_model, make_plan
from hybrid.plan import build_plan
from hybrid.report import trust_model
from tests.tiny_model import write_tiny_config

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
ALL = sorted(CONFIGS.glob("*.yaml"))
PUBLISHED = ("bolt", "bumblebee", "blb", "encformer_like")


def test_published_systems_are_there():
    assert {path.stem for path in ALL} >= {"minilm", *PUBLISHED}


@pytest.mark.parametrize("name", PUBLISHED)
def test_headers_say_what_is_reproduced(name):
    text = (CONFIGS / f"{name}.yaml").read_text()
    header = text[: text.index("\nname:")]
    assert all(line.startswith("#") for line in header.strip().splitlines())
    for part in ("# Source: ", "# Reproduced: ", "# Not reproduced: "):
        assert part in header
    assert "eprint" in header or "arXiv" in header


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_names_are_registered_and_files_are_named_after_them(path):
    loaded = load_config(path)
    assert loaded.run.name == path.stem
    catalog = load_catalog(loaded.run.plugins)
    protocols = loaded.run.protocols
    assert ("correlations", loaded.run.mpc.correlations) in catalog
    assert ("linear", protocols.linear) in catalog
    assert ("attention", protocols.attention) in catalog
    for op in ("gelu", "softmax", "layernorm"):
        assert (op, getattr(protocols, op)) in catalog


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.stem)
def test_plans_with_the_model_they_name(path, minilm):  # noqa: ARG001
    loaded = load_config(path)
    plan = make_plan(loaded)
    rows = {row["name"]: row for row in plan.rows()}
    assert rows["layer0.gelu"]["protocol"] == loaded.run.protocols.gelu
    assert rows["layer5.qkv"]["protocol"] == loaded.run.protocols.linear
    kept = plan.kept_weights(loaded.run.runtime.weights_memory_gb)
    assert kept == set(plan.encoded_bytes())
    assert trust_model(plan, loaded.run.model_dump(mode="json"))


@pytest.mark.parametrize("name", PUBLISHED)
def test_schedules_fit_other_models(name, tmp_path, tiny_model):  # noqa: ARG001
    tiny = load_config(write_tiny_config(tmp_path))
    served = load_server_model(tiny)
    theirs = load_config(CONFIGS / f"{name}.yaml").run
    update = {"ckks": theirs.ckks, "mpc": theirs.mpc, "protocols": theirs.protocols}
    config = tiny.run.model_copy(update=update)
    plan = build_plan(config, served.architecture, served.bounds, load_catalog())
    assert plan.cost.traffic.sent_bytes > 0
