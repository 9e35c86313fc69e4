"""Every implementation that could carry a step, and why others cannot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hybrid.config.schema import RunConfig, SchedulerConfig
from hybrid.machine.prices import MachinePrices
from hybrid.models.graph import Node
from hybrid.operators.base import Choice, Operator, WeightedOperator
from hybrid.planning.binding import Binder
from hybrid.planning.catalog import Catalog
from hybrid.planning.errors import error_limit, error_words
from hybrid.planning.pins import Pins
from hybrid.planning.plan import Step
from hybrid.planning.schedule import Schedule
from mpc_nonlinear.correlations.dealer import TrustedDealer
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

    def refusal(self, choice: Choice) -> str | None:
        """Why a choice is out, before anything is built."""
        if self.rules.offline == "forbidden" and choice.prepared:
            return f"{choice.protocol} (works before the input)"
        return None

    def excess(self, operator: Operator) -> str | None:
        """Why an operator is out for its error at the ranges of its step."""
        error = operator.declared_error()
        if error <= error_limit(self.rules, self.pins, operator):
            return None
        return f"error {error_words(error)} above max_error"


def checked_policy(schedule: Schedule | None, config: RunConfig, catalog: Catalog) -> None:
    """`ConfigError` where a server's schedule is not what the client's config lets it choose."""
    rules = config.scheduler
    if (schedule is None) != (rules.policy == "fixed"):
        raise ConfigError(
            f"scheduler.policy: the server's schedule is not what {rules.policy!r} asks for; "
            "use the same config at both parties"
        )
    if schedule is None:
        return
    source = catalog["correlations", schedule.correlations]
    if rules.trust == "no_dealer" and issubclass(source, TrustedDealer):
        raise ConfigError(
            "scheduler.trust: the server's schedule relies on a dealer; refuse this server or "
            "set dealer_allowed"
        )


def check_limits(
    schedule: Schedule, nodes: Sequence[Node], catalog: Catalog, config: RunConfig
) -> None:
    """`ConfigError` where somebody else's schedule is not within the rules of this config.

    nodes: of a decoder, those of the longest rows.
    """
    rules = config.scheduler
    schedule.check_complete(nodes)
    pins = Pins(rules.pin, nodes)
    pins.sources([schedule.correlations])
    source = catalog["correlations", schedule.correlations]
    binder = Binder(config, catalog, source, slot_triples=config.generation is not None)
    _check_choices(schedule.choices, nodes, binder, Limits(rules, pins, None))
    of_prompts = Limits(rules, pins.prompts, None)
    # Where prompts take and have pinned what tokens do, that has been seen.
    apart = [n for n in nodes if n.name in schedule.prompt or pins.are_apart(n)]
    _check_choices({**schedule.choices, **schedule.prompt}, apart, binder, of_prompts)


def _check_choices(
    choices: Mapping[str, Choice], nodes: Sequence[Node], binder: Binder, limits: Limits
) -> None:
    """Of one kind of passes."""
    for node in nodes:
        choice = choices[node.name]
        limits.pins.allowed(node, [choice])
        reason = limits.refusal(choice)
        if reason is None and (excess := limits.excess(binder.bind(node, choice))):
            reason = f"{choice.label} ({excess})"
        if reason is not None:
            raise ConfigError(
                f"scheduler: the server's schedule has {node.name} carried by {reason}; refuse "
                "this server or change the limit"
            )


def candidates_of(node: Node, binder: Binder, limits: Limits) -> Candidates:
    """All that fit and, given prices, can be priced; `ConfigError` where none does."""
    fitting, refused, too_far = [], [], []
    for choice in limits.pins.allowed(node, binder.choices(node)):
        if reason := limits.refusal(choice):
            refused.append(reason)
            continue
        try:
            operator = binder.bind(node, choice)
            if excess := limits.excess(operator):
                too_far.append((choice, excess))
                continue
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
    refused += _grouped(too_far, {candidate.choice.protocol for candidate in fitting})
    if not fitting:
        raise ConfigError(
            f"scheduler: nothing can carry {node.name} ({node.op}): "
            f"{', '.join(dict.fromkeys(refused)) or 'none'}; raise scheduler.max_error, remove a "
            "pin or change the model"
        )
    fitting = list(_without_twins(fitting))
    return Candidates(tuple(fitting), ", ".join(dict.fromkeys(refused)))


def _grouped(too_far: Sequence[tuple[Choice, str]], kept: set[str]) -> list[str]:
    """One entry a protocol and reason; engines where the protocol is kept with others."""
    groups: dict[tuple[str, str], list[str]] = {}
    for choice, reason in too_far:
        groups.setdefault((choice.protocol, reason), []).append(choice.multiply)
    return [
        f"{protocol} ({', '.join(engines)}: {reason})"
        if protocol in kept
        else f"{protocol} ({reason})"
        for (protocol, reason), engines in groups.items()
    ]


def _without_twins(candidates: list[Candidate]) -> Iterator[Candidate]:
    """Without those that cost the same as an earlier one: the same work under another name."""
    seen: list[tuple[str, Any]] = []
    for candidate in candidates:
        key = (candidate.choice.protocol, candidate.step.cost)
        if candidate.choice.prepared or key not in seen:
            seen.append(key)
            yield candidate
