"""The public sizes of a transformer, and their way through a handshake."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Self, get_type_hints

from hybrid.models.foreign_weights import (
    no_config,
    refuse_adapter,
    refuse_own_code,
    refuse_quantised,
)
from hybrid.models.model_files import names_in, read_json
from transport.errors import ConfigError
from transport.foreign import shown

_LIMITS: Mapping[type[int | float | bool], tuple[float, float]] = {
    int: (1, 1 << 20),
    float: (1e-30, 1e9),
    bool: (False, True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """What every family has; a family's own class adds what it needs besides.

    Numbers are positive, but for fields whose metadata has another "smallest".
    """

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    """Most tokens of a text."""
    epsilon: float
    """Of the normalisations."""

    @property
    def head_size(self) -> int:
        """Columns of one attention head."""
        return self.hidden // self.heads

    @property
    def takes_types(self) -> bool:
        """Whether tokens of the second text of a pair are told from those of the first."""
        return False

    def line(self) -> str:
        """Sizes for a reader."""
        return (
            f"hidden {self.hidden}, {self.layers} layers, {self.heads} heads, "
            f"intermediate {self.intermediate}"
        )

    def check_tokens(self, tokens: int) -> None:
        """`ConfigError` when the model has no position for every token."""
        if tokens > self.positions:
            raise ConfigError(
                f"model.tokens: {tokens} exceeds the model's {self.positions} positions"
            )

    def to_public(self) -> dict[str, Any]:
        """Plain data for the handshake."""
        return asdict(self)

    @classmethod
    def from_public(cls, data: object, place: str) -> Self:
        """Rebuild from untrusted plain data; `place` prefixes errors."""
        kinds = get_type_hints(cls)
        wanted = {f.name: kinds[f.name] for f in fields(cls)}
        least = {f.name: f.metadata.get("smallest") for f in fields(cls)}
        if not isinstance(data, dict) or set(data) != set(wanted):
            raise ConfigError(f"{place}: not a model architecture; are both parties one version?")
        for key, value in data.items():
            kind = wanted[key]
            smallest, largest = _LIMITS[kind]
            what = "a bool" if kind is bool else f"a positive {kind.__name__}"
            if (other := least[key]) is not None:
                smallest, what = other, f"a {kind.__name__} from {other} up"
            if type(value) is not kind or not smallest <= value <= largest:
                raise ConfigError(f"{place}: {key} is {shown(value)}; expected {what}")
        found = cls(**data)
        found.check_sizes(place)
        return found

    def check_sizes(self, place: str) -> None:
        """`ConfigError` when sizes do not go together."""
        if self.hidden % self.heads:
            raise ConfigError(
                f"{place}: hidden size {self.hidden} is not a multiple of {self.heads} heads"
            )


def read_model_config(folder: Path) -> Mapping[str, Any]:
    """`config.json` of a Hugging Face folder; `ConfigError` where its weights cannot be read."""
    names, path = names_in(folder), folder / "config.json"
    if path.name not in names:
        raise no_config(folder, names)
    refuse_adapter(folder, names)
    raw = read_json(path)
    refuse_quantised(raw, str(path))
    refuse_own_code(raw, str(path))
    return raw
