"""Settings that models have in common: what a file must say, and sizes by our names for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transport.errors import ConfigError
from transport.foreign import shown


def require(raw: Mapping[str, Any], place: str, key: str, *allowed: Any) -> None:
    """`ConfigError` unless the setting is one of those allowed; None allows a missing one."""
    if raw.get(key) not in allowed:
        known = " or ".join(repr(value) for value in allowed if value is not None) or "None"
        raise ConfigError(
            f"{place}: {key} is {shown(raw.get(key))}; only {known} is supported: use a model that "
            "was trained with it"
        )


def read_sizes(
    raw: Mapping[str, Any], place: str, names: Mapping[str, str], kind: str = "a decoder"
) -> dict[str, Any]:
    """Values by our names of sizes, from settings of these names; not checked yet."""
    missing = [key for key in names.values() if key not in raw]
    if missing:
        raise ConfigError(f"{place}: missing {', '.join(missing)}; is this {kind}?")
    return {ours: raw[key] for ours, key in names.items()}


def as_float(value: Any) -> Any:
    """A number that JSON has without a decimal point."""
    return float(value) if type(value) is int else value


def even_split(values: Mapping[str, Any], place: str) -> int:
    """Head size where nothing says otherwise."""
    hidden, heads = values["hidden"], values["heads"]
    if type(hidden) is not int or type(heads) is not int or heads < 1 or hidden % heads:
        raise ConfigError(
            f"{place}: hidden size {shown(hidden)} is not a multiple of {shown(heads)} heads"
        )
    return hidden // heads
