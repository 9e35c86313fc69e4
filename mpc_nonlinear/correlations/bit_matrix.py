"""Kernels of OT extension on bit columns: 64 OTs per word, lowest bit first."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

Words = NDArray[np.uint64]
_TILE = 128
"""Words handled at a time: a tile of 16 leaves is 16 KiB, half a first-level cache."""
_LANES = 8
"""64 x 64 blocks transposed side by side, one per lane of a 512-bit vector."""


@njit(cache=True)
def fold_leaves(leaves: Words, u: Words, v: Words) -> None:
    """Compute u = sum_x leaves[x], v[j] = sum of the leaves whose index has bit j, over GF(2).

    `leaves` has shape (2^k, words) and is overwritten; u (words,), v (k, words) are results.
    About 2^(k+1) word operations per word instead of k * 2^k.
    """
    words = leaves.shape[1]
    for start in range(0, words, _TILE):
        stop = min(words, start + _TILE)
        half = leaves.shape[0] >> 1
        level = v.shape[0] - 1
        while half:
            v[level, start:stop] = leaves[half, start:stop]
            leaves[0, start:stop] ^= leaves[half, start:stop]
            for x in range(1, half):
                for i in range(start, stop):
                    upper = leaves[half + x, i]
                    v[level, i] ^= upper
                    leaves[x, i] ^= upper
            half >>= 1
            level -= 1
        u[start:stop] = leaves[0, start:stop]


@njit(cache=True)
def transpose_columns(columns: Words, blocks: Words) -> None:
    """Move bit i of column j to bit j of block i: (128, words) to (64 * words, 2).

    Recursive halving of 64 x 64 bit blocks ([Warren] Hacker's Delight, chapter 7).
    """
    words = columns.shape[1]
    square = np.zeros((64, _LANES), np.uint64)
    for start in range(0, words, _LANES):
        lanes = min(_LANES, words - start)
        for part in range(2):
            for row in range(64):
                for lane in range(lanes):
                    square[row, lane] = columns[64 * part + row, start + lane]
            _transpose_squares(square)
            for lane in range(lanes):
                for row in range(64):
                    blocks[64 * (start + lane) + row, part] = square[row, lane]


@njit(cache=True)
def _transpose_squares(square: Words) -> None:
    """Transpose 64 x 64 bits in every lane: bit c of row r goes to bit r of row c."""
    width = 32
    mask = np.uint64(0x00000000FFFFFFFF)
    while width:
        shift = np.uint64(width)
        for base in range(0, 64, 2 * width):
            for row in range(base, base + width):
                for lane in range(_LANES):
                    low, high = square[row, lane], square[row + width, lane]
                    swapped = ((low >> shift) ^ high) & mask
                    square[row + width, lane] = high ^ swapped
                    square[row, lane] = low ^ (swapped << shift)
        width >>= 1
        mask ^= mask << np.uint64(width)
