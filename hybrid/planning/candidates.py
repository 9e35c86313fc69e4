"""Every implementation that could carry a step, and why others cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hybrid.config.schema import RunConfig
from hybrid.machine.prices import MachinePrices
from hybrid.models.graph import Node
from hybrid.operators.base import WeightedOperator
from hybrid.planning.binding import Binder
from hybrid.planning.catalog import Catalog
from hybrid.planning.plan import Step
from hybrid.planning.schedule import Choice
from mpc_nonlinear.protocols.base import NonlinearProtocol
from transport.errors import ConfigError, HybridError


@dataclass(frozen=True, slots=True)
class Candidate:
    """A choice and what it costs."""

    choice: Choice
    step: Step

    @property
    def label(self) -> str:
        """Name for a reader."""
        extra = "prepared" if self.choice.prepared else self.choice.multiply
        return f"{self.choice.protocol} ({extra})" if extra else self.choice.protocol

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


def candidates_of(
    node: Node,
    binder: Binder,
    catalog: Catalog,
    config: RunConfig,
    prices: MachinePrices | None,
) -> Candidates:
    """All that fit and, given prices, can be priced; `ConfigError` where none does."""
    fitting, refused = [], []
    for choice in _choices(node, binder, catalog, config):
        error = _approximation_error(catalog, node, choice)
        if error > config.scheduler.max_error:
            refused.append(f"{choice.protocol} (error {error:.1e} above max_error)")
            continue
        try:
            operator = binder.bind(node, choice)
            step = Step(operator, operator.cost(), operator.offline_cost())
        except HybridError:
            refused.append(f"{choice.protocol} (does not fit)")
            continue
        counted = [cost.work.counted() for cost in (step.cost, step.offline)]
        if prices is not None and not all(prices.knows(units) for units in counted):
            refused.append(f"{choice.protocol} (counts units without a price)")
            continue
        fitting.append(Candidate(choice, step))
    if not fitting:
        raise ConfigError(
            f"scheduler: nothing can carry {node.name} ({node.op}): "
            f"{', '.join(refused) or 'none'}; raise scheduler.max_error or change the model"
        )
    fitting = list(_without_twins(fitting))
    return Candidates(tuple(fitting), ", ".join(dict.fromkeys(refused)))


def _approximation_error(catalog: Catalog, node: Node, choice: Choice) -> float:
    key = (node.op, choice.protocol)
    if key not in catalog:
        return 0.0
    entry = catalog[key]
    is_nonlinear = isinstance(entry, type) and issubclass(entry, NonlinearProtocol)
    return entry.approximation_error_of_rows(node.shape[-1]) if is_nonlinear else 0.0


def _choices(node: Node, binder: Binder, catalog: Catalog, config: RunConfig) -> Iterator[Choice]:
    if node.op == "linear":
        for name in catalog.names("linear"):
            yield Choice(name)
            entry: Any = catalog["linear", name]
            if config.scheduler.offline != "forbidden" and getattr(
                entry, "evaluates_plaintexts", False
            ):
                yield Choice(name, "", True)
    elif node.op in ("scores", "context"):
        yield from (Choice(name) for name in catalog.names("attention"))
    elif node.op == "pool":
        yield Choice(node.op)
    else:
        for name in catalog.names(node.op):
            yield from (Choice(name, multiply) for multiply in binder.products)


def _without_twins(candidates: list[Candidate]) -> Iterator[Candidate]:
    """Without those that cost the same as an earlier one: the same work under another name."""
    seen: list[tuple[str, Any]] = []
    for candidate in candidates:
        key = (candidate.choice.protocol, candidate.step.cost)
        if candidate.choice.prepared or key not in seen:
            seen.append(key)
            yield candidate
