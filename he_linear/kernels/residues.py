"""Elementwise arithmetic modulo several primes over residue arrays (..., primes, N)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from he_linear.kernels.ntt import tables
from he_linear.kernels.scalars import Floats, Residues, centre, times

__all__ = [
    "Floats",
    "Residues",
    "add",
    "from_centred",
    "intt",
    "multiply",
    "ntt",
    "reduce_signed",
    "to_centred",
]


@njit(cache=True, nogil=True)
def _to_centred(values, p, out):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        x = np.float64(np.int64(values[i]))
        out[i] = x - p if x > 0.5 * p else x


@njit(cache=True, nogil=True)
def _from_centred(values, p, out):  # type: ignore[no-untyped-def]
    for i in range(values.size):
        x = values[i]
        out[i] = np.uint64(np.int64(x + p if x < 0.0 else x))


@njit(cache=True, nogil=True)
def _multiply(a, b, p, out):  # type: ignore[no-untyped-def]
    inv = 1.0 / p
    for i in range(a.size):
        x = np.float64(np.int64(a[i]))
        w = np.float64(np.int64(b[i]))
        w = w - p if w > 0.5 * p else w
        r = centre(times(x, w, w * inv, p), p, inv)
        out[i] = np.uint64(np.int64(r + p if r < 0.0 else r))


def to_centred(residues: Residues, primes: tuple[int, ...]) -> Floats:
    """(..., primes, N) as float64 of magnitude at most p / 2."""
    out = np.empty(residues.shape)
    for index, p in enumerate(primes):
        row = np.ascontiguousarray(residues[..., index, :])
        target = np.empty(row.shape)
        _to_centred(row.reshape(-1), float(p), target.reshape(-1))
        out[..., index, :] = target
    return out


def from_centred(values: Floats, primes: tuple[int, ...]) -> Residues:
    """Inverse of `to_centred`, for magnitudes below p."""
    out = np.empty(values.shape, np.uint64)
    for index, p in enumerate(primes):
        row = np.ascontiguousarray(values[..., index, :])
        target = np.empty(row.shape, np.uint64)
        _from_centred(row.reshape(-1), float(p), target.reshape(-1))
        out[..., index, :] = target
    return out


def ntt(residues: Residues, primes: tuple[int, ...]) -> Residues:
    """Forward NTT of (..., primes, N); a new array."""
    return _transform(residues, primes, inverse=False)


def intt(residues: Residues, primes: tuple[int, ...]) -> Residues:
    """Inverse NTT of (..., primes, N); a new array."""
    return _transform(residues, primes, inverse=True)


def _transform(residues: Residues, primes: tuple[int, ...], *, inverse: bool) -> Residues:
    n = residues.shape[-1]
    out = np.empty(residues.shape, np.uint64)
    for index, p in enumerate(primes):
        row = residues[..., index, :].copy()
        values = np.empty(row.shape)
        _to_centred(row.reshape(-1), float(p), values.reshape(-1))
        t = tables(p, n)
        (t.inverse if inverse else t.forward)(values.reshape(-1, n))
        _from_centred(values.reshape(-1), float(p), row.reshape(-1))
        out[..., index, :] = row
    return out


def multiply(a: Residues, b: Residues, primes: tuple[int, ...]) -> Residues:
    """Elementwise product of (..., primes, N) arrays of equal or broadcastable shape."""
    a, b = np.broadcast_arrays(a, b)
    out = np.empty(a.shape, np.uint64)
    for index, p in enumerate(primes):
        left = np.ascontiguousarray(a[..., index, :]).reshape(-1)
        right = np.ascontiguousarray(b[..., index, :]).reshape(-1)
        product = np.empty(left.size, np.uint64)
        _multiply(left, right, float(p), product)
        out[..., index, :] = product.reshape(out[..., index, :].shape)
    return out


def add(a: Residues, b: Residues, primes: tuple[int, ...]) -> Residues:
    """Elementwise sum modulo each prime of (..., primes, N)."""
    total: Residues = a + b
    moduli = np.array(primes, np.uint64)[:, None]
    reduced: Residues = np.minimum(total, total - moduli)
    return reduced


def reduce_signed(values: NDArray[np.int64], primes: tuple[int, ...]) -> Residues:
    """Signed integers (..., N) to residues (..., primes, N)."""
    moduli = np.array(primes, np.int64)[:, None]
    if values.min(initial=0) < -min(primes) or values.max(initial=0) >= min(primes):
        return np.mod(values[..., None, :], moduli).astype(np.uint64)
    # Noise and keys: 10 times as fast without a division.
    values = values[..., None, :]
    reduced: Residues = (values + (values >> 63 & moduli)).view(np.uint64)
    return reduced
