"""Tables of residues, of which the client takes one entry each: 1-of-64 to 1-of-256 OTs.

The pads of an entry are bits of a prepared leaf, as wide as the entry is long. Messages are made
and read here, and travel with others.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.preprocessing import leaf_kind
from mpc_nonlinear.cost import Demand, Kind
from mpc_nonlinear.fixed_point import RingArray
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.errors import FrameError
from transport.traffic import Party


def entries_demand(count: int, choice_bits: int, residues: int, modulus: int) -> Demand:
    """Of `count` tables whose entries are so many residues."""
    return Demand.of(_kind(choice_bits, residues, modulus), count)


def flips_bytes(count: int, choice_bits: int) -> int:
    """Of `EntriesTaken.message`."""
    return packed_bytes(count, choice_bits)


def entries_bytes(count: int, choice_bits: int, residues: int, modulus: int) -> int:
    """Of `offered_entries`."""
    return count * residues * modulus.bit_length() << (choice_bits - 3)


def _kind(choice_bits: int, residues: int, modulus: int) -> Kind:
    return leaf_kind(choice_bits, 1, Party.SERVER, residues * modulus.bit_length())


def offered_entries(
    tables: RingArray, flips: bytes | memoryview, modulus: int, session: Session
) -> bytes:
    """The server's message for tables (n, 2^m, residues), m 6 to 8, to the client's flips.

    The client learns one entry of each. After [Naor-Pinkas 99]: an entry is masked by a pad for
    every bit of its place.
    """
    n, entries, residues = tables.shape
    choice_bits, bits = entries.bit_length() - 1, modulus.bit_length()
    masks = session.prepared.masks_sender(_kind(choice_bits, residues, modulus), n)
    moved = unpack_bits(flips, n, choice_bits, np.uint8)
    out = np.empty((n, residues * bits, entries // 64), np.uint64)
    _offer(np.ascontiguousarray(tables), masks.reshape(out.shape), moved, bits, out)
    return out.tobytes()


class EntriesTaken:
    """The client's side: first a message, then, with the server's, entries (n, residues)."""

    def __init__(
        self,
        index: NDArray[np.uint8],
        choice_bits: int,
        residues: int,
        modulus: int,
        session: Session,
    ) -> None:
        kind = _kind(choice_bits, residues, modulus)
        self._ots = session.prepared.masks_receiver(kind, len(index))
        self._shape, self._modulus = (len(index), residues), modulus
        self.message = pack_bits(index ^ self._ots.index, choice_bits)

    def read(self, data: bytes | memoryview) -> RingArray:
        """Entries of the server's message; words of the prime and above are refused."""
        n, residues = self._shape
        place, bits = self._ots.index, self._modulus.bit_length()
        words = np.frombuffer(data, np.uint64).reshape(n, residues * bits, -1)
        chosen = words[np.arange(n), :, place >> 6] >> (place & np.uint8(63))[:, None].astype("u8")
        found = (chosen & np.uint64(1)) ^ self._ots.mask
        powers = np.uint64(1) << np.arange(bits, dtype=np.uint64)
        values: RingArray = (found.reshape(n, residues, bits) * powers).sum(-1, dtype=np.uint64)
        if values.max(initial=0) >= self._modulus:
            raise FrameError("entries of a table: a word exceeds the prime; the frame is corrupt")
        return values


@njit(cache=True)
def _offer(tables, masks, flips, bits, out):  # type: ignore[no-untyped-def]
    """Slot v of the message is entry v xor flip under the mask of slot v, bit by bit of a word."""
    turned = np.empty(bits, np.uint64)
    for i in range(out.shape[0]):
        flip = np.int64(flips[i])
        for k in range(tables.shape[2]):
            for w in range(out.shape[2]):
                turned[:] = 0
                for v in range(64):
                    value = tables[i, (64 * w + v) ^ flip, k]
                    for b in range(bits):
                        turned[b] |= (value >> np.uint64(b) & np.uint64(1)) << np.uint64(v)
                for b in range(bits):
                    out[i, k * bits + b, w] = masks[i, k * bits + b, w] ^ turned[b]
