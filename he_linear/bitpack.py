"""Fixed-width integers as contiguous bits, least significant first."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from transport.errors import FrameError


@njit(cache=True)
def _pack(values, width, words):  # type: ignore[no-untyped-def]
    position = 0
    for i in range(values.size):
        v = values[i]
        word = position >> 6
        shift = np.uint64(position & 63)
        words[word] |= v << shift
        if (position & 63) + width > 64:
            words[word + 1] |= v >> (np.uint64(64) - shift)
        position += width


@njit(cache=True)
def _unpack(words, width, values):  # type: ignore[no-untyped-def]
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> np.uint64(64 - width)
    position = 0
    for i in range(values.size):
        word = position >> 6
        shift = np.uint64(position & 63)
        v = words[word] >> shift
        if (position & 63) + width > 64:
            v |= words[word + 1] << (np.uint64(64) - shift)
        values[i] = v & mask
        position += width


def packed_bytes(count: int, width: int) -> int:
    """Bytes of `count` integers of `width` bits."""
    return -(-count * width // 8)


def pack_bits(values: NDArray[np.uint64], width: int) -> bytes:
    """Integers below 2^width, 1 <= width <= 64, in ceil(count * width / 8) bytes."""
    flat = np.ascontiguousarray(values, np.uint64).ravel()
    words = np.zeros(-(-flat.size * width // 64) + 1, np.uint64)
    _pack(flat, width, words)
    return words.tobytes()[: packed_bytes(flat.size, width)]


def unpack_bits(data: bytes | memoryview, count: int, width: int) -> NDArray[np.uint64]:
    """Inverse of `pack_bits`; the size is checked."""
    size = packed_bytes(count, width)
    if len(data) != size:
        raise FrameError(f"packed integers: got {len(data)} bytes, expected {size}; same version?")
    padded = np.zeros(-(-count * width // 64) + 1, np.uint64)
    padded.view(np.uint8)[:size] = np.frombuffer(data, np.uint8)
    values = np.empty(count, np.uint64)
    _unpack(padded, width, values)
    return values
