"""`scheduler.pin`: choices that a policy may not make otherwise."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from hybrid.config.schema import Pin, PinConfig
from hybrid.models.graph import Node
from hybrid.operators.base import Choice
from transport.errors import ConfigError
from transport.foreign import shown

CORRELATIONS = "correlations"
"""The key that pins their source."""


class Pins:
    """By step, or by operation for all of its steps; a step's own pin goes first."""

    def __init__(self, pins: Mapping[str, Pin], nodes: Sequence[Node]) -> None:
        """`ConfigError` where a key is neither a step nor an operation of the model."""
        self._pins = {
            key: PinConfig(protocol=pin) if isinstance(pin, str) else pin
            for key, pin in pins.items()
        }
        known = list(dict.fromkeys([key for node in nodes for key in _keys(node)]))
        for key in self._pins:
            if key not in known and key != CORRELATIONS:
                close = difflib.get_close_matches(key, known, n=1)
                hint = (
                    f"did you mean {close[0]!r}?"
                    if close
                    else (
                        f"operations are {', '.join(dict.fromkeys(n.op for n in nodes))}; "
                        "`hybrid plan` prints the steps"
                    )
                )
                raise ConfigError(f"scheduler.pin: {shown(key)} is no step or operation; {hint}")
        used = {found[0] for node in nodes if (found := self.of(node)) is not None}
        if unused := sorted(self._pins.keys() - used - {CORRELATIONS}):
            raise ConfigError(
                f"scheduler.pin.{unused[0]}: would be ignored, since pins of its steps stand "
                "beside it; remove it"
            )

    def of(self, node: Node) -> tuple[str, PinConfig] | None:
        """The pin of a step and its key, if there is one."""
        key = next((key for key in _keys(node) if key in self._pins), None)
        return None if key is None else (key, self._pins[key])

    def allowed(self, node: Node, choices: Iterable[Choice]) -> list[Choice]:
        """Those that the pin of a step allows; `ConfigError` where it allows none."""
        every, pin = list(choices), self.of(node)
        if pin is None:
            return every
        key, wanted = pin
        found = [choice for choice in every if _fits(choice, wanted)]
        if not found:
            labels = ", ".join(dict.fromkeys(choice.label for choice in every))
            raise ConfigError(
                f"scheduler.pin.{key}: nothing of that kind carries {node.name}: it has {labels}"
            )
        return found

    def sources(self, names: Sequence[str]) -> list[str]:
        """Sources of correlations, or the pinned one; `ConfigError` where it is unknown."""
        pin = self._pins.get(CORRELATIONS)
        if pin is None:
            return list(names)
        if pin.multiply is not None or pin.prepared is not None:
            raise ConfigError(
                f"scheduler.pin.{CORRELATIONS}: give a name alone; a source has no multiply and no "
                "prepared"
            )
        if pin.protocol not in names:
            raise ConfigError(
                f"scheduler.pin.{CORRELATIONS}: no source is called {shown(pin.protocol)}; known: "
                f"{', '.join(names)}"
            )
        return [pin.protocol]


def _keys(node: Node) -> tuple[str, ...]:
    return (node.name, node.op, node.key)


def _fits(choice: Choice, wanted: PinConfig) -> bool:
    return (
        choice.protocol == wanted.protocol
        and wanted.multiply in (None, choice.multiply)
        and wanted.prepared in (None, choice.prepared)
    )
