"""`hybrid init`: commented configs and tutorials, as the project's own folders hold them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

import hybrid
from hybrid.cli.progress import make_console, say
from transport.errors import ConfigError

_PACKAGE = Path(hybrid.__file__).resolve().parent
_TUTORIALS = "tutorial"
_MODELS_THERE, _MODELS_HERE = "path: ../models/", "path: models/"
"""Beside the folder of the project's configs; beside the configs that are written."""


def init(directory: Annotated[Path, typer.Argument(help="Folder for them, new or not.")]) -> None:
    """Write commented configs and the tutorials into a folder; what is there is kept."""
    files = starter_files()
    write_all(files, directory)
    console = make_console()
    lines = [
        f"{len(files)} files written to {directory}",
        "hybrid fetch smollm2    fetches the language model, hybrid fetch minilm the encoder",
        f"hybrid generate {directory / 'smollm2.yaml'}    answers a private prompt",
        f"hybrid run {directory / 'minilm.yaml'}    embeds private sentences",
        f"{directory / _TUTORIALS}    tutorials, numbered; their first lines say how to run them",
    ]
    for line in lines:
        say(console, line)


def starter_files() -> dict[str, bytes]:
    """Content by path below the folder."""
    configs, tutorials = _sources()
    found = {path.name: _moved(path) for path in sorted(configs.glob("*.yaml"))}
    found |= {path.name: path.read_bytes() for path in sorted(configs.glob("*.txt"))}
    for path in sorted((*tutorials.glob("*.py"), *tutorials.glob("*.yaml"))):
        found[f"{_TUTORIALS}/{path.name}"] = path.read_bytes()
    return found


def _sources() -> tuple[Path, Path]:
    """Folders of configs and tutorials: of an installed package, else of its sources."""
    installed, sources = _PACKAGE / "starter", _PACKAGE.parent
    if installed.is_dir():
        return installed / "configs", installed / _TUTORIALS
    configs, tutorials = sources / "configs", sources / "experiments" / _TUTORIALS
    if not (configs.is_dir() and tutorials.is_dir()):
        raise ConfigError(f"init: {installed} is missing; install the package again")
    return configs, tutorials


def _moved(config: Path) -> bytes:
    """A config whose model lies beside it."""
    text = config.read_text(encoding="utf-8")
    return text.replace(_MODELS_THERE, _MODELS_HERE).encode()


def write_all(files: Mapping[str, bytes], folder: Path) -> None:
    """All of them or none; `ConfigError` names the first that is there already."""
    there = next((folder / name for name in files if _exists(folder / name)), None)
    if there is not None:
        raise ConfigError(f"init: {there} exists and is kept; name another folder or move it away")
    written: list[Path] = []
    try:
        for name, content in files.items():
            _make_folder((folder / name).parent, written)
            with (folder / name).open("xb") as file:
                written.append(folder / name)
                file.write(content)
    except BaseException as error:
        _undo(written)
        if isinstance(error, OSError):
            raise ConfigError(
                f"init: {error.filename or folder}: cannot be written ({error.strerror}); name "
                "another folder"
            ) from None
        raise


def _exists(path: Path) -> bool:
    """Also a link that leads nowhere."""
    return path.is_symlink() or path.exists()


def _make_folder(folder: Path, written: list[Path]) -> None:
    if not folder.is_dir():
        _make_folder(folder.parent, written)
        folder.mkdir()
        written.append(folder)


def _undo(written: list[Path]) -> None:
    for path in reversed(written):
        with suppress(OSError):
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink()
