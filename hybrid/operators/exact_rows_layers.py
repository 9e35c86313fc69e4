"""Linear layers of decoders from rows that were prepared before any token was known.

A batch of rows serves passes of any length, a row a token; what is left serves later requests.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property
from math import ceil, floor, log2
from typing import Any, ClassVar

import numpy as np

from he_linear.exact.slot_parameters import SLOT_SETS, SlotParameters
from he_linear.kernels.row_products import MAX_EXPONENT, IntegerMatrix
from he_linear.packings.exact_rows import ExactRowsPacking
from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node
from hybrid.operators.base import Choice, EncodedLinear, PlanContext, RunState, WeightedOperator
from hybrid.operators.exact_rows import (
    check_rows_range,
    prepare_cost,
    prepare_rows,
    rows_online_cost,
    rows_product_online,
    rows_result,
)
from hybrid.operators.pads import LinearPad
from mpc_nonlinear.cost import Cost, total_without_work
from mpc_nonlinear.fixed_point import RingArray
from transport.errors import ConfigError, ParameterError, UsageError

SLOT_SET = SLOT_SETS["n8192_t44"]
_WORD_BITS = 15
"""Of the magnitude of a weight's integer, before its row's power of two."""
_MAX_WEIGHT_BITS = 24


class ExactRowsLinear:
    """Catalog entry of linear layers from prepared rows."""

    op: ClassVar[str] = "linear"
    name: ClassVar[str] = "exact_rows"
    source: ClassVar[str] = ExactRowsPacking.source


class ExactRowsEmbedding(ExactRowsLinear):
    """Catalog entry of a private embedding: one-hot rows times the table."""

    op = "embedding"


class ExactRowsOperator(WeightedOperator):
    """y = x W + b for the next rows of a decoder. 2 rounds online; needs prepared rows.

    Weights are integers of 16 bits times a power of two for each input, which is the server's own
    matter, with as many fraction bits as the result's bound has room for: public, as bounds are.
    """

    engine = "he_linear"
    entries = ExactRowsLinear
    encodes_for_any_rows = True

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        if "weight" not in node.bounds:
            raise ConfigError(
                f"{node.name}: 'exact_rows' needs a bound on the weights, which only decoders "
                "have; choose another linear"
            )
        self._rows, self._in, self._out = node.shape
        fraction = context.fixed_point.fraction_bits
        self._input_bits = 0 if node.op == ExactRowsEmbedding.op else fraction
        self._weight_bits = self._fitting_bits(fraction)
        # What a result has more, or less, than shares have.
        self._shift = self._input_bits + self._weight_bits - fraction

    def _fitting_bits(self, fraction: int) -> int:
        """Fraction bits of weights: those of shares, more for small ones, if results have room."""
        bounds = self.node.bounds
        largest = bounds["weight"].max_abs
        bits = max(fraction, _WORD_BITS - floor(log2(largest))) if self._input_bits else fraction
        bits = min(bits, _MAX_WEIGHT_BITS, _WORD_BITS + MAX_EXPONENT - ceil(log2(largest)))
        while bits >= 1:
            shift = max(0, self._input_bits + bits - fraction)
            try:
                total = self._input_bits + bits
                check_rows_range(bounds["output"].max_abs, total, self._parameters, shift)
            except ParameterError:
                bits -= 1
                continue
            return bits
        raise ConfigError(
            f"{self.node.name}: weights up to {bounds['weight'].max_abs:g} with results up to "
            f"{bounds['output'].max_abs:g} have no room in exact rows; scale the model"
        )

    @property
    def _parameters(self) -> SlotParameters:
        return SLOT_SET

    @cached_property
    def packing(self) -> ExactRowsPacking:
        """Of a batch."""
        return ExactRowsPacking(self._parameters, self.context.batch_rows, self._in, self._out)

    @cached_property
    def _first_packings(self) -> list[ExactRowsPacking]:
        """Of a batch that a prompt waits for, if there are such batches."""
        rows = self.context.first_rows
        return [ExactRowsPacking(self._parameters, rows, self._in, self._out)] if rows else []

    @property
    def slot_steps(self) -> tuple[int, ...]:
        """Rotations of the packings, in slots modulo a prime."""
        packings = self.packing, *self._first_packings
        return tuple(sorted({step for packing in packings for step in packing.galois_steps}))

    def parameters(self) -> dict[str, float | int | str]:
        """Scale of the weights, bounds used for the failure probability."""
        bounds = self.node.bounds
        return {"weight_bits": self._weight_bits, "input_rms": bounds["input"].rms}

    @property
    def encoded_bytes(self) -> int:
        """Two bytes a weight."""
        return 2 * self._in * self._out

    def encode(self, linear: LinearMap, *, keep: bool = True) -> EncodedLinear:
        """Integers of 16 bits; server only. They are small enough to be kept always."""
        del keep
        matrix = IntegerMatrix.rounded(linear.weight, self._weight_bits)
        return EncodedLinear(lambda: matrix, linear.bias, None)

    def cost(self) -> Cost:
        """The client's masked rows, and the way back modulo 2^64."""
        bits, rms = self._input_bits, self.node.bounds["input"].rms
        shape = (self._rows, self._in, self._out)
        return rows_online_cost(shape, self._parameters, rms, bits)

    def batch_cost(self) -> Cost:
        """Encrypted rows up, masked results down."""
        return prepare_cost(self.packing)

    def prepare_batch(self, state: RunState) -> None:
        """Append a batch to this node's rows."""
        self._append(self.packing, state)

    def first_batch_cost(self) -> Cost:
        """As `batch_cost`."""
        return total_without_work(map(prepare_cost, self._first_packings))

    def prepare_first_batch(self, state: RunState) -> None:
        """As `prepare_batch`."""
        for packing in self._first_packings:
            self._append(packing, state)

    def _append(self, packing: ExactRowsPacking, state: RunState) -> None:
        name = self.node.name
        assert state.slots is not None
        channel, weights = state.session.channel, self._weights(state)
        pads = prepare_rows(packing, state.slots, channel, weights, layer=name)
        state.rows.setdefault(name, deque()).extend(pads)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """(rows, in) to (rows, out)."""
        pads, weights = self._next_rows(state), self._weights(state)
        channel = state.session.channel
        shares = rows_product_online(inputs[0], pads, self._parameters, channel, weights)
        result = rows_result(shares, self._parameters, max(0, self._shift), state.session)
        if self._shift < 0:
            result = result << np.uint64(-self._shift)
        own = state.encoded.get(self.node.name)
        return [result] if own is None else own.with_constants([result], state)

    def _next_rows(self, state: RunState) -> list[LinearPad]:
        stock = state.rows.get(self.node.name, deque())
        if len(stock) < self._rows:
            raise UsageError(
                f"{self.node.name}: {len(stock)} prepared rows are left, {self._rows} are needed; "
                "prepare a batch first"
            )
        return [stock.popleft() for _ in range(self._rows)]

    def _weights(self, state: RunState) -> IntegerMatrix | None:
        own = state.encoded.get(self.node.name)
        if own is None:
            return None
        matrix = own.encoded
        assert isinstance(matrix, IntegerMatrix)
        return matrix
