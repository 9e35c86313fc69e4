"""Plans of a session that answers prompts: one of every pass, one of what passes share.

A pass over r rows behind p private positions, of each of the conversations that share it, has a
plan of its own, bound when it comes; its steps have the names of every other pass's. What does not
belong to one pass is prepared for a conversation (correlations of its cache) or in batches of rows
(linear layers).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from hybrid.config.loading import Config
from hybrid.machine.prices import MachinePrices
from hybrid.models.generator import PublicGenerator
from hybrid.models.graph import Node
from hybrid.operators.base import Choice, Operator, WeightedOperator
from hybrid.operators.cached_attention import CachedAttentionOperator
from hybrid.operators.slot_triples import stored_part, triples_cost
from hybrid.planning.binding import Binder
from hybrid.planning.catalog import Catalog, load_catalog
from hybrid.planning.errors import check_errors
from hybrid.planning.generation_search import GenerationSearch
from hybrid.planning.plan import (
    CORRELATIONS_STEP,
    Plan,
    Step,
    correlations_work,
    offline_name,
    traffic_row,
)
from hybrid.planning.risk import MAX_DISTANCE, MAX_FAILURE_PROBABILITY, Risk
from hybrid.planning.schedule import Schedule, named_schedule
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.cost import NO_COST, Cost, Demand, total_without_work
from transport.computing import Work
from transport.errors import ConfigError
from transport.traffic import Traffic

CONVERSATION, BATCH, CACHE = "conversation", "batch", "cache"
_RECENT = 4
_FAILURE_PARTS = (1.0, 0.7, 0.3)
"""Of the limit, for the search, which takes passes of two kinds for all others."""
_Key = tuple[str, tuple[int, ...], tuple[str, ...], tuple[tuple[str, float], ...], Choice]
"""Name, shape, inputs and constants of a node, its choice; bounds are those of one plan."""
_SEVERAL = 2
"""Rows of the shortest pass that takes what is chosen for prompts."""


@dataclass(frozen=True, slots=True)
class CachePiece:
    """Some of the correlations of a conversation to come, made at once."""

    operator: Operator
    piece: int
    """Among this operator's."""
    cost: Cost


@dataclass
class GenerationPlan:
    """What both parties will do, pass by pass."""

    model: PublicGenerator
    schedule: Schedule
    binder: Binder
    source: type[CorrelationSource]
    _steps: dict[_Key, Step] = field(default_factory=dict, repr=False)
    """Of nodes that are the same in all passes of as many rows."""
    _recent: dict[tuple[int, int], Plan] = field(default_factory=dict, repr=False)

    def of_pass(self, rows: int, past: int) -> Plan:
        """The plan of one pass; the last few are kept."""
        if (plan := self._recent.get((rows, past))) is None:
            plan = self._of_pass(rows, past)
            if len(self._recent) >= _RECENT:
                del self._recent[next(iter(self._recent))]
            self._recent[rows, past] = plan
        return plan

    def _of_pass(self, rows: int, past: int) -> Plan:
        graph = self.model.graph(rows, past)
        choice = self.schedule.choice
        steps = tuple(self._step(node, choice(node.name, rows)) for node in graph.nodes)
        total = total_without_work(step.cost for step in steps)
        traffic = self.source.production_traffic(total.ots) + triples_cost(total.demand).traffic
        return Plan(graph, steps, self.binder.context, self.source, traffic, self.schedule)

    def _step(self, node: Node, choice: Choice) -> Step:
        """Bound once for all passes in which the node is the same.

        What depends on the position differs in every pass, and is not kept.
        """
        if node.cache is not None or "first" in node.constants:
            return self._bound(node, choice)
        key = node.name, node.shape, node.inputs, tuple(sorted(node.constants.items())), choice
        if key not in self._steps:
            self._steps[key] = self._bound(node, choice)
        return self._steps[key]

    def _bound(self, node: Node, choice: Choice) -> Step:
        operator = self.binder.bind(node, choice)
        if isinstance(operator, WeightedOperator) and not operator.encodes_for_any_rows:
            raise ConfigError(
                f"protocols.{node.key}: {operator.protocol!r} encodes weights for a fixed "
                "number of rows, and passes of a decoder differ; use exact_rows, or beaver "
                "with a dealer"
            )
        return Step(operator, operator.cost(), operator.offline_cost())

    @staticmethod
    def pass_risk(plan: Plan, stock: Demand = Demand()) -> Risk:  # noqa: B008
        """Of a pass, with the making of what is not in stock."""
        return Risk.of((plan.cost, triples_cost(plan.cost.demand - stock)))

    # -- what passes share ----------------------------------------------------------------------

    @cached_property
    def one(self) -> Plan:
        """Of a single row at the start: what is the same in all passes can be read off it."""
        return self.of_pass(1, 0)

    @cached_property
    def every(self) -> Plan:
        """The same, and behind it what passes of several rows take otherwise: who needs keys."""
        apart = self.schedule.prompt
        if not apart:
            return self.one
        own = [step for step in self.of_pass(_SEVERAL, 0).steps if step.node.name in apart]
        return replace(self.one, steps=(*self.one.steps, *own))

    @property
    def ends(self) -> tuple[Plan, ...]:
        """Of a row at the end of the cache, which sees the longest; of several if they differ."""
        capacity = self.model.capacity
        kinds = (1, _SEVERAL) if self.schedule.prompt else (1,)
        return tuple(self.of_pass(rows, capacity - rows) for rows in kinds)

    @property
    def middle(self) -> Plan:
        """Of a token behind half of all positions, which stands for tokens on average."""
        return self.of_pass(1, self.model.capacity // 2)

    @property
    def batch_rows(self) -> int:
        """Rows that one batch prepares."""
        return self.binder.context.batch_rows

    @cached_property
    def batch(self) -> list[tuple[Operator, Cost]]:
        """Operators that prepare rows, and what a batch of each costs."""
        found = [(s.operator, s.operator.batch_cost()) for s in self.one.steps]
        return [(operator, cost) for operator, cost in found if cost != NO_COST]

    @cached_property
    def first_batch(self) -> list[tuple[Operator, Cost]]:
        """The same for a batch of `first_rows` rows; empty where there are none."""
        found = [(operator, operator.first_batch_cost()) for operator, _ in self.batch]
        return [(operator, cost) for operator, cost in found if cost != NO_COST]

    @property
    def first_rows(self) -> int:
        """Rows that one of them prepares; a prompt that lacks no more waits for it alone."""
        return self.binder.context.first_rows

    @cached_property
    def conversation(self) -> list[tuple[Operator, Cost]]:
        """Operators that prepare a conversation, and what that costs."""
        operators = [step.operator for step in self.one.steps]
        for operator in operators:
            operator.join(operators)
        found = [(operator, operator.conversation_cost()) for operator in operators]
        return [(operator, cost) for operator, cost in found if cost != NO_COST]

    @cached_property
    def cache_pieces(self) -> list[CachePiece]:
        """Of a conversation's preparation, what can be made before it begins, in order."""
        return [
            CachePiece(operator, piece, operator.piece_cost(piece))
            for operator, _ in self.conversation
            for piece in range(operator.pieces_ahead)
        ]

    def conversation_after(self, made: int) -> list[tuple[Operator, Cost]]:
        """What a conversation has left to prepare where so many of these pieces are there."""
        if not made:
            return self.conversation
        there = Counter(one.operator.node.name for one in self.cache_pieces[:made])
        # Asked of those alone that have pieces: others know of none.
        return [
            (o, o.conversation_cost(there[o.node.name]) if there[o.node.name] else cost)
            for o, cost in self.conversation
        ]

    def conversation_cost(self, made: int = 0) -> Cost:
        """Of all that is left, the correlations it takes apart."""
        return total_without_work(cost for _, cost in self.conversation_after(made))

    def cache_bytes(self) -> int:
        """Memory at each party for the caches of all conversations that share passes."""
        operators = (operator for operator, _ in self.conversation)
        return sum(o.cache_bytes for o in operators if isinstance(o, CachedAttentionOperator))

    def masks_bytes(self) -> int:
        """The same of correlations alone, before those conversations begin."""
        operators = (operator for operator, _ in self.conversation)
        return sum(o.masks_bytes for o in operators if isinstance(o, CachedAttentionOperator))

    def batch_cost(self) -> Cost:
        """Of one batch of rows for all layers."""
        return total_without_work(cost for _, cost in self.batch)

    def shared_works(self, pieces: Sequence[tuple[Operator, Cost]]) -> list[tuple[str, Work]]:
        """Counted work of what passes share, row by row in the order in which they run."""
        found = [(offline_name(operator.node.name), cost.work) for operator, cost in pieces]
        needed = total_without_work(cost for _, cost in pieces)
        if not needed.demand.counts:
            return found
        return [(CORRELATIONS_STEP, correlations_work(self.source, needed)), *found]

    def passes(self, prompt: int, new_tokens: int) -> Iterator[Plan]:
        """Of a first prompt of so many tokens, which are padded, and an answer of so many."""
        rows = self.model.settings.padded(prompt)
        yield self.of_pass(rows, 0)
        for past in range(rows, rows + new_tokens - 1):
            yield self.of_pass(1, past)

    def risk(self, prompt: int, new_tokens: int) -> Risk:
        """Of a prompt and its answer, rows and correlations included, and all that share passes."""
        rows = self.model.settings.padded(prompt) + new_tokens - 1
        batches = -(-rows * self.model.batch // self.batch_rows)
        shared = self.conversation_cost() + self.batch_cost() * batches
        found = Risk.of((shared, *(cost for _, cost in self.first_batch)))
        return sum((self.pass_risk(plan) for plan in self.passes(prompt, new_tokens)), found)

    def announced_risk(self) -> Risk:
        """Of a conversation that fills all announced positions."""
        return self._announced_risk

    @cached_property
    def _announced_risk(self) -> Risk:
        # Plans every pass: checks and reports ask for it several times.
        settings, capacity = self.model.settings, self.model.capacity
        # The longest first prompt is one of whole buckets.
        room, bucket = capacity - settings.max_new_tokens + 1, settings.prompt_bucket
        prompt = room // bucket * bucket
        return self.risk(prompt, capacity - prompt + 1)

    def digest(self) -> str:
        """SHA-256 of plans at either end of the cache, of what is shared, of the whole schedule."""
        shared = [
            [operator.node.name, traffic_row(cost.traffic)]
            for operator, cost in (*self.batch, *self.first_batch, *self.conversation)
        ]
        rows = self.batch_rows, self.first_rows
        ends = [plan.digest() for plan in self.ends]
        agreed = [self.every.digest(), ends, rows, shared, self.schedule.to_file()]
        return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()

    @property
    def slot_steps(self) -> tuple[int, ...] | None:
        """Rotations of slots modulo a prime that need keys; None: no such keys are needed."""
        wanted = [step.operator.slot_steps for step in self.every.steps]
        given = [steps for steps in wanted if steps is not None]
        if not given and not stored_part(self.every.cost.demand).counts:
            return None
        return tuple(sorted({s for steps in given for s in steps}))

    @property
    def needs_dealer(self) -> bool:
        """Whether correlations come from a trusted third process."""
        return self.one.needs_dealer

    def offline_traffic(self, plan: Plan) -> Traffic:
        """Bytes each way and rounds of a pass before its tokens are known.

        Its correlations and what its own steps prepare; batches and the conversation apart.
        """
        return plan.offline_traffic + plan.prepared_traffic

    def __repr__(self) -> str:
        return f"<GenerationPlan of {self.model!r}>"


def plan_generation(
    config: Config,
    model: PublicGenerator,
    schedule: Schedule | None = None,
    prices: MachinePrices | None = None,
) -> GenerationPlan:
    """Bound to what the config, its policy or the schedule of the server names.

    Refused where a whole conversation would fail too often. prices: for the policy `fastest`.
    """
    catalog = load_catalog(config.run.plugins)
    if schedule is None and config.run.scheduler.policy != "fixed":
        return _searched(config, model, catalog, prices)
    chosen = schedule or named_schedule(config, model.graph(1, 0).nodes, catalog)
    plan = _bound_plan(config, model, catalog, chosen)
    check_failures(plan)
    return plan


def _searched(
    config: Config, model: PublicGenerator, catalog: Catalog, prices: MachinePrices | None
) -> GenerationPlan:
    """What the policy chooses, with room for what the search leaves out of failures."""
    for part in _FAILURE_PARTS:
        limit = part * MAX_FAILURE_PROBABILITY
        search = GenerationSearch(config.run, model, catalog, prices, failures=limit)
        plan = _bound_plan(config, model, catalog, search.solve())
        if plan.announced_risk().is_allowed:
            break
    check_failures(plan)
    return plan


def _bound_plan(
    config: Config, model: PublicGenerator, catalog: Catalog, chosen: Schedule
) -> GenerationPlan:
    """However likely to fail; `ConfigError` where a step's error is too large."""
    chosen.check_complete(model.graph(1, 0).nodes)
    source: type[CorrelationSource] = catalog["correlations", chosen.correlations]
    plan = GenerationPlan(
        model, chosen, Binder(config.run, catalog, source, slot_triples=True), source
    )
    _check_shared(plan)
    # Those at the end see the longest rows, and their errors grow with that.
    for last, of_prompts in zip(plan.ends, (False, True), strict=False):
        operators = [step.operator for step in last.steps]
        check_errors(config.run.scheduler, operators, plan.binder, of_prompts=of_prompts)
    return plan


def _check_shared(plan: GenerationPlan) -> None:
    """`ConfigError` where passes differ in a step that keeps something for all of them."""
    for name in plan.schedule.prompt:
        found = [step.operator for step in plan.every.steps if step.node.name == name]
        if any(operator.outlasts_pass for operator in found):
            raise ConfigError(
                f"schedule: prompt: what {name} keeps serves all passes; name one protocol for "
                "both, or remove it there"
            )


def check_failures(plan: GenerationPlan) -> None:
    """`ConfigError` where one conversation of the announced size fails too often, or tells much."""
    risk = plan.announced_risk()
    found = risk.failure_probability
    if found > MAX_FAILURE_PROBABILITY:
        raise ConfigError(
            f"plan: failure probability {found:.1e} of a conversation of {plan.model.capacity} "
            f"positions exceeds {MAX_FAILURE_PROBABILITY:.1e}; lower generation.positions"
            if plan.model.batch == 1
            else f"plan: failure probability {found:.1e} of {plan.model.batch} conversations of "
            f"{plan.model.capacity} positions that share passes exceeds "
            f"{MAX_FAILURE_PROBABILITY:.1e}; lower generation.positions or model.batch"
        )
    if risk.distance > MAX_DISTANCE:
        raise ConfigError(
            f"plan: hints of a conversation of {plan.model.capacity} positions are within "
            f"{risk.distance:.1e} of simulated ones, {MAX_DISTANCE:.1e} at most is allowed; lower "
            "generation.positions or model.batch"
        )
