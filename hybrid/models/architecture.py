"""The public shape of an encoder, read from a Hugging Face `config.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from hybrid.models.families import family_of
from transport.errors import ConfigError

_MAX_DIMENSION = 1 << 20


@dataclass(frozen=True, slots=True)
class Architecture:
    """A BERT-family post-norm encoder."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    token_types: int
    epsilon: float

    @property
    def head_size(self) -> int:
        """Columns of one attention head."""
        return self.hidden // self.heads

    def to_public(self) -> dict[str, Any]:
        """Plain data for the handshake."""
        return asdict(self)

    @classmethod
    def from_public(cls, data: object, place: str) -> Architecture:
        """Rebuild from untrusted plain data; `place` prefixes errors."""
        names = {f.name for f in fields(cls)}
        if not isinstance(data, dict) or set(data) != names:
            raise ConfigError(f"{place}: not a model architecture; are both parties one version?")
        for key, value in data.items():
            wanted = float if key == "epsilon" else int
            if type(value) is not wanted or not 0 < value <= _MAX_DIMENSION:
                raise ConfigError(
                    f"{place}: {key} is {value!r}; expected a positive {wanted.__name__}"
                )
        found = cls(**data)
        if found.hidden % found.heads:
            raise ConfigError(
                f"{place}: hidden size {found.hidden} is not a multiple of {found.heads} heads"
            )
        return found


def read_config(folder: Path) -> dict[str, Any]:
    """`config.json` of a Hugging Face folder."""
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise ConfigError(f"{path}: missing; name a folder in Hugging Face layout") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: not a table of settings; is this an encoder's config?")
    return raw


def read_architecture(folder: Path) -> Architecture:
    """Read `config.json` of a Hugging Face folder; refuses what this project cannot compute."""
    raw, path = read_config(folder), folder / "config.json"
    family = family_of(raw, str(path))
    missing = [hf for hf in family.keys.values() if hf not in raw]
    if missing:
        raise ConfigError(f"{path}: missing {', '.join(missing)}; is this an encoder's config?")
    values = {ours: raw[hf] for ours, hf in family.keys.items()} | dict(family.fixed)
    first = family.first_position(raw)
    if type(values["positions"]) is int:
        values["positions"] -= first
    if type(values["epsilon"]) is int:
        values["epsilon"] = float(values["epsilon"])
    return Architecture.from_public(values, str(path))
