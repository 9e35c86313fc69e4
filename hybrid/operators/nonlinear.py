"""Nonlinear protocols of `mpc_nonlinear` as operations of the graph."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from hybrid.models.graph import WINDOW, Node
from hybrid.models.windows import visible, within
from hybrid.operators.base import Choice, MultiplyingOperator, PlanContext, RunState
from mpc_nonlinear.blocks.session import Context, Products
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.row_softmax import MASK_GAP
from transport.errors import ConfigError
from transport.foreign import shown


class NonlinearOperator(MultiplyingOperator):
    """A protocol applied to one tensor, after the local work that its node calls for.

    Inputs: the tensor, as many more as the node has residuals, which are added to it, and perhaps
    a mask of rows (batch, columns) that the client alone knows.
    """

    entries = NonlinearProtocol

    def __init__(
        self, node: Node, entry: type[NonlinearProtocol], choice: Choice, context: PlanContext
    ) -> None:
        context.mpc(choice.multiply)
        allowed = entry.product_engines
        if allowed and choice.multiply not in allowed:
            raise ConfigError(
                f"{node.name}: {entry.op}/{entry.name} works with products by "
                f"{' or '.join(allowed)}, not by {shown(choice.multiply)}; name those as multiply, "
                f"or another {entry.op}"
            )
        super().__init__(node, entry, choice, context)
        self._protocol = entry.for_operation(node.shape[-1], node.bounds, node.constants)
        self._window = int(node.constants.get(WINDOW, node.shape[-1]))
        """Positions to each side that a row of scores sees."""
        hides = WINDOW in node.constants
        self._near = within(node.shape[-1], self._window) if hides else None

    @classmethod
    def choices(cls, entry: Any, products: Mapping[str, Products]) -> Iterator[Choice]:
        """With every engine of products that the protocol works with."""
        allowed = entry.product_engines or tuple(products)
        yield from (c for c in super().choices(entry, products) if c.multiply in allowed)

    def parameters(self) -> dict[str, float | int | str]:
        """The protocol's public fields, and a window."""
        fields = dataclasses.asdict(self._protocol)  # type: ignore[call-overload]
        fields |= self._protocol.public_sizes(self.node.shape[-1], self._mpc)
        return fields if self._near is None else {**fields, WINDOW: self._window}

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
        mask = self._mask(x, others[self.node.residuals :], state)
        if self._protocol.takes_mask:
            bits = _nothing_hidden(x, state) if mask is None else mask
            found = self._protocol.run_masked(x, bits, session)
        else:
            lowered = x if mask is None else self._lowered(x, mask, state)
            found = self._protocol.run(lowered, session)
        if self._near is not None:
            # Public zeros: what is hidden far below keeps a little of its weight otherwise.
            found = np.where(self._near, found, np.uint64(0))
        return found

    def _mask(self, x: RingArray, masks: list[RingArray], state: RunState) -> RingArray | None:
        """This party's share of which numbers count; None: all do.

        From (batch, columns) to (heads of all texts, 1 or rows, columns). The client knows all of
        it; a window is public, so that it may be the client's too.
        """
        if not masks and self._near is None:
            return None
        everything = np.full((self.node.batch, x.shape[-1]), int(state.is_client), np.uint64)
        real = masks[0] if masks else everything
        if self._near is None:
            counts = real[:, None]
        elif state.is_client:
            counts = visible(real.astype(np.bool_), self._window).astype(real.dtype)
        else:
            counts = np.zeros((len(real), *self._near.shape), real.dtype)
        return np.repeat(counts, len(x) // self.node.batch, axis=0)

    def _lowered(self, x: RingArray, mask: RingArray, state: RunState) -> RingArray:
        """The client alone knows which columns are padding.

        Scores there fall so far below the smallest real one that their exponential is clipped.
        Those that the window hides fall as far, and no score twice.
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
