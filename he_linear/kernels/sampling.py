"""Random ring elements: uniform residues, ternary secrets, centred binomial noise, masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from he_linear.kernels.scalars import Residues
from transport.randomness import SEED_BYTES, SecureRandom

_COINS = 21
"""A side, in centred binomial noise: standard deviation sqrt(21 / 2) = 3.24, as in SEAL."""
NOISE_VARIANCE = _COINS / 2


def uniform_residues(rng: SecureRandom, count: int, primes: tuple[int, ...], n: int) -> Residues:
    """Uniform (count, primes, N): every word below its prime, by rejection."""
    out = np.empty((count, len(primes), n), np.uint64)
    for index, p in enumerate(primes):
        out[:, index] = _uniform_below(rng, count * n, p).reshape(count, n)
    return out


def _uniform_below(rng: SecureRandom, count: int, p: int) -> Residues:
    mask = np.uint64((1 << p.bit_length()) - 1)
    parts: list[Residues] = []
    missing = count
    while missing:
        # SEAL's primes lie just below a power of two, so nearly nothing is rejected.
        drawn = rng.uint64(missing + missing // 64 + 64) & mask
        parts.append(drawn[drawn < p][:missing])
        missing -= len(parts[-1])
    return np.concatenate([*parts, np.empty(0, np.uint64)])


def expand_uniform(
    seed: bytes, domain: str, count: int, primes: tuple[int, ...], n: int
) -> Residues:
    """Uniform residues that both parties derive from a public seed."""
    return uniform_residues(SecureRandom(seed, domain=domain), count, primes, n)


def fresh_seed(rng: SecureRandom) -> bytes:
    """A public seed, independent of everything else drawn."""
    return rng.bytes(SEED_BYTES)


def noise(rng: SecureRandom, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Centred binomial integers, standard deviation 3.24."""
    coins = rng.uint64(shape)
    side = np.uint64((1 << _COINS) - 1)
    plus = np.bitwise_count(coins & side).astype(np.int64)
    minus = np.bitwise_count((coins >> np.uint64(_COINS)) & side).astype(np.int64)
    difference: NDArray[np.int64] = plus - minus
    return difference


def ternary(rng: SecureRandom, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Uniform in {-1, 0, 1}, by rejection from bytes."""
    count = int(np.prod(shape))
    parts: list[NDArray[np.uint8]] = []
    missing = count
    while missing:
        drawn = rng.uint8(missing + missing // 64 + 64)
        # 255 = 3 * 85: bytes below it are uniform modulo 3.
        parts.append(drawn[drawn < 255][:missing])
        missing -= len(parts[-1])
    return (np.concatenate(parts) % 3).astype(np.int64).reshape(shape) - 1


def draw_mask(rng: SecureRandom, shape: tuple[int, ...]) -> Residues:
    """Masks uniform modulo 2^64, one for every coefficient."""
    return rng.uint64(shape)


def draw_zero(rng: SecureRandom, count: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Randomness of fresh public-key encryptions of zero, new for each ciphertext.

    Ternary u (count, N) and centred binomial errors (count, 2, N): (pk0 u + e0, pk1 u + e1).
    """
    return ternary(rng, (count, n)), noise(rng, (count, 2, n))
