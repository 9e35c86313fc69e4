"""Reading a config: strict YAML, changes from the command line, mistakes as one line."""

from __future__ import annotations

import difflib
import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from datetime import date
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from hybrid.config.files import read_text, reason
from hybrid.config.overrides import Override, apply_overrides
from hybrid.config.places import models_folder
from hybrid.config.schema import (
    CustomLink,
    PassNames,
    PassPins,
    PinConfig,
    RunConfig,
    ShapeConfig,
)
from hybrid.config.yaml_text import parsed, problem_of
from transport.errors import ConfigError
from transport.foreign import cut, shown

_TYPES = tuple(kind.__name__ for kind in (CustomLink, ShapeConfig, PinConfig, PassPins, PassNames))
_EXAMPLE = "configs/minilm.yaml"


class Config:
    """A checked config and where it came from."""

    def __init__(self, run: RunConfig, path: Path) -> None:
        """path: of the file, or in its folder; relative paths of the config start there."""
        self.run = run
        self.path = path
        # Now: a caller may change the current folder before the config is used.
        self._folder = path.parent.resolve()
        self.schedule: Mapping[str, Any] | None = None
        """Content of the file that `schedule` names; not checked yet."""
        if run.schedule is not None:
            self.schedule = read_yaml(self.resolve(run.schedule), f"{path}: schedule: ")

    def resolve(self, relative: str) -> Path:
        """A path written in the config, relative to the config file."""
        try:
            found = (self._folder / Path(relative).expanduser()).resolve()
            found.exists()
        except (OSError, ValueError, RuntimeError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise ConfigError(
                f"{self.path}: {shown(relative)} is no path ({why}); name a file or folder"
            ) from None
        return found

    @property
    def model_folder(self) -> Path:
        """The model folder, or the fetched model of its name; `ConfigError` when there is none."""
        return self._model_place(
            os.path.isdir,
            "folder {} does not exist; run `hybrid fetch minilm` for all-MiniLM-L6-v2, `hybrid "
            "fetch mpnet` for all-mpnet-base-v2, or name a folder in Hugging Face layout",
        )

    @property
    def decoder_place(self) -> Path:
        """A decoder's GGUF file or folder, or the fetched model of its name."""
        return self._model_place(
            os.path.exists,
            "{} does not exist; run `hybrid fetch smollm2` for SmolLM2-135M-Instruct, or name a "
            "GGUF file or a folder in Hugging Face layout",
        )

    def _model_place(self, is_there: Callable[[Path], bool], missing: str) -> Path:
        path = self.run.model.path or ""
        own = self.resolve(path or ".")
        fetched = models_folder() / own.name
        found = next((place for place in (own, fetched) if path and is_there(place)), None)
        if found is None and path and os.path.isfile(own):
            raise ConfigError(f"{self.path}: model.path: {shown(path)} {_file_instead(own)}")
        if found is None:
            raise ConfigError(f"{self.path}: model.path: {missing.format(shown(path))}")
        return found

    def with_run(self, run: RunConfig) -> Config:
        """The same file with other values; nothing is read again."""
        other = copy(self)
        other.run = run
        return other

    def agreed(self) -> dict[str, str]:
        """What both parties must have alike, as JSON by dotted key."""
        facts = self.run.agreed()
        if self.schedule is not None:
            content = yaml.safe_dump(dict(self.schedule)).encode()
            facts["schedule"] = f"sha256 {hashlib.sha256(content).hexdigest()}"
        return facts

    def __repr__(self) -> str:
        return f"<Config {self.run.name}: {self.path}>"


def _file_instead(path: Path) -> str:
    """What a file is that stands where an encoder's folder should."""
    if path.suffix == ".gguf":
        return (
            "is a GGUF file, of which decoders alone are read; add the table `generation` to run "
            "one, or name an encoder's folder in Hugging Face layout"
        )
    return "is a file; name the folder in Hugging Face layout that it lies in"


def load_config(path: Path, overrides: Sequence[Override] = ()) -> Config:
    """Read and check a run description, changed by `overrides`."""
    return checked(read_yaml(path), path, overrides)


def checked(raw: Mapping[str, Any], path: Path, overrides: Sequence[Override] = ()) -> Config:
    """Check plain data as if it stood in the file `path`."""
    try:
        changed = apply_overrides(_current(raw, path), overrides, RunConfig)
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; no key has more than four levels") from None
    try:
        return Config(RunConfig.model_validate(changed), path)
    except ValidationError as error:
        raise ConfigError(_explain(error, path, overrides)) from None


def _current(raw: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Old keys under their present names."""
    found = dict(raw)
    if "calibration" in found:
        if "ranges" in found:
            raise ConfigError(
                f"{path}: calibration and ranges: the first is the old name of the second; keep "
                "ranges"
            )
        message = "calibration is now called ranges; the old key is read until version 0.3"
        warnings.warn(f"{path}: {message}", FutureWarning, stacklevel=4)
        found["ranges"] = found.pop("calibration")
    return found


def read_yaml(path: Path, place: str = "") -> dict[str, Any]:
    """A YAML file with a mapping at top level; `place` prefixes errors."""
    try:
        text = read_text(path)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{place}{path}: cannot be read ({reason(error)}); name an existing YAML file"
        ) from None
    return parse_yaml(text, path, place)


def parse_yaml(text: str, path: Path, place: str = "") -> dict[str, Any]:
    """YAML text with a mapping at top level."""
    try:
        raw = parsed(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{place}{where}: not valid YAML; {problem_of(error)}") from None
    if not isinstance(raw, dict) or not all(isinstance(key, str) for key in raw):
        raise ConfigError(f"{place}{path}: expected a mapping of keys at top level; see {_EXAMPLE}")
    return raw


def _explain(error: ValidationError, path: Path, overrides: Sequence[Override]) -> str:
    """First problem of a validation as one line naming place, value and remedy."""
    problems = error.errors()
    # A misspelt key also makes the right one missing; the misspelling is what helps.
    first = next((p for p in problems if p["type"] == "extra_forbidden"), None)
    # Where a name or a table would do and a table was given, the table's problem is the one.
    first = first or next((p for p in problems if not _is_other_kind(p)), problems[0])
    keys = _keys_of(first["loc"])
    dotted = ".".join(keys)
    source = next((o.option for o in overrides if _within(dotted, o.key)), str(path))
    place = f"{source}: {_keys_shown(keys)}" if keys else source
    if first["type"] == "extra_forbidden":
        known = _known_keys(keys[:-1])
        close = difflib.get_close_matches(keys[-1], known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known keys: {', '.join(known)}"
        where = f"{source}: {_keys_shown(keys[:-1])}: " if keys[:-1] else f"{source}: "
        return f"{where}unknown key {shown(keys[-1])}; {hint}"
    if first["type"] == "missing":
        return f"{place}: missing; add it, see {_EXAMPLE} for every key"
    if first["type"] == "value_error":
        return f"{place}: {first['ctx']['error']}"
    given = first.get("input")
    return f"{place}: {first['msg'].lower()}, got {shown(given)}{_hint(first['type'], given)}"


def _keys_shown(keys: Sequence[str]) -> str:
    return ".".join(cut(key) for key in keys)


def _hint(kind: str, given: Any) -> str:
    """Where YAML has its own idea of a word."""
    if kind == "string_type" and isinstance(given, bool | int | float | date):
        return "; quote it, since YAML takes the bare word for something else"
    if kind == "int_type" and isinstance(given, float) and given.is_integer():
        return "; write it without point and exponent"
    return ""


def _within(dotted: str, key: str) -> bool:
    return dotted == key or dotted.startswith(f"{key}.")


def _is_other_kind(problem: Any) -> bool:
    kinds = ("literal_error", "string_type")
    return problem["type"] in kinds and isinstance(problem["input"], dict)


def _keys_of(location: tuple[int | str, ...]) -> list[str]:
    """Keys as the file has them: where a value may be of several types, pydantic names one too."""
    left_out = (*_TYPES, "str")
    return [
        key for key in map(str, location) if not key.startswith("literal[") and key not in left_out
    ]


def _known_keys(keys: list[str]) -> list[str]:
    """Keys of the table at this place."""
    table: Any = RunConfig
    names = iter(keys)
    for key in names:
        kinds = _kinds(table.model_fields[key].annotation) if key in table.model_fields else []
        if any(get_origin(kind) is dict for kind in kinds):
            # Below a table of free names: whatever the next name is.
            next(names, None)
        tables = (k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
        table = next(tables, None)
        if table is None:
            return []
    return list(table.model_fields)


def _kinds(annotation: Any) -> list[Any]:
    """A type and all that it is made of."""
    return [annotation, *(inner for part in get_args(annotation) for inner in _kinds(part))]
