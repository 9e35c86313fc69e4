"""Linear layers and attention without ciphertexts: products that a trusted dealer prepares."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from math import prod
from typing import Any, ClassVar

import numpy as np

from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node
from hybrid.operators.attention import attention_operands, merged_heads
from hybrid.operators.base import (
    Choice,
    EncodedLinear,
    Operator,
    PlanContext,
    RunState,
    WeightedOperator,
)
from hybrid.operators.pads import LinearPad
from hybrid.operators.whole_matrix import split_columns, whole_integers
from mpc_nonlinear.blocks.beaver import (
    masked_weights,
    matrix_product,
    matrix_product_cost,
    prepare_weight_product,
    weight_product,
    weight_product_cost,
)
from mpc_nonlinear.blocks.session import Products, Session
from mpc_nonlinear.blocks.truncate import truncate, truncate_cost
from mpc_nonlinear.correlations.dealer import TrustedDealer
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BYTES, RingArray
from mpc_nonlinear.ring_matmul import Limbs
from transport.computing import Work, units
from transport.errors import ConfigError
from transport.foreign import shown
from transport.traffic import Party, Traffic


class BeaverLinear:
    """Catalog entry of linear layers from a dealer's products."""

    op: ClassVar[str] = "linear"
    name: ClassVar[str] = "beaver"
    source: ClassVar[str] = "[Beaver91]; weights fixed for a session as in [Mohassel17] SecureML"


class BeaverEmbedding(BeaverLinear):
    """Catalog entry of a private embedding: one-hot rows times the table."""

    op = "embedding"


class BeaverAttention:
    """Catalog entry of products of shared matrices from a dealer's triples."""

    op: ClassVar[str] = "attention"
    name: ClassVar[str] = "beaver"
    source: ClassVar[str] = "[Beaver91]"


def require_dealer(key: str, context: PlanContext) -> None:
    """`ConfigError` unless correlations come from a dealer; key: of `protocols`."""
    if not issubclass(context.source, TrustedDealer):
        raise ConfigError(
            f"protocols.{key}: 'beaver' takes products from a dealer, correlations come from "
            f"{shown(context.source.name)}; set mpc.correlations: dealer, or choose another {key}"
        )


class DealtLinearOperator(WeightedOperator):
    """y = x W + b, weights rounded to the fraction bits of shares. 2 rounds online.

    The scaled residual of a diagonal node is further columns of the matrix. The client's half of
    the product is made before the input is known.
    """

    engine = "mpc_nonlinear"
    entries = BeaverLinear
    takes_prepared = True
    encodes_for_any_rows = True

    @classmethod
    def choices(cls, entry: Any, products: Mapping[str, Products]) -> Iterator[Choice]:
        """Always prepared."""
        del products
        yield Choice(entry.name, prepared=True)

    @classmethod
    def named_choice(cls, entry: Any, multiply: str, prepared: bool) -> Choice:
        """As the phase says, to be refused where it cannot be."""
        del multiply
        return Choice(entry.name, prepared=prepared)

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        require_dealer("linear", context)
        if not choice.prepared:
            raise ConfigError(
                "protocols.linear: 'beaver' makes half of its products before the input; set "
                "ckks.linear_phase: offline"
            )
        tokens, d_in, d_out = node.shape
        self._shape = tokens, d_in, d_out + d_in * node.diagonal
        self._layer = zlib.crc32(node.name.encode())

    def parameters(self) -> dict[str, float | int | str]:
        """Nothing but the shape."""
        return {}

    @property
    def encoded_bytes(self) -> int:
        """Of weights of up to 21 bits, in float64; larger ones take three times as much."""
        return 8 * prod(self._shape[1:])

    @property
    def _truncates(self) -> bool:
        """Whether the input has fraction bits of its own: one-hot rows are integers."""
        return self.node.op != BeaverEmbedding.op

    def cost(self) -> Cost:
        """The client's masked share; one truncation of every result."""
        product = weight_product_cost(self._layer, *self._shape)
        if not self._truncates:
            return product
        bits = self.context.fixed_point.fraction_bits
        return product + truncate_cost(self._shape[0] * self._shape[2], bits)

    def offline_cost(self) -> Cost:
        """The client's product with masked weights: no message."""
        return Cost(work=Work.together(units(word_matmul=prod(self._shape))))

    def setup_traffic(self) -> Traffic:
        """Masked weights to the client."""
        return Traffic.message(Party.SERVER, RING_BYTES * prod(self._shape[1:]))

    def encode(self, linear: LinearMap, *, keep: bool = True) -> EncodedLinear:
        """Integers and their limbs, made now or, unless `keep`, at every use; server only."""
        integers = whole_integers(linear, self.context.fixed_point, self.node.name)

        def encode() -> object:
            return integers, Limbs.small(integers)

        return EncodedLinear.of(encode, linear, keep=keep)

    def setup(self, session: Session, encoded: EncodedLinear | None) -> None:
        """Once a session: the client gets the weights under a mask of the dealer's."""
        weights: RingArray | None = None
        if encoded is not None:
            integers, _ = self._weights(encoded)
            weights = integers.view(np.uint64)
        found = masked_weights(weights, self._layer, self._shape[1:], session)
        if found is not None:
            dealer = session.correlations
            assert isinstance(dealer, TrustedDealer)
            dealer.masked_weights[self.node.name] = found

    def prepare(self, state: RunState) -> None:
        """The pad of one input."""
        dealer = state.session.correlations
        assert isinstance(dealer, TrustedDealer)
        masked = dealer.masked_weights.get(self.node.name)
        pad = prepare_weight_product(self._layer, self._shape, masked, state.session)
        state.pads[self.node.name] = LinearPad(self.node.name, *pad)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """(tokens, in) to (tokens, out) and, for a diagonal node, the scaled input."""
        own = state.encoded.get(self.node.name)
        weights = None if own is None else self._weights(own)[1]
        pad = tuple(state.pads.pop(self.node.name).take())
        product = weight_product(inputs[0], pad, weights, state.session)
        full = product
        if self._truncates:
            full = truncate(product, state.session.fixed_point.fraction_bits, state.session)
        outputs = split_columns(full, self.node)
        return outputs if own is None else own.with_constants(outputs, state)

    @staticmethod
    def _weights(encoded: EncodedLinear) -> Any:
        return encoded.encoded


class DealtAttentionOperator(Operator):
    """Per-head products of two shared matrices. 2 rounds."""

    engine = "mpc_nonlinear"
    entries = BeaverAttention

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        require_dealer("attention", context)

    def parameters(self) -> dict[str, float | int | str]:
        """Nothing but the shape."""
        return {}

    def cost(self) -> Cost:
        """One opening of both operands, one truncation of every result."""
        batch, rows, inner, columns = self.node.shape
        bits = self.context.fixed_point.fraction_bits
        product = matrix_product_cost(batch, rows, inner, columns)
        return product + truncate_cost(batch * rows * columns, bits)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """scores: (qkv) to (heads, tokens, tokens); context: (weights, qkv) to (tokens, hidden)."""
        left, right = attention_operands(self.node, inputs)
        product = matrix_product(left, right, state.session)
        bits = state.session.fixed_point.fraction_bits
        return [merged_heads(self.node, truncate(product, bits, state.session))]
