"""Biases of attention scores by relative position: the server's alone, without a message."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from hybrid.models.graph import Node
from hybrid.models.relative_positions import Buckets
from hybrid.operators.base import Choice, Operator, PlanContext, RunState
from hybrid.operators.local_steps import LocalStep
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RingArray
from transport.errors import UsageError


class ScoreBias(LocalStep):
    """Catalog entry of biases by relative position."""

    op: ClassVar[str] = "score_bias"
    source = "local, server's share only; [Ra20] T5, arXiv 1910.10683, Section 2.1"


class ScoreBiasOperator(Operator):
    """Scores plus a bias by head and relative position, which the server adds to its own share.

    Off by half a unit. The biases never leave the server.
    """

    engine = "mpc_nonlinear"
    entries = ScoreBias

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        found = node.constants
        self._buckets = Buckets(int(found["buckets"]), int(found["max_distance"]))

    def parameters(self) -> dict[str, float | int | str]:
        """How distances fall into buckets."""
        return dict(self.node.constants)

    def cost(self) -> Cost:
        """No message."""
        return NO_COST

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """(heads of all texts, tokens, tokens) to the same shape."""
        (x,), node = inputs, self.node
        if state.is_client:
            return [x]
        heads, tokens = node.shape[0] // node.batch, node.shape[1]
        own = state.maps.get(node.name)
        if own is None or own.weight.shape != (self._buckets.count, heads):
            raise UsageError(
                f"{node.name}: no biases ({self._buckets.count}, {heads}); the family's fold() "
                "must give them"
            )
        bias = self._buckets.bias(state.encode(own.weight), tokens)
        return [x + np.tile(bias, (node.batch, 1, 1))]
