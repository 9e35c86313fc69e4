"""Encryption of residues under a key of residues: symmetric, and a fresh zero by the public key.

Each runs prime by prime over arrays that stay in the cache; randomness comes in as arguments.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

from he_linear.kernels.ntt import tables
from he_linear.kernels.residues import to_centred
from he_linear.kernels.scalars import Residues, centre, times


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
