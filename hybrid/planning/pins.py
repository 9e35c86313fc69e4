"""`scheduler.pin`: choices that a policy may not make otherwise."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence

from hybrid.config.schema import PassPins, Pin, PinConfig
from hybrid.models.graph import Node
from hybrid.operators.base import Choice
from transport.errors import ConfigError
from transport.foreign import shown

CORRELATIONS = "correlations"
"""The key that pins their source."""
_Named = dict[str, PinConfig]


class Pins:
    """By step, or by operation for all of its steps; a step's own pin goes first.

    Of a decoder's passes of a single row; `prompts` has those of passes of several.
    """

    def __init__(self, pins: Mapping[str, Pin], nodes: Sequence[Node]) -> None:
        """`ConfigError` where a key is neither a step nor an operation of the model."""
        self._pins, self._of_prompts = _by_pass(pins)
        known = list(dict.fromkeys([key for node in nodes for key in _keys(node)]))
        for key in pins:
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
        views = self, self.prompts
        used = {found[0] for v in views for node in nodes if (found := v.of(node)) is not None}
        if unused := sorted(pins.keys() - used - {CORRELATIONS}):
            raise ConfigError(
                f"scheduler.pin.{unused[0]}: would be ignored, since pins of its steps stand "
                "beside it; remove it"
            )
        apart = sorted(key for key, pin in pins.items() if isinstance(pin, PassPins))
        if apart and not any(node.key == "next_token" for node in nodes):
            raise ConfigError(
                f"scheduler.pin.{apart[0]}: prompt and token are passes of decoders, and this "
                "model is none; give one pin"
            )

    @property
    def prompts(self) -> Pins:
        """Of a decoder's passes of several rows."""
        view = copy.copy(self)
        view._pins = self._of_prompts
        return view

    def are_apart(self, node: Node) -> bool:
        """Whether passes of several rows have other pins of a step than those of a single row."""
        return self.of(node) != self.prompts.of(node)

    def require_one(self, node: Node) -> None:
        """`ConfigError` where passes are pinned apart that make the same choice for a step."""
        if self.are_apart(node):
            found = self.of(node) or self.prompts.of(node)
            key = found[0] if found else node.name
            raise ConfigError(
                f"scheduler.pin.{key}: what {node.name} keeps serves all passes; give one pin, "
                "without prompt and token"
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
        pin, other = self._pins.get(CORRELATIONS), self._of_prompts.get(CORRELATIONS)
        if pin is None and other is None:
            return list(names)
        if pin is None or pin != other:
            raise ConfigError(f"scheduler.pin.{CORRELATIONS}: one source serves all; give a name")
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


def _by_pass(pins: Mapping[str, Pin]) -> tuple[_Named, _Named]:
    """Pins of passes of a single row, of those of several."""
    parts: tuple[_Named, _Named] = {}, {}
    for key, pin in pins.items():
        both = (pin.token, pin.prompt) if isinstance(pin, PassPins) else (pin, pin)
        for named, one in zip(parts, both, strict=True):
            if one is not None:
                named[key] = PinConfig(protocol=one) if isinstance(one, str) else one
    return parts


def _keys(node: Node) -> tuple[str, ...]:
    return (node.name, node.op, node.key)


def _fits(choice: Choice, wanted: PinConfig) -> bool:
    return (
        choice.protocol == wanted.protocol
        and wanted.multiply in (None, choice.multiply)
        and wanted.prepared in (None, choice.prepared)
    )
