"""Matrix products modulo primes below 2^49 by float64 BLAS, exact.

Centred residues split in two centred limbs of b bits, magnitude at most 2^(b-1) or a few percent
more. K products of limbs sum to about K 2^(2b-2) <= 2^51 and two such sums to 2^52: float64 adds
them exactly, in any order, and the reductions of `scalars` take them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from he_linear.kernels.scalars import Floats, centre, centred, nearest, times

_BATCH = 16
"""Blocks a BLAS call works on: its float64 copies stay in cache."""


def limb_bits(p: int) -> int:
    """Bits of each of the two limbs: 22 for primes of 44 bits."""
    return (p.bit_length() + 1) // 2


def max_inner(p: int) -> int:
    """Longest exact sum of limb products: 512 for primes of 44 bits."""
    return 1 << (53 - 2 * limb_bits(p))


@dataclass(frozen=True, slots=True)
class LimbMatrices:
    """(blocks, rows, inner) modulo p: high limbs above low limbs, (blocks, 2 rows, inner).

    Limbs have at most 24 bits besides their sign, so that float32 holds them.
    """

    p: int
    limbs: NDArray[np.float32]

    @classmethod
    def from_values(cls, values: Floats, p: int) -> LimbMatrices:
        """Centred values (rows, inner, blocks), block index last as the NTT leaves it."""
        rows, inner, blocks = values.shape
        limbs = np.empty((blocks, 2 * rows, inner), np.float32)
        _split_matrices(values, 2.0 ** limb_bits(p), limbs)
        return cls(p, limbs)

    @property
    def nbytes(self) -> int:
        """Memory of all limbs."""
        return self.limbs.nbytes


@njit(cache=True, nogil=True)
def _split_matrices(values, base, limbs):  # type: ignore[no-untyped-def]
    rows, inner, blocks = values.shape
    shrink = 1.0 / base
    for i in range(rows):
        for j in range(inner):
            for block in range(blocks):
                x = values[i, j, block]
                high = nearest(x, shrink)
                limbs[block, i, j] = high
                limbs[block, rows + i, j] = x - high * base


@njit(cache=True, nogil=True)
def _split_operand(values, base, operand):  # type: ignore[no-untyped-def]
    """(inner, polys, N) to (blocks, inner, [high | low] x polys x N / blocks)."""
    inner, polys, n = values.shape
    blocks, _, width = operand.shape
    run = n // blocks
    shrink = 1.0 / base
    for i in range(inner):
        for poly in range(polys):
            for block in range(blocks):
                high = operand[block, i, poly * run : (poly + 1) * run]
                low = operand[block, i, width // 2 + poly * run : width // 2 + (poly + 1) * run]
                row = values[i, poly, block * run : (block + 1) * run]
                for j in range(run):
                    x = row[j]
                    y = nearest(x, shrink)
                    high[j] = y
                    low[j] = x - y * base


@njit(cache=True, nogil=True)
def _combine(products, square, base, p, start, out):  # type: ignore[no-untyped-def]
    """Out (rows, polys, N) += high * base^2 + middle * base + low, from block `start` on."""
    inv = 1.0 / p
    square_inv, base_inv = square / p, base / p
    blocks, double, width = products.shape
    polys = out.shape[1]
    rows, half = double // 2, width // 2
    run = half // polys
    for i in range(rows):
        for poly in range(polys):
            for block in range(blocks):
                at = (start + block) * run
                target = out[i, poly, at : at + run]
                first = products[block, i, poly * run : half]
                second = products[block, i, half + poly * run :]
                third = products[block, rows + i, poly * run : half]
                fourth = products[block, rows + i, half + poly * run :]
                for j in range(run):
                    middle = times(second[j] + third[j], base, base_inv, p)
                    x = times(first[j], square, square_inv, p) + middle
                    low = centre(fourth[j], p, inv)
                    target[j] = centre(target[j] + x + low, p, inv)


def modular_matmul(matrices: LimbMatrices, values: Floats) -> Floats:
    """Blockwise (rows, inner) @ (inner, polys x run): (inner, polys, N) to (rows, polys, N).

    polys is 2 for ciphertexts, 1 for plaintexts. Block i of N / blocks consecutive columns meets
    matrix i. Values are centred.
    """
    p, bits = matrices.p, limb_bits(matrices.p)
    blocks, double, inner = matrices.limbs.shape
    polys, n = values.shape[1:]
    operand = np.empty((blocks, inner, 2 * polys * n // blocks))
    _split_operand(values, 2.0**bits, operand)
    out = np.zeros((double // 2, polys, n))
    square = centred(1 << (2 * bits), p)
    # Reused, because fresh memory for every batch costs several times the products.
    left = np.empty((_BATCH, double, inner))
    products = np.empty((_BATCH, double, operand.shape[-1]))
    for start in range(0, blocks, _BATCH):
        part = slice(start, start + _BATCH)
        count = len(matrices.limbs[part])
        np.copyto(left[:count], matrices.limbs[part])
        for at in range(0, inner, max_inner(p)):
            chunk = slice(at, at + max_inner(p))
            np.matmul(left[:count, :, chunk], operand[part, chunk], out=products[:count])
            _combine(products[:count], square, 2.0**bits, float(p), start, out)
    return out
