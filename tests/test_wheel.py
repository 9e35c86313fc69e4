"""The wheel in an environment of its own: what a user gets who has never seen the sources."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy
import pytest

from tests.processes import ROOT
from tests.waiting import GUARD_S

pytestmark = pytest.mark.long
SOURCES = (
    "configs", "experiments/tutorial", "he_linear", "hybrid", "mpc_nonlinear", "transport",
    "LICENSE", "README.md", "pyproject.toml", "setup.py",
)  # fmt: skip
PACKAGES = ("hybrid", "he_linear", "mpc_nonlinear", "transport")
BUILD = "from setuptools import build_meta; print(getattr(build_meta, 'build_{}')('built'))"
WHERE = """
import hybrid, sys
from importlib.metadata import files
assert hybrid.__file__.startswith(sys.prefix), hybrid.__file__
assert any(str(file) == "hybrid/py.typed" for file in files("hybrid-private-inference"))
assert hybrid.__version__ == {!r}
"""


def command(*arguments: object, cwd: Path) -> str:
    """Output of a process that finds nothing but what is installed where its program lies."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [*map(str, arguments)], cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, timeout=GUARD_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return done.stdout


def built(what: str, sources: Path) -> Path:
    """As pip and other front ends have it built."""
    name = command(sys.executable, "-c", BUILD.format(what), cwd=sources).splitlines()[-1]
    return sources / "built" / name


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy, so that building leaves nothing in the project's folder."""
    folder = tmp_path_factory.mktemp("sources")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(
                ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def wheel(sources) -> Path:
    return built("wheel", sources)


@pytest.fixture(scope="module")
def programs(wheel, tmp_path_factory) -> Path:
    """Programs of a new environment: the wheel, and every dependency of this one by its place."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    command(*pip, "install", "--quiet", "--no-index", "--no-deps", wheel, cwd=folder)
    place = command(python, "-c", "import sysconfig as s; print(s.get_path('purelib'))", cwd=folder)
    # A line in such a file adds a folder and none of what that folder's own such files add.
    dependencies = Path(numpy.__file__).parent.parent
    (Path(place.strip()) / "dependencies.pth").write_text(f"{dependencies}\n")
    take_compiled(Path(place.strip()))
    return folder / "bin"


def take_compiled(installed: Path) -> None:
    """Kernels that were compiled from the same sources are not compiled once more, for minutes."""
    for package in PACKAGES:
        for source in (ROOT / package).rglob("*.py"):
            target = installed / source.relative_to(ROOT)
            if target.exists() and target.read_bytes() == source.read_bytes():
                # Numba takes what was compiled from a file of this size and time.
                shutil.copystat(source, target)
                (target.parent / "__pycache__").mkdir(exist_ok=True)
                for kernel in (source.parent / "__pycache__").glob(f"{source.stem}.*.nb[ic]"):
                    shutil.copy(kernel, target.parent / "__pycache__")


def names(text: list[str], below: str) -> set[str]:
    return {name.partition(below)[2] for name in text if below in name and not name.endswith("/")}


STARTER = {path.name for path in (ROOT / "configs").glob("*.*")}
TUTORIALS = {path.name for path in (ROOT / "experiments" / "tutorial").glob("*.*")}


def test_the_wheel_has_configs_tutorials_and_types(wheel):
    with zipfile.ZipFile(wheel) as archive:
        inside = archive.namelist()
        assert names(inside, "hybrid/starter/configs/") == STARTER
        assert names(inside, "hybrid/starter/tutorial/") == TUTORIALS
        assert {f"{package}/py.typed" for package in PACKAGES} <= set(inside)
        tops = {name.partition("/")[0] for name in inside if ".dist-info" not in name}
        assert tops == set(PACKAGES)


def test_a_source_distribution_builds_the_same_wheel(sources, wheel, tmp_path):
    with tarfile.open(built("sdist", sources)) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    with zipfile.ZipFile(built("wheel", folder)) as again, zipfile.ZipFile(wheel) as first:
        assert set(again.namelist()) == set(first.namelist())


def test_an_editable_install_has_no_copies(sources):
    with zipfile.ZipFile(built("editable", sources)) as archive:
        assert not any("starter" in name for name in archive.namelist())


def test_an_installed_package_plans_and_runs_what_it_wrote(programs, wheel, tmp_path):
    python, hybrid = programs / "python", programs / "hybrid"
    command(python, "-c", WHERE.format(wheel.name.split("-")[1]), cwd=tmp_path)
    command(hybrid, "init", "mine", cwd=tmp_path)
    tutorial = tmp_path / "mine" / "tutorial"
    assert {path.name for path in tutorial.iterdir()} == TUTORIALS
    planned = command(hybrid, "plan", "mine/bert_base_layer.yaml", "--tokens", 8, cwd=tmp_path)
    assert "plan hash" in planned
    text = ["--text", "a small test", "--out", "out"]
    command(hybrid, "run", tutorial / "tiny.yaml", *text, cwd=tmp_path)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["accuracy"]["cosine"] > 0.999
    output = command(python, "-W", "error", "05_read_a_report.py", "../../out/report.json",
                     cwd=tutorial)  # fmt: skip
    assert "steps that differ from their plan: none" in output


@pytest.mark.slow
def test_the_default_model_runs_as_documented(programs, minilm, tmp_path, monkeypatch):
    """Where `hybrid fetch` puts it, it is already; so nothing is fetched again."""
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    shutil.copytree(minilm, tmp_path / "cache" / "models" / minilm.name)
    hybrid = programs / "hybrid"
    command(hybrid, "init", "mine", cwd=tmp_path)
    assert "already there" in command(hybrid, "fetch", "minilm", cwd=tmp_path)
    # Least traffic: the fastest schedule would measure the machine first.
    changes = ["--set", "scheduler.policy=least_traffic", "--tokens", 6]
    text = ["--text", "Hello there!", "--out", "out"]
    command(hybrid, "run", "mine/minilm.yaml", *changes, *text, cwd=tmp_path)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["accuracy"]["cosine"] > 0.9999
