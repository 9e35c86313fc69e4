"""Which implementation carries which step: public data that both parties agree on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hybrid.config.schema import RunConfig
from hybrid.models.graph import Node
from transport.errors import ConfigError, FrameError

_NAME_LENGTH = 64
_MAX_STEPS = 4096
_ATTENTION = ("scores", "context")


@dataclass(frozen=True, slots=True)
class Choice:
    """The implementation of one step."""

    protocol: str
    """Its name in the catalog."""
    multiply: str = ""
    """Nonlinear steps: who multiplies elements."""
    prepared: bool = False
    """Linear steps: whether ciphertexts come before the input."""


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
        return {"correlations": self.correlations, "steps": steps, "why": dict(self.why)}

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
        if not all(_named(k) and isinstance(v, str) and len(v) < 400 for k, v in why.items()):
            raise malformed
        return cls(correlations, choices, why)


def _named(value: object) -> bool:
    return isinstance(value, str) and len(value) <= _NAME_LENGTH and value.isprintable()


def schedule_of(config: RunConfig, nodes: Iterable[Node]) -> Schedule:
    """What `protocols` names, the same for every layer."""
    return Schedule(config.mpc.correlations, {n.name: _choice(config, n) for n in nodes})


def _choice(config: RunConfig, node: Node) -> Choice:
    if node.op == "linear":
        return Choice(config.protocols.linear, "", config.ckks.linear_phase == "offline")
    if node.op in _ATTENTION:
        return Choice(config.protocols.attention)
    if node.op == "pool":
        return Choice(node.op)
    return Choice(getattr(config.protocols, node.op), config.protocols.multiply)


def check_complete(schedule: Schedule, nodes: Iterable[Node]) -> None:
    """Refuse a schedule that is not of this graph."""
    names = {node.name for node in nodes}
    wrong = sorted(names ^ set(schedule.choices))
    if wrong:
        raise ConfigError(
            f"schedule: step {wrong[0]!r} is in the schedule or in the model but not in both; "
            "make the schedule again from this config"
        )
