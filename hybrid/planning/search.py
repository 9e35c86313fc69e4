"""Chooses the implementation of every step: fastest, least traffic or fewest rounds.

Steps are not judged one by one. Both parties' clocks run through the graph in order, so that work
that hides behind other work costs nothing: the search keeps, after each step, every partial
schedule that no other beats on both clocks and on memory (a shortest path with several labels a
node, [Martins84]). Correlations enter at what one more of them takes; the result is then improved
step by step under exact totals. Ways into ciphertexts and back are part of each step's work.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from hybrid.config.schema import RunConfig
from hybrid.machine.prices import MachinePrices
from hybrid.models.graph import Graph
from hybrid.planning.binding import Binder
from hybrid.planning.candidates import Candidate, Candidates, Limits, candidates_of
from hybrid.planning.catalog import Catalog
from hybrid.planning.measures import Measure, difference
from hybrid.planning.pins import Pins
from hybrid.planning.plan import CORRELATIONS_STEP
from hybrid.planning.schedule import Schedule
from hybrid.planning.sources import MANY_OTS, Sources, prices_over
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.cost import OtCount
from transport.computing import Clocks
from transport.errors import ConfigError

_MOST_LABELS = 48
_PASSES = 3
_CORRELATION_WEIGHTS = (0.0, 1.0, 8.0)
"""Batches of correlations are not proportional: searched as if they cost more or less."""
_STARTS = 3
"""Of the best ones, improved step by step."""


@dataclass(frozen=True, slots=True)
class _Label:
    """A partial schedule: where both clocks are, or the sum so far; memory; its choices."""

    clocks: Clocks
    memory: int
    taken: tuple[Candidate, ...]


@dataclass(frozen=True)
class _Objective:
    """What is to be small, under one source of correlations."""

    measure: Measure
    counts_offline: bool
    correlation_weight: float = 1.0
    """Of correlations' price in bulk while the search runs; exact totals do not use it."""
    _shifts: dict[int, float] = field(default_factory=dict, compare=False)
    _making: dict[int, float] = field(default_factory=dict, compare=False)
    """By candidate, which outlive the objective."""

    @property
    def source(self) -> type[CorrelationSource]:
        """Of correlations."""
        return self.measure.source

    def after(self, clocks: Clocks, candidate: Candidate) -> Clocks:
        """Both clocks, or the sum in both of them, after one more step."""
        shift = 0.0
        if self.counts_offline:
            if id(candidate) not in self._shifts:
                self._shifts[id(candidate)] = self._offline(candidate)
            shift = self._shifts[id(candidate)]
        moved = Clocks(clocks.client + shift, clocks.server + shift)
        return self.measure.after(moved, candidate.step.cost)

    def total(self, taken: Sequence[Candidate]) -> float:
        """Of a whole schedule, exactly as a plan predicts it."""
        needed = OtCount(
            sum(c.step.cost.ots.client_sends for c in taken),
            sum(c.step.cost.ots.server_sends for c in taken),
        )
        clocks = Clocks()
        offline = 0.0
        if self.counts_offline:
            offline = self.measure.produced(needed) + sum(self._made(c) for c in taken)
        for candidate in taken:
            if self.counts_offline:
                clocks = self.measure.after(clocks, candidate.step.offline)
        for candidate in taken:
            clocks = self.measure.after(clocks, candidate.step.cost)
        return offline + clocks.client

    def _made(self, candidate: Candidate) -> float:
        """Making a step's correlations ready."""
        if id(candidate) not in self._making:
            self._making[id(candidate)] = self.measure.made(candidate.step.cost.demand)
        return self._making[id(candidate)]

    @cached_property
    def _bulk(self) -> float:
        return self.measure.produced(MANY_OTS) / MANY_OTS.total

    def _offline(self, candidate: Candidate) -> float:
        """A step's part of the offline phase, its correlations at their price in bulk."""
        offline = self.measure.alone(candidate.step.offline)
        if self.measure.policy == "fewest_rounds":
            return offline
        offline += self.correlation_weight * self._bulk * candidate.step.cost.ots.total
        return offline + self._made(candidate)


class ScheduleSearch:
    """Solves one config."""

    def __init__(
        self,
        config: RunConfig,
        graph: Graph,
        catalog: Catalog,
        prices: MachinePrices | None,
    ) -> None:
        self._config, self._rules = config, config.scheduler
        self._nodes, self._catalog = graph.nodes, catalog
        self._pins = Pins(self._rules.pin, self._nodes)
        self._prices = prices_over(config, prices)
        self._sources = Sources(self._rules, self._pins, catalog, self._prices)

    def solve(self) -> Schedule:
        """The best schedule of all sources that the trust model allows."""
        found: list[tuple[float, _Objective, list[Candidates], list[Candidate]]] = []
        refusals: list[ConfigError] = []
        for source in self._sources.fitting():
            try:
                found.append(self._solve(source))
            except ConfigError as error:
                # Under another source a pin may fit, or more engines of products.
                refusals.append(error)
        if not found:
            raise next(iter(refusals), self._sources.none_fits())
        found.sort(key=lambda entry: entry[0])
        value, objective, options, taken = found[0]
        why = self._reasons(objective, options, taken, value)
        why[CORRELATIONS_STEP] = self._compared(
            objective.source.name, [(v, o.source.name) for v, o, _, _ in found[1:]], value
        )
        choices = {n.name: c.choice for n, c in zip(self._nodes, taken, strict=True)}
        return Schedule(objective.source.name, choices, why)

    def _solve(
        self, source: type[CorrelationSource]
    ) -> tuple[float, _Objective, list[Candidates], list[Candidate]]:
        rules = self._rules
        measure = Measure(rules.policy, source, self._prices)
        objective = _Objective(measure, rules.offline != "free")
        binder = Binder(self._config, self._catalog, source)
        priced = self._prices if rules.policy == "fastest" else None
        limits = Limits(rules, self._pins, priced)
        options = [candidates_of(node, binder, limits) for node in self._nodes]
        starts = [
            list(self._path(replace(objective, correlation_weight=weight, _shifts={}), options))
            for weight in _CORRELATION_WEIGHTS
        ]
        starts += [s for s in _uniform(options) if _memory(s) <= self._limit]
        starts.sort(key=objective.total)
        best = [self._improved(start, objective, options) for start in starts[:_STARTS]]
        taken = min(best, key=objective.total)
        return objective.total(taken), objective, options, taken

    def _path(self, objective: _Objective, options: list[Candidates]) -> tuple[Candidate, ...]:
        limit = self._limit
        labels = [_Label(Clocks(), 0, ())]
        for possible in options:
            following = [
                _Label(
                    objective.after(label.clocks, candidate),
                    label.memory + candidate.encoded_bytes,
                    (*label.taken, candidate),
                )
                for label in labels
                for candidate in possible.fitting
                if label.memory + candidate.encoded_bytes <= limit
            ]
            if not following:
                raise ConfigError(self._too_large(options))
            labels = _undominated(following)
        return min(labels, key=lambda label: label.clocks.client).taken

    @property
    def _limit(self) -> float:
        """Bytes of encoded weights; layers beyond it would be encoded at every use."""
        return 1e9 * self._config.weights_memory_gb()

    def _too_large(self, options: list[Candidates]) -> str:
        least = sum(min(c.encoded_bytes for c in possible.fitting) for possible in options)
        return (
            f"scheduler.memory_gb: {self._limit / 1e9:g} GB hold no schedule's encoded "
            f"weights; the smallest takes {least / 1e9:.2f} GB"
        )

    def _improved(
        self, taken: list[Candidate], objective: _Objective, options: list[Candidates]
    ) -> list[Candidate]:
        """Change one step at a time while the exact total falls."""
        best = objective.total(taken)
        for _ in range(_PASSES):
            before = best
            for value, index, candidate in self._neighbours(taken, objective, options):
                if value < best:
                    best, taken[index] = value, candidate
            if best == before:
                break
        return taken

    def _neighbours(
        self, taken: list[Candidate], objective: _Objective, options: list[Candidates]
    ) -> Iterator[tuple[float, int, Candidate]]:
        """Every schedule that differs in one step and fits the memory, with its total."""
        for index, possible in enumerate(options):
            for candidate in possible.fitting:
                changed = [*taken[:index], candidate, *taken[index + 1 :]]
                if candidate is not taken[index] and _memory(changed) <= self._limit:
                    yield objective.total(changed), index, candidate

    def _reasons(
        self,
        objective: _Objective,
        options: list[Candidates],
        taken: list[Candidate],
        value: float,
    ) -> dict[str, str]:
        """One line a step: what was chosen, the runner-up, the difference."""
        others: dict[int, list[tuple[float, str]]] = {}
        for total, index, candidate in self._neighbours(taken, objective, options):
            others.setdefault(index, []).append((total, candidate.label))
        why = {}
        for index, (node, possible) in enumerate(zip(self._nodes, options, strict=True)):
            line = self._compared(taken[index].label, sorted(others.get(index, [])), value)
            if possible.refused:
                line += f"; not considered: {possible.refused}"
            why[node.name] = line
        return why

    def _compared(self, chosen: str, others: Sequence[tuple[float, str]], value: float) -> str:
        if not others:
            return f"{chosen}: the only one that fits"
        total, name = others[0]
        return f"{chosen}; next {name}, {difference(self._rules.policy, total - value)}"


def _memory(taken: Sequence[Candidate]) -> int:
    return sum(candidate.encoded_bytes for candidate in taken)


def _uniform(options: Sequence[Candidates]) -> Iterator[list[Candidate]]:
    """The same protocols for all steps, as a fixed policy would name them."""
    labels = sorted({c.label for possible in options for c in possible.fitting})
    for pair in itertools.combinations_with_replacement(labels, 2):
        yield [
            next((c for c in possible.fitting if c.label in pair), possible.fitting[0])
            for possible in options
        ]


def _undominated(labels: list[_Label]) -> list[_Label]:
    """Labels that no other beats on both clocks and on memory."""
    labels.sort(key=lambda label: (label.clocks.client, label.clocks.server, label.memory))
    kept: list[_Label] = []
    for label in labels:
        if not any(
            k.clocks.server <= label.clocks.server and k.memory <= label.memory for k in kept
        ):
            kept.append(label)
    if len(kept) <= _MOST_LABELS:
        return kept
    # Every so many, so that fast and small ones stay.
    picked = [round(i * (len(kept) - 1) / (_MOST_LABELS - 1)) for i in range(_MOST_LABELS)]
    return [kept[i] for i in picked]
