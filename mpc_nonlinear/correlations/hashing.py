"""Tweakable circular correlation robust hash from fixed-key AES, for pads of correlated OTs.

H(i, x) = pi(pi(x) ^ i) ^ pi(x) with pi = AES-128 under a fixed public key: construction TMMO
of [Guo20] (eprint 2019/074), circular correlation robust for distinct tweaks
i when pi is an ideal permutation. Tweaks here are (index of the OT, word counter).
"""

from __future__ import annotations

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import njit
from numpy.typing import NDArray

from mpc_nonlinear.correlations import fused_aes, vector_aes
from mpc_nonlinear.correlations.base import BlockArray
from transport.bitpack import low_mask

_FIXED_KEY = bytes.fromhex("243f6a8885a308d313198a2e03707344")  # first 128 fraction bits of pi
_BATCH = 1 << 14
"""Hashes made at a time: 256 KiB stay in the second-level cache between the two passes."""
_NO_OFFSET = np.zeros(2, np.uint64)


def hash_blocks(blocks: BlockArray, first_index: int) -> BlockArray:
    """H((first_index + i, 0), blocks[i]) for each i: shape (n, 2) to (n, 2)."""
    return wide_pads(blocks, first_index, 2)


def pads(blocks: BlockArray, first_index: int, bits: int) -> NDArray[np.uint64]:
    """Return the low `bits` bits (1 to 64) of each block's hash, shape (n,)."""
    return wide_pads(blocks, first_index, 1)[:, 0] & low_mask(bits)


def wide_pads(
    blocks: BlockArray, first_index: int, words: int, offset: BlockArray | None = None
) -> NDArray[np.uint64]:
    """Stretch each block, or its xor with `offset` (2,), to `words` pseudorandom 64-bit words.

    Shape (n, words). Words 2c and 2c + 1 of block i are H((first_index + i, c), blocks[i]).
    """
    blocks = np.ascontiguousarray(blocks, np.uint64)
    out = np.empty((len(blocks), words), np.uint64)
    if vector_aes.AVAILABLE:
        moved, keys = _NO_OFFSET if offset is None else offset, vector_aes.round_keys(_FIXED_KEY)
        fused_aes.hashed(blocks, moved, first_index, keys, out)
    else:
        _hash_buffers(blocks, first_index, offset, out)
    return out


def _hash_buffers(
    blocks: BlockArray, first_index: int, offset: BlockArray | None, out: NDArray[np.uint64]
) -> None:
    n, words = out.shape
    counters = -(-words // 2)
    # Made per call: an encryptor is not safe to share between threads.
    permutation = Cipher(algorithms.AES(_FIXED_KEY), modes.ECB()).encryptor()
    size = max(1, min(n, _BATCH // max(1, counters)))
    moved = np.empty((size, 2), np.uint64)
    # `update_into` wants a block of slack behind its output.
    inner = np.empty(2 * size + 2, np.uint64)
    tweaked = np.empty((size, counters, 2), np.uint64)
    outer = np.empty(2 * size * counters + 2, np.uint64)
    for start in range(0, n, size):
        count = min(size, n - start)
        batch = blocks[start : start + count]
        if offset is not None:
            batch = np.bitwise_xor(batch, offset, out=moved[:count])
        permutation.update_into(batch.data.cast("B"), inner.data.cast("B"))
        _tweak(inner, np.uint64(first_index + start), tweaked[:count])
        permutation.update_into(tweaked[:count].data.cast("B"), outer.data.cast("B"))
        _feed_forward(inner, outer, counters, out[start : start + count])


@njit(cache=True)
def _tweak(inner: NDArray[np.uint64], first_index: np.uint64, tweaked: NDArray[np.uint64]) -> None:
    for i in range(tweaked.shape[0]):
        for c in range(tweaked.shape[1]):
            tweaked[i, c, 0] = inner[2 * i] ^ (first_index + np.uint64(i))
            tweaked[i, c, 1] = inner[2 * i + 1] ^ np.uint64(c)


@njit(cache=True)
def _feed_forward(
    inner: NDArray[np.uint64], outer: NDArray[np.uint64], counters: int, out: NDArray[np.uint64]
) -> None:
    words = out.shape[1]
    if words == 1:
        for i in range(out.shape[0]):
            out[i, 0] = outer[2 * i] ^ inner[2 * i]
        return
    for i in range(out.shape[0]):
        for w in range(words):
            out[i, w] = outer[2 * i * counters + w] ^ inner[2 * i + (w & 1)]
