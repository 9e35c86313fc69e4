"""Diagonals for a single vector: one ciphertext up, and few rotations.

The vector's halves are the real and imaginary parts of D slots; times a - i b the real part of a
slot is a x1 + b x2. The other slots repeat the vector, each copy moved on by D / copies, so that
one rotation serves that many diagonals. The copies' results, and nothing else, remain to be added:
each party adds up its own shares, which costs no rotation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from he_linear.kernels import Residues
from he_linear.packings.base import Integers, Weights, check_sizes
from he_linear.packings.diagonals import DiagonalPacking
from he_linear.params import CkksParameters
from transport.errors import UsageError

_ROTATION_S, _PRODUCT_S, _OUTPUT_S = 5e-4, 4e-5, 4e-3
"""Rough times of a rotation, of a product with a diagonal, and of a ciphertext's way back."""


class DiagonalVectorPacking(DiagonalPacking):
    """y = x W for one token; more tokens are taken one after the other, a ciphertext each."""

    name = "halevi_shoup"
    source = "[Halevi14] diagonals, replication as in [Juvekar18] Gazelle; sums on shares: project"

    def __init__(
        self,
        parameters: CkksParameters,
        tokens: int,
        d_in: int,
        d_out: int,
        *,
        diagonal: bool = False,
        baby_steps: int | None = None,
    ) -> None:
        check_sizes(tokens=tokens, d_in=d_in, d_out=d_out)
        if diagonal:
            raise UsageError(
                "packing halevi_shoup: its slots hold two inputs each and cannot scale them apart; "
                "use token_periodic for layers with a scaled residual"
            )
        self.parameters, self.diagonal = parameters, False
        self.tokens, self.d_in, self.d_out = tokens, d_in, d_out
        self._step, self._repeats = 1, tokens
        self._period = min(self._periods(), key=lambda period: self._seconds(period, baby_steps))
        self._lay_out(self._period, baby_steps)
        self.input_ciphertexts = tokens * self._inputs
        self.output_ciphertexts = tokens * self._products
        self.operand_ciphertexts = (self.input_ciphertexts,)

    def _periods(self) -> list[int]:
        """Powers of two from the root of the slots, where a copy serves one diagonal, that fit."""
        slots = self.parameters.slots
        exponent = (slots.bit_length() - 1) // 2
        periods = [1 << i for i in range(exponent, slots.bit_length())]
        return [p for p in periods if 2 * p >= self.d_in] or [slots]

    def _lay_out(self, period: int, baby_steps: int | None) -> None:
        self._copies = self.parameters.slots // period
        self._count = max(1, period // self._copies)
        self._inputs = -(-self.d_in // (2 * period))
        self._products = -(-self.d_out // period)
        self._split(baby_steps)

    def _seconds(self, period: int, baby_steps: int | None) -> float:
        self._lay_out(period, baby_steps)
        products = self._count * self._products * self._inputs
        rotations = self.rotations / self.tokens
        return rotations * _ROTATION_S + products * _PRODUCT_S + self._products * _OUTPUT_S

    def _index(self) -> NDArray[np.int64]:
        """Which input slot s holds: copies move on by `count` each, (slots,)."""
        s = np.arange(self.parameters.slots)
        return (s % self._period + s // self._period * self._count) % self._period

    def pack(self, x: Integers) -> tuple[Integers, Integers]:
        """(tokens, in) to (input ciphertexts, slots), twice."""
        full = np.zeros((self.tokens, self._inputs * 2 * self._period), np.int64)
        full[:, : self.d_in] = x
        halves = full.reshape(self.tokens * self._inputs, 2, self._period)[..., self._index()]
        return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])

    def unpack(self, real: Residues, imag: Residues) -> tuple[Residues, ...]:  # noqa: ARG002
        """Sums over the copies, on shares: (output ciphertexts, slots) to (tokens, out)."""
        sums = real.reshape(-1, self._copies, self._period).sum(axis=1, dtype=np.uint64)
        return (np.ascontiguousarray(sums.reshape(self.tokens, -1)[:, : self.d_out]),)

    def _diagonals(self, weights: Weights, giant: int) -> NDArray[np.complex128]:
        size, slots = self._period, self.parameters.slots
        padded = np.zeros((self._inputs * 2 * size, self._products * size))
        padded[: self.d_in, : self.d_out] = weights
        # (inputs, halves, rows, outputs, columns)
        blocks = padded.reshape(self._inputs, 2, size, self._products, size)
        s = np.arange(slots)
        steps = giant * self._babies + np.arange(self._babies)[:, None]
        rows = self._index()[(s + steps) % slots]
        picked = blocks[:, :, rows, :, s % size]
        # (babies, slots, inputs, halves, outputs) -> (halves, outputs, inputs, babies, slots)
        first, second = picked.transpose(3, 4, 2, 0, 1)
        return np.asarray(first - 1j * second)
