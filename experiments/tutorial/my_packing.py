"""A plugin: a linear packing without rotations. Tutorial 3 walks through it.

A ciphertext holds one token, repeated: slot j P + i is x[i], P the power of two above the inputs.
One product with a plaintext of weights multiplies x[i] by W[i, k copies + j] in all slots at once,
for `copies` outputs. The P products of an output are never added under encryption: each party adds
up its own shares of them, for nothing. No rotation, no rotation key, but many ciphertexts back.
"""

from __future__ import annotations

import numpy as np

from he_linear.ckks.canonical_embedding import slots_to_coefficients
from he_linear.ckks.keys import ServerKeys
from he_linear.ckks.parameters import CkksParameters
from he_linear.kernels.residues import Residues, multiply, ntt, reduce_signed
from he_linear.packings.base import (
    Integers,
    LinearPacking,
    Weights,
    check_sizes,
    power_of_two,
    rounded_weights,
)
from he_linear.packings.evaluation_work import EvaluationWork
from transport.computing import Units, units
from transport.errors import UsageError


class RepeatedTokenPacking(LinearPacking):
    """y = x W. Adding P shares makes an error of sqrt(P / 6) units rms; at most 4096 inputs."""

    name = "repeated_token"
    source = "tutorial 3 of this project"
    input_scale_bits = 26
    weight_scale_bits = 24
    evaluates_plaintexts = True

    def __init__(
        self,
        parameters: CkksParameters,
        tokens: int,
        d_in: int,
        d_out: int,
        *,
        diagonal: bool = False,
        baby_steps: int | None = None,  # noqa: ARG002
    ) -> None:
        check_sizes(tokens=tokens, d_in=d_in, d_out=d_out)
        if d_in > parameters.slots:
            most = parameters.slots
            raise UsageError(f"repeated_token: {d_in} inputs; use token_periodic above {most}")
        self.parameters, self.diagonal = parameters, diagonal
        self.tokens, self.d_in, self.d_out = tokens, d_in, d_out
        self._period = power_of_two(d_in)
        self._copies = parameters.slots // self._period
        self._products = -(-d_out // self._copies)
        # A diagonal (factors that scale the input itself) is one more plaintext.
        self._plaintexts = self._products + diagonal
        self.input_ciphertexts = tokens
        self.output_ciphertexts = tokens * self._plaintexts
        self.operand_ciphertexts = (tokens,)

    @property
    def work(self) -> EvaluationWork:
        """Two polynomials of each ciphertext by each plaintext."""
        count = 2 * self.output_ciphertexts
        return EvaluationWork((), (), units({self.unit("plain_multiply"): count}))

    @property
    def plain_work(self) -> Units:
        """The same, of one polynomial."""
        return units({self.unit("plain_multiply"): self.output_ciphertexts})

    @property
    def encoded_bytes(self) -> int:
        """Eight bytes a residue."""
        return 8 * self._plaintexts * len(self.parameters.primes) * self.parameters.poly_degree

    def pack(self, x: Integers) -> tuple[Integers, Integers]:
        """(tokens, in) to slots (tokens, slots); the imaginary parts stay empty."""
        full = np.zeros((self.tokens, self._period), np.int64)
        full[:, : self.d_in] = x
        real = np.tile(full, self._copies)
        return real, np.zeros_like(real)

    def unpack(self, real: Residues, imag: Residues) -> tuple[Residues, ...]:  # noqa: ARG002
        """Sums over the products of each output, on this party's shares."""
        slots = real.reshape(self.tokens, self._plaintexts, self._copies, self._period)
        sums = slots[:, : self._products].sum(axis=-1, dtype=np.uint64)
        y = np.ascontiguousarray(sums.reshape(self.tokens, -1)[:, : self.d_out])
        scaled = np.ascontiguousarray(slots[:, -1, 0, : self.d_in])
        return (y, scaled) if self.diagonal else (y,)

    def encode_weights(self, weights: Weights, diagonal: Weights | None = None) -> Residues:
        """Plaintexts in NTT form, (plaintexts, primes, N)."""
        self.check_weights(weights, diagonal)
        slots = np.zeros((self._plaintexts, self._copies, self._period))
        outputs = slots[: self._products].reshape(-1, self._period)
        outputs[: self.d_out, : self.d_in] = weights.T
        if diagonal is not None:
            slots[-1, 0, : self.d_in] = diagonal
        coefficients = slots_to_coefficients(slots.reshape(self._plaintexts, -1) + 0j)
        scaled = rounded_weights(coefficients, self.weight_scale_bits)
        primes = self.parameters.primes
        return ntt(reduce_signed(scaled.astype(np.int64), primes), primes)

    def evaluate(self, ciphertexts: Residues, encoded: Residues, keys: ServerKeys) -> Residues:  # noqa: ARG002
        """Every token's ciphertext times every plaintext; the keys are not needed."""
        out = multiply(ciphertexts[:, None], encoded[None, :, None], self.parameters.primes)
        return out.reshape(self.output_ciphertexts, *ciphertexts.shape[1:])

    def evaluate_plain(self, plaintexts: Residues, encoded: Residues) -> Residues:
        """The same map on plaintexts, for layers prepared offline."""
        out = multiply(plaintexts[:, None], encoded[None], self.parameters.primes)
        return out.reshape(self.output_ciphertexts, *plaintexts.shape[1:])


PACKINGS = (RepeatedTokenPacking,)
