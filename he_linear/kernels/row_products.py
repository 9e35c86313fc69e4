"""Rows times an integer matrix of 16 bits a row modulo a prime, in one pass over the matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from he_linear.kernels.scalars import Floats, Integers, Residues
from transport.errors import UsageError

_LIMB_BITS = 22
MAX_ROW_MODULUS_BITS = 2 * _LIMB_BITS
"""Two limbs hold a centred residue."""
_WIDTH = 1024
"""Columns of a chunk: its sums stay in the cache."""
_WORD_BITS = 15
_LARGEST = 1 << _WORD_BITS
_TOGETHER = 4
"""Rows of the matrix."""
MAX_EXPONENT = 18
"""Of a row of a matrix: a residue times such a power of two fits a word."""
MAX_ROWS = 1 << 26
"""Of a matrix: limbs of residues have 21 bits and a sign, so their sums stay below 2^62."""


@njit(cache=True, nogil=True)
def _rows_times(high, low, chunks, t, out):  # type: ignore[no-untyped-def]
    """Out (rows, ...) = (high 2^22 + low) W modulo t; sums of limbs are up to 2^(36 + log2 in).

    Limbs of 32 bits let products of two words take one instruction; four rows of the matrix at a
    time, sums are loaded and stored less often.
    """
    rows = high.shape[0]
    count, inner, width = chunks.shape
    a, b = np.empty((rows, width), np.int64), np.empty((rows, width), np.int64)
    for k in range(count):
        a[:], b[:] = 0, 0
        for i in range(0, inner, 4):
            w0, w1, w2, w3 = chunks[k, i], chunks[k, i + 1], chunks[k, i + 2], chunks[k, i + 3]
            for r in range(rows):
                f0, f1 = np.int64(high[r, i]), np.int64(high[r, i + 1])
                f2, f3 = np.int64(high[r, i + 2]), np.int64(high[r, i + 3])
                g0, g1 = np.int64(low[r, i]), np.int64(low[r, i + 1])
                g2, g3 = np.int64(low[r, i + 2]), np.int64(low[r, i + 3])
                upper, lower = a[r], b[r]
                for j in range(width):
                    x0, x1 = np.int64(w0[j]), np.int64(w1[j])
                    x2, x3 = np.int64(w2[j]), np.int64(w3[j])
                    upper[j] += f0 * x0 + f1 * x1 + f2 * x2 + f3 * x3
                    lower[j] += g0 * x0 + g1 * x1 + g2 * x2 + g3 * x3
        for r in range(rows):
            for j in range(width):
                # The modulus has at most 44 bits, so 11 more fit a word.
                top = ((a[r, j] % t << 11) % t << 11) % t
                out[r, k * width + j] = (top + b[r, j] % t) % t


@dataclass(frozen=True, slots=True)
class IntegerMatrix:
    """Signed integers (in, out), 16 bits times a power of two for each row: 2 bytes a weight.

    Kept in chunks of columns.
    """

    chunks: NDArray[np.int16]
    """(chunks, in, width), rows up to a multiple of four; zero beyond the last row and column."""
    shape: tuple[int, int]
    """(in, out)."""
    exponents: NDArray[np.uint64]
    """(in,): row i counts 2^exponents[i] times."""

    @classmethod
    def rounded(cls, weights: NDArray[np.floating[Any]], bits: int) -> IntegerMatrix:
        """Weights (in, out) times 2^bits: to integers, or to 16 bits where a row has larger ones.

        Off by half of 2^exponents[i] in row i, where the largest is a power of two by one.
        """
        scaled = np.ldexp(np.asarray(weights, np.float64), bits)
        # The largest may be 2^15 itself, which is off by one then; of zeros any exponent serves.
        lengths = np.ceil(np.log2(np.maximum(np.abs(scaled).max(axis=1), 1.0)))
        exponents = np.maximum(0, lengths.astype(np.int64) - _WORD_BITS)
        words = np.rint(np.ldexp(scaled, -exponents[:, None]))
        limited = np.clip(words, -_LARGEST, _LARGEST - 1).astype(np.int16)
        return cls.from_integers(limited, exponents.astype(np.uint64))

    @classmethod
    def from_integers(
        cls,
        weights: NDArray[np.int64] | NDArray[np.int16],
        exponents: NDArray[np.uint64] | None = None,
    ) -> IntegerMatrix:
        """Integers (in, out) in [-2^15, 2^15), of each row times 2^exponent; `UsageError` else."""
        if weights.ndim != 2 or not weights.size or weights.dtype.kind != "i":
            raise UsageError(
                f"weights: {weights.dtype} of shape {weights.shape}; use a matrix of integers"
            )
        if len(weights) > MAX_ROWS:
            raise UsageError(
                f"weights: {len(weights)} rows; a sum of products fits a word for up to {MAX_ROWS}"
            )
        if weights.min() < -_LARGEST or weights.max() >= _LARGEST:
            raise UsageError(
                f"weights: integers from {weights.min()} to {weights.max()} do not fit 16 bits; "
                "use fewer fraction bits"
            )
        d_in, d_out = weights.shape
        powers = np.zeros(d_in, np.uint64) if exponents is None else exponents
        if powers.shape != (d_in,) or powers.max() > MAX_EXPONENT:
            raise UsageError(
                f"weights: rows up to 2^{powers.max()} times 16 bits; at most 2^{MAX_EXPONENT} is "
                "possible, one exponent a row; use fewer fraction bits"
            )
        width = min(_WIDTH, d_out)
        count = -(-d_out // width)
        padded = np.zeros((-(-d_in // _TOGETHER) * _TOGETHER, count * width), np.int16)
        padded[:d_in, :d_out] = weights
        chunks = padded.reshape(-1, count, width).transpose(1, 0, 2)
        return cls(np.ascontiguousarray(chunks), (d_in, d_out), powers)

    @property
    def nbytes(self) -> int:
        """Memory in bytes, of padded rows and columns too."""
        return self.chunks.nbytes

    def part(self, top: int, bottom: int, start: int, stop: int) -> Floats:
        """(bottom - top, stop - start) from row `top`, column `start` on; zero beyond the last."""
        width = self.chunks.shape[2]
        out = np.zeros((bottom - top, stop - start))
        for k in range(start // width, min(-(-stop // width), len(self.chunks))):
            first, last = max(start, k * width), min(stop, (k + 1) * width)
            part = self.chunks[k, top:bottom, first - k * width : last - k * width]
            out[: len(part), first - start : last - start] = part
        powers = self.exponents[top:bottom]
        out[: len(powers)] *= np.ldexp(1.0, powers.astype(np.int64))[:, None]
        return out

    def rows_times(self, rows: Residues, modulus: int) -> Residues:
        """Rows (n, in) of residues times the matrix modulo a prime of up to 44 bits: (n, out).

        Exact, in one pass over the matrix.
        """
        assert modulus.bit_length() <= MAX_ROW_MODULUS_BITS
        count, inner, width = self.chunks.shape
        x: Integers = np.zeros((len(rows), inner), np.int64)
        x[:, : self.shape[0]] = (rows << self.exponents) % np.uint64(modulus)
        x = np.where(x > modulus // 2, x - modulus, x)
        high = (x + (1 << (_LIMB_BITS - 1))) >> _LIMB_BITS
        low = x - (high << _LIMB_BITS)
        out = np.empty((len(rows), count * width), np.int64)
        _rows_times(high.astype(np.int32), low.astype(np.int32), self.chunks, modulus, out)
        return np.ascontiguousarray(out[:, : self.shape[1]]).view(np.uint64)
