"""Bit-packing of small integers for the wire: element i occupies bits [i*bits, (i+1)*bits)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import DTypeLike, NDArray

from transport.errors import FrameError, UsageError

WORD_BITS = 64


def packed_bytes(count: int, bits: int) -> int:
    """Bytes that `count` elements of `bits` bits take on the wire."""
    return -(-count * bits // 8)


def low_mask(bits: int) -> np.uint64:
    """Word whose lowest `bits` bits (1 to 64) are set."""
    return np.uint64((1 << bits) - 1)


def pack_bits(array: NDArray[Any], bits: int) -> bytes:
    """The low `bits` bits (1 to 64) of each unsigned element, in C order, without gaps.

    Higher bits are ignored. Little-endian: the first element holds the lowest bits of the
    first byte; unused bits of the last byte are zero. `packed_bytes(array.size, bits)` bytes.
    """
    _check_bits(bits)
    flat = np.ascontiguousarray(array).reshape(-1)
    if flat.dtype.kind != "u":
        raise UsageError(f"pack_bits: dtype is {flat.dtype}; convert to an unsigned type first")
    if bits > 8 * flat.itemsize:
        raise UsageError(f"pack_bits: {flat.dtype} has no {bits} bits; use a wider dtype")
    if bits == 8 * flat.itemsize:
        return flat.astype(flat.dtype.newbyteorder("<"), copy=False).tobytes()
    if bits == 1:
        return np.packbits(flat & flat.dtype.type(1), bitorder="little").tobytes()
    words = np.zeros(-(-flat.size * bits // WORD_BITS) + 1, np.uint64)
    _pack(flat, np.uint64(bits), words)
    return words.view(np.uint8)[: packed_bytes(flat.size, bits)].tobytes()


def unpack_bits(data: bytes, count: int, bits: int, dtype: DTypeLike = np.uint64) -> NDArray[Any]:
    """Inverse of `pack_bits`: `count` elements of `bits` bits as `dtype`, shape (count,).

    `data` is untrusted: `FrameError` unless it has exactly the right length. Bits beyond the
    last element are ignored.
    """
    _check_bits(bits)
    if len(data) != packed_bytes(count, bits):
        raise FrameError(
            f"unpack_bits: {len(data)} bytes cannot hold {count} elements of {bits} bits "
            f"({packed_bytes(count, bits)} bytes); are both parties the same version?"
        )
    kind = np.dtype(dtype)
    if kind.kind != "u" or bits > 8 * kind.itemsize:
        raise UsageError(f"unpack_bits: {kind} cannot hold {bits} bits; use a wider unsigned dtype")
    if bits == 8 * kind.itemsize:
        return np.frombuffer(data, kind.newbyteorder("<")).astype(kind)
    raw = np.frombuffer(data, np.uint8)
    if bits == 1:
        return np.unpackbits(raw, count=count, bitorder="little").astype(kind, copy=False)
    # One word more than needed, so that the kernel may read ahead of the last element.
    words = np.zeros(-(-count * bits // WORD_BITS) + 1, np.uint64)
    words.view(np.uint8)[: len(raw)] = raw
    out = np.empty(count, kind)
    _unpack(words, np.uint64(bits), out)
    return out


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= WORD_BITS:
        raise UsageError(f"bit width is {bits}; use 1 to {WORD_BITS}")


@njit(cache=True)
def _pack(flat: NDArray[Any], bits: np.uint64, words: NDArray[np.uint64]) -> None:
    """Pack into zeroed `words`; needs bits < 64 and one spare word at the end."""
    one, full = np.uint64(1), np.uint64(WORD_BITS)
    mask = (one << bits) - one
    pending, fill, at = np.uint64(0), np.uint64(0), 0
    for i in range(flat.size):
        value = np.uint64(flat[i]) & mask
        pending |= value << fill
        fill += bits
        if fill >= full:
            words[at] = pending
            at += 1
            fill -= full
            # bits - fill < 64 always, because fill was below 64 before the addition.
            pending = value >> (bits - fill) if fill > np.uint64(0) else np.uint64(0)
    words[at] = pending


@njit(cache=True)
def _unpack(words: NDArray[np.uint64], bits: np.uint64, out: NDArray[Any]) -> None:
    """Unpack into `out`; needs bits < 64 and one spare word at the end."""
    one, full = np.uint64(1), np.uint64(WORD_BITS)
    mask = (one << bits) - one
    position = np.uint64(0)
    for i in range(out.size):
        at = position >> np.uint64(6)
        shift = position & np.uint64(63)
        value = words[at] >> shift
        if shift + bits > full:
            value |= words[at + one] << (full - shift)
        out[i] = value & mask
        position += bits
