"""Shared fixtures: one thread a process, the tiny model, the real model where it is needed."""

from __future__ import annotations

import fcntl
import os
import subprocess
from pathlib import Path

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import pytest  # noqa: E402

from tests.fresh_kernels import forget_stale  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent
# Before anything compiled is imported; once, by who starts the others.
if "PYTEST_XDIST_WORKER" not in os.environ:
    forget_stale(ROOT)

from tests.forked import FORKING  # noqa: E402
from tests.text_folders import wordpiece, write_sentence_model  # noqa: E402
from tests.tiny_model import write_tiny_config, write_tiny_model  # noqa: E402

# What a user may have set and what changes how terminals are written to.
TERMINAL = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Measuring the machine takes a minute, whichever test comes to it first."""
    for item in items:
        if "prices" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="session", autouse=True)
def nothing_of_the_users(tmp_path_factory):
    """Fixtures of a module or session find no cache of the user's either."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYBRID_CACHE", str(tmp_path_factory.mktemp("cache")))
        for name in TERMINAL:
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(autouse=True)
def private_cache(tmp_path_factory, monkeypatch):
    """The client's cache of public tables and the prices, empty for every test."""
    monkeypatch.setenv("HYBRID_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session", autouse=True)
def forked_parties():
    """Sessions that this process starts fork their parties; commands of their own do not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hybrid.runtime.processes.subprocess", FORKING)
        yield


@pytest.fixture
def fresh_parties(monkeypatch):
    """Parties start as users start them."""
    monkeypatch.setattr("hybrid.runtime.processes.subprocess", subprocess)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """One folder for all processes that share this session's tests."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def prices(shared_folder):
    """Of this machine, measured for real, once for all tests."""
    from hybrid.machine.prices import cache_file, known_prices, load
    from tests.quick_calibration import quickly_calibrated

    with pytest.MonkeyPatch.context() as patch, (shared_folder / "lock").open("w") as lock:
        patch.setenv("HYBRID_CACHE", str(shared_folder / "prices"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not cache_file().exists():
            said: list[str] = []
            measured = quickly_calibrated(said.append)
            assert known_prices() == measured == load(cache_file())
            assert {"network", "interactive blocks", "ciphertexts", "whole steps"} <= set(said)
        return load(cache_file())


@pytest.fixture
def tiny_model(tmp_path) -> Path:
    return write_tiny_model(tmp_path / "model")


@pytest.fixture
def tiny_config(tmp_path) -> Path:
    return write_tiny_config(tmp_path)


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The real model's folder, fetched when it is not there yet; a failure when it cannot be."""
    from hybrid.models import fetching

    folder = ROOT / "models" / "all-MiniLM-L6-v2"
    fetching.fetch(fetching.PUBLISHED["minilm"], folder)
    return folder


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """The folder of SmolLM2-135M-Instruct, fetched as `minilm` is."""
    from hybrid.models import fetching

    model = fetching.PUBLISHED["smollm2"]
    folder = ROOT / "models" / model.folder
    fetching.fetch(model, folder)
    return folder


@pytest.fixture(scope="session")
def mpnet() -> Path:
    """The folder of all-mpnet-base-v2, fetched as `minilm` is."""
    from hybrid.models import fetching

    model = fetching.PUBLISHED["mpnet"]
    folder = ROOT / "models" / model.folder
    fetching.fetch(model, folder)
    return folder


@pytest.fixture(scope="session")
def sentence_model(tmp_path_factory):
    """A small folder saved by sentence-transformers; copy it to change it."""
    return write_sentence_model(tmp_path_factory.mktemp("saved") / "model", wordpiece())
