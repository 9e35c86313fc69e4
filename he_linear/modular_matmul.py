"""Matrix products modulo primes below 2^50 by float64 BLAS, exact."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

_LIMB_BITS = 22
_MAX_INNER = 256
"""Limbs below 2^22 (the upper one below 2^(p bits - 22)): 2^8 products of 2^44 stay below 2^52,
and the sum of two such accumulations below 2^53, where float64 is exact."""


@dataclass(frozen=True, slots=True)
class LimbPair:
    """high * 2^22 + low, both float64."""

    high: NDArray[np.float64]
    low: NDArray[np.float64]

    @property
    def nbytes(self) -> int:
        """Memory of both limbs."""
        return self.high.nbytes + self.low.nbytes


def split_limbs(values: NDArray[np.uint64], p: int) -> LimbPair:
    """Residues below p < 2^44 as two limbs of 22 bits."""
    assert p.bit_length() <= 2 * _LIMB_BITS
    high = np.empty(values.shape)
    low = np.empty(values.shape)
    _split(np.ascontiguousarray(values).reshape(-1), high.reshape(-1), low.reshape(-1))
    return LimbPair(high, low)


@njit(cache=True)
def _split(values, high, low):  # type: ignore[no-untyped-def]
    mask = np.uint64((1 << 22) - 1)
    for i in range(values.size):
        high[i] = np.float64(values[i] >> np.uint64(22))
        low[i] = np.float64(values[i] & mask)


def modular_matmul(a: LimbPair, b: LimbPair, p: int) -> NDArray[np.uint64]:
    """(batch, m, k) @ (batch, k, n) modulo p."""
    batch, m, inner = a.high.shape
    n = b.high.shape[2]
    out = np.zeros((batch, m, n), np.uint64)
    for index in range(batch):
        for start in range(0, inner, _MAX_INNER):
            part = slice(start, start + _MAX_INNER)
            ah, al = a.high[index, :, part], a.low[index, :, part]
            bh, bl = b.high[index, part], b.low[index, part]
            middle = ah @ bl
            middle += al @ bh
            _combine(ah @ bh, middle, al @ bl, p, out[index])
    return out


@njit(cache=True)
def _combine(high, middle, low, p, out):  # type: ignore[no-untyped-def]
    """Out += high * 2^44 + middle * 2^22 + low, modulo p < 2^44."""
    for i in range(high.shape[0]):
        for j in range(high.shape[1]):
            h = np.int64(high[i, j]) % p
            x = (h << 11) % p
            x = ((x << 11) + np.int64(middle[i, j])) % p
            x = (x << 11) % p
            x = ((x << 11) + np.int64(low[i, j])) % p
            out[i, j] = np.uint64((x + np.int64(out[i, j])) % p)
