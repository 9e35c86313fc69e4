"""Graph nodes bound to implementations: from a choice of names to an operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from he_linear.ckks.parameters import PARAMETER_SETS, CkksParameters, set_for_products
from hybrid.config.schema import RunConfig
from hybrid.models.graph import Node
from hybrid.operators import OPERATORS
from hybrid.operators.base import Choice, Operator, PlanContext
from hybrid.operators.slot_products import POLYNOMIAL_PRODUCTS, CheapestProducts, CkksProducts
from hybrid.operators.slot_triples import TRIPLE_PARAMETERS
from hybrid.planning.catalog import Catalog
from mpc_nonlinear.blocks.beaver import DealerProducts
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.session import Products
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.correlations.dealer import TrustedDealer
from mpc_nonlinear.cost import OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from transport.errors import ConfigError, HybridError
from transport.foreign import shown

_MANY_OTS = OtCount(1 << 20, 1 << 20)


class Binder:
    """Binds the nodes of one run under one source of correlations."""

    def __init__(
        self,
        config: RunConfig,
        catalog: Catalog,
        source: type[CorrelationSource],
        *,
        slot_triples: bool = False,
    ) -> None:
        """slot_triples: whether the run makes triples modulo a prime, for products by them."""
        self._catalog = catalog
        parameters, fixed_point = _parameters(config), FixedPoint(config.mpc.fraction_bits)
        deep = set_for_products(POLYNOMIAL_PRODUCTS)
        self.context = PlanContext(
            parameters,
            deep,
            fixed_point,
            _products(
                parameters,
                deep,
                fixed_point,
                source,
                exact=config.ckks.exact,
                slot_triples=slot_triples,
            ),
            source,
            None if config.ckks.baby_steps == "auto" else config.ckks.baby_steps,
            config.ckks.exact,
            config.mpc.output_bits,
            0 if config.generation is None else config.generation.rows,
            0 if config.generation is None else config.generation.first_rows,
        )

    def bind(self, node: Node, choice: Choice) -> Operator:
        """The operator of a node; `HybridError` where the choice does not fit it."""
        entry = self._catalog[node.key, choice.protocol]
        try:
            return operator_for(entry)(node, entry, choice, self.context)
        except HybridError as error:
            if node.name in str(error):
                raise
            raise type(error)(f"{node.name}: {error}") from error

    def choices(self, node: Node) -> Iterator[Choice]:
        """All that the catalog has for a node, fitting or not."""
        for name in self._catalog.names(node.key):
            entry = self._catalog[node.key, name]
            yield from operator_for(entry).choices(entry, self.context.products)

    def outlasts_pass(self, node: Node) -> bool:
        """Whether all passes of a decoder have to make the same choice for a step."""
        entries = (self._catalog[node.key, name] for name in self._catalog.names(node.key))
        return any(operator_for(entry).outlasts_pass for entry in entries)


def operator_for(entry: Any) -> type[Operator]:
    """The operator that serves a catalog entry."""
    for operator in OPERATORS:
        if issubclass(entry, operator.entries):
            return operator
    served = ", ".join(operator.entries.__name__ for operator in OPERATORS)
    raise ConfigError(
        f"plugins: {entry.__qualname__} ({entry.op}/{entry.name}) is of no kind that an operator "
        f"serves; derive it from one of {served}"
    )


def _parameters(config: RunConfig) -> CkksParameters:
    rotating = {n: p for n, p in PARAMETER_SETS.items() if p.allows_rotations}
    try:
        return rotating[config.ckks.parameters]
    except KeyError:
        raise ConfigError(
            f"ckks.parameters: no set for rotations is called {shown(config.ckks.parameters)}; "
            f"known: {', '.join(rotating)} (those for polynomials are picked by depth)"
        ) from None


def _products(
    parameters: CkksParameters,
    deep: CkksParameters,
    fixed_point: FixedPoint,
    source: type[CorrelationSource],
    *,
    exact: bool,
    slot_triples: bool = False,
) -> dict[str, Products]:
    """Every engine of elementwise products; "cheapest" compares declared bytes one by one."""
    bits = fixed_point.fraction_bits
    in_slots = CkksProducts(parameters, deep, bits, exact)
    by_ot = OtProducts(bits)
    bytes_per_ot = source.production_traffic(_MANY_OTS).sent_bytes / _MANY_OTS.total
    cheapest = CheapestProducts((in_slots, by_ot), bytes_per_ot)
    engines: list[Products] = [in_slots, by_ot, cheapest]
    if issubclass(source, TrustedDealer):
        engines.append(DealerProducts(bits))
    if slot_triples:
        engines.append(PrimeProducts(bits, TRIPLE_PARAMETERS.plain_prime))
    return {p.name: p for p in engines}
