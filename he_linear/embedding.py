"""The CKKS embedding in extended precision: integer slots to coefficients and back.

Slot i of a plaintext is its evaluation at zeta^(3^i), zeta a primitive 2N-th root of unity.
Shares fill 64 bits, more than a double holds, so the FFTs run in a long double with a 64-bit
mantissa (x86-64); machines without one are refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

from he_linear.kernels import Residues
from transport.errors import ParameterError

LONG_DOUBLE = np.longdouble
_MANTISSA_BITS = 63
_PI = "3.14159265358979323846264338327950288419716939937510"


@dataclass(frozen=True, slots=True)
class EmbeddingTables:
    """Index maps and twists of one degree."""

    slots: NDArray[np.int64]
    conjugates: NDArray[np.int64]
    twist: NDArray[Any]


@lru_cache
def embedding_tables(n: int) -> EmbeddingTables:
    """Public constants of degree n."""
    if np.finfo(LONG_DOUBLE).nmant < _MANTISSA_BITS:
        raise ParameterError(
            "ckks: this machine's long double has no 64-bit mantissa; run on x86-64"
        )
    exponents = np.array([pow(3, i, 2 * n) for i in range(n // 2)])
    angles = np.arange(n, dtype=LONG_DOUBLE) * (LONG_DOUBLE(_PI) / n)
    twist = np.cos(angles) - 1j * np.sin(angles)
    return EmbeddingTables((exponents - 1) // 2, (2 * n - exponents - 1) // 2, twist)


def slots_to_coefficients(slots: NDArray[Any]) -> NDArray[Any]:
    """Complex long-double slots (..., N/2) to real coefficients (..., N), unscaled."""
    n = 2 * slots.shape[-1]
    t = embedding_tables(n)
    values = np.zeros((*slots.shape[:-1], n), np.clongdouble)
    values[..., t.slots] = slots
    values[..., t.conjugates] = slots.conj()
    return (scipy.fft.fft(values, axis=-1, overwrite_x=True) * t.twist).real / n


def coefficients_to_slots(coefficients: NDArray[Any]) -> NDArray[Any]:
    """Real long-double coefficients (..., N) to complex slots (..., N/2)."""
    n = coefficients.shape[-1]
    t = embedding_tables(n)
    values = scipy.fft.ifft(coefficients * t.twist.conj(), axis=-1, overwrite_x=True)
    return values[..., t.slots] * n


def reduce_integers(values: NDArray[Any], primes: tuple[int, ...]) -> Residues:
    """Long-double integers (..., N) below 2^100 to residues (..., primes, N)."""
    step = LONG_DOUBLE(2) ** 40
    high = np.floor(values / step)
    low = (values - high * step).astype(np.int64)
    high = high.astype(np.int64)
    out = np.empty((*values.shape[:-1], len(primes), values.shape[-1]), np.uint64)
    for index, p in enumerate(primes):
        target = np.empty(values.shape, np.uint64)
        _reduce(high.ravel(), low.ravel(), p, target.reshape(-1))
        out[..., index, :] = target
    return out


@njit(cache=True)
def _reduce(high, low, p, out):  # type: ignore[no-untyped-def]
    """(high * 2^40 + low) mod p for p < 2^50."""
    for i in range(high.size):
        h = high[i] % p
        # h < 2^50 times 2^20 exceeds 64 bits: 12 + 12 + 12 + 4 bits keep every product below 2^62.
        h = (h << 12) % p
        h = (h << 12) % p
        h = (h << 12) % p
        h = (h << 4) % p
        out[i] = np.uint64((h + low[i] % p) % p)


def round_modulo_2_64(values: NDArray[Any]) -> Residues:
    """Nearest integers of long doubles, modulo 2^64."""
    rounded = np.rint(values)
    word = LONG_DOUBLE(2) ** 64
    return (rounded - np.floor(rounded / word) * word).astype(np.uint64)
