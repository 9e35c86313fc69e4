"""Loops of seed trees, of the public code and of pads with AES inside them, see `vector_aes`.

They give what `ggm`, `lpn` and `hashing` give by whole buffers, without the passes over memory. For
processors with `vector_aes.AVAILABLE` alone.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from mpc_nonlinear.correlations.vector_aes import BLOCKS, WORDS, encrypt_blocks

# -- trees ------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _grow(tree, width, offset, keys, work, sums):  # type: ignore[no-untyped-def]
    """Children of a tree's first `width` nodes, in their place; sums (2, 2) of left and right.

    Nodes are read from the last on, before their children overwrite them: H(s), s ^ H(s).
    """
    nodes, inner, outer = work[0], work[1], work[2]
    low, high = np.uint64(0), np.uint64(0)
    low_right, high_right = np.uint64(0), np.uint64(0)
    start = (width - 1) // BLOCKS * BLOCKS
    while start >= 0:
        count = min(BLOCKS, width - start)
        for i in range(count):
            a, b = tree[start + i, 0], tree[start + i, 1]
            nodes[2 * i], nodes[2 * i + 1] = a, b
            a, b = a ^ offset[0], b ^ offset[1]
            inner[2 * i], inner[2 * i + 1] = a ^ b, a
        outer[:] = inner
        encrypt_blocks(outer, keys)
        for i in range(count):
            a, b = outer[2 * i] ^ inner[2 * i], outer[2 * i + 1] ^ inner[2 * i + 1]
            c, d = nodes[2 * i] ^ a, nodes[2 * i + 1] ^ b
            low ^= a
            high ^= b
            low_right ^= c
            high_right ^= d
            at = 2 * (start + i)
            tree[at, 0], tree[at, 1], tree[at + 1, 0], tree[at + 1, 1] = a, b, c, d
        start -= BLOCKS
    sums[0, 0], sums[0, 1], sums[1, 0], sums[1, 1] = low, high, low_right, high_right


@njit(cache=True, nogil=True)
def own_trees(roots, delta, depth, offset, keys, leaves, message):  # type: ignore[no-untyped-def]
    """Leaves (trees, 2^depth, 2) and sums of left children (depth, trees, 2), without pads."""
    work, sums = np.empty((3, WORDS), np.uint64), np.empty((2, 2), np.uint64)
    for t in range(roots.shape[0]):
        tree = leaves[t]
        for half in range(2):
            tree[0, half] = roots[t, half]
            tree[1, half] = roots[t, half] ^ delta[half]
            message[0, t, half] = roots[t, half]
        for level in range(1, depth):
            _grow(tree, 1 << level, offset, keys, work, sums)
            message[level, t, 0], message[level, t, 1] = sums[0, 0], sums[0, 1]


@njit(cache=True, nogil=True)
def held_trees(opened, sides, offset, keys, leaves, missing):  # type: ignore[no-untyped-def]
    """Leaves but one of each tree, that one as the sum of all others, and its index (trees,).

    opened (depth, trees, 2): the sums of each level's side, without pads; sides (depth, trees).
    """
    depth, trees = sides.shape
    work, sums = np.empty((3, WORDS), np.uint64), np.empty((2, 2), np.uint64)
    for t in range(trees):
        tree, side = leaves[t], np.int64(sides[0, t])
        gap = 1 - side
        for half in range(2):
            tree[side, half] = opened[0, t, half]
            tree[gap, half] = np.uint64(0)
        for level in range(1, depth):
            _grow(tree, 1 << level, offset, keys, work, sums)
            side = np.int64(sides[level, t])
            known = 2 * gap + side
            gap = 2 * gap + 1 - side
            for half in range(2):
                # The sum counts what grew from the missing node, which is not its child.
                others = sums[side, half] ^ tree[known, half]
                tree[known, half] = opened[level, t, half] ^ others
                tree[gap, half] = np.uint64(0)
        low, high = np.uint64(0), np.uint64(0)
        for i in range(tree.shape[0]):
            low ^= tree[i, 0]
            high ^= tree[i, 1]
        tree[gap, 0], tree[gap, 1] = low, high
        missing[t] = gap


# -- the public code --------------------------------------------------------------------------

ROW_BLOCKS = 2
"""Of a row's indices."""
_ROWS = BLOCKS // ROW_BLOCKS


@njit(cache=True, nogil=True)
def add_rows(first, keys, secret, out):  # type: ignore[no-untyped-def]
    """Out (m, 2) ^= rows `first` on of the code times secret (k, 2).

    Indices are AES in counter mode: block i encrypts i, most significant byte first.
    """
    flat, words = secret.reshape(-1), np.empty(WORDS, np.uint64)
    mask, one = np.uint64(flat.size - 2), np.uint64(1)
    second, third = np.uint64(20), np.uint64(41)
    for start in range(0, out.shape[0], _ROWS):
        for i in range(BLOCKS):
            words[2 * i] = np.uint64(0)
            words[2 * i + 1] = _swapped(np.uint64((first + start) * ROW_BLOCKS + i))
        encrypt_blocks(words, keys)
        for r in range(min(_ROWS, out.shape[0] - start)):
            x, y = out[start + r, 0], out[start + r, 1]
            for w in range(3):
                word = words[4 * r + w]
                i, j, k = (word << one) & mask, (word >> second) & mask, (word >> third) & mask
                x ^= flat[i] ^ flat[j] ^ flat[k]
                y ^= flat[i + one] ^ flat[j + one] ^ flat[k + one]
            i = (words[4 * r + 3] << one) & mask
            out[start + r, 0] = x ^ flat[i]
            out[start + r, 1] = y ^ flat[i + one]


@njit(cache=True, nogil=True)
def _swapped(word):  # type: ignore[no-untyped-def]
    """Bytes in reverse."""
    for step, mask in ((8, 0x00FF00FF00FF00FF), (16, 0x0000FFFF0000FFFF)):
        lower = np.uint64(mask)
        word = (word & lower) << np.uint64(step) | (word >> np.uint64(step)) & lower
    return word << np.uint64(32) | word >> np.uint64(32)


# -- pads -------------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def hashed(blocks, offset, first_index, keys, out):  # type: ignore[no-untyped-def]
    """Words 2c and 2c + 1 of out (n, words): pi(pi(x) ^ (first_index + i, c)) ^ pi(x)."""
    inner, outer = np.empty(WORDS, np.uint64), np.empty(WORDS, np.uint64)
    n, words = out.shape
    for start in range(0, n, BLOCKS):
        count = min(BLOCKS, n - start)
        for i in range(count):
            inner[2 * i] = blocks[start + i, 0] ^ offset[0]
            inner[2 * i + 1] = blocks[start + i, 1] ^ offset[1]
        encrypt_blocks(inner, keys)
        for c in range((words + 1) // 2):
            for i in range(count):
                outer[2 * i] = inner[2 * i] ^ np.uint64(first_index + start + i)
                outer[2 * i + 1] = inner[2 * i + 1] ^ np.uint64(c)
            encrypt_blocks(outer, keys)
            for i in range(count):
                out[start + i, 2 * c] = outer[2 * i] ^ inner[2 * i]
            if 2 * c + 1 < words:
                for i in range(count):
                    out[start + i, 2 * c + 1] = outer[2 * i + 1] ^ inner[2 * i + 1]
