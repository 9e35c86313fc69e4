"""What could carry the steps of a decoder, with its cost in every pass of a conversation.

Passes share the cache and prepared rows, weights and keys, so who carries these is decided for all
of them, the products over the cache of all layers at once, since they are made together. Other
steps are decided twice: for passes of several rows, which read prompts, and of a single row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from hybrid.models.generator import PublicGenerator
from hybrid.models.graph import Node
from hybrid.operators.base import Choice, Operator, WeightedOperator
from hybrid.operators.slot_triples import stored_part
from hybrid.planning.binding import Binder
from hybrid.planning.candidates import Limits
from hybrid.planning.measures import Measure
from hybrid.planning.pins import Pins
from mpc_nonlinear.cost import NO_COST, Cost, Kind, OtCount, total_without_work
from transport.errors import ConfigError, HybridError

_USUAL_PROMPT = 16
_BEFORE = "works before the input"
PROMPT, TOKEN = 0, 1
"""Of passes, by place in a conversation's."""


def usual_prompt(model: PublicGenerator) -> int:
    """Rows of the prompt that plans are shown for, and schedules made for.

    A short one, or what announced answers leave.
    """
    settings = model.settings
    room = min(_USUAL_PROMPT, model.capacity + 1 - settings.max_new_tokens)
    # Whole buckets; the config sees to it that one has room.
    return room // settings.prompt_bucket * settings.prompt_bucket


@dataclass(frozen=True)
class Conversation:
    """What schedules are measured by: a short prompt and an answer of the announced length."""

    model: PublicGenerator

    @cached_property
    def rows(self) -> tuple[int, int]:
        """Of either pass: the prompt's, a token's."""
        return usual_prompt(self.model), 1

    @property
    def weights(self) -> tuple[int, int]:
        """How often either pass runs."""
        return 1, self.model.settings.max_new_tokens - 1

    @cached_property
    def nodes(self) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
        """Of the prompt's pass, of a token's in the middle of the cache."""
        rows, one = self.rows
        middle = self.model.capacity // 2
        return self.model.graph(rows, 0).nodes, self.model.graph(one, middle).nodes

    @cached_property
    def last(self) -> tuple[Node, ...]:
        """Of the longest rows, whose errors are the largest."""
        return self.model.graph(1, self.model.capacity - 1).nodes

    @cached_property
    def announced(self) -> tuple[float, float]:
        """How often either pass would run in a conversation that fills all positions.

        The longest first prompt counts as several usual ones.
        """
        settings, capacity = self.model.settings, self.model.capacity
        room, bucket = capacity - settings.max_new_tokens + 1, settings.prompt_bucket
        prompt = room // bucket * bucket
        return prompt / self.rows[0], capacity - prompt


@dataclass(frozen=True, eq=False)
class InPass:
    """What an option takes of one pass."""

    online: tuple[Cost, ...]
    """Step by step."""
    value: float
    """Measure of these, each for itself."""
    ots: OtCount
    stored: tuple[tuple[Kind, int], ...]
    """Products that come from slots."""
    alone: float
    """Measure of what its steps prepare, each for itself."""


_NOTHING = InPass((), 0.0, OtCount(), (), 0.0)
"""Of a pass that is decided elsewhere."""


@dataclass(frozen=True, eq=False)
class Option:
    """One choice for the steps that are decided together."""

    choice: Choice
    places: tuple[int, ...]
    """Of the steps in the graph."""
    passes: tuple[InPass, ...]
    shared: float
    """Measure of its part of what passes share: of a conversation, of batches of rows."""
    failures: float
    """Chance in a conversation that fills all positions, the making of triples apart."""
    encoded_bytes: int
    takes_keys: bool
    """Whether it multiplies in slots, by keys of which a session has one set for all."""

    @property
    def label(self) -> str:
        """Name for a reader."""
        return self.choice.label

    def is_twin_of(self, other: Option) -> bool:
        """Whether it is the same work under another name."""
        same = self.choice.protocol == other.choice.protocol and self.shared == other.shared
        pairs = zip(self.passes, other.passes, strict=True)
        return same and all(mine.online == theirs.online for mine, theirs in pairs)


@dataclass(frozen=True)
class Decision:
    """Steps that are decided together, and what could carry them."""

    names: tuple[str, ...]
    key: str
    """Of decisions that are alike in all layers."""
    options: tuple[Option, ...]
    refused: str
    """Names and reasons, for a reader."""
    only: int | None = None
    """The pass that it decides; None: both, since they share what it keeps."""


class Deciding:
    """All decisions of one decoder under one source of correlations."""

    def __init__(
        self, conversation: Conversation, binder: Binder, limits: Limits, measure: Measure
    ) -> None:
        self._conversation, self._binder, self._measure = conversation, binder, measure
        of_prompts = replace(limits, pins=limits.pins.prompts)
        self._limits = {None: limits, TOKEN: limits, PROMPT: of_prompts}
        self._known: dict[tuple[str, Choice, int | None], Option | str] = {}
        self._whole: dict[tuple[str, Choice], dict[int | None, Option] | str] = {}

    def decisions(self) -> list[Decision]:
        """Of all steps; `ConfigError` where nothing can carry one."""
        return [
            self._decision(places, only)
            for places in self._together()
            for only in self._passes(places)
        ]

    def _passes(self, places: tuple[int, ...]) -> tuple[int | None, ...]:
        """For which steps are decided by themselves; where there is one choice, for none."""
        nodes, pins = [self._conversation.last[p] for p in places], self._limits[None].pins
        if self._binder.outlasts_pass(nodes[0]):
            for node in nodes:
                pins.require_one(node)
            return (None,)
        is_free = len(list(self._binder.choices(nodes[0]))) > 1
        return (PROMPT, TOKEN) if is_free or pins.are_apart(nodes[0]) else (None,)

    def _together(self) -> Iterator[tuple[int, ...]]:
        nodes = self._conversation.last
        cached = tuple(i for i, node in enumerate(nodes) if node.key == "cached_attention")
        for place in range(len(nodes)):
            if place not in cached:
                yield (place,)
            elif place == cached[0]:
                yield cached

    def _decision(self, places: tuple[int, ...], only: int | None) -> Decision:
        nodes = [self._conversation.last[place] for place in places]
        options, likeness = list[Option](), self._likeness(places)
        refused = dict[str, list[str]]()
        for choice in self._choices(nodes, self._limits[only].pins):
            found = self._option(places, choice, likeness, only)
            if isinstance(found, Option):
                options.append(found)
            else:
                refused.setdefault(found, []).append(choice.label)
        said = ", ".join(f"{', '.join(labels)} ({why})" for why, labels in refused.items())
        if not options:
            raise ConfigError(
                f"scheduler: nothing can carry {nodes[0].name} ({nodes[0].op}): {said or 'none'}; "
                "raise scheduler.max_error, remove a pin or change the model"
            )
        key = nodes[0].name.partition(".")[2] or nodes[0].name
        names = tuple(node.name for node in nodes)
        key += " of prompts" if only == PROMPT else ""
        return Decision(names, key, tuple(self._without_twins(options)), said, only)

    def _without_twins(self, options: Sequence[Option]) -> list[Option]:
        """Of those that cost the same one, that takes no keys if there is such a one."""
        kept: list[Option] = []
        for option in sorted(options, key=lambda option: option.takes_keys):
            if not any(option.is_twin_of(other) for other in kept):
                kept.append(option)
        return [option for option in options if option in kept]

    def _takes_keys(self, choice: Choice) -> bool:
        engine = self._binder.context.products.get(choice.multiply)
        return engine is not None and engine.uses_ckks

    def _choices(self, nodes: Sequence[Node], pins: Pins) -> list[Choice]:
        """That every one of these steps may take."""
        first = nodes[0]
        found = pins.allowed(first, self._binder.choices(first))
        for node in nodes[1:]:
            allowed = pins.allowed(node, self._binder.choices(node))
            found = [choice for choice in found if choice in allowed]
        if not found:
            raise ConfigError(
                f"scheduler.pin: {first.name} and other steps of {first.key} are pinned to "
                "different implementations, and are made together; pin all of them alike"
            )
        return found

    def _option(
        self, places: tuple[int, ...], choice: Choice, likeness: str, only: int | None
    ) -> Option | str:
        """A choice's costs, or why it is out; the same for steps that differ in their names."""
        if self._limits[only].refusal(choice):
            return _BEFORE
        key = likeness, choice, only
        if key not in self._known:
            try:
                self._known[key] = self._bound(places, choice, likeness, only)
            except HybridError:
                self._known[key] = "does not fit"
        found = self._known[key]
        return replace(found, places=places) if isinstance(found, Option) else found

    def _likeness(self, places: tuple[int, ...]) -> str:
        every = (*self._conversation.nodes, self._conversation.last)
        alike = [
            replace(nodes[p], name="", layer=0, inputs=(), outputs=())
            for nodes in every
            for p in places
        ]
        pins = [self._limits[only].pins for only in (PROMPT, TOKEN)]
        return repr([alike, [own.of(every[0][p]) for own in pins for p in places]])

    def _bound(
        self, places: tuple[int, ...], choice: Choice, likeness: str, only: int | None
    ) -> Option | str:
        """Costs of a choice that fits everywhere; `HybridError` where it does not."""
        last = [self._binder.bind(self._conversation.last[place], choice) for place in places]
        if reason := self._out(last, self._limits[only]):
            return reason
        if (likeness, choice) not in self._whole:
            self._whole[likeness, choice] = self._costs(places, choice)
        found = self._whole[likeness, choice]
        return found if isinstance(found, str) else found[only]

    def _costs(self, places: tuple[int, ...], choice: Choice) -> dict[int | None, Option] | str:
        """Of both passes together, and of either; why not, where something has no price."""
        talk, bind = self._conversation, self._binder.bind
        bound = [[bind(nodes[place], choice) for place in places] for nodes in talk.nodes]
        for operators in bound:
            for operator in operators:
                operator.join(operators)
        costs = [[operator.cost() for operator in operators] for operators in bound]
        prepared = [[operator.offline_cost() for operator in operators] for operators in bound]
        conversation = [operator.conversation_cost() for operator in bound[-1]]
        batch = [operator.batch_cost() for operator in bound[-1]]
        every = [cost for part in (*costs, *prepared, conversation, batch) for cost in part]
        if not all(map(self._measure.knows, every)):
            return "counts units without a price"
        passes = [self._in_pass(own, before) for own, before in zip(costs, prepared, strict=True)]
        rows = [nodes[places[0]].shape[0] for nodes in talk.nodes]
        batches = self._batches(rows, talk.weights)
        common = _failures(conversation) + _failures(batch) * (
            1 + self._batches(rows, talk.announced)
        )
        failures = [n * _failures(own) for n, own in zip(talk.announced, costs, strict=True)]
        weighted = [o for o in bound[-1] if isinstance(o, WeightedOperator)]
        whole = Option(
            choice,
            places,
            tuple(passes),
            self._shared(conversation) + batches * self._shared(batch),
            common + sum(failures),
            sum(operator.encoded_bytes for operator in weighted),
            self._takes_keys(choice),
        )
        alone = ((passes[PROMPT], _NOTHING), (_NOTHING, passes[TOKEN]))
        pairs = zip(alone, failures, strict=True)
        parts = [replace(whole, passes=own, failures=chance) for own, chance in pairs]
        return {None: whole, PROMPT: parts[PROMPT], TOKEN: parts[TOKEN]}

    def _batches(self, rows: Sequence[int], times: Sequence[float]) -> float:
        """Of prepared rows, which so many passes over so many rows consume."""
        used = sum(n * count for n, count in zip(times, rows, strict=True))
        return used / max(1, self._binder.context.batch_rows)

    def _in_pass(self, costs: Sequence[Cost], prepared: Sequence[Cost]) -> InPass:
        needed, measure = total_without_work(costs), self._measure
        alone = sum(map(measure.alone, prepared)) + measure.made(needed.demand)
        value = sum(map(measure.alone, costs))
        return InPass(tuple(costs), value, needed.ots, stored_part(needed.demand).counts, alone)

    def _shared(self, costs: Sequence[Cost]) -> float:
        """Measure of these steps with their correlations."""
        needed, measure = total_without_work(costs), self._measure
        total = sum(map(measure.alone, costs)) + measure.made(needed.demand)
        return total + measure.produced(needed.ots) + measure.stored(needed.demand)

    def _out(self, operators: Sequence[Operator], limits: Limits) -> str:
        """Why these are out; empty where they are not."""
        rules = limits.rules
        for operator in operators:
            if isinstance(operator, WeightedOperator) and not operator.encodes_for_any_rows:
                return "encodes for a fixed number of rows"
            if rules.offline == "forbidden" and operator.batch_cost() != NO_COST:
                return _BEFORE
            if excess := limits.excess(operator):
                return excess
        return ""


def _failures(costs: Sequence[Cost]) -> float:
    return sum(cost.failure_probability for cost in costs)
