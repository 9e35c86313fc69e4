"""Chooses the implementation of every step of a decoder: fastest, least traffic, fewest rounds.

Measured is a whole conversation: its preparation, the pass of a short prompt, those of an answer's
tokens and their part of a batch of rows. What couples decisions is made in bulk for a pass:
oblivious transfers, triples that share ciphertexts. So the search begins with several schedules and
changes one decision at a time, in all layers at once and then in each, while the exact value of the
whole falls.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Any

from he_linear.ckks.keys import public_key_bytes
from hybrid.config.schema import RunConfig
from hybrid.machine.prices import MachinePrices
from hybrid.models.generator import PublicGenerator
from hybrid.operators.base import Choice
from hybrid.planning.binding import Binder
from hybrid.planning.candidates import Limits
from hybrid.planning.catalog import Catalog
from hybrid.planning.generation_candidates import (
    PROMPT,
    Conversation,
    Deciding,
    Decision,
    InPass,
    Option,
)
from hybrid.planning.measures import Measure, difference
from hybrid.planning.pins import Pins
from hybrid.planning.plan import CORRELATIONS_STEP, products_keys
from hybrid.planning.risk import MAX_FAILURE_PROBABILITY
from hybrid.planning.schedule import Schedule
from hybrid.planning.sources import Sources, prices_over
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.cost import Demand, Kind, OtCount
from transport.computing import Clocks
from transport.errors import ConfigError

_SWEEPS = 3
_FEW = 80
"""Decisions that are improved one by one."""
Value = tuple[float, float]
"""By how much a schedule exceeds limits, relative, and its measure: the smaller, the better."""


@dataclass(frozen=True)
class GenerationObjective:
    """What is to be small of schedules of one decoder, under one source of correlations."""

    measure: Measure
    conversation: Conversation
    counts_offline: bool
    memory: float
    """Most bytes of encoded weights."""
    failures: float
    """Largest chance of failure of a conversation that fills all positions."""
    keys: float
    """Measure of sending keys for products in slots, which the first step that takes them brings:
    in full, as of a session of one conversation."""
    _order: dict[int, list[tuple[int, int]]] = field(
        default_factory=dict, compare=False, repr=False
    )
    _last: dict[int, tuple[list[InPass], float]] = field(
        default_factory=dict, compare=False, repr=False
    )
    """By pass: what was measured last, since most changes are of one pass."""

    def value(self, taken: Sequence[Option]) -> Value:
        """Of a whole schedule, exactly as plans of its passes predict it."""
        excess = max(0.0, sum(o.encoded_bytes for o in taken) / self.memory - 1)
        excess += max(0.0, sum(o.failures for o in taken) / self.failures - 1)
        total = sum(option.shared for option in taken) if self.counts_offline else 0.0
        if self.counts_offline and any(option.takes_keys for option in taken):
            total += self.keys
        for index, weight in enumerate(self.conversation.weights):
            parts = [option.passes[index] for option in taken]
            if index not in self._last or self._last[index][0] != parts:
                found = self._online(parts, self._order_of(taken, index))
                found += self._offline(parts) if self.counts_offline else 0.0
                self._last[index] = parts, found
            total += weight * self._last[index][1]
        return excess, total

    def _online(self, parts: Sequence[InPass], order: Sequence[tuple[int, int]]) -> float:
        """Of one pass, step by step."""
        if not self.measure.is_time:
            return sum(part.value for part in parts)
        clocks, after = Clocks(), self.measure.after
        for one, step in order:
            clocks = after(clocks, parts[one].online[step])
        return clocks.client

    def _order_of(self, taken: Sequence[Option], index: int) -> list[tuple[int, int]]:
        """Which decision and which of its steps come one after the other, whatever is taken."""
        if index not in self._order:
            places = [
                (place, one, step)
                for one, option in enumerate(taken)
                for step, place in enumerate(option.places)
                if option.passes[index].online
            ]
            self._order[index] = [(one, step) for _, one, step in sorted(places)]
        return self._order[index]

    def _offline(self, parts: Sequence[InPass]) -> float:
        """Of what one pass has made, of all steps together."""
        ots = OtCount(
            sum(part.ots.client_sends for part in parts),
            sum(part.ots.server_sends for part in parts),
        )
        counts = Counter[Kind]()
        for part in parts:
            for kind, count in part.stored:
                counts[kind] += count
        made = self.measure.produced(ots) + self.measure.stored(Demand(tuple(counts.items())))
        return made + sum(part.alone for part in parts)


@dataclass(frozen=True)
class _Found:
    """The best schedule of one source."""

    value: Value
    objective: GenerationObjective
    decisions: list[Decision]
    taken: list[Option]

    def choices(self) -> tuple[dict[str, Choice], dict[str, Choice]]:
        """Of all steps in passes of a single row; in those of several where these are decided."""
        found: tuple[dict[str, Choice], dict[str, Choice]] = {}, {}
        for one, option in zip(self.decisions, self.taken, strict=True):
            found[one.only == PROMPT].update(dict.fromkeys(one.names, option.choice))
        return found


class GenerationSearch:
    """Solves one config of a decoder."""

    def __init__(
        self,
        config: RunConfig,
        model: PublicGenerator,
        catalog: Catalog,
        prices: MachinePrices | None,
        *,
        failures: float = MAX_FAILURE_PROBABILITY,
    ) -> None:
        """failures: largest chance of failure of a conversation that fills all positions."""
        self._config, self._rules, self._catalog = config, config.scheduler, catalog
        self._failures = failures
        self._conversation = Conversation(model)
        self._pins = Pins(self._rules.pin, self._conversation.last)
        self._prices = prices_over(config, prices)
        self._sources = Sources(self._rules, self._pins, catalog, self._prices)

    def solve(self) -> Schedule:
        """The best schedule of all sources that the trust model allows."""
        found, refusals = list[_Found](), list[ConfigError]()
        for source in self._sources.fitting():
            try:
                found.append(self.best(source))
            except ConfigError as error:
                # Under another source a pin may fit, or more engines of products.
                refusals.append(error)
        if not found:
            raise next(iter(refusals), self._sources.none_fits())
        first, *others = sorted(found, key=lambda one: one.value)
        if first.value[0]:
            raise ConfigError(self._exceeded(first))
        why = self._reasons(first)
        sources = [(one.value, one.objective.measure.source.name) for one in others]
        why[CORRELATIONS_STEP] = self._compared(
            first.objective.measure.source.name, sources, first.value
        )
        choices, prompt = first.choices()
        names = [node.name for node in self._conversation.last]
        ordered = {name: choices[name] for name in names}
        apart = {n: prompt[n] for n in names if prompt.get(n, choices[n]) != choices[n]}
        return Schedule(first.objective.measure.source.name, ordered, why, apart)

    def objective(self, source: type[CorrelationSource]) -> GenerationObjective:
        """What is to be small under this source."""
        measure = Measure(self._rules.policy, source, self._prices)
        # Integers of 16 bits are kept whatever a machine's own limit is.
        memory = inf if self._rules.memory_gb is None else 1e9 * self._rules.memory_gb
        counts_offline = self._rules.offline != "free"
        sets = products_keys(Binder(self._config, self._catalog, source).context)
        sizes = [public_key_bytes(k.parameters, len(k.galois_steps), k.relinearise) for k in sets]
        return GenerationObjective(
            measure,
            self._conversation,
            counts_offline,
            memory,
            self._failures,
            measure.sent(sizes),
        )

    def decisions(self, objective: GenerationObjective) -> list[Decision]:
        """What could carry every step; `ConfigError` where nothing can."""
        measure, priced = objective.measure, self._prices if self._is_timed else None
        binder = Binder(self._config, self._catalog, measure.source, slot_triples=True)
        limits = Limits(self._rules, self._pins, priced)
        return Deciding(self._conversation, binder, limits, measure).decisions()

    def best(self, source: type[CorrelationSource]) -> _Found:
        """Of one source."""
        objective = self.objective(source)
        decisions = self.decisions(objective)
        in_all, in_some = _groups(decisions)
        starts = [_improved(taken, objective, decisions, in_all) for taken in _starts(decisions)]
        best = min(starts, key=objective.value)
        taken = _improved(best, objective, decisions, [*in_all, *in_some])
        return _Found(objective.value(taken), objective, decisions, taken)

    @property
    def _is_timed(self) -> bool:
        return self._rules.policy == "fastest"

    def _exceeded(self, found: _Found) -> str:
        """Which limit no schedule keeps."""
        weights = sum(option.encoded_bytes for option in found.taken)
        if weights > found.objective.memory:
            return (
                f"scheduler.memory_gb: {found.objective.memory / 1e9:g} GB hold no schedule's "
                f"encoded weights; the best takes {weights / 1e9:.2f} GB"
            )
        chance = sum(option.failures for option in found.taken)
        return (
            f"plan: no schedule was found that fails with less than {self._failures:.1e} in a "
            f"conversation of {self._conversation.model.capacity} positions; the best fails with "
            f"{chance:.1e}: lower generation.positions"
        )

    def _reasons(self, found: _Found) -> dict[str, str]:
        """One line a step: what was chosen, the runner-up, the difference."""
        why: dict[str, str] = {}
        known, by_names = dict[Any, str](), defaultdict[tuple[str, ...], list[int]](list)
        for place, decision in enumerate(found.decisions):
            by_names[decision.names].append(place)
        for names, places in by_names.items():
            # Of layers that are alike one speaks for all.
            options = [option for p in places for option in found.decisions[p].options]
            taken = [found.taken[p].choice for p in places]
            key = found.decisions[places[0]].key, *taken, *(id(option.passes) for option in options)
            if key not in known:
                known[key] = self._line(found, places)
            why |= dict.fromkeys(names, known[key])
        return why

    def _line(self, found: _Found, places: Sequence[int]) -> str:
        """Of all passes together where they make one choice, else of either kind."""
        if len({found.taken[place].choice for place in places}) == 1:
            line = self._reason(found, places)
        else:
            prompt, token = places
            line = f"{self._reason(found, [token])}; prompts: {self._reason(found, [prompt])}"
        refused = found.decisions[places[-1]].refused
        return f"{line}; not considered: {refused}" if refused else line

    def _reason(self, found: _Found, places: Sequence[int]) -> str:
        """Of the same change at all these places; where one has no such option, it stays."""
        chosen, others = found.taken[places[0]], []
        for option in {o.choice: None for p in places for o in found.decisions[p].options}:
            if option != chosen.choice:
                changed = _changed(found.taken, places, found.decisions, option)
                others.append((found.objective.value(changed), option.label))
        return self._compared(chosen.label, others, found.value)

    def _compared(self, chosen: str, others: Sequence[tuple[Value, str]], value: Value) -> str:
        if not others:
            return f"{chosen}: the only one that fits"
        (excess, total), name = min(others)
        said = difference(self._rules.policy, total - value[1])
        beyond = ", beyond the limits" if excess else ""
        return f"{chosen}; next {name}, {said} a conversation{beyond}"


def _starts(decisions: Sequence[Decision]) -> Iterator[list[Option]]:
    """The least likely to fail, and for each engine of products all that have it."""
    yield [min(one.options, key=lambda option: option.failures) for one in decisions]
    engines = {option.choice.multiply for one in decisions for option in one.options}
    for engine in sorted(engines):
        yield [
            next((o for o in one.options if o.choice.multiply == engine), one.options[0])
            for one in decisions
        ]


def _groups(decisions: Sequence[Decision]) -> tuple[list[list[int]], list[list[int]]]:
    """Places of decisions that are alike in all layers; of those whose costs are the same too.

    The latter one by one where they are few.
    """
    alike, same = defaultdict[Any, list[int]](list), defaultdict[Any, list[int]](list)
    for place, decision in enumerate(decisions):
        if len(decision.options) == 1:
            continue
        alike[decision.key].append(place)
        costs = tuple(id(option.passes) for option in decision.options)
        same[decision.key, costs].append(place)
    if sum(map(len, same.values())) <= _FEW:
        return [*alike.values()], [[place] for group in same.values() for place in group]
    return [*alike.values()], [*same.values()]


def _improved(
    taken: list[Option],
    objective: GenerationObjective,
    decisions: Sequence[Decision],
    groups: Sequence[Sequence[int]],
) -> list[Option]:
    """Change one group at a time while the exact value falls."""
    best = objective.value(taken)
    for _ in range(_SWEEPS):
        before = best
        for group in groups:
            for choice in {o.choice: None for p in group for o in decisions[p].options}:
                changed = _changed(taken, group, decisions, choice)
                if (value := objective.value(changed)) < best:
                    best, taken = value, changed
        if best == before:
            break
    return taken


def _changed(
    taken: Sequence[Option], group: Sequence[int], decisions: Sequence[Decision], choice: Choice
) -> list[Option]:
    """With this choice wherever the group has it."""
    changed = list(taken)
    for place in group:
        fitting = (o for o in decisions[place].options if o.choice == choice)
        changed[place] = next(fitting, taken[place])
    return changed
