"""From graph to plan: every operation bound to an engine and a protocol, with exact traffic.

Both parties derive the same plan from public data (config, model, schedule) and compare
`Plan.digest` before anything secret moves. Building one needs no keys and runs nothing.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from he_linear.ckks.parameters import CkksParameters
from he_linear.exact.ring_parameters import RingParameters
from hybrid.config.schema import RunConfig
from hybrid.models.graph import OUTPUT_SHIFT, Graph, Node
from hybrid.operators.base import Operator, PlanContext, RingKeySet, WeightedOperator
from hybrid.operators.slot_triples import triples_cost
from hybrid.planning.binding import Binder
from hybrid.planning.catalog import Catalog
from hybrid.planning.errors import check_errors
from hybrid.planning.refusal import Again, refusal
from hybrid.planning.risk import MAX_FAILURE_PROBABILITY
from hybrid.planning.schedule import Schedule
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.correlations.dealer import TrustedDealer
from mpc_nonlinear.cost import NO_COST, Cost, OtCount, total_without_work
from transport.computing import Work
from transport.errors import ConfigError
from transport.traffic import NO_TRAFFIC, Traffic

CORRELATIONS_STEP = "correlations"
OFFLINE, ONLINE = "offline", "online"


def offline_name(node: str) -> str:
    """Name of what a step prepares before the input is known."""
    return f"prepare {node}"


@dataclass(frozen=True, slots=True)
class Step:
    """One line of the plan and of the report."""

    operator: Operator
    cost: Cost
    offline: Cost
    """Of what it prepares before the input is known."""

    @property
    def node(self) -> Node:
        """The graph node this step computes."""
        return self.operator.node

    @property
    def prepares(self) -> bool:
        """Whether there is offline work besides correlations."""
        return self.offline != NO_COST

    @property
    def offline_name(self) -> str:
        """Name of the offline row of this step."""
        return offline_name(self.node.name)


@dataclass(frozen=True, slots=True)
class KeySet:
    """Evaluation keys under one parameter set."""

    parameters: CkksParameters
    galois_steps: tuple[int, ...]
    """Rotation steps, ascending."""
    relinearise: bool


@dataclass(frozen=True)
class Plan:
    """What both parties will do, in order: the offline step, then one step a node."""

    graph: Graph
    steps: tuple[Step, ...]
    context: PlanContext
    source: type[CorrelationSource]
    offline_traffic: Traffic
    """Producing all correlations that the steps consume."""
    schedule: Schedule

    @cached_property
    def cost(self) -> Cost:
        """Online messages, correlations and failure probability of one request; not its work."""
        return total_without_work(step.cost for step in self.steps)

    @property
    def correlations(self) -> OtCount:
        """What one request consumes."""
        return self.cost.ots

    @property
    def key_sets(self) -> tuple[KeySet, ...]:
        """Evaluation keys of a session, for each parameter set."""
        steps = tuple(sorted({s for step in self.steps for s in step.operator.galois_steps}))
        engines = [step.operator.products for step in self.steps]
        in_slots = any(e is not None and e.uses_ckks for e in engines)
        if not in_slots and not any(step.operator.uses_ckks for step in self.steps):
            return ()
        if in_slots:
            return products_keys(self.context, steps)
        relinearise = any(step.operator.needs_relinearisation for step in self.steps)
        return (KeySet(self.context.parameters, steps, relinearise),)

    @property
    def ring_sets(self) -> tuple[RingKeySet, ...]:
        """Keys for exact products, for each parameter set."""
        wanted: dict[RingParameters, set[int]] = {}
        for step in self.steps:
            keys = step.operator.ring_keys
            if keys is not None:
                wanted.setdefault(keys.parameters, set()).update(keys.automorphisms)
        return tuple(RingKeySet(p, tuple(sorted(elements))) for p, elements in wanted.items())

    @property
    def prepared_traffic(self) -> Traffic:
        """What steps send before the input is known, besides correlations."""
        return sum((step.offline.traffic for step in self.steps), NO_TRAFFIC)

    def works(self) -> list[tuple[str, Work]]:
        """Counted work of every row, in the order in which they run."""
        produced = correlations_work(self.source, self.cost)
        prepared = [(s.offline_name, s.offline.work) for s in self.steps if s.prepares]
        online = [(s.node.name, s.cost.work) for s in self.steps]
        return [(CORRELATIONS_STEP, produced), *prepared, *online]

    def encoded_bytes(self) -> dict[str, int]:
        """Memory of every linear layer's encoded weights."""
        return {
            step.node.name: step.operator.encoded_bytes
            for step in self.steps
            if isinstance(step.operator, WeightedOperator)
        }

    def kept_weights(self, memory_gb: float) -> set[str]:
        """Layers, in order, whose encoded weights fit the memory."""
        kept, used = set(), 0
        for name, size in self.encoded_bytes().items():
            if used + size <= memory_gb * 1e9:
                kept.add(name)
                used += size
        return kept

    def rows(self) -> list[dict[str, Any]]:
        """The plan as plain data: what is printed, hashed and predicted."""
        offline = {
            "name": CORRELATIONS_STEP,
            "layer": -1,
            "op": "correlations",
            "engine": "mpc_nonlinear",
            "protocol": self.source.name,
            "shape": [self.correlations.client_sends, self.correlations.server_sends],
            "phase": OFFLINE,
            "parameters": {},
            "multiply": "",
            "predicted": traffic_row(self.offline_traffic),
            "correlations": 0,
            "failure_probability": 0.0,
        }
        prepared = [_offline_row(step) for step in self.steps if step.prepares]
        return [offline, *prepared, *(_row(step) for step in self.steps)]

    @property
    def needs_dealer(self) -> bool:
        """Whether correlations come from a trusted third process."""
        return issubclass(self.source, TrustedDealer)

    def to_dict(self) -> dict[str, Any]:
        """All that `hybrid plan --json` prints."""
        offline = self.offline_traffic + self.prepared_traffic
        return {
            "rows": self.rows(),
            "schedule": self.schedule.to_file(),
            "why": dict(self.schedule.why),
            "offline": traffic_row(offline),
            "online": traffic_row(self.cost.traffic),
            "total": traffic_row(offline + self.cost.traffic),
            "correlations": {
                "client_sends": self.correlations.client_sends,
                "server_sends": self.correlations.server_sends,
            },
            "failure_probability": self.cost.failure_probability,
            "encoded_bytes": sum(self.encoded_bytes().values()),
            "plan_hash": self.digest(),
        }

    def __repr__(self) -> str:
        megabytes = (self.offline_traffic + self.prepared_traffic + self.cost.traffic).sent_bytes
        return f"<Plan: {len(self.steps)} steps, {megabytes / 1e6:.1f} MB a request>"

    def digest(self) -> str:
        """SHA-256 of all rows and keys."""
        keys = [[k.parameters.prime_bits, k.galois_steps, k.relinearise] for k in self.key_sets]
        keys += [[k.parameters.prime_bits, k.automorphisms] for k in self.ring_sets]
        agreed = [self.rows(), keys]
        return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()


def products_keys(context: PlanContext, steps: tuple[int, ...] = ()) -> tuple[KeySet, ...]:
    """Of elementwise products in slots, with rotations that other steps of a plan want."""
    return KeySet(context.parameters, steps, True), KeySet(context.deep, (), True)


def correlations_work(source: type[CorrelationSource], needed: Cost) -> Work:
    """Of making what a cost consumes: oblivious transfers and what becomes of them, triples."""
    stored = triples_cost(needed.demand).work
    made = source.production_work(needed.ots)
    return made + stored + Work.together(needed.demand.offline_units)


def traffic_row(traffic: Traffic) -> dict[str, int]:
    """Bytes (framing included) and rounds as the report writes them."""
    return {
        "client_sent_bytes": traffic.client_sent_bytes,
        "server_sent_bytes": traffic.server_sent_bytes,
        "rounds": traffic.rounds,
    }


def _offline_row(step: Step) -> dict[str, Any]:
    return {
        **_row(step),
        "name": step.offline_name,
        "phase": OFFLINE,
        "predicted": traffic_row(step.offline.traffic),
        "correlations": 0,
        "failure_probability": 0.0,
    }


def _row(step: Step) -> dict[str, Any]:
    node = step.node
    return {
        "name": node.name,
        "layer": node.layer,
        "op": node.op,
        "engine": step.operator.engine,
        "protocol": step.operator.protocol,
        "shape": list(node.shape),
        "phase": ONLINE,
        "parameters": {**step.operator.parameters(), **_scaling(node)},
        "multiply": step.operator.multiply,
        "predicted": traffic_row(step.cost.traffic),
        "correlations": step.cost.ots.total,
        "failure_probability": step.cost.failure_probability,
    }


def _scaling(node: Node) -> dict[str, float]:
    """By which the client undoes what the server does to an opened edge: both must agree."""
    bits = node.constants.get(OUTPUT_SHIFT)
    return {} if bits is None else {OUTPUT_SHIFT: bits}


def bind_plan(config: RunConfig, graph: Graph, catalog: Catalog, schedule: Schedule) -> Plan:
    """Bind every node to the implementation that the schedule names, however likely to fail."""
    schedule.check_complete(graph.nodes)
    source: type[CorrelationSource] = catalog["correlations", schedule.correlations]
    binder = Binder(config, catalog, source)
    operators = [binder.bind(node, schedule.choices[node.name]) for node in graph.nodes]
    steps = tuple(Step(o, o.cost(), o.offline_cost()) for o in operators)
    needed = sum((step.cost.ots for step in steps), OtCount())
    traffic = source.production_traffic(needed)
    return Plan(graph, steps, binder.context, source, traffic, schedule)


def build_plan(
    config: RunConfig,
    graph: Graph,
    catalog: Catalog,
    schedule: Schedule,
    again: Again | None = None,
) -> Plan:
    """`bind_plan`, refused where failures are too likely or a step's error is too large.

    again: plans under changed configs, so that the refusal can name what would help.
    """
    plan = bind_plan(config, graph, catalog, schedule)
    operators = [step.operator for step in plan.steps]
    check_errors(config.scheduler, operators, Binder(config, catalog, plan.source))
    if plan.cost.failure_probability > MAX_FAILURE_PROBABILITY:
        steps = [(step.operator, step.cost) for step in plan.steps]
        raise ConfigError(refusal(config, schedule, steps, MAX_FAILURE_PROBABILITY, again))
    return plan
