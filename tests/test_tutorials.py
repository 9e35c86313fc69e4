"""Every tutorial runs as its docstring says and shows what it promises."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked import forked_script
from tests.processes import ROOT, run
from tests.tiny_model import write_tiny_config
from tests.waiting import GUARD_S

TUTORIALS = ROOT / "experiments" / "tutorial"


def python(*arguments: object, cwd: Path, path: str = str(ROOT)) -> str:
    """Standard output of a Python that turns warnings into errors."""
    command = [sys.executable, "-W", "error", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        text=True,
        capture_output=True,
        timeout=GUARD_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def forked(script: Path, *arguments: object, cwd: Path) -> str:
    """As `python`, without what Python takes to start."""
    done = forked_script(script, *arguments, cwd=cwd, path=[ROOT])
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# By name: a reader may try things in files beside them.
NUMBERED = (
    "01_run_inference", "02_write_a_gelu", "03_write_a_packing", "04_write_a_schedule",
    "05_read_a_report",
)  # fmt: skip
MODULES = ("my_gelu", "my_packing")


def test_tutorials_are_numbered_and_short():
    assert [int(name[:2]) for name in NUMBERED] == list(range(1, len(NUMBERED) + 1))
    for name in (*NUMBERED, *MODULES):
        path = TUTORIALS / f"{name}.py"
        lines = path.read_text().splitlines()
        assert len(lines) < 120, path.name
        assert lines[0].startswith('"""'), path.name


@pytest.mark.slow
def test_inference_from_python(tmp_path, minilm):  # noqa: ARG001
    # The config's own policy would measure the machine first.
    config = tmp_path / "minilm.yaml"
    text = (ROOT / "configs" / "minilm.yaml").read_text()
    text = text.replace("../models", str(ROOT / "models"))
    config.write_text(text.replace("policy: fastest", "policy: least_traffic"))
    output = python(TUTORIALS / "01_run_inference.py", "--config", config, cwd=tmp_path)
    assert float(re.search(r"cosine ([\d.]+)", output)[1]) > 0.9999


@pytest.mark.long
def test_inference_from_python_on_another_model(tmp_path):
    config = write_tiny_config(tmp_path)
    script = TUTORIALS / "01_run_inference.py"
    output = python(script, "--config", config, "--text", "a small test", cwd=tmp_path)
    assert "as it should be, refused: text: 'a small test" in output
    assert float(re.search(r"cosine ([\d.]+)", output)[1]) > 0.999


@pytest.mark.long
def test_a_gelu_of_your_own(tmp_path):
    output = forked(TUTORIALS / "02_write_a_gelu.py", cwd=tmp_path)
    assert "as it should be, refused: gelu/clipped_quadratic: declared" in output
    assert len(re.findall("as predicted: True", output)) == 2
    cosines = [float(c) for c in re.findall(r"cosine ([\d.]+)", output)]
    assert min(cosines) > 0.999


@pytest.mark.long
def test_a_packing_of_your_own(tmp_path):
    output = forked(TUTORIALS / "03_write_a_packing.py", cwd=tmp_path)
    assert "odd shapes: as declared" in output
    cosines = [float(c) for c in re.findall(r"cosine ([\d.]+)", output)]
    assert len(cosines) == 2
    assert min(cosines) > 0.999


@pytest.mark.long
def test_a_schedule_of_your_own(tmp_path):
    script = TUTORIALS / "04_write_a_schedule.py"
    output = forked(script, "--out", tmp_path / "schedules", cwd=tmp_path)
    assert "did you mean 'even_polynomial'?" in output
    assert {path.stem for path in (tmp_path / "schedules").glob("*.yaml")} >= {
        "prepared",
        "online",
        "exact_products",
    }


@pytest.mark.long
def test_reading_a_report(tmp_path):
    config = write_tiny_config(tmp_path)
    code, output = run("run", config, "--out", "out", cwd=tmp_path)
    assert code == 0, output
    script, report = TUTORIALS / "05_read_a_report.py", tmp_path / "out" / "report.json"
    output = forked(script, report, "--out", "plots/bytes.png", cwd=tmp_path)
    assert "steps that differ from their plan: none" in output
    assert (tmp_path / "plots" / "bytes.png").stat().st_size > 10_000
    # A plan that was broken is found.
    broken = json.loads(report.read_text())
    broken["steps"][0]["predicted"]["rounds"] += 1
    report.write_text(json.dumps(broken))
    assert "plan: correlations" in forked(script, report, cwd=tmp_path)


SOURCE = """
from typing import ClassVar
from mpc_nonlinear.correlations import IknpSource

class LabSource(IknpSource):
    op: ClassVar[str] = "correlations"
    name: ClassVar[str] = "lab"

PROTOCOLS = (LabSource,)
"""


@pytest.mark.long
def test_plugins_of_all_kinds_work_between_processes(tmp_path):
    """A protocol, a packing and a source of correlations, as docs/extending.md describes them."""
    (tmp_path / "lab_source.py").write_text(SOURCE)
    config = write_tiny_config(
        tmp_path, correlations="lab", extra="plugins: [my_gelu, my_packing, lab_source]\n"
    )
    text = config.read_text().replace("even_polynomial", "clipped_quadratic")
    config.write_text(text.replace("token_periodic", "repeated_token"))
    path = os.pathsep.join(map(str, (ROOT, TUTORIALS, tmp_path)))
    python("-m", "hybrid.cli", "run", config, "--out", "out", cwd=tmp_path, path=path)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    used = {step["protocol"] for step in report["steps"]}
    assert used >= {"lab", "clipped_quadratic", "repeated_token"}
    assert all(
        step["predicted"][key] == step["measured"][key]
        for step in report["steps"]
        for key in step["predicted"]
    )
    assert report["accuracy"]["cosine"] > 0.999
