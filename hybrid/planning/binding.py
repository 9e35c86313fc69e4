"""Graph nodes bound to implementations: from a choice of names to an operator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from he_linear.ckks.parameters import PARAMETER_SETS, CkksParameters, set_for_products
from he_linear.packings.ring_base import RingLinearPacking, RingProductPacking
from hybrid.config.schema import RunConfig
from hybrid.models.architecture import Architecture
from hybrid.models.graph import Node
from hybrid.operators.attention import AttentionProductOperator
from hybrid.operators.base import Operator, PlanContext, WeightedOperator
from hybrid.operators.dealt_layers import (
    BeaverAttention,
    BeaverAttentionOperator,
    BeaverLinear,
    BeaverLinearOperator,
)
from hybrid.operators.exact_layers import ExactAttentionOperator, ExactLinearOperator
from hybrid.operators.linear import LinearOperator
from hybrid.operators.nonlinear import NonlinearOperator
from hybrid.operators.pool import PoolOperator
from hybrid.operators.slot_products import CheapestProducts, CkksProducts
from hybrid.planning.catalog import Catalog
from hybrid.planning.schedule import Choice
from mpc_nonlinear.blocks.beaver import DealerProducts
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.session import Context, Products
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.correlations.dealer import TrustedDealer
from mpc_nonlinear.cost import OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from transport.errors import ConfigError

_POLYNOMIAL_PRODUCTS = 4
"""Products one after the other that the polynomials of the protocols take."""
_MANY_OTS = OtCount(1 << 20, 1 << 20)
_ATTENTION = ("scores", "context")
_NORMALISATIONS = ("layernorm",)


class Binder:
    """Binds the nodes of one run under one source of correlations."""

    def __init__(
        self,
        config: RunConfig,
        architecture: Architecture,
        catalog: Catalog,
        source: type[CorrelationSource],
    ) -> None:
        self._catalog, self._architecture, self._source = catalog, architecture, source
        parameters, fixed_point = _parameters(config), FixedPoint(config.mpc.fraction_bits)
        deep = set_for_products(_POLYNOMIAL_PRODUCTS)
        self.products = _products(config, parameters, deep, fixed_point, source)
        self.context = PlanContext(
            parameters,
            Context(fixed_point, self._products_named(config.protocols.multiply)),
            deep,
            None if config.ckks.baby_steps == "auto" else config.ckks.baby_steps,
            config.mpc.output_bits,
            False,
            config.ckks.exact,
        )

    def bind(self, node: Node, choice: Choice) -> Operator:
        """The operator of a node; `HybridError` where the choice does not fit it."""
        if node.op == "linear":
            context = replace(self.context, linear_offline=choice.prepared)
            entry = self._catalog["linear", choice.protocol]
            if entry is BeaverLinear:
                self._require_dealer("linear")
                return BeaverLinearOperator(node, self.context)
            return linear_operator(node, context, entry)
        if node.op in _ATTENTION:
            packing = self._catalog["attention", choice.protocol]
            if packing is BeaverAttention:
                self._require_dealer("attention")
                return BeaverAttentionOperator(node, self.context)
            return attention_operator(node, self.context, packing)
        if node.op == "pool":
            return PoolOperator(node, self.context)
        products = self._products_named(choice.multiply)
        context = replace(self.context, mpc=replace(self.context.mpc, products=products))
        entry = self._catalog[node.op, choice.protocol]
        return NonlinearOperator(node, context, self._protocol(node, entry))

    def _require_dealer(self, key: str) -> None:
        if not issubclass(self._source, TrustedDealer):
            raise ConfigError(
                f"protocols.{key}: 'beaver' takes products from a dealer, correlations come from "
                f"{self._source.name!r}; set mpc.correlations: dealer, or choose another {key}"
            )

    def _protocol(self, node: Node, entry: type[Any]) -> Any:
        bound = node.bounds["input"].max_abs
        if node.op not in _NORMALISATIONS:
            return entry(bound=bound)
        variance = node.bounds["variance"]
        return entry(
            width=node.shape[-1],
            epsilon=self._architecture.epsilon,
            variance_min=variance.low,
            variance_max=variance.max_abs,
            variance_rms=variance.rms,
            bound=bound,
        )

    def _products_named(self, name: str) -> Products:
        try:
            return self.products[name]
        except KeyError:
            raise ConfigError(
                f"protocols.multiply: no product is called {name!r}; "
                f"known: {', '.join(self.products)}"
                + ("; 'dealer' needs mpc.correlations: dealer" if name == "dealer" else "")
            ) from None


def linear_operator(node: Node, context: PlanContext, packing: type[Any]) -> WeightedOperator:
    """A linear node under either kind of packing."""
    if issubclass(packing, RingLinearPacking):
        return ExactLinearOperator(node, context, packing)
    return LinearOperator(node, context, packing)


def attention_operator(node: Node, context: PlanContext, packing: type[Any]) -> Operator:
    """A product of shared matrices under either kind of packing."""
    if issubclass(packing, RingProductPacking):
        return ExactAttentionOperator(node, context, packing)
    return AttentionProductOperator(node, context, packing)


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
) -> dict[str, Products]:
    """Every engine of elementwise products; "cheapest" compares declared bytes one by one."""
    bits = fixed_point.fraction_bits
    in_slots = CkksProducts(parameters, deep, bits, config.ckks.exact)
    by_ot = OtProducts(bits)
    bytes_per_ot = source.production_traffic(_MANY_OTS).sent_bytes / _MANY_OTS.total
    cheapest = CheapestProducts((in_slots, by_ot), bytes_per_ot)
    engines: list[Products] = [in_slots, by_ot, cheapest]
    if issubclass(source, TrustedDealer):
        engines.append(DealerProducts(bits))
    return {p.name: p for p in engines}
