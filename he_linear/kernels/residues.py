"""Elementwise arithmetic modulo several primes over residue arrays (..., primes, N)."""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic
from numpy.typing import NDArray

from he_linear.kernels.ntt import Floats, Residues, centre, tables, times

__all__ = [
    "Floats",
    "Residues",
    "add",
    "encrypted",
    "from_centred",
    "intt",
    "mulhi",
    "mulmod",
    "multiply",
    "ntt",
    "randomised",
    "reduce_signed",
    "shoup",
    "to_centred",
]


def _mulhi(_typing: Any, _a: Any, _b: Any) -> Any:
    """High 64 bits of a 64 x 64 bit product."""
    signature = types.uint64(types.uint64, types.uint64)

    def generate(_context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        wide = ir.IntType(128)
        product = builder.mul(builder.zext(args[0], wide), builder.zext(args[1], wide))
        return builder.trunc(builder.lshr(product, ir.Constant(wide, 64)), ir.IntType(64))

    return signature, generate


mulhi: Any = intrinsic(_mulhi)


@njit(cache=True, nogil=True)
def mulmod(a, w, quotient, p):  # type: ignore[no-untyped-def]
    """A * w mod p for any 64-bit a and fixed w < p < 2^63, quotient = floor(2^64 w / p)."""
    r = a * w - mulhi(a, quotient) * p
    return min(r, r - p)


def shoup(w: int, p: int) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Arguments w, quotient, p of `mulmod` [Harvey14]."""
    return np.uint64(w), np.uint64((w << 64) // p), np.uint64(p)


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


@njit(cache=True, nogil=True)
def _masked_rows(message, uniform, secret, errors, p, out):  # type: ignore[no-untyped-def]
    """Out (n, N) = message - uniform * secret (N) - errors; secret and errors centred."""
    inv = 1.0 / p
    for i in range(out.shape[0]):
        plain, a, error, target = message[i], uniform[i], errors[i], out[i]
        for j in range(target.size):
            x = times(np.float64(np.int64(a[j])), secret[j], secret[j] * inv, p)
            x = centre(np.float64(np.int64(plain[j])) - x - error[j], p, inv)
            target[j] = np.uint64(np.int64(x + p if x < 0.0 else x))


def encrypted(
    message: Residues,
    uniform: Residues,
    secret: Residues,
    errors: NDArray[np.int64],
    primes: tuple[int, ...],
) -> Residues:
    """Bodies m - (a s + e), (n, primes, N) in NTT form, for small integers e (n, N)."""
    out = np.empty(uniform.shape, np.uint64)
    for index, p in enumerate(primes):
        noise = errors.astype(np.float64)
        tables(p, uniform.shape[-1]).forward(noise)
        s = to_centred(secret[index : index + 1], (p,))[0]
        bodies = np.empty(noise.shape, np.uint64)
        plain, a = (np.ascontiguousarray(part[:, index]) for part in (message, uniform))
        _masked_rows(plain, a, s, noise, float(p), bodies)
        out[:, index] = bodies
    return out


@njit(cache=True, nogil=True)
def _add_products(residues, factors, keys, p, out):  # type: ignore[no-untyped-def]
    """Out (n, 2, N) = residues + factors (n, N) * keys (2, N), centred; residues not yet."""
    inv = 1.0 / p
    for i in range(out.shape[0]):
        for half in range(2):
            row, factor, key, target = residues[i, half], factors[i], keys[half], out[i, half]
            for j in range(target.size):
                x = times(factor[j], key[j], key[j] * inv, p)
                target[j] = centre(x + np.float64(np.int64(row[j])), p, inv)


@njit(cache=True, nogil=True)
def _add_small(values, small, p, out):  # type: ignore[no-untyped-def]
    """Centred values plus small integers, as residues."""
    for i in range(values.size):
        x = values[i] + np.float64(small[i])
        x = x + p if x < 0.0 else x
        out[i] = np.uint64(np.int64(x - p if x >= p else x))


def randomised(
    ciphertexts: Residues,
    public_key: Residues,
    factors: NDArray[np.int64],
    errors: NDArray[np.int64],
    primes: tuple[int, ...],
) -> Residues:
    """Plus the encryptions of zero (pk0 u + e0, pk1 u + e1), to coefficient form.

    ciphertexts (n, 2, primes, N) and public_key (2, primes, N) in NTT form; factors u (n, N) and
    errors (n, 2, N) are small integers.
    """
    count, _, _, n = ciphertexts.shape
    out = np.empty(ciphertexts.shape, np.uint64)
    for index, p in enumerate(primes):
        key = to_centred(public_key[:, index : index + 1], (p,))[:, 0]
        u = factors.astype(np.float64)
        tables(p, n).forward(u)
        rows = np.empty((count, 2, n))
        _add_products(np.ascontiguousarray(ciphertexts[:, :, index]), u, key, float(p), rows)
        tables(p, n).inverse(rows.reshape(-1, n))
        fresh = np.empty((count, 2, n), np.uint64)
        _add_small(rows.reshape(-1), errors.reshape(-1), float(p), fresh.reshape(-1))
        out[:, :, index] = fresh
    return out
