"""Linear layers and attention by exact products modulo 2^64 in coefficients, then a truncation."""

from __future__ import annotations

from abc import abstractmethod
from math import prod
from typing import Any

from he_linear.exact.ring_parameters import RING_SETS
from he_linear.packings.ring_base import RingLinearPacking, RingPacking, RingProductPacking
from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node
from hybrid.operators.attention import attention_operands, merged_heads
from hybrid.operators.base import (
    Choice,
    EncodedLinear,
    Operator,
    PlanContext,
    RingKeySet,
    RunState,
    WeightedOperator,
)
from hybrid.operators.exact_products import (
    ExactWeights,
    exact_linear,
    exact_matmul,
    exact_traffic,
    exact_work,
)
from hybrid.operators.whole_matrix import split_columns, whole_integers
from mpc_nonlinear.blocks.truncate import truncate, truncate_cost
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from transport.computing import Units, units
from transport.errors import ConfigError

RING_SET = "n8192_l64"


class _ExactOperator(Operator):
    """What both have in common: one packing, its keys, a truncation of its results."""

    engine = "he_linear"
    _packing: RingPacking
    _results: int

    @property
    def ring_keys(self) -> RingKeySet:
        """Automorphisms that merge results, if any."""
        return RingKeySet(self._packing.parameters, self._packing.automorphisms)

    def parameters(self) -> dict[str, float | int | str]:
        """The ring's parameter set."""
        return {"ring": RING_SET}

    def cost(self) -> Cost:
        """One question, one answer, one truncation."""
        bits = self.context.fixed_point.fraction_bits
        work = exact_work(self._packing, self._own_units())
        return Cost(exact_traffic(self._packing), work=work) + truncate_cost(self._results, bits)

    @abstractmethod
    def _own_units(self) -> Units:
        """What the server computes on its own share, besides."""

    def _truncated(self, product: RingArray, state: RunState) -> RingArray:
        bits = state.session.fixed_point.fraction_bits
        return truncate(product, bits, state.session)


class ExactLinearOperator(_ExactOperator, WeightedOperator):
    """y = x W + b, weights rounded to the fraction bits of shares. 3 rounds, always online.

    The scaled residual of a diagonal node is further columns of the matrix.
    """

    entries = RingLinearPacking
    takes_prepared = True
    _packing: RingLinearPacking

    @classmethod
    def named_choice(cls, entry: Any, multiply: str, prepared: bool) -> Choice:
        """As the phase says, to be refused where it cannot be."""
        del multiply
        return Choice(entry.name, prepared=prepared)

    def _own_units(self) -> Units:
        p = self._packing
        return units(word_multiply_add=p.tokens * p.d_in * p.d_out)

    def __init__(
        self, node: Node, entry: type[RingLinearPacking], choice: Choice, context: PlanContext
    ) -> None:
        super().__init__(node, entry, choice, context)
        if choice.prepared:
            raise ConfigError(
                f"ckks.linear_phase: packing {entry.name} cannot be prepared offline; set "
                "ckks.linear_phase: online or protocols.linear: token_periodic"
            )
        tokens, d_in, d_out = node.shape
        width = d_out + d_in * node.diagonal
        self._packing = entry(RING_SETS[RING_SET], tokens, d_in, width)
        self._results = tokens * width

    @property
    def encoded_bytes(self) -> int:
        """Memory of the transformed weights."""
        return self._packing.encoded_bytes

    def encode(self, linear: LinearMap, *, keep: bool = True) -> EncodedLinear:
        """Weights in the packing's form, made now or, unless `keep`, at every use; server only."""
        integers = whole_integers(linear, self.context.fixed_point, self.node.name)

        def encode() -> object:
            return ExactWeights.encode(integers, self._packing)

        return EncodedLinear.of(encode, linear, keep=keep)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """(tokens, in) to (tokens, out) and, for a diagonal node, the scaled input."""
        own = state.encoded.get(self.node.name)
        weights: Any = None if own is None else own.encoded
        channel, party = state.session.channel, state.ring[self._packing.parameters]
        product = exact_linear(inputs[0], self._packing, party, channel, weights)
        full = self._truncated(product, state)
        outputs = split_columns(full, self.node)
        return outputs if own is None else own.with_constants(outputs, state)


class ExactAttentionOperator(_ExactOperator):
    """Per-head products of two shared matrices. 3 rounds."""

    entries = RingProductPacking

    def __init__(
        self, node: Node, entry: type[RingProductPacking], choice: Choice, context: PlanContext
    ) -> None:
        super().__init__(node, entry, choice, context)
        batch, rows, inner, columns = node.shape
        self._product = entry(RING_SETS[RING_SET], batch, rows, inner, columns)
        self._packing = self._product
        self._results = prod((batch, rows, columns))

    def _own_units(self) -> Units:
        packing = self._packing
        encoded = {packing.unit("encode"): sum(packing.operand_ciphertexts)}
        return units(encoded, word_multiply_add=prod(self.node.shape))

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """scores: (qkv) to (heads, tokens, tokens); context: (weights, qkv) to (tokens, hidden)."""
        left, right = attention_operands(self.node, inputs)
        party = state.ring[self._packing.parameters]
        product = exact_matmul(left, right, self._product, party, state.session.channel)
        return [merged_heads(self.node, self._truncated(product, state))]
