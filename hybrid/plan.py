"""From graph to plan: every operation bound to an engine and a protocol, with exact traffic.

Both parties derive the same plan from public data (config, architecture, bounds) and compare
`Plan.digest` before anything secret moves. Building one needs no keys and runs nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from he_linear.packings.ring_base import RingLinearPacking, RingProductPacking
from he_linear.params import PARAMETER_SETS, CkksParameters, set_for_products
from he_linear.ring_params import RingParameters
from hybrid.architecture import Architecture
from hybrid.calibration import Bounds
from hybrid.catalog import Catalog
from hybrid.config import RunConfig
from hybrid.graph import Node, build_graph
from hybrid.operators.attention import AttentionProductOperator
from hybrid.operators.base import Operator, PlanContext, RingKeySet, WeightedOperator
from hybrid.operators.exact import ExactAttentionOperator, ExactLinearOperator
from hybrid.operators.linear import LinearOperator
from hybrid.operators.nonlinear import NonlinearOperator
from hybrid.operators.pool import PoolOperator
from hybrid.products import CheapestProducts, CkksProducts
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.cost import NO_COST, Cost, OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.ot_products import OtProducts
from mpc_nonlinear.products import Products
from mpc_nonlinear.session import Context
from transport.errors import ConfigError
from transport.traffic import NO_TRAFFIC, Traffic

CORRELATIONS_STEP = "correlations"
OFFLINE, ONLINE = "offline", "online"
MAX_FAILURE_PROBABILITY = 2.0**-20
_POLYNOMIAL_PRODUCTS = 4
"""Products one after the other that the polynomials of the protocols take."""


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

    steps: tuple[Step, ...]
    context: PlanContext
    source: type[CorrelationSource]
    offline_traffic: Traffic
    """Producing all correlations that the steps consume."""

    @cached_property
    def cost(self) -> Cost:
        """Online messages, correlations and failure probability of one request."""
        return sum((step.cost for step in self.steps), NO_COST)

    @property
    def correlations(self) -> OtCount:
        """What one request consumes."""
        return self.cost.ots

    @property
    def key_sets(self) -> tuple[KeySet, ...]:
        """Evaluation keys of a session, for each parameter set."""
        steps = tuple(sorted({s for step in self.steps for s in step.operator.galois_steps}))
        in_slots = not isinstance(self.context.mpc.products, OtProducts)
        relinearise = in_slots or any(s.operator.needs_relinearisation for s in self.steps)
        sets = (KeySet(self.context.parameters, steps, relinearise),)
        return (*sets, KeySet(self.context.deep, (), True)) if in_slots else sets

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
            "predicted": traffic_row(self.offline_traffic),
            "correlations": 0,
            "failure_probability": 0.0,
        }
        prepared = [_offline_row(step) for step in self.steps if step.prepares]
        return [offline, *prepared, *(_row(step) for step in self.steps)]

    def digest(self) -> str:
        """SHA-256 of all rows and keys."""
        keys = [[k.parameters.prime_bits, k.galois_steps, k.relinearise] for k in self.key_sets]
        keys += [[k.parameters.prime_bits, k.automorphisms] for k in self.ring_sets]
        agreed = [self.rows(), keys]
        return hashlib.sha256(json.dumps(agreed, sort_keys=True).encode()).hexdigest()


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
        "parameters": step.operator.parameters(),
        "predicted": traffic_row(step.cost.traffic),
        "correlations": step.cost.ots.total,
        "failure_probability": step.cost.failure_probability,
    }


def build_plan(
    config: RunConfig, architecture: Architecture, bounds: Bounds, catalog: Catalog
) -> Plan:
    """Bind every node to the implementation the config names."""
    parameters = _parameters(config)
    fixed_point = FixedPoint(config.mpc.fraction_bits)
    source: type[CorrelationSource] = catalog["correlations", config.mpc.correlations]
    deep = set_for_products(_POLYNOMIAL_PRODUCTS)
    products = _products(config, parameters, deep, fixed_point, source)
    context = PlanContext(
        parameters,
        Context(fixed_point, products),
        deep,
        None if config.ckks.baby_steps == "auto" else config.ckks.baby_steps,
        config.mpc.output_bits,
        config.ckks.linear_phase == "offline",
        config.ckks.exact,
    )
    steps = []
    for node in build_graph(architecture, config.model.tokens, bounds):
        operator = _BUILDERS[node.op](node, context, config, catalog, architecture)
        steps.append(Step(operator, operator.cost(), operator.offline_cost()))
    needed = sum((step.cost.ots for step in steps), OtCount())
    plan = Plan(tuple(steps), context, source, source.production_traffic(needed))
    if plan.cost.failure_probability > MAX_FAILURE_PROBABILITY:
        worst = max(steps, key=lambda s: s.cost.failure_probability)
        raise ConfigError(
            f"plan: failure probability {plan.cost.failure_probability:.1e} exceeds "
            f"{MAX_FAILURE_PROBABILITY:.1e}, most of it in {worst.node.name}; lower "
            "calibration.margin or model.tokens"
        )
    return plan


def _parameters(config: RunConfig) -> CkksParameters:
    rotating = {n: p for n, p in PARAMETER_SETS.items() if p.allows_rotations}
    try:
        return rotating[config.ckks.parameters]
    except KeyError:
        raise ConfigError(
            f"ckks.parameters: no set for rotations is called {config.ckks.parameters!r}; "
            f"known: {', '.join(rotating)} (those for polynomials are picked by depth)"
        ) from None


def _products(
    config: RunConfig,
    parameters: CkksParameters,
    deep: CkksParameters,
    fixed_point: FixedPoint,
    source: type[CorrelationSource],
) -> Products:
    """The `multiply` choice; "cheapest" compares declared bytes product by product."""
    bits = fixed_point.fraction_bits
    in_slots = CkksProducts(parameters, deep, bits, config.ckks.exact)
    by_ot = OtProducts(fixed_point.fraction_bits)
    many = OtCount(1 << 20, 1 << 20)
    bytes_per_ot = source.production_traffic(many).sent_bytes / many.total
    choices: dict[str, Products] = {
        p.name: p for p in (in_slots, by_ot, CheapestProducts((in_slots, by_ot), bytes_per_ot))
    }
    try:
        return choices[config.protocols.multiply]
    except KeyError:
        raise ConfigError(
            f"protocols.multiply: no product is called {config.protocols.multiply!r}; "
            f"known: {', '.join(choices)}"
        ) from None


_Builder = Callable[[Node, PlanContext, RunConfig, Catalog, Architecture], Operator]


def _linear(
    node: Node, context: PlanContext, config: RunConfig, catalog: Catalog, _a: Architecture
) -> Operator:
    return linear_operator(node, context, catalog["linear", config.protocols.linear])


def linear_operator(node: Node, context: PlanContext, packing: type[Any]) -> WeightedOperator:
    """A linear node under either kind of packing."""
    if issubclass(packing, RingLinearPacking):
        return ExactLinearOperator(node, context, packing)
    return LinearOperator(node, context, packing)


def _attention(
    node: Node, context: PlanContext, config: RunConfig, catalog: Catalog, _a: Architecture
) -> Operator:
    return attention_operator(node, context, catalog["attention", config.protocols.attention])


def attention_operator(node: Node, context: PlanContext, packing: type[Any]) -> Operator:
    """A product of shared matrices under either kind of packing."""
    if issubclass(packing, RingProductPacking):
        return ExactAttentionOperator(node, context, packing)
    return AttentionProductOperator(node, context, packing)


def _gelu(
    node: Node, context: PlanContext, config: RunConfig, catalog: Catalog, _a: Architecture
) -> Operator:
    protocol = catalog["gelu", config.protocols.gelu](bound=node.bounds["input"].max_abs)
    return NonlinearOperator(node, context, protocol)


def _softmax(
    node: Node, context: PlanContext, config: RunConfig, catalog: Catalog, _a: Architecture
) -> Operator:
    protocol = catalog["softmax", config.protocols.softmax](bound=node.bounds["input"].max_abs)
    return NonlinearOperator(node, context, protocol)


def _layernorm(
    node: Node, context: PlanContext, config: RunConfig, catalog: Catalog, a: Architecture
) -> Operator:
    variance = node.bounds["variance"]
    protocol = catalog["layernorm", config.protocols.layernorm](
        width=node.shape[-1],
        epsilon=a.epsilon,
        variance_min=variance.low,
        variance_max=variance.max_abs,
        variance_rms=variance.rms,
        bound=node.bounds["input"].max_abs,
    )
    return NonlinearOperator(node, context, protocol)


def _pool(
    node: Node, context: PlanContext, _config: RunConfig, _catalog: Catalog, _a: Architecture
) -> Operator:
    return PoolOperator(node, context)


_BUILDERS: dict[str, _Builder] = {
    "linear": _linear,
    "scores": _attention,
    "context": _attention,
    "gelu": _gelu,
    "softmax": _softmax,
    "layernorm": _layernorm,
    "pool": _pool,
}
