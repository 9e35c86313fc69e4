"""Column packing of BOLT: token columns side by side, cyclic diagonals over the columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from he_linear.ckks.parameters import CkksParameters
from he_linear.kernels.scalars import Integers, Residues
from he_linear.packings.base import Weights, check_sizes, power_of_two
from he_linear.packings.diagonals import DiagonalPacking
from transport.errors import UsageError


class ColumnBsgsPacking(DiagonalPacking):
    """Slot j M + t of input ciphertext i holds X[t, i c + j], c = slots / M columns.

    Rotations by multiples of M move columns, cyclically, so that c diagonals make a block. As in
    this library's other packings the imaginary part holds the second half of the tokens.
    """

    name = "column_bsgs"
    source = "[Pang24] BOLT, eprint 2023/1893, column packing with baby-step giant-step"
    _real = True

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
        self.parameters, self.diagonal = parameters, diagonal
        self.tokens, self.d_in, self.d_out = tokens, d_in, d_out
        half = power_of_two(-(-tokens // 2))
        if half > parameters.slots:
            raise UsageError(
                f"{tokens} tokens exceed the {2 * parameters.slots} of a ciphertext; "
                "lower model.tokens"
            )
        # More columns than the matrix has would only add empty diagonals.
        widest = min(parameters.slots, power_of_two(max(d_in, d_out)))
        self._step = max(half, parameters.slots // widest)
        self._count = parameters.slots // self._step
        self.input_ciphertexts = self._inputs = -(-d_in // self._count)
        self._products = -(-d_out // self._count)
        self.output_ciphertexts = self._products + (self.input_ciphertexts if diagonal else 0)
        self.operand_ciphertexts = (self.input_ciphertexts,)
        self._split(baby_steps)

    def pack(self, x: Integers) -> tuple[Integers, Integers]:
        """(tokens, in) to (input ciphertexts, slots), twice."""
        half = -(-self.tokens // 2)
        full = np.zeros((2, self.input_ciphertexts * self._count, self._step), np.int64)
        full[0, : self.d_in, :half] = x[:half].T
        full[1, : self.d_in, : self.tokens - half] = x[half:].T
        real, imag = full.reshape(2, self.input_ciphertexts, -1)
        return real, imag

    def unpack(self, real: Residues, imag: Residues) -> tuple[Residues, ...]:
        """(output ciphertexts, slots) back to rows."""
        k = self._products
        first = self._rows(real[:k], imag[:k], self.d_out)
        return (first, self._rows(real[k:], imag[k:], self.d_in)) if self.diagonal else (first,)

    def _rows(self, real: Residues, imag: Residues, width: int) -> Residues:
        half = -(-self.tokens // 2)
        parts = [
            part.reshape(-1, self._step)[:width, :count].T
            for part, count in ((real, half), (imag, self.tokens - half))
        ]
        return np.concatenate(parts)

    def _diagonals(self, weights: Weights, giant: int) -> NDArray[np.complex128]:
        c = self._count
        padded = np.zeros((self.input_ciphertexts * c, self._products * c))
        padded[: self.d_in, : self.d_out] = weights
        blocks = padded.reshape(self.input_ciphertexts, c, self._products, c)
        j = np.arange(c)
        rows = (j + giant * self._babies + np.arange(self._babies)[:, None]) % c
        # (inputs, babies, c, outputs) -> (outputs, inputs, babies, c)
        picked = blocks[:, rows, :, j].transpose(3, 2, 0, 1)
        return np.repeat(picked, self._step, axis=-1).astype(np.complex128)

    def _factors(self, diagonal: Weights) -> NDArray[np.complex128]:
        padded = np.zeros(self.input_ciphertexts * self._count)
        padded[: self.d_in] = diagonal
        columns = padded.reshape(self.input_ciphertexts, -1)
        return np.repeat(columns, self._step, axis=-1).astype(np.complex128)
