"""Nonlinear protocols of `mpc_nonlinear` as operations of the graph."""

from __future__ import annotations

import dataclasses
from functools import lru_cache

import numpy as np

from hybrid.models.graph import Node
from hybrid.operators.base import Choice, MultiplyingOperator, PlanContext, RunState
from mpc_nonlinear.blocks.session import Context
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.row_softmax import MASK_GAP


class NonlinearOperator(MultiplyingOperator):
    """A protocol applied to one tensor, after the local work that its node calls for.

    Inputs: the tensor, as many more as the node has residuals, which are added to it, and perhaps
    a mask of rows (batch, columns) that the client alone knows.
    """

    entries = NonlinearProtocol

    def __init__(
        self, node: Node, entry: type[NonlinearProtocol], choice: Choice, context: PlanContext
    ) -> None:
        super().__init__(node, entry, choice, context)
        self._protocol = entry.for_operation(node.shape[-1], node.bounds, node.constants)

    def parameters(self) -> dict[str, float | int | str]:
        """The protocol's public fields."""
        return dataclasses.asdict(self._protocol)  # type: ignore[call-overload,no-any-return]

    def cost(self) -> Cost:
        """The protocol's own."""
        return _declared(self._protocol, self.node.shape, self._mpc)

    def declared_error(self) -> float:
        """The protocol's, for rows of this length, by this engine."""
        return _error(self._protocol, self.node.shape[-1], self._mpc)

    def constant_error(self) -> float:
        """The class's own."""
        return self._protocol.max_error + self._protocol.approximation_error

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """Same shape as the first input; then, where the node has one, the sum itself."""
        x, *others = inputs
        for residual in others[: self.node.residuals]:
            x = x + residual
        return [self._computed(x, others, state), *[x] * (len(self.node.outputs) - 1)]

    def _computed(self, x: RingArray, others: list[RingArray], state: RunState) -> RingArray:
        session = self._multiplying(state)
        masks = others[self.node.residuals :]
        if self._protocol.takes_mask:
            mask = self._per_row(masks[0], x) if masks else _nothing_hidden(x, state)
            return self._protocol.run_masked(x, mask, session)
        if not masks:
            return self._protocol.run(x, session)
        mask = self._per_row(masks[0], x)
        return self._protocol.run(self._lowered(x, mask, state), session)

    def _per_row(self, mask: RingArray, x: RingArray) -> RingArray:
        """(batch, columns) to (heads of all texts, 1, columns)."""
        return np.repeat(mask, len(x) // self.node.batch, axis=0)[:, None]

    def _lowered(self, x: RingArray, mask: RingArray, state: RunState) -> RingArray:
        """The client alone knows which columns are padding.

        Scores there fall so far below the smallest real one that their exponential is clipped.
        """
        if not state.is_client:
            return x
        largest = self.node.bounds["input"].max_abs
        lowered: RingArray = x + state.encode(np.where(mask, 0.0, -(2 * largest + MASK_GAP)))
        return lowered


@lru_cache(maxsize=4096)
def _declared(protocol: NonlinearProtocol, shape: tuple[int, ...], context: Context) -> Cost:
    """Layers with equal bounds cost the same, and so do the passes of a decoder."""
    return protocol.cost(shape, context)


@lru_cache(maxsize=4096)
def _error(protocol: NonlinearProtocol, length: int, context: Context) -> float:
    return protocol.error(length, context)


def _nothing_hidden(x: RingArray, state: RunState) -> RingArray:
    """A mask of ones, (1, ..., columns): the client's share of it is all of it."""
    shape = (*(1,) * (x.ndim - 1), x.shape[-1])
    return np.full(shape, int(state.is_client), np.uint64)
