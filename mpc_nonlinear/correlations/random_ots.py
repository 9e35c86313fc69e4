"""Local kernels that hash raw correlated OTs into prepared randomness, one form after the other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mpc_nonlinear.correlations.base import OtReceiver, OtSender
from mpc_nonlinear.correlations.hashing import wide_pads
from mpc_nonlinear.cost import RESIDUE_BITS, Kind
from mpc_nonlinear.fixed_point import BitArray
from transport.bitpack import WORD_BITS, low_mask
from transport.errors import UsageError

Words = NDArray[np.uint64]


def narrowest(bits: int) -> np.dtype[Any]:
    """Smallest unsigned dtype of at least `bits` bits (1 to 64)."""
    if not 1 <= bits <= WORD_BITS:
        raise UsageError(f"oblivious transfer: values of {bits} bits; use 1 to {WORD_BITS}")
    return np.dtype(f"u{next(size for size in (1, 2, 4, 8) if bits <= 8 * size)}")


def product_sender(ots: OtSender, kind: Kind) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pad of choice 0, and its difference to the pad of choice 1, (n, width) each."""
    zero, one = _pads(ots, kind, None), _pads(ots, kind, ots.delta)
    if not kind.shape:
        return zero, zero - one
    modulus = np.uint64(kind.shape[0])
    return zero, (zero + (modulus - one)) % modulus


def product_receiver(ots: OtReceiver, kind: Kind) -> tuple[BitArray, NDArray[Any]]:
    """Random choices (n,) and their pads (n, width)."""
    return ots.choices, _pads(ots, kind, None)


def _pads(ots: OtSender | OtReceiver, kind: Kind, offset: Words | None) -> NDArray[Any]:
    if kind.shape:
        words = RESIDUE_BITS // WORD_BITS
        strings = wide_pads(ots.blocks, ots.first_index, words, offset)
        residues = np.empty((len(strings), 1), np.uint64)
        _residues(strings, np.uint64(kind.shape[0]), np.uint64(WORD_BITS - kind.bits), residues)
        return residues
    dtype = narrowest(kind.bits)
    words = -(-kind.width * dtype.itemsize // 8)
    strings = wide_pads(ots.blocks, ots.first_index, words, offset)
    return np.ascontiguousarray(strings.view(dtype)[:, : kind.width])


@njit(cache=True)
def _residues(strings, modulus, step, out):  # type: ignore[no-untyped-def]
    """Strings as one number modulo another of 64 - step bits, `step` bits at a time.

    Uniform up to modulus / 2^128.
    """
    for i in range(out.shape[0]):
        rest = strings[i, 0] % modulus
        for w in range(1, strings.shape[1]):
            left = np.uint64(64)
            while left > 0:
                take = min(step, left)
                left -= take
                digit = (strings[i, w] >> left) & ((np.uint64(1) << take) - np.uint64(1))
                rest = ((rest << take) | digit) % modulus
        out[i, 0] = rest


def triple(sending: OtSender, receiving: OtReceiver, kind: Kind) -> NDArray[np.uint8]:
    """Bytes a | b << 1 | c << (1 + bits), (n,): a is this party's choice, b its pads' difference.

    Each of the two OTs shares one cross term.
    """
    mask = low_mask(kind.bits)
    zero = wide_pads(sending.blocks, sending.first_index, 1)[:, 0]
    one = wide_pads(sending.blocks, sending.first_index, 1, sending.delta)[:, 0]
    chosen = wide_pads(receiving.blocks, receiving.first_index, 1)[:, 0]
    out = np.empty(len(zero), np.uint8)
    _triple(zero, one, chosen, receiving.choices, mask, np.uint64(kind.bits), out)
    return out


@njit(cache=True)
def _triple(zero, one, chosen, choices, mask, bits, out):  # type: ignore[no-untyped-def]
    place = np.uint64(1)
    for i in range(out.size):
        a = np.uint64(choices[i])
        b = (zero[i] ^ one[i]) & mask
        c = (b & (np.uint64(0) - a)) ^ ((zero[i] ^ chosen[i]) & mask)
        out[i] = a | (b << place) | (c << (place + bits))


# -- one of 2^m masks ----------------------------------------------------------------------
# Entry v is masked by one pad per bit of v, and each pad is a string of which every v has its
# own slot.


def table_sender(ots: OtSender, kind: Kind) -> tuple[NDArray[Any]]:
    """Masks (n, 2^m)."""
    dtype = narrowest(kind.bits)
    combined = _combined_sender(ots, kind.choice_bits, 8 * dtype.itemsize, 1)
    return (combined.view(dtype)[:, : 1 << kind.choice_bits].copy(),)


def table_receiver(ots: OtReceiver, kind: Kind) -> tuple[NDArray[np.uint8], NDArray[Any]]:
    """Random index and the mask there, (n,) each."""
    dtype = narrowest(kind.bits)
    index, combined = _combined_receiver(ots, kind.choice_bits, 8 * dtype.itemsize, 1)
    return index, combined.view(dtype)[np.arange(len(index)), index]


def leaf_sender(ots: OtSender, kind: Kind) -> tuple[NDArray[Any]]:
    """Words (n, width) of 2^m slots of `bits` bits, lowest first; higher bits are arbitrary.

    Where the slots fill several words of 64 bits: (n, width * words).
    """
    combined = _combined_sender(ots, kind.choice_bits, kind.bits, kind.width)
    row_bits = kind.bits << kind.choice_bits
    if row_bits > WORD_BITS:
        return (combined,)
    return (combined.view(narrowest(row_bits))[:, : kind.width].copy(),)


def leaf_receiver(ots: OtReceiver, kind: Kind) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Random index (n,) and the slots there, (n, width)."""
    index, combined = _combined_receiver(ots, kind.choice_bits, kind.bits, kind.width)
    row_bits = kind.bits << kind.choice_bits
    if row_bits > WORD_BITS:
        return index, _long_slots_at(combined, index, kind)
    words = combined.view(narrowest(row_bits))[:, : kind.width]
    out = np.empty(words.shape, np.uint8)
    _slots_at(words, index, np.uint64(kind.bits), low_mask(kind.bits), out)
    return index, out


def _long_slots_at(combined: Words, index: NDArray[np.uint8], kind: Kind) -> NDArray[np.uint8]:
    """Slots (n, width) of rows of several words each."""
    rows = combined.reshape(len(index), kind.width, -1)
    first = index.astype(np.uint64) * np.uint64(kind.bits)
    place = (first // np.uint64(WORD_BITS)).astype(np.intp)[:, None, None]
    words = np.take_along_axis(rows, place, 2)[:, :, 0]
    found = words >> (first % np.uint64(WORD_BITS))[:, None] & low_mask(kind.bits)
    return found.astype(np.uint8)


def _layout(choice_bits: int, slot_bits: int, width: int) -> tuple[int, Words]:
    """Words of a pad string, and for each bit of the index the slots of entries that have it."""
    row_bits = max(8, slot_bits << choice_bits)
    words = -(-row_bits * width // 64)
    place = np.arange(64 * words) % row_bits // slot_bits
    bits = place >> np.arange(choice_bits)[:, None] & 1
    return words, np.packbits(bits.astype(np.uint8), axis=1, bitorder="little").view(np.uint64)


def _combined_sender(ots: OtSender, choice_bits: int, slot_bits: int, width: int) -> Words:
    words, selection = _layout(choice_bits, slot_bits, width)
    shape = (len(ots) // choice_bits, choice_bits, words)
    out = np.empty((shape[0], words), np.uint64)
    zero = wide_pads(ots.blocks, ots.first_index, words).reshape(shape)
    one = wide_pads(ots.blocks, ots.first_index, words, ots.delta).reshape(shape)
    _combine_sender(zero, one, selection, out)
    return out


def _combined_receiver(
    ots: OtReceiver, choice_bits: int, slot_bits: int, width: int
) -> tuple[NDArray[np.uint8], Words]:
    words, _ = _layout(choice_bits, slot_bits, width)
    shape = (len(ots) // choice_bits, choice_bits, words)
    out, index = np.empty((shape[0], words), np.uint64), np.empty(shape[0], np.uint8)
    strings = wide_pads(ots.blocks, ots.first_index, words).reshape(shape)
    _combine_receiver(strings, ots.choices.reshape(shape[:2]), index, out)
    return index, out


@njit(cache=True)
def _combine_sender(zero, one, selection, out):  # type: ignore[no-untyped-def]
    """out[i] = xor over bits j of the string of index bit j that belongs to each slot."""
    for i in range(out.shape[0]):
        for w in range(out.shape[1]):
            total = np.uint64(0)
            for j in range(zero.shape[1]):
                total ^= zero[i, j, w] ^ ((zero[i, j, w] ^ one[i, j, w]) & selection[j, w])
            out[i, w] = total


@njit(cache=True)
def _combine_receiver(strings, choices, index, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        found = np.uint8(0)
        for j in range(strings.shape[1]):
            found |= choices[i, j] << np.uint8(j)
        index[i] = found
        for w in range(out.shape[1]):
            total = np.uint64(0)
            for j in range(strings.shape[1]):
                total ^= strings[i, j, w]
            out[i, w] = total


@njit(cache=True)
def _slots_at(words, index, bits, mask, out):  # type: ignore[no-untyped-def]
    for i in range(out.shape[0]):
        shift = np.uint64(index[i]) * bits
        for k in range(out.shape[1]):
            out[i, k] = (np.uint64(words[i, k]) >> shift) & mask
