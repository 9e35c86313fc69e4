"""The two products of attention, both operands shared."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from he_linear.ckks.keys import ServerKeys
from he_linear.packings.base import ProductPacking
from hybrid.models.graph import Node
from hybrid.operators.base import Choice, Operator, PlanContext, RunState
from hybrid.operators.conversion import Conversion, Operand
from hybrid.operators.homomorphic import Uploads
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray


class AttentionProductOperator(Operator):
    """Per-head products of two shared matrices under a registered packing. 2 rounds."""

    engine = "he_linear"
    entries = ProductPacking

    def __init__(
        self, node: Node, entry: type[ProductPacking], choice: Choice, context: PlanContext
    ) -> None:
        super().__init__(node, entry, choice, context)
        self._packing = entry(context.parameters, *node.shape)
        self._conversion = Conversion(
            context.parameters,
            (self._packing.left_ciphertexts, self._packing.right_ciphertexts),
            self._packing.output_ciphertexts,
            self._packing.output_scale,
            context.fixed_point.fraction_bits,
            parts=2,
            up_frames=self._packing.left_ciphertexts,
            down_frames=self._packing.output_ciphertexts,
            exact=context.exact,
        )

    @property
    def uses_ckks(self) -> bool:
        """Always."""
        return True

    @property
    def galois_steps(self) -> tuple[int, ...]:
        """Rotations of the packing."""
        return tuple(self._packing.galois_steps)

    @property
    def needs_relinearisation(self) -> bool:
        """Ciphertexts are multiplied."""
        return True

    def parameters(self) -> dict[str, float | int | str]:
        """Bounds used for the failure probability."""
        return {f"{role}_rms": bound.rms for role, bound in sorted(self.node.bounds.items())}

    def cost(self) -> Cost:
        """Both operands encrypted up, one masked download."""
        batch, rows, inner, columns = self.node.shape
        bounds = self.node.bounds
        inputs = [
            (bounds["left"].rms, batch * rows * inner * self._packing.replicas),
            (bounds["right"].rms, batch * inner * columns * self._packing.replicas),
        ]
        return self._conversion.cost(inputs, bounds["output"].rms, self._packing.work)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """scores: (qkv) to (heads, tokens, tokens); context: (weights, qkv) to (tokens, hidden)."""
        left, right = attention_operands(self.node, inputs)
        bits = self._conversion.fraction_bits
        packed = [
            Operand(real.view(np.uint64), imag.view(np.uint64), scale)
            for (real, imag), scale in (
                (self._packing.pack_left(left.view(np.int64)), self._packing.input_scale(bits)),
                (self._packing.pack_right(right.view(np.int64)), self._packing.right_scale(bits)),
            )
        ]

        def evaluate(uploads: Uploads, keys: ServerKeys) -> Iterator[RingArray]:
            pairs = ((left[0], right[0]) for left, right in uploads)
            for result in self._packing.stream(pairs, keys):
                yield result[None]

        real, _ = state.homomorphic.apply(packed, self._conversion, evaluate, state.session)
        return [merged_heads(self.node, self._packing.unpack(real))]


def attention_operands(node: Node, inputs: list[RingArray]) -> tuple[RingArray, RingArray]:
    """Shares of both factors, (heads, ...), from the node's edges."""
    heads, tokens = node.shape[:2]
    # (texts * tokens, 3 hidden) -> (3, texts * heads, tokens, head size)
    parts = inputs[-1].reshape(node.batch, tokens, 3, heads // node.batch, -1)
    query, key, value = parts.transpose(2, 0, 3, 1, 4).reshape(3, heads, tokens, -1)
    if node.op == "scores":
        return np.ascontiguousarray(query), np.ascontiguousarray(key.transpose(0, 2, 1))
    return inputs[0], np.ascontiguousarray(value)


def merged_heads(node: Node, product: RingArray) -> RingArray:
    """(heads, rows, columns) as the node's edge wants it."""
    if node.op == "context":
        heads, tokens, _, size = node.shape
        texts = product.reshape(node.batch, heads // node.batch, tokens, size)
        product = texts.transpose(0, 2, 1, 3).reshape(node.batch * tokens, -1)
    return np.ascontiguousarray(product)
