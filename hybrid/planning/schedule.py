"""Which implementation carries which step: public data that both parties agree on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.config.loading import Config
from hybrid.models.graph import Node
from hybrid.operators.base import Choice
from hybrid.planning.binding import operator_for
from hybrid.planning.catalog import Catalog
from transport.errors import ConfigError, FrameError
from transport.foreign import cut, shown

_NAME_LENGTH = 64
_MAX_STEPS = 4096
_LINE_LENGTH = 399
_MULTIPLY = "multiply"
"""Key of `protocols` that names an engine of products, not an operation."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A choice for every step, and the source of correlations they share."""

    correlations: str
    choices: Mapping[str, Choice]
    """By node."""
    why: Mapping[str, str] = field(default_factory=dict)
    """By row: what was chosen, the runner-up and the difference; not part of what must agree."""

    def to_public(self) -> dict[str, Any]:
        """Plain data for the peer."""
        steps = {n: [c.protocol, c.multiply, c.prepared] for n, c in self.choices.items()}
        why = {name: line[:_LINE_LENGTH] for name, line in self.why.items()}
        return {"correlations": self.correlations, "steps": steps, "why": why}

    @classmethod
    def from_public(cls, data: object) -> Schedule:
        """From untrusted plain data; names are looked up in the own catalog later."""
        malformed = FrameError("handshake: the server's schedule is malformed; same version?")
        if not isinstance(data, dict) or set(data) != {"correlations", "steps", "why"}:
            raise malformed
        correlations, steps, why = data["correlations"], data["steps"], data["why"]
        if not (_named(correlations) and isinstance(steps, dict) and isinstance(why, dict)):
            raise malformed
        if len(steps) > _MAX_STEPS or len(why) > 2 * _MAX_STEPS:
            raise malformed
        choices = {}
        for name, choice in steps.items():
            if not (_named(name) and isinstance(choice, list) and len(choice) == 3):
                raise malformed
            protocol, multiply, prepared = choice
            if not (_named(protocol) and _named(multiply) and isinstance(prepared, bool)):
                raise malformed
            choices[name] = Choice(protocol, multiply, prepared)
        if not all(_named(k) and _named(v, _LINE_LENGTH) for k, v in why.items()):
            raise malformed
        return cls(correlations, choices, why)

    def to_file(self) -> dict[str, Any]:
        """What `hybrid plan --save` writes and the key `schedule` of a config reads."""
        steps: dict[str, Any] = {}
        for name, choice in self.choices.items():
            steps[name] = {"protocol": choice.protocol}
            if choice.multiply:
                steps[name][_MULTIPLY] = choice.multiply
            if choice.prepared:
                steps[name]["prepared"] = True
        return {"correlations": self.correlations, "steps": steps}

    @classmethod
    def from_file(cls, data: Mapping[str, Any], place: str) -> Schedule:
        """From the content of such a file; `ConfigError` names what is wrong in it."""
        if set(data) != {"correlations", "steps"} or not isinstance(data["steps"], dict):
            raise ConfigError(
                f"{place}: expected the keys correlations and steps; `hybrid plan CONFIG --save "
                "FILE` writes such a file"
            )
        if not isinstance(data["correlations"], str):
            raise ConfigError(f"{place}: correlations: expected a name")
        steps = data["steps"]
        choices = {
            str(name): _choice_in_file(f"{place}: {cut(str(name))}", steps[name]) for name in steps
        }
        return cls(data["correlations"], choices)

    def check_complete(self, nodes: Iterable[Node]) -> None:
        """Refuse a schedule that is not of this graph."""
        names = {node.name for node in nodes}
        wrong = sorted(names ^ set(self.choices))
        if wrong:
            where = (
                "the schedule but not in the model"
                if wrong[0] in self.choices
                else ("the model but not in the schedule")
            )
            raise ConfigError(
                f"schedule: step {shown(wrong[0])} is in {where}; make the schedule again from "
                "this config: hybrid plan CONFIG --save FILE"
            )


def _named(value: object, length: int = _NAME_LENGTH) -> bool:
    """Words that may be shown: short, and nothing that could steer a terminal."""
    return isinstance(value, str) and len(value) <= length and value.isprintable()


def _choice_in_file(place: str, data: object) -> Choice:
    kinds = {"protocol": str, _MULTIPLY: str, "prepared": bool}
    if not isinstance(data, dict) or "protocol" not in data:
        raise ConfigError(f"{place}: expected {{protocol: NAME}}, got {shown(data)}")
    for key, value in data.items():
        if key not in kinds:
            close = difflib.get_close_matches(str(key), kinds, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(kinds)}"
            raise ConfigError(f"{place}: unknown key {shown(key)}; {hint}")
        if type(value) is not kinds[key]:
            raise ConfigError(f"{place}: {key}: expected {kinds[key].__name__}, got {shown(value)}")
    return Choice(data["protocol"], data.get(_MULTIPLY, ""), data.get("prepared", False))


def named_schedule(config: Config, nodes: Sequence[Node], catalog: Catalog) -> Schedule:
    """Under the policy `fixed`: what `schedule` or `protocols` names."""
    if config.schedule is not None:
        return Schedule.from_file(config.schedule, f"{config.path}: schedule")
    run = config.run
    assert run.protocols is not None
    assert run.mpc.correlations is not None
    _check_keys(run.protocols, nodes, catalog, str(config.path))
    # What a decoder multiplies its next rows with is made before they are there.
    prepared = run.ckks.linear_phase == "offline" or run.generation is not None
    multiply = run.protocols[_MULTIPLY]

    def chosen(node: Node) -> Choice:
        name = run.protocols.get(node.key) if run.protocols else None
        entry = catalog[node.key, name or catalog.names(node.key)[0]]
        return operator_for(entry).named_choice(entry, multiply, prepared)

    return Schedule(run.mpc.correlations, {node.name: chosen(node) for node in nodes})


def _check_keys(
    protocols: Mapping[str, str], nodes: Sequence[Node], catalog: Catalog, place: str
) -> None:
    """Every operation of the model is named, where there is a choice, and nothing else."""
    keys = {node.key: len(catalog.names(node.key)) for node in nodes}
    known = [*keys, _MULTIPLY]
    products = ["ckks", "ot", "cheapest"] + ["slot_triples"] * ("next_token" in keys)
    for key in protocols:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
            raise ConfigError(
                f"{place}: protocols: unknown key {shown(key)}, this model has no such "
                f"operation; {hint}"
            )
    for key in known:
        if key not in protocols and keys.get(key) != 1:
            names = catalog.names(key) if key in keys else products
            raise ConfigError(
                f"{place}: protocols.{key}: missing; name one of {', '.join(names) or 'none known'}"
            )
