"""Linear layers: shares to ciphertexts, packed product with the server's weights, and back."""

from __future__ import annotations

import numpy as np

from he_linear.keys import ServerKeys
from he_linear.packings.base import LinearPacking
from hybrid.conversions import Conversion, Operand
from hybrid.folding import LinearMap
from hybrid.graph import Node
from hybrid.operators.base import EncodedLinear, Operator, PlanContext, RunState
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray


class LinearOperator(Operator):
    """y = x W + b under a registered packing. 2 rounds."""

    engine = "he_linear"

    def __init__(self, node: Node, context: PlanContext, packing: type[LinearPacking]) -> None:
        super().__init__(node, context)
        self.protocol = packing.name
        tokens, d_in, d_out = node.shape
        self._packing = packing(
            context.parameters,
            tokens,
            d_in,
            d_out,
            diagonal=node.diagonal,
            baby_steps=context.baby_steps,
        )
        self._conversion = Conversion(
            context.parameters,
            (self._packing.input_ciphertexts,),
            self._packing.output_ciphertexts,
            self._packing.output_scale,
            context.mpc.fixed_point.fraction_bits,
            parts=2,
        )

    @property
    def galois_steps(self) -> tuple[int, ...]:
        """Rotations of the packing."""
        return tuple(self._packing.galois_steps)

    def parameters(self) -> dict[str, float | int | str]:
        """Bounds used for the failure probability."""
        return {f"{role}_rms": bound.rms for role, bound in sorted(self.node.bounds.items())}

    def cost(self) -> Cost:
        """One encrypted upload, one masked download."""
        tokens, d_in, _ = self.node.shape
        bounds = self.node.bounds
        output_rms = max(bound.rms for role, bound in bounds.items() if role != "input")
        return self._conversion.cost([(bounds["input"].rms, tokens * d_in)], output_rms)

    def encode(self, linear: LinearMap) -> EncodedLinear:
        """Weights in the packing's form; server only."""
        encoded = self._packing.encode_weights(linear.weight, linear.scale)
        return EncodedLinear(encoded, linear.bias, linear.shift)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """(tokens, in) to (tokens, out) and, for a diagonal node, the scaled input."""
        real, imag = self._packing.pack(inputs[0].view(np.int64))
        scale = self._packing.input_scale(self._conversion.fraction_bits)
        own = state.encoded.get(self.node.name)

        def evaluate(ciphertexts: list[RingArray], keys: ServerKeys) -> RingArray:
            assert own is not None
            return self._packing.evaluate(ciphertexts[0], own.encoded, keys)

        operand = Operand(real.view(np.uint64), imag.view(np.uint64), scale)
        out = state.homomorphic.apply([operand], self._conversion, evaluate, state.session.channel)
        outputs = list(self._packing.unpack(*out))
        if own is not None:
            constants = (own.bias, own.shift)
            outputs = [
                y if c is None else y + state.encode(c)
                for y, c in zip(outputs, constants, strict=False)
            ]
        return outputs
