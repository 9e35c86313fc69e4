"""Every implementation that could carry a step, and why others cannot."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.config.schema import SchedulerConfig
from hybrid.machine.prices import MachinePrices
from hybrid.models.graph import Node
from hybrid.operators.base import Choice, WeightedOperator
from hybrid.planning.binding import Binder, operator_for
from hybrid.planning.catalog import Catalog
from hybrid.planning.pins import Pins
from hybrid.planning.plan import Step
from hybrid.planning.schedule import Schedule
from transport.errors import ConfigError, HybridError


@dataclass(frozen=True, slots=True)
class Candidate:
    """A choice and what it costs."""

    choice: Choice
    step: Step

    @property
    def label(self) -> str:
        """Name for a reader."""
        return self.choice.label

    @property
    def encoded_bytes(self) -> int:
        """Memory of encoded weights."""
        operator = self.step.operator
        return operator.encoded_bytes if isinstance(operator, WeightedOperator) else 0


@dataclass(frozen=True, slots=True)
class Candidates:
    """Of one step."""

    fitting: tuple[Candidate, ...]
    refused: str
    """Names and reasons, for a reader."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the rules of a config allow."""

    rules: SchedulerConfig
    pins: Pins
    prices: MachinePrices | None
    """Given: only what can be priced."""

    def refusal(self, catalog: Catalog, node: Node, choice: Choice) -> str | None:
        """Why a choice is out, before anything is built; a pin overrides the error's limit."""
        if self.rules.offline == "forbidden" and choice.prepared:
            return f"{choice.protocol} (works before the input)"
        entry = catalog[node.key, choice.protocol]
        error = operator_for(entry).approximation_error(entry, node)
        if error > self.rules.max_error and self.pins.of(node) is None:
            return f"{choice.protocol} (error {error:.1e} above max_error)"
        return None


def check_limits(
    schedule: Schedule, nodes: Sequence[Node], catalog: Catalog, rules: SchedulerConfig
) -> None:
    """`ConfigError` where somebody else's schedule is not within these rules."""
    pins = Pins(rules.pin, nodes)
    pins.sources([schedule.correlations])
    limits = Limits(rules, pins, None)
    for node in nodes:
        choice = schedule.choices[node.name]
        pins.allowed(node, [choice])
        if reason := limits.refusal(catalog, node, choice):
            raise ConfigError(
                f"scheduler: the server's schedule has {node.name} carried by {reason}; refuse "
                "this server or change the limit"
            )


def candidates_of(node: Node, binder: Binder, catalog: Catalog, limits: Limits) -> Candidates:
    """All that fit and, given prices, can be priced; `ConfigError` where none does."""
    fitting, refused = [], []
    for choice in limits.pins.allowed(node, binder.choices(node)):
        if reason := limits.refusal(catalog, node, choice):
            refused.append(reason)
            continue
        try:
            operator = binder.bind(node, choice)
            step = Step(operator, operator.cost(), operator.offline_cost())
        except HybridError:
            refused.append(f"{choice.protocol} (does not fit)")
            continue
        counted = [cost.work.counted() for cost in (step.cost, step.offline)]
        prices = limits.prices
        if prices is not None and not all(prices.knows(units) for units in counted):
            refused.append(f"{choice.protocol} (counts units without a price)")
            continue
        fitting.append(Candidate(choice, step))
    if not fitting:
        raise ConfigError(
            f"scheduler: nothing can carry {node.name} ({node.op}): "
            f"{', '.join(dict.fromkeys(refused)) or 'none'}; raise scheduler.max_error, remove a "
            "pin or change the model"
        )
    fitting = list(_without_twins(fitting))
    return Candidates(tuple(fitting), ", ".join(dict.fromkeys(refused)))


def _without_twins(candidates: list[Candidate]) -> Iterator[Candidate]:
    """Without those that cost the same as an earlier one: the same work under another name."""
    seen: list[tuple[str, Any]] = []
    for candidate in candidates:
        key = (candidate.choice.protocol, candidate.step.cost)
        if candidate.choice.prepared or key not in seen:
            seen.append(key)
            yield candidate
