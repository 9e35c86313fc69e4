"""Arrays of residues as bytes, each prime at its own width, and back from untrusted ones."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from he_linear.kernels.scalars import Residues
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.errors import FrameError


def pack_residues(residues: Residues, primes: Sequence[int]) -> bytes:
    """(count, primes, N) as bits, each prime at its own width."""
    parts = [pack_bits(residues[:, i], p.bit_length()) for i, p in enumerate(primes)]
    return b"".join(parts)


def packed_residue_bytes(count: int, primes: Sequence[int], n: int) -> int:
    """Length of `pack_residues`."""
    return sum(packed_bytes(count * n, p.bit_length()) for p in primes)


def unpack_residues(
    data: bytes | memoryview, count: int, primes: Sequence[int], n: int, what: str
) -> Residues:
    """Inverse of `pack_residues` for untrusted bytes: sizes and ranges are checked."""
    if len(data) != packed_residue_bytes(count, primes, n):
        raise FrameError(
            f"{what}: got {len(data)} bytes, expected {packed_residue_bytes(count, primes, n)}; "
            "are both parties the same version?"
        )
    out = np.empty((count, len(primes), n), np.uint64)
    start = 0
    for index, p in enumerate(primes):
        size = packed_bytes(count * n, p.bit_length())
        values = unpack_bits(bytes(data[start : start + size]), count * n, p.bit_length())
        if values.max(initial=np.uint64(0)) >= p:
            raise FrameError(f"{what}: a residue exceeds its prime; the frame is corrupt")
        out[:, index] = values.reshape(count, n)
        start += size
    return out
