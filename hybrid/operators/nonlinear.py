"""Nonlinear protocols of `mpc_nonlinear` as operations of the graph."""

from __future__ import annotations

import dataclasses

import numpy as np

from hybrid.models.graph import Node
from hybrid.operators.base import Operator, PlanContext, RunState
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.row_softmax import MASK_GAP


class NonlinearOperator(Operator):
    """A protocol applied to one tensor, after the local work that its operation calls for.

    That is the residual addition before a LayerNorm and the attention mask before a softmax.
    """

    engine = "mpc_nonlinear"

    def __init__(self, node: Node, context: PlanContext, protocol: NonlinearProtocol) -> None:
        super().__init__(node, context)
        self.protocol = protocol.name
        self.multiply = context.mpc.products.name
        self._protocol = protocol

    def parameters(self) -> dict[str, float | int | str]:
        """The protocol's public fields."""
        return dataclasses.asdict(self._protocol)  # type: ignore[call-overload,no-any-return]

    def cost(self) -> Cost:
        """The protocol's own."""
        return self._protocol.cost(self.node.shape, self.context.mpc)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """Same shape as the (first) input."""
        x = inputs[0]
        for residual in inputs[1:]:
            x = x + residual
        if self.node.op == "softmax" and state.mask is not None:
            # The client alone knows which tokens are padding; scores there fall so far below the
            # smallest real one that their exponential is clipped.
            largest = self.node.bounds["input"].max_abs
            penalty = state.encode(np.where(state.mask, 0.0, -(2 * largest + MASK_GAP)))
            texts = x.reshape(self.node.batch, -1, *x.shape[1:])
            x = (texts + penalty[:, None, None]).reshape(x.shape)
        session = state.session.with_products(state.products[self.multiply])
        return [self._protocol.run(x, session)]
