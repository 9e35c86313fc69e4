"""Linear layers: shares to ciphertexts, packed product with the server's weights, and back.

In phase "offline" the ciphertexts carry a uniform mask of the client's share, before any input is
known; online one message follows, and the server finishes on plaintexts: docs/architecture.md,
"Offline and online".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.keys import ServerKeys
from he_linear.kernels.residues import intt
from he_linear.packings.base import LinearPacking
from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node
from hybrid.operators.base import (
    Choice,
    EncodedLinear,
    PlanContext,
    RunState,
    WeightedOperator,
)
from hybrid.operators.conversion import Conversion, Operand
from hybrid.operators.homomorphic import Evaluate, HomomorphicServer, Uploads
from hybrid.operators.pads import LinearPad
from mpc_nonlinear.blocks.session import Products
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RING_BYTES, RingArray
from transport.computing import Message, Work, add_units, units
from transport.errors import ConfigError
from transport.traffic import Party, Traffic


class LinearOperator(WeightedOperator):
    """y = x W + b under a registered packing. 2 rounds; prepared offline, 1 round online."""

    engine = "he_linear"
    entries = LinearPacking
    takes_prepared = True

    @classmethod
    def choices(cls, entry: Any, products: Mapping[str, Products]) -> Iterator[Choice]:
        """Online, and prepared where the packing can."""
        yield from super().choices(entry, products)
        if entry.evaluates_plaintexts:
            yield Choice(entry.name, prepared=True)

    @classmethod
    def named_choice(cls, entry: Any, multiply: str, prepared: bool) -> Choice:
        """As the phase says."""
        del multiply
        return Choice(entry.name, prepared=prepared)

    def __init__(
        self, node: Node, entry: type[LinearPacking], choice: Choice, context: PlanContext
    ) -> None:
        super().__init__(node, entry, choice, context)
        packing = entry
        self._offline = choice.prepared
        if self._offline and context.exact:
            raise ConfigError(
                "ckks.exact: the last step of a linear layer prepared offline would need both "
                "parties online; set ckks.linear_phase: online"
            )
        if self._offline and not packing.evaluates_plaintexts:
            raise ConfigError(
                f"ckks.linear_phase: packing {packing.name} cannot be prepared offline; set "
                "ckks.linear_phase: online or protocols.linear: token_periodic"
            )
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
            context.fixed_point.fraction_bits,
            parts=2,
            up_frames=self._packing.input_ciphertexts,
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

    def parameters(self) -> dict[str, float | int | str]:
        """Bounds used for the failure probability."""
        return {f"{role}_rms": bound.rms for role, bound in sorted(self.node.bounds.items())}

    def cost(self) -> Cost:
        """One encrypted upload, one masked download; or the client's masked share in the clear."""
        online = self._online_cost()
        if not self._offline:
            return online
        tokens, d_in, _ = self.node.shape
        message = Traffic.message(Party.CLIENT, RING_BYTES * tokens * d_in)
        count, results = self._packing.input_ciphertexts, self._packing.output_ciphertexts
        encoded = {
            self._conversion.unit("encode"): count,
            self._conversion.unit("switch", base=True): results,
        }
        after = add_units(units(encoded), self._packing.plain_work, self._conversion.back_units)
        sent = Message(Party.CLIENT, message.client_sent_bytes, (), after)
        return Cost(
            message,
            failure_probability=online.failure_probability,
            work=Work((sent,)),
            failures=online.failures,
        )

    def offline_cost(self) -> Cost:
        """The upload and the download, where they happen before the input is known."""
        if not self._offline:
            return NO_COST
        work = self._conversion.work(self._packing.work, own=False)
        return Cost(self._conversion.traffic(), work=work)

    def _online_cost(self) -> Cost:
        tokens, d_in, _ = self.node.shape
        bounds = self.node.bounds
        output_rms = max(bound.rms for role, bound in bounds.items() if role != "input")
        inputs = [(bounds["input"].rms, tokens * d_in)]
        return self._conversion.cost(inputs, output_rms, self._packing.work)

    @property
    def encoded_bytes(self) -> int:
        """Memory of the encoded weights."""
        return self._packing.encoded_bytes

    def encode(self, linear: LinearMap, *, keep: bool = True) -> EncodedLinear:
        """Weights in the packing's form, made now or, unless `keep`, at every use; server only."""

        def encode() -> object:
            return self._packing.encode_weights(linear.weight, linear.scale)

        return EncodedLinear.of(encode, linear, keep=keep)

    def prepare(self, state: RunState) -> None:
        """Make the pad of one input."""
        channel = state.session.channel
        if isinstance(state.homomorphic, HomomorphicServer):
            masks = state.homomorphic.answer(
                None, self._conversion, self._evaluator(state), channel
            )
            state.pads[self.node.name] = LinearPad(self.node.name, np.concatenate(masks))
            return
        rho = state.session.randomness.uint64(self.node.shape[:2])
        operand, evaluate = self._operand(rho), self._evaluator(state)
        out = state.homomorphic.apply([operand], self._conversion, evaluate, state.session)
        results = self._packing.unpack(*out)
        state.pads[self.node.name] = LinearPad(self.node.name, rho, *results)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """(tokens, in) to (tokens, out) and, for a diagonal node, the scaled input."""
        if self._offline:
            outputs = self._finish(inputs[0], state)
        else:
            operand, evaluate = self._operand(inputs[0]), self._evaluator(state)
            out = state.homomorphic.apply([operand], self._conversion, evaluate, state.session)
            outputs = list(self._packing.unpack(*out))
        own = state.encoded.get(self.node.name)
        return outputs if own is None else own.with_constants(outputs, state)

    def _finish(self, x: RingArray, state: RunState) -> list[RingArray]:
        """Online half of a prepared layer."""
        pad = state.pads.pop(self.node.name).take()
        channel = state.session.channel
        channel.next_round()
        if state.is_client:
            rho, *results = pad
            channel.send_array(x - rho)
            return results
        # x - rho is what both parties' masked shares add up to; its lift is encoded exactly.
        masked = x + channel.recv_array(self.node.shape[:2], np.uint64)
        parameters = self._conversion.parameters
        plain = state.homomorphic.encode(self._operand(masked), parameters)
        result = self._packing.evaluate_plain(plain, state.encoded[self.node.name].encoded)
        # The same scaling with rounding as the ciphertexts had.
        switched, _ = he.switch_modulus(intt(result, parameters.primes), parameters)
        out = state.homomorphic.decode(switched + pad[0], self._conversion)
        return list(self._packing.unpack(*out))

    def _operand(self, x: RingArray) -> Operand:
        real, imag = self._packing.pack(x.view(np.int64))
        scale = self._packing.input_scale(self._conversion.fraction_bits)
        return Operand(real.view(np.uint64), imag.view(np.uint64), scale)

    def _evaluator(self, state: RunState) -> Evaluate:
        def evaluate(uploads: Uploads, keys: ServerKeys) -> Iterator[RingArray]:
            encoded = state.encoded[self.node.name].encoded
            inputs = (ciphertexts[0][0] for ciphertexts in uploads)
            for result in self._packing.stream(inputs, encoded, keys):
                yield result[None]

        return evaluate
