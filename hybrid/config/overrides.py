"""Changes that the command line makes to a config: any key, checked like the file."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

import yaml
from pydantic import BaseModel

from hybrid.config.yaml_text import parsed, problem_of
from transport.errors import ConfigError, UsageError
from transport.foreign import cut, shown


@dataclass(frozen=True, slots=True)
class Override:
    """A key and what it is to be instead."""

    key: str
    """Dotted, as `model.tokens`."""
    value: Any
    option: str
    """What the user typed, for errors."""

    def covers(self, other: Override) -> bool:
        """Whether it sets all of what the other sets."""
        return other.key == self.key or other.key.startswith(f"{self.key}.")


def parse_override(text: str) -> Override:
    """From `KEY=VALUE`; the value is YAML."""
    key, equals, value = text.partition("=")
    option = f"--set {cut(text)}"
    if not equals or not key.strip():
        raise ConfigError(f"{option}: give KEY=VALUE, as --set model.tokens=16")
    try:
        found = parsed(value)
    except yaml.YAMLError as error:
        problem = problem_of(error)
        raise ConfigError(f"{option}: {problem}; quote the value or mend it") from None
    return Override(key.strip(), found, option)


def overrides_of(
    sets: Sequence[str] = (), tokens: int | None = None, link: str | None = None
) -> list[Override]:
    """From the options of a command; --tokens and --link are shorter words for two keys."""
    if isinstance(sets, str) or not all(isinstance(text, str) for text in sets or ()):
        raise UsageError("set: give a list of KEY=VALUE strings")
    found = [parse_override(text) for text in sets or ()]
    if tokens is not None:
        found.append(Override("model.tokens", tokens, f"--tokens {tokens}"))
    if link is not None:
        found.append(Override("link", link, f"--link {cut(link)}"))
    for index, one in enumerate(found):
        for other in found[:index]:
            if one.covers(other) or other.covers(one):
                raise ConfigError(
                    f"{one.option}: {other.option} sets {shown(other.key)} already; keep one of "
                    "them"
                )
    return found


def apply_overrides(
    raw: Mapping[str, Any], overrides: Sequence[Override], schema: type[BaseModel]
) -> dict[str, Any]:
    """The changed config; `ConfigError` for keys that the schema does not have."""
    changed: dict[str, Any] = _copied(raw)
    for override in overrides:
        keys = _path(override, schema)
        table = changed
        for key in keys[:-1]:
            inner = table.get(key)
            # A name where a table may stand, as `shape: bert-base`, gives way to the table.
            table[key] = inner if isinstance(inner, dict) else {}
            table = table[key]
        if override.value is None:
            table.pop(keys[-1], None)
        else:
            table[keys[-1]] = override.value
    return changed


def _copied(value: Any) -> Any:
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, Mapping) else value


def _path(override: Override, schema: type[BaseModel]) -> list[str]:
    """The key in parts; below a table of free names all that is left is one name."""
    parts, keys = override.key.split("."), list[str]()
    table: type[BaseModel] | None = schema
    while parts:
        if table is None:
            raise ConfigError(
                f"{override.option}: {cut('.'.join(keys))} has no keys below it; set it as a whole"
            )
        key = parts.pop(0)
        field = table.model_fields.get(key)
        if field is None and table.model_config.get("extra") == "allow":
            # Sizes of a shape, whose names a family knows.
            return [*keys, key, *parts]
        if field is None:
            close = difflib.get_close_matches(key, table.model_fields, n=1)
            hint = (
                f"did you mean {close[0]!r}?"
                if close
                else f"known: {', '.join(table.model_fields)}"
            )
            raise ConfigError(f"{override.option}: unknown key {shown(key)}; {hint}")
        keys.append(key)
        kinds = [field.annotation, *get_args(field.annotation)]
        if parts and any(get_origin(kind) is dict for kind in kinds):
            return [*keys, ".".join(parts)]
        tables = (k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel))
        table = next(tables, None)
    return keys
