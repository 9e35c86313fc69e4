"""Products of two edges, element by element."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from hybrid.models.graph import Node
from hybrid.operators.base import Choice, MultiplyingOperator, PlanContext, RunState
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray


class EngineProduct:
    """Catalog entry: by the engine of products that a choice names."""

    op: ClassVar[str] = "product"
    name: ClassVar[str] = "engine"
    source: ClassVar[str] = "the engine's own"


class ProductOperator(MultiplyingOperator):
    """x * y by an engine of elementwise products."""

    entries = EngineProduct

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        left, right, output = (node.bounds[role] for role in ("left", "right", "output"))
        # Bounds are rounded up, so the product's own may be the smaller one.
        self._bounds = Bounds(left.rms, right.rms, output.rms, largest=2 * output.max_abs)

    def parameters(self) -> dict[str, float | int | str]:
        """Bounds on the product."""
        return {"rms": self._bounds.product_rms, "max_abs": self._bounds.largest / 2}

    def cost(self) -> Cost:
        """The engine's."""
        rows, width = self.node.shape
        return self._mpc.products.multiply_cost(rows * width, self._bounds)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """Two (rows, width) to one."""
        session = self._multiplying(state)
        left, right = (np.ascontiguousarray(x) for x in inputs)
        return [session.products.multiply(left, right, session, self._bounds)]
