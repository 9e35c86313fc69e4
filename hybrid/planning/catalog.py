"""Finds the implementation a config asks for, by operation and name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import he_linear
import mpc_nonlinear
from hybrid.config.plugins import import_plugins
from hybrid.operators import ENTRIES
from mpc_nonlinear.correlations import SOURCES
from transport.errors import ConfigError
from transport.foreign import shown

Entry = type[Any]


class Catalog(Mapping[tuple[str, str], Entry]):
    """All implementations known to this run, keyed by (op, name); immutable."""

    def __init__(self, entries: Iterable[tuple[str, Entry]]) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}
        for op, entry in entries:
            key = (op, entry.name)
            if key in self._entries:
                raise ConfigError(
                    f"plugins: two implementations are called {op}/{entry.name}: "
                    f"{self._entries[key].__qualname__} and {entry.__qualname__}; rename one"
                )
            self._entries[key] = entry

    def __getitem__(self, key: tuple[str, str]) -> Entry:
        try:
            return self._entries[key]
        except KeyError:
            op, name = key
            known = self.names(op)
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise ConfigError(
                f"protocols: no {op} is called {shown(name)}; {hint}known: "
                f"{', '.join(known) or 'none'}"
            ) from None

    def __contains__(self, key: object) -> bool:
        """Whether an implementation is known; `Mapping`'s own expects a KeyError."""
        return key in self._entries

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self._entries)

    def __repr__(self) -> str:
        return f"<Catalog of {len(self)} implementations>"

    def __len__(self) -> int:
        return len(self._entries)

    def names(self, op: str) -> list[str]:
        """Names registered for `op`."""
        return sorted(name for known, name in self._entries if known == op)


def load_catalog(plugins: Iterable[str] = ()) -> Catalog:
    """Built-in packings, protocols and correlation sources plus those of each plugin.

    Of a plugin they are in the tuples `PROTOCOLS` and `PACKINGS`.
    """
    entries: list[tuple[str, Entry]] = [("correlations", source) for source in SOURCES]
    for module in (he_linear, mpc_nonlinear):
        entries += _entries_of(module)
    entries += [(entry.op, entry) for entry in ENTRIES]
    for module in import_plugins(plugins):
        entries += _entries_of(module)
    return Catalog(entries)


def _entries_of(module: Any) -> list[tuple[str, Entry]]:
    registered = (*getattr(module, "PROTOCOLS", ()), *getattr(module, "PACKINGS", ()))
    for entry in registered:
        named = all(isinstance(getattr(entry, key, None), str) for key in ("op", "name"))
        if not (isinstance(entry, type) and named):
            raise ConfigError(
                f"plugins: module {shown(module.__name__)} registers {shown(entry)}; give "
                "classes that declare op and name"
            )
    return [(entry.op, entry) for entry in registered]
