"""Which implementation carries which step: public data that both parties agree on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybrid.config.loading import Config
from hybrid.config.schema import PassNames
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
_PROMPT = "prompt"


@dataclass(frozen=True, slots=True)
class Schedule:
    """A choice for every step, and the source of correlations they share."""

    correlations: str
    choices: Mapping[str, Choice]
    """By node."""
    why: Mapping[str, str] = field(default_factory=dict)
    """By row: what was chosen, the runner-up and the difference; not part of what must agree."""
    prompt: Mapping[str, Choice] = field(default_factory=dict)
    """Of a decoder, by node: what passes of several rows, which read prompts, take otherwise."""

    def choice(self, name: str, rows: int) -> Choice:
        """Of a step in a pass over so many rows of each conversation."""
        return self.prompt.get(name, self.choices[name]) if rows > 1 else self.choices[name]

    def to_public(self) -> dict[str, Any]:
        """Plain data for the peer."""
        steps, prompt = (
            {n: [c.protocol, c.multiply, c.prepared] for n, c in choices.items()}
            for choices in (self.choices, self.prompt)
        )
        why = {name: line[:_LINE_LENGTH] for name, line in self.why.items()}
        return {"correlations": self.correlations, "steps": steps, _PROMPT: prompt, "why": why}

    @classmethod
    def from_public(cls, data: object) -> Schedule:
        """From untrusted plain data; names are looked up in the own catalog later."""
        malformed = FrameError("handshake: the server's schedule is malformed; same version?")
        keys = {"correlations", "steps", _PROMPT, "why"}
        if not isinstance(data, dict) or set(data) != keys:
            raise malformed
        correlations, why = data["correlations"], data["why"]
        if not (_named(correlations) and isinstance(why, dict) and len(why) <= 2 * _MAX_STEPS):
            raise malformed
        if not all(_named(k) and _named(v, _LINE_LENGTH) for k, v in why.items()):
            raise malformed
        choices, prompt = (_public_choices(data[key], malformed) for key in ("steps", _PROMPT))
        return cls(correlations, choices, why, prompt)

    def to_file(self) -> dict[str, Any]:
        """What `hybrid plan --save` writes and the key `schedule` of a config reads."""
        found = {"correlations": self.correlations, "steps": _choices_of_file(self.choices)}
        return found | ({_PROMPT: _choices_of_file(self.prompt)} if self.prompt else {})

    @classmethod
    def from_file(cls, data: Mapping[str, Any], place: str) -> Schedule:
        """From the content of such a file; `ConfigError` names what is wrong in it."""
        tables = [data.get("steps"), data.get(_PROMPT, {})]
        is_table = all(isinstance(table, dict) for table in tables)
        if set(data) - {_PROMPT} != {"correlations", "steps"} or not is_table:
            raise ConfigError(
                f"{place}: expected the keys correlations and steps, of decoders perhaps prompt; "
                "`hybrid plan CONFIG --save FILE` writes such a file"
            )
        if not isinstance(data["correlations"], str):
            raise ConfigError(f"{place}: correlations: expected a name")
        choices, prompt = (
            {str(n): _choice_in_file(f"{place}: {cut(str(n))}", one) for n, one in table.items()}
            for table in tables
        )
        return cls(data["correlations"], choices, prompt=prompt)

    def check_complete(self, nodes: Iterable[Node]) -> None:
        """Refuse a schedule that is not of this graph."""
        keys = {node.name: node.key for node in nodes}
        if self.prompt and "next_token" not in keys.values():
            raise ConfigError("schedule: prompt: this model is no decoder; remove the table")
        wrong = sorted(keys.keys() ^ set(self.choices)) or sorted(self.prompt.keys() - keys.keys())
        if wrong:
            where = (
                "the schedule but not in the model"
                if wrong[0] not in keys
                else ("the model but not in the schedule")
            )
            raise ConfigError(
                f"schedule: step {shown(wrong[0])} is in {where}; make the schedule again from "
                "this config: hybrid plan CONFIG --save FILE"
            )


def _named(value: object, length: int = _NAME_LENGTH) -> bool:
    """Words that may be shown: short, and nothing that could steer a terminal."""
    return isinstance(value, str) and len(value) <= length and value.isprintable()


def _public_choices(data: object, malformed: FrameError) -> dict[str, Choice]:
    """Of untrusted plain data."""
    if not isinstance(data, dict) or len(data) > _MAX_STEPS:
        raise malformed
    choices = {}
    for name, choice in data.items():
        if not (_named(name) and isinstance(choice, list) and len(choice) == 3):
            raise malformed
        protocol, multiply, prepared = choice
        if not (_named(protocol) and _named(multiply) and isinstance(prepared, bool)):
            raise malformed
        choices[name] = Choice(protocol, multiply, prepared)
    return choices


def _choices_of_file(choices: Mapping[str, Choice]) -> dict[str, Any]:
    """Keys that are not given are those of a choice without them."""
    steps: dict[str, Any] = {}
    for name, choice in choices.items():
        steps[name] = {"protocol": choice.protocol}
        if choice.multiply:
            steps[name][_MULTIPLY] = choice.multiply
        if choice.prepared:
            steps[name]["prepared"] = True
    return steps


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

    def chosen(node: Node, named: Mapping[str, str]) -> Choice:
        entry = catalog[node.key, named.get(node.key, catalog.names(node.key)[0])]
        return operator_for(entry).named_choice(entry, named[_MULTIPLY], prepared)

    token, prompt = _by_pass(run.protocols)
    choices = {node.name: chosen(node, token) for node in nodes}
    others = {node.name: chosen(node, prompt) for node in nodes} if prompt != token else {}
    apart = {name: choice for name, choice in others.items() if choice != choices[name]}
    return Schedule(run.mpc.correlations, choices, prompt=apart)


def _by_pass(protocols: Mapping[str, str | PassNames]) -> tuple[dict[str, str], dict[str, str]]:
    """Names in passes of a single row, in those of several."""
    items = [(k, v if isinstance(v, PassNames) else PassNames(prompt=v, token=v))
             for k, v in protocols.items()]  # fmt: skip
    return {key: name.token for key, name in items}, {key: name.prompt for key, name in items}


def _check_keys(
    protocols: Mapping[str, str | PassNames], nodes: Sequence[Node], catalog: Catalog, place: str
) -> None:
    """Every operation of the model is named, where there is a choice, and nothing else."""
    keys = {node.key: len(catalog.names(node.key)) for node in nodes}
    apart = sorted(key for key, name in protocols.items() if isinstance(name, PassNames))
    if apart and "next_token" not in keys:
        raise ConfigError(
            f"{place}: protocols.{apart[0]}: prompt and token are passes of decoders, and this "
            "model is none; give one name"
        )
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
