"""Files of a model, before anything reads what is in them: whether they are there and are files."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hybrid.config import files
from transport import foreign
from transport.errors import ConfigError

_START = 64
"""Bytes that tell kinds of files apart."""
_SHOWN = 100
"""Characters of what a file says."""
_STAND_INS: Mapping[bytes, str] = {
    b"version https://git-lfs.github.com/": "a Git LFS pointer to the file; run `git lfs pull`",
    b"<!doctype html": "a web page in the file's place; fetch the file itself",
    b"<html": "a web page in the file's place; fetch the file itself",
}
"""What downloads leave where a file should be, by how it starts, in lower case."""


def names_in(folder: Path) -> frozenset[str]:
    """Of files and folders in a model folder; `ConfigError` where it is none."""
    try:
        return frozenset(os.listdir(folder))
    except NotADirectoryError:
        raise ConfigError(f"{folder}: is a file; name the folder that it lies in") from None
    except FileNotFoundError:
        raise ConfigError(f"{folder}: missing; name a folder in Hugging Face layout") from None
    except OSError as error:
        raise ConfigError(f"{folder}: {_denied(error, 'listed')}") from None


def check_file(
    path: Path, missing: str = "name a folder in Hugging Face layout", what: str = "file"
) -> bytes:
    """The start of a file that can be read; `ConfigError` says why one cannot.

    missing: what to do where there is none. what: it should be.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path}: is no file but a folder or a device; {missing}")
        with path.open("rb") as file:
            start = file.read(_START)
    except FileNotFoundError:
        if path.is_symlink():
            raise ConfigError(
                f"{path}: a link to {cut(os.readlink(path))}, which is not there; copy the "
                "folder with what its links name (`cp -rL`), or fetch it again"
            ) from None
        raise ConfigError(f"{path}: missing; {missing}") from None
    except OSError as error:
        raise ConfigError(f"{path}: {_denied(error, 'read')}") from None
    if not start:
        raise ConfigError(f"{path}: empty, not a whole {what}; fetch it again")
    for beginning, meaning in _STAND_INS.items():
        if start.lower().startswith(beginning):
            raise ConfigError(f"{path}: {meaning}")
    return start


def _denied(error: OSError, done: str) -> str:
    if isinstance(error, PermissionError):
        return f"may not be {done} by this user; give it the permission (`chmod -R u+rX`)"
    return f"cannot be {done} ({error.strerror or error}); see to its disk or name another"


def read_text(path: Path) -> str:
    """A file's text, without the mark of byte order that editors put in front."""
    check_file(path)
    try:
        return files.read_text(path)
    except OSError as error:
        raise ConfigError(f"{path}: {_denied(error, 'read')}") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not UTF-8 text ({cut(str(error))}); fetch it again") from None


def read_json(path: Path, remedy: str = "fetch it again") -> dict[str, Any]:
    """A file's table of settings; `ConfigError` for a key that stands twice, and for no JSON."""
    found = read_json_value(path, remedy)
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: not a table of settings; {remedy}")
    return found


def read_json_value(path: Path, remedy: str = "fetch it again") -> Any:
    """As `read_json`, of a file that may hold something else than a table."""
    text = read_text(path)
    try:
        return json.loads(
            text, object_pairs_hook=partial(_table, path), parse_constant=partial(_refuse, path)
        )
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON ({cut(str(error))}); {remedy}") from None


def _table(path: Path, pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ConfigError(f"{path}: {cut(repr(key))} stands twice; keep one of the two")
        found[key] = value
    return found


def _refuse(path: Path, constant: str) -> Any:
    raise ConfigError(f"{path}: {constant} is no number of JSON; write one, or null")


def cut(text: str, most: int = _SHOWN) -> str:
    """What a file or a library says, as part of a line: printable, and not much of it."""
    return foreign.cut(" ".join(text.split()), most)
