"""Regular LPN over F2 with a 10-local public code: the parameter sets in use, and the encoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numba import njit

from mpc_nonlinear.correlations import fused_aes, vector_aes
from mpc_nonlinear.correlations.base import BlockArray
from transport.errors import ParameterError

_INDEX_BITS = 21
_WORDS = 4
"""64-bit words a row of the code takes: three indices each."""
_CHUNK_LEAVES = 1 << 17
"""Trees are grown so many leaves at a time, whose code then follows while they are in cache."""


@dataclass(frozen=True, slots=True)
class LpnParameters:
    """n samples from a secret of k bits, noise in one place of each of t blocks of n / t.

    Only the sets that emp-ot adopted in May 2026 after the attacks of eprint 2025/1284 and
    2025/1476; older ones in wide use are below 128 bits.
    """

    n: int
    k: int
    t: int
    block: int

    def __post_init__(self) -> None:
        if (self.n, self.k, self.t, self.block) not in _ADMITTED:
            raise ParameterError(
                f"LPN parameters n={self.n}, k={self.k}, t={self.t}, block={self.block} are not "
                f"among the admitted ones; use one of {', '.join(map(str, _ADMITTED))}"
            )

    @property
    def depth(self) -> int:
        """Levels of each tree."""
        return self.block.bit_length() - 1

    @property
    def consumed(self) -> int:
        """Correlated OTs that go into one batch: the secret, and one a level of each tree."""
        return self.k + self.t * self.depth

    @property
    def usable(self) -> int:
        """Correlated OTs of one batch beyond those that the next one needs."""
        return self.n - self.consumed

    def chunks(self) -> Iterator[tuple[int, int]]:
        """First tree and number of trees of each chunk."""
        step = _CHUNK_LEAVES // self.block
        for start in range(0, self.t, step):
            yield start, min(step, self.t - start)


_ADMITTED = (
    (15564800, 1 << 19, 1900, 1 << 13),
    (6225920, 1 << 18, 1520, 1 << 12),
    (2396160, 1 << 17, 1170, 1 << 11),
    (870400, 1 << 16, 850, 1 << 10),
)
LARGEST, LARGE, MEDIUM, SMALL = (LpnParameters(*values) for values in _ADMITTED)
"""Secrets of MEDIUM and SMALL, 2 and 1 MiB, stay in or near the second-level cache."""


class PublicCode:
    """Rows of a public random matrix, read in order: both parties expand the same seed."""

    def __init__(self, seed: bytes) -> None:
        self._seed, self._row = seed, 0

    def add_rows(self, secret: BlockArray, out: BlockArray) -> None:
        """Out (m, 2) ^= next m rows times secret (k, 2): ten entries each."""
        first, self._row = self._row, self._row + len(out)
        if vector_aes.AVAILABLE:
            keys = vector_aes.round_keys(self._seed)
            fused_aes.add_rows(first, keys, np.ascontiguousarray(secret), out)
            return
        start = (fused_aes.ROW_BLOCKS * first).to_bytes(16, "big")
        stream = Cipher(algorithms.AES(self._seed), modes.CTR(start)).encryptor()
        words = np.empty((len(out), _WORDS), np.uint64)
        stream.update_into(bytes(words.nbytes), words.data.cast("B"))
        _add_rows(words, secret, out)


@njit(cache=True)
def _add_rows(words, secret, out):  # type: ignore[no-untyped-def]
    mask = np.uint64(secret.shape[0] - 1)
    for i in range(out.shape[0]):
        x, y = out[i, 0], out[i, 1]
        for w in range(4):
            word = words[i, w]
            for _ in range(3 if w < 3 else 1):
                at = np.int64(word & mask)
                word >>= np.uint64(_INDEX_BITS)
                x ^= secret[at, 0]
                y ^= secret[at, 1]
        out[i, 0], out[i, 1] = x, y
