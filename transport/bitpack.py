"""Bit-packing of small integers for the wire: element i occupies bits [i*bits, (i+1)*bits)."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import DTypeLike, NDArray

from transport.errors import FrameError, UsageError

WORD_BITS = 64
_HALVINGS = 3
"""Joining neighbours so often makes one element of the eight bytes of a word."""


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
    lanes = np.dtype(np.uint64).itemsize // flat.itemsize
    whole = flat.size - flat.size % lanes
    tail = np.zeros(lanes, flat.dtype)
    tail[: flat.size - whole] = flat[whole:]
    words = np.require(flat[:whole].view(np.uint64), requirements="A")
    out = np.empty(-(-flat.size * bits // WORD_BITS) + 2, np.uint64)
    _pack(words, tail.view(np.uint64)[0], np.uint64(bits * lanes), _joins(bits, lanes), out)
    return out.view(np.uint8)[: packed_bytes(flat.size, bits)].tobytes()


def unpack_bits(
    data: bytes | memoryview, count: int, bits: int, dtype: DTypeLike = np.uint64
) -> NDArray[Any]:
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
    lanes = np.dtype(np.uint64).itemsize // kind.itemsize
    groups = -(-count // lanes)
    # Two words more than needed, so that the kernel may read ahead of the last element.
    words = np.empty(-(-count * bits // WORD_BITS) + 2, np.uint64)
    words[-3:] = 0
    words.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
    out = np.empty(groups, np.uint64)
    _unpack(words, np.uint64(bits * lanes), _joins(bits, lanes), out)
    return out.view(kind)[:count]


def _check_bits(bits: int) -> None:
    if not 1 <= bits <= WORD_BITS:
        raise UsageError(f"bit width is {bits}; use 1 to {WORD_BITS}")


@lru_cache
def _joins(bits: int, lanes: int) -> NDArray[np.uint64]:
    """How to join neighbours, pair by pair: rows (first's mask, second's mask, shift), (4, 3).

    Lanes of 64/lanes bits that hold `bits` each become lanes twice as wide with twice the bits;
    row 0 clears what stands above. Rows that are not needed change nothing.
    """
    lane = WORD_BITS // lanes
    rows = [(_repeated(bits, lane, 0), 0, 0)]
    for _ in range(_HALVINGS):
        if lane < WORD_BITS:
            first, second = _repeated(bits, 2 * lane, 0), _repeated(bits, 2 * lane, bits)
            rows.append((first, second, lane - bits))
            lane, bits = 2 * lane, 2 * bits
        else:
            rows.append(((1 << WORD_BITS) - 1, 0, 0))
    return np.array(rows, np.uint64)


def _repeated(bits: int, lane: int, offset: int) -> int:
    """Set `bits` bits in every lane, `offset` above its start."""
    return sum(((1 << bits) - 1) << (at + offset) for at in range(0, WORD_BITS, lane))


@njit(cache=True)
def _pack(words, tail, group, joins, out):  # type: ignore[no-untyped-def]
    """Join the elements in each word to `group` < 64 bits and put those one after the other."""
    full = np.uint64(WORD_BITS)
    clear = joins[0, 0]
    (l1, h1, s1), (l2, h2, s2), (l3, h3, s3) = joins[1], joins[2], joins[3]
    pending, fill, at = np.uint64(0), np.uint64(0), 0
    for i in range(words.size + 1):
        x = (words[i] if i < words.size else tail) & clear
        x = (x & l1) | ((x >> s1) & h1)
        x = (x & l2) | ((x >> s2) & h2)
        x = (x & l3) | ((x >> s3) & h3)
        pending |= x << fill
        fill += group
        if fill >= full:
            out[at] = pending
            at += 1
            fill -= full
            pending = x >> (group - fill)
    out[at] = pending


@njit(cache=True)
def _unpack(words, group, joins, out):  # type: ignore[no-untyped-def]
    """Undo `_pack`; `words` has one spare word at the end."""
    one, low = np.uint64(1), np.uint64(WORD_BITS - 1)
    mask = (one << group) - one
    (l1, h1, s1), (l2, h2, s2), (l3, h3, s3) = joins[1], joins[2], joins[3]
    position = np.uint64(0)
    for i in range(out.size):
        at = position >> np.uint64(6)
        shift = position & low
        # Two shifts, since one by 64 is not defined.
        x = ((words[at] >> shift) | ((words[at + one] << one) << (low - shift))) & mask
        x = (x & l3) | ((x & h3) << s3)
        x = (x & l2) | ((x & h2) << s2)
        out[i] = (x & l1) | ((x & h1) << s1)
        position += group
