"""Folders as sentence-transformers writes them: which modules they name, and where these lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hybrid.models.model_files import read_json, read_json_value
from transport.errors import ConfigError
from transport.foreign import shown

_OWN_CODE = "sentence_transformers."
"""What modules without code of their own are named by."""


@dataclass(frozen=True, slots=True)
class SentenceModule:
    """An entry of `modules.json`."""

    kind: str
    """Its class, without the package."""
    folder: Path
    """Where its settings lie."""


def sentence_modules(folder: Path) -> tuple[SentenceModule, ...]:
    """What `modules.json` names, in its order; nothing where there is no such file."""
    path = folder / "modules.json"
    if not os.path.lexists(path):
        return ()
    raw = read_json_value(path)
    if not isinstance(raw, list) or not raw:
        raise ConfigError(f"{path}: not a list of modules; fetch it again")
    return tuple(_module(folder, path, entry) for entry in raw)


def _module(folder: Path, path: Path, entry: object) -> SentenceModule:
    found = entry if isinstance(entry, dict) else {}
    kind, place = found.get("type"), found.get("path")
    if not isinstance(kind, str) or not isinstance(place, str):
        raise ConfigError(
            f"{path}: a module without type and path, {shown(entry)}; fetch the file again"
        )
    if not kind.startswith(_OWN_CODE):
        raise ConfigError(
            f"{path}: module {shown(kind)} brings code of its own, which is not run; use a model "
            "of sentence-transformers' own modules"
        )
    if _leads_away(place):
        raise ConfigError(
            f"{path}: path {shown(place)} leads out of the folder; fetch the model again"
        )
    return SentenceModule(kind.rsplit(".", 1)[-1], folder / place)


def _leads_away(place: str) -> bool:
    kinds = (PurePosixPath(place), PureWindowsPath(place))
    return "\0" in place or any(p.anchor or ".." in p.parts for p in kinds)


def transformer_folder(folder: Path) -> Path:
    """Where config, weights and tokenizer lie: the folder, or what `modules.json` says instead."""
    modules = sentence_modules(folder)
    if not modules:
        return folder
    first = modules[0]
    if first.kind != "Transformer":
        raise ConfigError(
            f"{folder / 'modules.json'}: starts with a module {shown(first.kind)}; only "
            "Transformer is supported"
        )
    if not first.folder.is_dir():
        raise ConfigError(
            f"{folder / 'modules.json'}: folder {shown(first.folder.name)} is missing; fetch the "
            "model again"
        )
    return first.folder


def includes_prompt(folder: Path) -> bool:
    """Whether tokens of a prompt are pooled with those of the text."""
    listed = [m.folder for m in sentence_modules(folder) if m.kind == "Pooling"]
    places = listed or sorted(folder.glob("[0-9]*_Pooling"))
    settings = [optional_table(place / "config.json") for place in places]
    return all(found.get("include_prompt") is not False for found in settings)


def optional_table(path: Path) -> Mapping[str, Any]:
    """A table of settings, empty where there is no such file."""
    # A broken link is no missing file.
    return read_json(path) if os.path.lexists(path) else {}
