"""From rows of a text to one, and the only opening of an encoder's run: to the client."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hybrid.models.folding import FloatArray
from hybrid.models.graph import Node
from hybrid.operators.base import Choice, MultiplyingOperator, Operator, PlanContext, RunState
from hybrid.operators.slot_products import CheapestProducts
from mpc_nonlinear.blocks.compare import Width
from mpc_nonlinear.blocks.extrema import maximum, maximum_cost
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
    """Catalog entry of a sum of chosen rows that is opened, as mean pooling needs it."""

    op: ClassVar[str] = "pool"
    name: ClassVar[str] = "masked_sum"
    source: ClassVar[str] = "choice of every row by the client's mask, of this project"


class SharedSum:
    """Catalog entry of a sum of chosen rows that stays shared."""

    op: ClassVar[str] = "masked_sum"
    name: ClassVar[str] = "correlated_ot"
    source: ClassVar[str] = "choice of every row by the client's mask, of this project"


class MaskedMaximum:
    """Catalog entry of the largest numbers over chosen rows."""

    op: ClassVar[str] = "masked_max"
    name: ClassVar[str] = "tournament"
    source: ClassVar[str] = "[Rathee20] eprint 2020/1002, Section 4.1"


class OwnGain:
    """Catalog entry of gain and bias that the server knows."""

    op: ClassVar[str] = "gain"
    name: ClassVar[str] = "engine"
    source: ClassVar[str] = "the engine's own"


class Opening:
    """Catalog entry of the opening to the client."""

    op: ClassVar[str] = "open"
    name: ClassVar[str] = "to_client"
    source: ClassVar[str] = "truncation by exact comparison, then one message"


class _Opens(Operator):
    """An operator whose result is opened to the client, after truncation."""

    engine = "mpc_nonlinear"

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        self._dropped_bits = context.fixed_point.fraction_bits - context.output_bits

    def _opening_cost(self, count: int) -> Cost:
        return round_exactly_cost(count, self._dropped_bits) + open_to_client_cost(count)

    def _opened(self, x: RingArray, state: RunState) -> RingArray:
        """Client: ring words of `output_bits` fraction bits; server: zeros.

        The low bits, which carry the noise of ciphertexts, are truncated before.
        """
        rounded = round_exactly(x, self._dropped_bits, state.session)
        opened = open_to_client(rounded, state.session)
        return np.zeros(x.shape, np.uint64) if opened is None else opened


class _Gains(MultiplyingOperator):
    """An operator that multiplies by the server's gain and adds its bias."""

    @classmethod
    def choices(cls, entry: Any, products: Mapping[str, Products]) -> Iterator[Choice]:
        """One product of few numbers: by fewer bytes."""
        del products
        yield Choice(entry.name, CheapestProducts.name)

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        self._bound = node.bounds["output"]

    def _own(self, state: RunState) -> tuple[FloatArray, FloatArray]:
        """Gain and bias (columns,); the server's."""
        own = state.maps.get(self.node.name)
        if own is None or own.scale is None or own.shift is None:
            raise UsageError(
                f"{self.node.name}: no gain and bias; the family's fold() must give them"
            )
        return own.scale, own.shift


class PoolOperator(_Gains, _Opens):
    """Sum of each text's chosen rows of n * gain + bias, opened to the client.

    The client divides where the model does. Its choice stays with it.
    """

    entries = MaskedSum

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        self._hidden = node.shape[1]
        self._results = node.batch * self._hidden
        # Rows of normalised values have root mean square one.
        self._sum_rms = float(node.tokens)

    def parameters(self) -> dict[str, float | int | str]:
        """Bounds and the precision of the opened vector."""
        return {"max_abs": self._bound.max_abs, "output_bits": self.context.output_bits}

    def cost(self) -> Cost:
        """Masked sum, one product with the gains, truncation, opening."""
        products = self._mpc.products
        cost = masked_sum_cost(self.node.shape[0], 2 * self._hidden)
        cost += products.multiply_cost(self._results, self._product_bounds)
        return cost + self._opening_cost(self._results)

    @property
    def _product_bounds(self) -> Bounds:
        return Bounds(self._sum_rms, 1.0, self._bound.rms)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """Client: the opened sums (batch * hidden,), as ring words of `output_bits` fraction bits.

        Server: zeros. Inputs: rows, and the choice of rows that only the client has.
        """
        session = self._multiplying(state)
        node, hidden = self.node, self._hidden
        gain = np.zeros(hidden, np.uint64)
        bias = np.zeros(node.shape, np.uint64)
        if not state.is_client:
            own_gain, own_bias = self._own(state)
            gain = state.encode(own_gain)
            bias = bias + state.encode(own_bias)
        rows = np.concatenate([inputs[0], bias], axis=1)
        sums = masked_sum(_by_text(rows, node), session, _mask(inputs[1], state))
        scaled = session.products.multiply(
            sums[:, :hidden].ravel(), np.tile(gain, node.batch), session, self._product_bounds
        )
        return [self._opened(scaled + sums[:, hidden:].ravel(), state)]


class GainOperator(_Gains):
    """x * gain + bias of normalised rows, which stay shared."""

    entries = OwnGain

    def parameters(self) -> dict[str, float | int | str]:
        """Bounds on the result."""
        return {"rms": self._bound.rms, "max_abs": self._bound.max_abs}

    @property
    def _product_bounds(self) -> Bounds:
        """Rows have root mean square one, so gains have about that of the result."""
        return Bounds(1.0, max(1.0, self._bound.rms), max(1.0, self._bound.rms))

    def cost(self) -> Cost:
        """One product a number."""
        rows, columns = self.node.shape
        return self._mpc.products.multiply_cost(rows * columns, self._product_bounds)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """(rows, columns) to the same shape."""
        session = self._multiplying(state)
        x, columns = np.ascontiguousarray(inputs[0]), self.node.shape[1]
        gain, bias = np.zeros(columns, np.uint64), np.zeros(columns, np.uint64)
        if not state.is_client:
            own_gain, own_bias = self._own(state)
            gain, bias = state.encode(own_gain), state.encode(own_bias)
        tiled = np.tile(gain, len(x))
        found = session.products.multiply(x.ravel(), tiled, session, self._product_bounds)
        return [found.reshape(x.shape) + bias]


class SharedSumOperator(Operator):
    """Sum of each text's rows that the client chooses. 1 round."""

    engine = "mpc_nonlinear"
    entries = SharedSum

    def parameters(self) -> dict[str, float | int | str]:
        """Nothing but the shape."""
        return {}

    def cost(self) -> Cost:
        """One correlated OT a row."""
        return masked_sum_cost(*self.node.shape)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """(batch * tokens, columns) and the client's bits (batch, tokens) to (batch, columns)."""
        rows = _by_text(inputs[0], self.node)
        return [masked_sum(rows, state.session, _mask(inputs[1], state))]


class MaximumOperator(Operator):
    """Largest number of every column over the rows of each text that the client chooses. Exact."""

    engine = "mpc_nonlinear"
    entries = MaskedMaximum

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        # What is not chosen lies below all that is.
        self._gap = 2 * node.bounds["input"].max_abs + 1
        units = (node.bounds["input"].max_abs + self._gap) / context.fixed_point.unit
        self._width = Width.exact(2 * int(units))

    def parameters(self) -> dict[str, float | int | str]:
        """The bound that decides how wide comparisons are."""
        return {"max_abs": self.node.bounds["input"].max_abs}

    def cost(self) -> Cost:
        """A tournament a column."""
        node = self.node
        return maximum_cost(node.batch * node.shape[1], node.tokens, self._width)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """(batch * tokens, columns) and the client's bits (batch, tokens) to (batch, columns)."""
        rows = _by_text(inputs[0], self.node)
        if state.is_client:
            chosen = inputs[1].astype(np.bool_)[..., None]
            rows = rows - state.encode(np.where(chosen, 0.0, self._gap))
        columns = np.ascontiguousarray(rows.transpose(0, 2, 1))
        return [maximum(columns, self._width, state.session)]


class OpenOperator(_Opens):
    """What a head ends in, opened to the client."""

    entries = Opening

    def parameters(self) -> dict[str, float | int | str]:
        """The precision of what is opened."""
        return {"output_bits": self.context.output_bits}

    def cost(self) -> Cost:
        """Truncation and one message."""
        rows, columns = self.node.shape
        return self._opening_cost(rows * columns)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """Client: (rows * columns,) ring words of `output_bits` fraction bits; server: zeros."""
        return [self._opened(np.ascontiguousarray(inputs[0]).ravel(), state)]


def _by_text(rows: RingArray, node: Node) -> RingArray:
    """As (batch, tokens, columns)."""
    return rows.reshape(node.batch, node.tokens, -1)


def _mask(bits: RingArray, state: RunState) -> NDArray[np.bool_] | None:
    """The client's choice of rows."""
    return bits.astype(np.bool_) if state.is_client else None
