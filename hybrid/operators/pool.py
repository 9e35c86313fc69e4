"""Mean pooling on shares, and the only opening of a run: the pooled vector, to the client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from hybrid.models.graph import Node
from hybrid.operators.base import Choice, Operator, PlanContext, RunState
from hybrid.operators.slot_products import CheapestProducts
from mpc_nonlinear.blocks.opening import (
    masked_sum,
    masked_sum_cost,
    open_to_client,
    open_to_client_cost,
)
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.session import Products
from mpc_nonlinear.blocks.truncate import round_exactly, round_exactly_cost
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from transport.errors import UsageError


class MaskedSum:
    """Catalog entry of mean pooling."""

    op: ClassVar[str] = "pool"
    name: ClassVar[str] = "masked_sum"
    source: ClassVar[str] = "choice of every row by the client's mask, of this project"


class PoolOperator(Operator):
    """Sum of each text's unmasked rows of n * gain + bias, opened to the client.

    The client divides by their number. Its mask stays with it; the low bits, which carry the
    noise of ciphertexts, are truncated before the opening.
    """

    engine = "mpc_nonlinear"
    entries = MaskedSum
    takes_multiply = True

    @classmethod
    def choices(cls, entry: Any, products: Mapping[str, Products]) -> Iterator[Choice]:
        """One product of few numbers: by fewer bytes."""
        del products
        yield Choice(entry.name, CheapestProducts.name)

    @classmethod
    def named_choice(cls, entry: Any, multiply: str, prepared: bool) -> Choice:
        """With the engine that the config names."""
        del prepared
        return Choice(entry.name, multiply)

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        self.multiply = choice.multiply
        self._mpc = context.mpc(choice.multiply)
        self._hidden = node.shape[1]
        self._results = node.batch * self._hidden
        self._bound = node.bounds["output"]
        # Rows of normalised values have root mean square one.
        self._sum_rms = float(node.tokens)
        self._dropped_bits = context.fixed_point.fraction_bits - context.output_bits

    def parameters(self) -> dict[str, float | int | str]:
        """Bounds and the precision of the opened vector, and its scaling where it has one."""
        found = {"max_abs": self._bound.max_abs, "output_bits": self.context.output_bits}
        return {**found, **self.node.constants}

    def cost(self) -> Cost:
        """Masked sum, one product with the gains, truncation, opening."""
        products = self._mpc.products
        cost = masked_sum_cost(self.node.shape[0], 2 * self._hidden)
        cost += products.multiply_cost(self._results, self._product_bounds)
        cost += round_exactly_cost(self._results, self._dropped_bits)
        return cost + open_to_client_cost(self._results)

    @property
    def _product_bounds(self) -> Bounds:
        return Bounds(self._sum_rms, 1.0, self._bound.rms)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """Client: the opened sums (batch * hidden,), as ring words of `output_bits` fraction bits.

        Server: zeros. Inputs: rows, and the mask that only the client has.
        """
        session = state.session.with_products(state.products[self.multiply])
        node, hidden = self.node, self._hidden
        gain = np.zeros(hidden, np.uint64)
        bias = np.zeros(node.shape, np.uint64)
        if not state.is_client:
            own = state.maps.get(node.name)
            if own is None or own.scale is None or own.shift is None:
                raise UsageError(
                    f"{node.name}: no gain and bias; the family's fold() must give them"
                )
            gain = state.encode(own.scale)
            bias = bias + state.encode(own.shift)
        rows = np.concatenate([inputs[0], bias], axis=1)
        mask = inputs[1].astype(np.bool_) if state.is_client else None
        sums = masked_sum(rows.reshape(node.batch, node.tokens, -1), session, mask)
        scaled = session.products.multiply(
            sums[:, :hidden].ravel(), np.tile(gain, node.batch), session, self._product_bounds
        )
        total = scaled + sums[:, hidden:].ravel()
        total = round_exactly(total, self._dropped_bits, session)
        opened = open_to_client(total, session)
        return [np.zeros(self._results, np.uint64) if opened is None else opened]
