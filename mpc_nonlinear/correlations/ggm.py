"""Correlated seed trees: all leaves at one party, all but one at the other, many trees at once.

Half-tree [Guo22] (eprint 2022/1431), Figures 3 and 4: the children of s are H(s) and s ^ H(s), the
first level is (x, x ^ delta), so that every level of a tree sums to delta. For level i the owner
sends the sum of its left nodes under the pad of one correlated OT, 16 bytes; the OT's choice bit is
the side that the holder learns, its punctured path goes the other way. The holder's value at the
punctured leaf is the sum of its others: the owner's leaf ^ delta.

H(s) = pi(sigma(s ^ offset)) ^ sigma(s ^ offset) with sigma(a, b) = (a ^ b, a), pi AES under a fixed
public key and a public random offset for each batch: circular correlation robust in the ideal
permutation model [Guo20] (eprint 2019/074, section 7.3). The holder lacks the nodes of one path a
tree, so that a batch makes at most trees * depth < 2^14 queries (MEDIUM) on that property.
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import njit
from numpy.typing import NDArray

from mpc_nonlinear.correlations import fused_aes, vector_aes
from mpc_nonlinear.correlations.base import BlockArray
from mpc_nonlinear.fixed_point import BitArray

_FIXED_KEY = bytes.fromhex("a4093822299f31d0082efa98ec4e6c89")  # further fraction bits of pi


class TreeHash:
    """H of the module's docstring for one batch."""

    def __init__(self, offset: BlockArray) -> None:
        self.offset = offset
        self._permutation = Cipher(algorithms.AES(_FIXED_KEY), modes.ECB()).encryptor()

    @property
    def parts(self) -> tuple[BlockArray, BlockArray]:
        """The offset, and the permutation's round keys for `fused_aes`."""
        return self.offset, vector_aes.round_keys(_FIXED_KEY)

    def __call__(self, nodes: BlockArray) -> BlockArray:
        """Blocks (n, 2) to (n, 2)."""
        inner = np.empty_like(nodes)
        # `update_into` wants a block of slack behind its output.
        outer = np.empty((len(nodes) + 1, 2), np.uint64)
        _sigma(nodes, self.offset, inner)
        self._permutation.update_into(inner.data.cast("B"), outer.data.cast("B"))
        _xor_into(outer, inner)
        return inner


@njit(cache=True)
def _sigma(nodes, offset, out):  # type: ignore[no-untyped-def]
    for i in range(nodes.shape[0]):
        a, b = nodes[i, 0] ^ offset[0], nodes[i, 1] ^ offset[1]
        out[i, 0] = a ^ b
        out[i, 1] = a


@njit(cache=True)
def _xor_into(source, target):  # type: ignore[no-untyped-def]
    for i in range(target.shape[0]):
        target[i, 0] ^= source[i, 0]
        target[i, 1] ^= source[i, 1]


@njit(cache=True)
def _children(nodes, left, out, sums):  # type: ignore[no-untyped-def]
    """Interleave H(s) and s ^ H(s); sums[t] is the sum of tree t's left children."""
    trees, width, _ = nodes.shape
    for t in range(trees):
        x, y = np.uint64(0), np.uint64(0)
        for i in range(width):
            a, b = left[t, i, 0], left[t, i, 1]
            x ^= a
            y ^= b
            out[t, 2 * i, 0] = a
            out[t, 2 * i, 1] = b
            out[t, 2 * i + 1, 0] = nodes[t, i, 0] ^ a
            out[t, 2 * i + 1, 1] = nodes[t, i, 1] ^ b
        sums[t, 0], sums[t, 1] = x, y


@njit(cache=True)
def _punctured_children(nodes, left, sides, opened, missing, out):  # type: ignore[no-untyped-def]
    """The same where tree t lacks node missing[t]: the child on side sides[t] comes from its sum.

    opened (trees, 2): sum of all children on that side; updates `missing`.
    """
    trees, width, _ = nodes.shape
    for t in range(trees):
        side, gap = sides[t], missing[t]
        x, y = opened[t, 0], opened[t, 1]
        for i in range(width):
            a, b = left[t, i, 0], left[t, i, 1]
            c, d = nodes[t, i, 0] ^ a, nodes[t, i, 1] ^ b
            out[t, 2 * i, 0] = a
            out[t, 2 * i, 1] = b
            out[t, 2 * i + 1, 0] = c
            out[t, 2 * i + 1, 1] = d
            if i != gap:
                x ^= c if side else a
                y ^= d if side else b
        known = 2 * gap + side
        out[t, known, 0], out[t, known, 1] = x, y
        missing[t] = 2 * gap + 1 - side
        out[t, missing[t], 0], out[t, missing[t], 1] = np.uint64(0), np.uint64(0)


@njit(cache=True)
def _fill_missing(leaves, missing):  # type: ignore[no-untyped-def]
    """Set each tree's missing leaf to the sum of all others."""
    for t in range(leaves.shape[0]):
        x, y = np.uint64(0), np.uint64(0)
        for i in range(leaves.shape[1]):
            x ^= leaves[t, i, 0]
            y ^= leaves[t, i, 1]
        leaves[t, missing[t], 0], leaves[t, missing[t], 1] = x, y


def own_trees(
    roots: BlockArray,
    delta: BlockArray,
    pads: BlockArray,
    tree_hash: TreeHash,
    leaves: BlockArray | None = None,
) -> tuple[BlockArray, BlockArray]:
    """Leaves (trees, 2^depth, 2) from random roots (trees, 2), and the message (depth, trees, 2).

    pads (depth, trees, 2): the owner's blocks of the correlated OTs, delta theirs; leaves: place
    for the result.
    """
    depth, trees = pads.shape[:2]
    leaves = _leaves(depth, trees, leaves)
    message = np.empty((depth, trees, 2), np.uint64)
    if vector_aes.AVAILABLE:
        fused_aes.own_trees(roots, delta, depth, *tree_hash.parts, leaves, message)
        return leaves, message ^ pads
    nodes = np.stack([roots, roots ^ delta], axis=1)
    message[0] = roots
    for level in range(1, depth):
        left = tree_hash(nodes.reshape(-1, 2)).reshape(nodes.shape)
        out = np.empty((trees, 2 * nodes.shape[1], 2), np.uint64)
        _children(nodes, left, out, message[level])
        nodes = out
    leaves[:] = nodes
    return leaves, message ^ pads


def held_trees(
    message: BlockArray,
    pads: BlockArray,
    sides: BitArray,
    tree_hash: TreeHash,
    leaves: BlockArray | None = None,
) -> tuple[BlockArray, NDArray[np.int64]]:
    """The holder's leaves, delta added at the punctured one, and that one's index (trees,).

    pads (depth, trees, 2), sides (depth, trees): blocks and choice bits of the correlated OTs.
    """
    depth, trees = pads.shape[:2]
    leaves = _leaves(depth, trees, leaves)
    opened = message ^ pads
    if vector_aes.AVAILABLE:
        gaps = np.empty(trees, np.int64)
        fused_aes.held_trees(opened, sides, *tree_hash.parts, leaves, gaps)
        return leaves, gaps
    rows = np.arange(trees)
    nodes = np.zeros((trees, 2, 2), np.uint64)
    nodes[rows, sides[0]] = opened[0]
    missing = 1 - sides[0].astype(np.int64)
    for level in range(1, depth):
        left = tree_hash(nodes.reshape(-1, 2)).reshape(nodes.shape)
        out = np.empty((trees, 2 * nodes.shape[1], 2), np.uint64)
        side = sides[level].astype(np.int64)
        _punctured_children(nodes, left, side, opened[level], missing, out)
        nodes = out
    _fill_missing(nodes, missing)
    leaves[:] = nodes
    return leaves, missing


def _leaves(depth: int, trees: int, given: BlockArray | None) -> BlockArray:
    return np.empty((trees, 1 << depth, 2), np.uint64) if given is None else given


@njit(cache=True)
def clear_choices(blocks):  # type: ignore[no-untyped-def]
    """Lowest bits of blocks (n, 2) become zero."""
    for i in range(blocks.shape[0]):
        blocks[i, 0] &= ~np.uint64(1)
