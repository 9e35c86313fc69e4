"""The CKKS embedding: complex slots to real coefficients and back.

Slot i of a plaintext a is a(zeta^(3^i)), zeta = exp(i pi / N). Conjugate slots are redundant: the
exponents 1 modulo 4 hold one of each pair, and
    a(zeta^(4k + 1)) = sum over j < N/2 of (a_j + i a_(j + N/2)) zeta^j exp(4 i pi j k / N)
is one complex FFT of length N/2.

Shares fill 64 bits, more than a double holds, so their FFTs run in a long double with a 64-bit
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

from he_linear.ntt import Residues, centre, centred, times
from transport.errors import ParameterError

LONG_DOUBLE = np.longdouble
_MANTISSA_BITS = 63
_PI = "3.14159265358979323846264338327950288419716939937510"
_SPLIT_BITS = 40


@dataclass(frozen=True, slots=True)
class EmbeddingTables:
    """Public constants of one degree and precision."""

    source: NDArray[np.int64]
    """Index of slot i, or of its conjugate, in the FFT of length N/2."""
    conjugate: NDArray[np.bool_]
    target: NDArray[np.int64]
    """Inverse of `source`."""
    twist: NDArray[Any]
    untwist: NDArray[Any]
    """1 / twist / (N/2)"""


@lru_cache
def embedding_tables(n: int, real: np.dtype[Any]) -> EmbeddingTables:
    """Tables of degree n in the precision of `real`."""
    if real == LONG_DOUBLE and np.finfo(LONG_DOUBLE).nmant < _MANTISSA_BITS:
        raise ParameterError(
            "ckks: this machine's long double has no 64-bit mantissa; run on x86-64"
        )
    exponents = np.array([pow(3, i, 2 * n) for i in range(n // 2)])
    conjugate = exponents % 4 == 3
    source = (np.where(conjugate, 2 * n - exponents, exponents) - 1) // 4
    angles = np.arange(n // 2, dtype=LONG_DOUBLE) * (LONG_DOUBLE(_PI) / n)
    kind = np.result_type(real, np.complex64)
    twist = (np.cos(angles) + 1j * np.sin(angles)).astype(kind)
    untwist = ((np.cos(angles) - 1j * np.sin(angles)) / (n // 2)).astype(kind)
    return EmbeddingTables(source, conjugate, np.argsort(source), twist, untwist)


def slots_to_coefficients(slots: NDArray[Any]) -> NDArray[Any]:
    """Complex slots (..., N/2) to real coefficients (..., N), in the input's precision."""
    half = slots.shape[-1]
    t = embedding_tables(2 * half, slots.real.dtype)
    values = np.where(t.conjugate, slots.conj(), slots)[..., t.target]
    folded = scipy.fft.fft(values, axis=-1, overwrite_x=True)
    folded *= t.untwist
    return np.concatenate([folded.real, folded.imag], axis=-1)


def coefficients_to_slots(coefficients: NDArray[Any]) -> NDArray[Any]:
    """Real coefficients (..., N) to complex slots (..., N/2), in the input's precision."""
    half = coefficients.shape[-1] // 2
    t = embedding_tables(2 * half, coefficients.dtype)
    folded = np.empty((*coefficients.shape[:-1], half), t.twist.dtype)
    folded.real = coefficients[..., :half]
    folded.imag = coefficients[..., half:]
    folded *= t.twist
    values = scipy.fft.ifft(folded, axis=-1, norm="forward", overwrite_x=True)[..., t.source]
    slots: NDArray[Any] = np.where(t.conjugate, values.conj(), values)
    return slots


def reduce_integers(values: NDArray[Any], primes: tuple[int, ...]) -> Residues:
    """Long-double integers (..., N) below 2^100 to residues (..., primes, N)."""
    step = LONG_DOUBLE(1 << _SPLIT_BITS)
    # Truncation, which x87 does faster than floor: the parts may be negative.
    high = (values / step).astype(np.int64)
    low = (values - high * step).astype(np.int64)
    out = np.empty((*values.shape[:-1], len(primes), values.shape[-1]), np.uint64)
    for index, p in enumerate(primes):
        target = np.empty(values.shape, np.uint64)
        factors = centred(1 << (_SPLIT_BITS + 30), p), centred(1 << _SPLIT_BITS, p)
        _reduce(high.ravel(), low.ravel(), *factors, float(p), target.reshape(-1))
        out[..., index, :] = target
    return out


@njit(cache=True, nogil=True)
def _reduce(high, low, upper, middle, p, out):  # type: ignore[no-untyped-def]
    """(high * 2^40 + low) mod p, high cut in two parts of 30 bits that float64 holds."""
    inv = 1.0 / p
    upper_inv, middle_inv = upper * inv, middle * inv
    for i in range(high.size):
        x = np.float64(high[i] >> 30)
        y = np.float64(high[i] & ((1 << 30) - 1))
        total = times(x, upper, upper_inv, p) + times(y, middle, middle_inv, p)
        total = centre(total + np.float64(low[i]), p, inv)
        out[i] = np.uint64(np.int64(total + p if total < 0.0 else total))


def round_modulo_2_64(values: NDArray[Any]) -> Residues:
    """Nearest integers of long doubles below 2^95, modulo 2^64."""
    rounded = np.rint(values)
    step = LONG_DOUBLE(1 << 32)
    high = (rounded / step).astype(np.int64)
    low = (rounded - high * step).astype(np.int64)
    words: Residues = (high.view(np.uint64) << np.uint64(32)) + low.view(np.uint64)
    return words
