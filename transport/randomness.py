"""Secret randomness: AES-256-CTR keyed by the operating system."""

from __future__ import annotations

import hashlib
import math
import os
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

SEED_BYTES = 32


class SecureRandom:
    """A stream of bytes indistinguishable from uniform without its 32-byte seed.

    `domain` separates streams that share a seed. A fixed `seed` is for expanding public
    seeds and for tests; leave it out everywhere else.
    """

    def __init__(self, seed: bytes | None = None, *, domain: str = "") -> None:
        seed = os.urandom(SEED_BYTES) if seed is None else seed
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a seed has {SEED_BYTES} bytes, got {len(seed)}")
        key = hashlib.blake2b(domain.encode(), key=seed, digest_size=32).digest()
        self._stream = Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor()

    def bytes(self, count: int) -> bytes:
        """The next `count` bytes of the stream."""
        return self._stream.update(bytes(count))

    def uint64(self, shape: int | tuple[int, ...]) -> NDArray[np.uint64]:
        """Uniform 64-bit words."""
        return self._words(shape, np.uint64)

    def uint8(self, shape: int | tuple[int, ...]) -> NDArray[np.uint8]:
        """Uniform bytes."""
        return self._words(shape, np.uint8)

    def bits(self, shape: int | tuple[int, ...]) -> NDArray[np.uint8]:
        """Uniform bits, one per byte."""
        count = shape if isinstance(shape, int) else math.prod(shape)
        packed = np.frombuffer(self.bytes(-(-count // 8)), np.uint8)
        return np.unpackbits(packed, count=count, bitorder="little").reshape(shape)

    def _words(self, shape: int | tuple[int, ...], dtype: Any) -> NDArray[Any]:
        count = shape if isinstance(shape, int) else math.prod(shape)
        size = count * np.dtype(dtype).itemsize
        # A copy, because the cipher's output is an immutable bytes object.
        return np.frombuffer(self.bytes(size), dtype).reshape(shape).copy()
