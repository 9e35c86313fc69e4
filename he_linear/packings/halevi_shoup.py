"""Diagonals for a single vector: one ciphertext up, and few rotations.

The vector's halves are the real and imaginary parts of P slots; times a - i b the real part of a
slot is a x1 + b x2. The other slots repeat the vector. Slot s collects output s mod R, so that
slots / R partial sums of every output stand in different slots. Each party adds them up in its own
shares, which costs no rotation. Copies are moved on such that one rotation serves slots / R
diagonals: P R / slots diagonals make a block, whatever the two periods P and R are.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from he_linear.ckks.parameters import CkksParameters
from he_linear.kernels.scalars import Integers, Residues
from he_linear.packings.base import Weights, check_sizes, power_of_two
from he_linear.packings.diagonals import DiagonalPacking
from transport.errors import UsageError

_ROTATION_S, _PRODUCT_S, _OUTPUT_S = 5e-4, 2e-5, 4e-3
"""Rough times of a rotation, of a product with a diagonal, and of a ciphertext's way back."""
_MAX_PARTS = 64
"""Slots that are added up for one output: each brings the rounding of two shares."""


class HaleviShoupPacking(DiagonalPacking):
    """y = x W for one token; more tokens are taken one after the other, a ciphertext each.

    Rounding of shares adds sqrt(slots / R / 6) units rms to an output, at most 3.3.
    """

    name = "halevi_shoup"
    source = (
        "[Halevi14] diagonals, rectangular and replicated as in [Juvekar18] Gazelle; "
        "sums on shares: project"
    )
    _real = False

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
        self._period = min(power_of_two(-(-d_in // 2)), parameters.slots)
        self._inputs = -(-d_in // (2 * self._period))
        self._columns = min(self._periods(), key=lambda columns: self._seconds(columns, baby_steps))
        self._lay_out(self._columns, baby_steps)
        self.input_ciphertexts = tokens * self._inputs
        self.output_ciphertexts = tokens * self._products
        self.operand_ciphertexts = (self.input_ciphertexts,)

    def _periods(self) -> list[int]:
        """Periods of outputs: from where a block is one diagonal to where all fit once."""
        slots = self.parameters.slots
        least = max(slots // self._period, slots // _MAX_PARTS)
        most = min(slots, max(least, power_of_two(self.d_out)))
        return [1 << i for i in range(least.bit_length() - 1, most.bit_length())]

    def _lay_out(self, columns: int, baby_steps: int | None) -> None:
        self._count = self._period * columns // self.parameters.slots
        self._products = -(-self.d_out // columns)
        self._split(baby_steps)

    def _seconds(self, columns: int, baby_steps: int | None) -> float:
        self._lay_out(columns, baby_steps)
        products = self._count * self._products * self._inputs
        rotations = self.rotations / self.tokens
        return rotations * _ROTATION_S + products * _PRODUCT_S + self._products * _OUTPUT_S

    def _index(self) -> NDArray[np.int64]:
        """Which input slot s holds, (slots,).

        Over all slots s of one output and all diagonals r < count, slot s + r holds every input
        once. A sum s + r that leaves its copy meets the next one's shift, which permutes shifts.
        """
        s = np.arange(self.parameters.slots)
        shift = s // max(self._period, self._columns) * self._count
        return (s + shift) % self._period

    def pack(self, x: Integers) -> tuple[Integers, Integers]:
        """(tokens, in) to (input ciphertexts, slots), twice."""
        full = np.zeros((self.tokens, self._inputs * 2 * self._period), np.int64)
        full[:, : self.d_in] = x
        halves = full.reshape(self.tokens * self._inputs, 2, self._period)[..., self._index()]
        return np.ascontiguousarray(halves[:, 0]), np.ascontiguousarray(halves[:, 1])

    def unpack(self, real: Residues, imag: Residues) -> tuple[Residues, ...]:  # noqa: ARG002
        """Partial sums added up, on shares: (output ciphertexts, slots) to (tokens, out)."""
        parts = real.reshape(len(real), -1, self._columns)
        sums = parts.sum(axis=1, dtype=np.uint64).reshape(self.tokens, -1)
        return (np.ascontiguousarray(sums[:, : self.d_out]),)

    def _diagonals(self, weights: Weights, giant: int) -> NDArray[np.complex128]:
        size, columns, slots = self._period, self._columns, self.parameters.slots
        padded = np.zeros((self._inputs * 2 * size, self._products * columns))
        padded[: self.d_in, : self.d_out] = weights
        # (inputs, halves, rows, outputs, columns)
        blocks = padded.reshape(self._inputs, 2, size, self._products, columns)
        s = np.arange(slots)
        steps = giant * self._babies + np.arange(self._babies)[:, None]
        rows = self._index()[(s + steps) % slots]
        picked = blocks[:, :, rows, :, s % columns]
        # (babies, slots, inputs, halves, outputs) -> (halves, outputs, inputs, babies, slots)
        first, second = picked.transpose(3, 4, 2, 0, 1)
        return np.asarray(first - 1j * second)
