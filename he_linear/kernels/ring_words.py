"""Kernels of exact ring products: residues of words, products of polynomials, exact lifts.

Arrays of residues are prime-major here: centred float64, (primes, ..., N).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from he_linear.kernels.ntt import tables
from he_linear.kernels.scalars import (
    Floats,
    Integers,
    Residues,
    centre,
    centred,
    mulhi,
    mulmod,
    shoup,
    times,
)

_HALF = 32


@njit(cache=True, nogil=True)
def _reduce(high, low, factors, p, out):  # type: ignore[no-untyped-def]
    """Out = high * f + low modulo p, high signed, f = factors[1], 2^32 f = factors[0]."""
    inv = 1.0 / p
    upper, lower = factors[0], factors[1]
    upper_inv, lower_inv = upper * inv, lower * inv
    for i in range(high.size):
        x = times(np.float64(high[i] >> 32), upper, upper_inv, p)
        x += times(np.float64(high[i] & 0xFFFFFFFF), lower, lower_inv, p)
        out[i] = centre(x + centre(np.float64(low[i]), p, inv), p, inv)


@njit(cache=True, nogil=True)
def _reduce_word(words, factors, p, out):  # type: ignore[no-untyped-def]
    """`_reduce` without a low part."""
    inv = 1.0 / p
    upper, lower = factors[0], factors[1]
    upper_inv, lower_inv = upper * inv, lower * inv
    for i in range(words.size):
        x = times(np.float64(words[i] >> 32), upper, upper_inv, p)
        x += times(np.float64(words[i] & 0xFFFFFFFF), lower, lower_inv, p)
        out[i] = centre(x, p, inv)


def reduce_words(
    words: Integers,
    primes: Sequence[int],
    factor: Sequence[int] | int = 1,
    low: Integers | None = None,
) -> Floats:
    """Signed words times `factor` (one for all primes or one each) plus low: (primes, ...)."""
    each = [factor] * len(primes) if isinstance(factor, int) else factor
    out = np.empty((len(primes), *words.shape))
    flat = np.ascontiguousarray(words).reshape(-1)
    for index, p in enumerate(primes):
        f = each[index]
        factors = np.array([centred(f << _HALF, p), centred(f, p)])
        target = out[index].reshape(-1)
        if low is None:
            _reduce_word(flat, factors, float(p), target)
        else:
            _reduce(flat, np.ascontiguousarray(low).reshape(-1), factors, float(p), target)
    return out


def transform(values: Floats, primes: Sequence[int], *, inverse: bool = False) -> Floats:
    """NTT of (primes, ..., N), contiguous, in place."""
    n = values.shape[-1]
    for row, p in zip(values, primes, strict=True):
        table = tables(p, n)
        (table.inverse if inverse else table.forward)(row.reshape(-1, n))
    return values


@njit(cache=True, nogil=True)
def _multiply_sum(ciphertexts, plains, p, out):  # type: ignore[no-untyped-def]
    """Out (2, N) += sum over i of ciphertexts (i, 2, N) * plains (i, N)."""
    inv = 1.0 / p
    for i in range(plains.shape[0]):
        row = plains[i]
        first, second = ciphertexts[i, 0], ciphertexts[i, 1]
        for j in range(row.size):
            w = row[j]
            q = w * inv
            out[0, j] = centre(out[0, j] + times(first[j], w, q, p), p, inv)
            out[1, j] = centre(out[1, j] + times(second[j], w, q, p), p, inv)


def multiply_sum(ciphertexts: Floats, plains: Floats, primes: Sequence[int], out: Floats) -> None:
    """Out (primes, 2, N) += sum of ciphertexts (primes, i, 2, N) times plains (primes, i, N)."""
    for index, p in enumerate(primes):
        _multiply_sum(ciphertexts[index], plains[index], float(p), out[index])


@njit(cache=True, nogil=True)
def _add_product(a, b, sign, p, out):  # type: ignore[no-untyped-def]
    inv = 1.0 / p
    for j in range(out.size):
        w = b[j]
        out[j] = centre(out[j] + sign * times(a[j], w, w * inv, p), p, inv)


def add_product(
    a: Floats, b: Floats, primes: Sequence[int], out: Floats, *, negative: bool = False
) -> None:
    """Out (primes, count, N) += or -= a (primes, count, N) * b (primes, N)."""
    sign = -1.0 if negative else 1.0
    for index, p in enumerate(primes):
        for row, target in zip(a[index], out[index], strict=True):
            _add_product(row, b[index], sign, float(p), target)


def words_times(
    high: Integers, low: Integers | None, bits: int, factor: Floats, primes: Sequence[int]
) -> Floats:
    """Signed words high * 2^bits + low, (..., N), times one polynomial in NTT form (primes, N).

    Coefficient form, (primes, ..., N), centred.
    """
    words = transform(reduce_words(high, primes, 1 << bits, low), primes)
    product = np.zeros(words.shape)
    add_product(words, factor, primes, product)
    return transform(product, primes, inverse=True)


@njit(cache=True, nogil=True)
def _accumulate(values, modulus, crt, weight, rest, high, low, turns):  # type: ignore[no-untyped-def]
    """(high, low) += t * (weight + rest) modulo 2^128 and turns += t / p.

    t = value * (Q / p)^-1 mod p; rest is a fraction, t * rest is rounded down.
    """
    inv = 1.0 / modulus
    inverse, quotient, p = crt
    upper, lower = weight
    for i in range(values.size):
        v = values[i]
        t = mulmod(np.uint64(np.int64(v + modulus if v < 0.0 else v)), inverse, quotient, p)
        carried = t * lower
        s = low[i] + carried
        more = np.uint64(np.int64(np.float64(t) * rest))
        total = s + more
        carries = np.uint64(s < carried) + np.uint64(total < more)
        high[i] += t * upper + mulhi(t, lower) + carries
        low[i] = total
        turns[i] += np.float64(t) * inv


@njit(cache=True, nogil=True)
def _subtract_turns(high, low, turns, upper, lower):  # type: ignore[no-untyped-def]
    """(high, low) -= nearest integer of turns times (upper, lower), modulo 2^128."""
    for i in range(high.size):
        v = np.uint64(np.int64(np.rint(turns[i])))
        taken = v * lower
        high[i] -= v * upper + mulhi(v, lower) + np.uint64(low[i] < taken)
        low[i] -= taken


def _sums(
    values: Floats, primes: Sequence[int], weights: Sequence[int], rests: Sequence[float]
) -> tuple[Residues, Residues, NDArray[np.float64]]:
    shape = values.shape[1:]
    high, low, turns = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64), np.zeros(shape)
    modulus = 1
    for p in primes:
        modulus *= p
    for row, p, weight, rest in zip(values, primes, weights, rests, strict=True):
        pair = (np.uint64(weight >> 64), np.uint64(weight & ((1 << 64) - 1)))
        _accumulate(
            np.ascontiguousarray(row).reshape(-1),
            float(p),
            shoup(pow(modulus // p, -1, p), p),
            pair,
            rest,
            high.reshape(-1),
            low.reshape(-1),
            turns.reshape(-1),
        )
    return high, low, turns


def fractions(values: Floats, primes: Sequence[int]) -> tuple[Residues, Residues]:
    """C / Q modulo 1 of (primes, ...), |c| < p, as 128 bits: high and low words.

    c / Q = sum_i t_i / q_i modulo 1; every term is off by less than 2^-127. The last bits of a
    second polynomial must be right: a bias would meet the sum of the secret's coefficients.
    """
    full = 1 << 128
    weights, rests = [full // p for p in primes], [full % p / p for p in primes]
    high, low, _ = _sums(values, primes, weights, rests)
    return high, low


@njit(cache=True, nogil=True)
def _accumulate_short(values, modulus, crt, weight, high):  # type: ignore[no-untyped-def]
    """`_accumulate` of high words alone, low ones cut off."""
    inverse, quotient, p = crt
    upper, lower = weight
    for i in range(values.size):
        v = values[i]
        t = mulmod(np.uint64(np.int64(v + modulus if v < 0.0 else v)), inverse, quotient, p)
        high[i] += t * upper + mulhi(t, lower)


def short_fractions(values: Floats, primes: Sequence[int]) -> Residues:
    """`fractions` in one word of 64 bits: less by a unit for every prime at most."""
    full, modulus = 1 << 128, 1
    high = np.zeros(values.shape[1:], np.uint64)
    for p in primes:
        modulus *= p
    for row, p in zip(values, primes, strict=True):
        weight = full // p
        _accumulate_short(
            np.ascontiguousarray(row).reshape(-1),
            float(p),
            shoup(pow(modulus // p, -1, p), p),
            (np.uint64(weight >> 64), np.uint64(weight & ((1 << 64) - 1))),
            high.reshape(-1),
        )
    return high


def lift(values: Floats, primes: Sequence[int]) -> tuple[Residues, Residues]:
    """The integer X, |X| < Q / 4, of residues (primes, ...), modulo 2^128: high and low words."""
    modulus = 1
    for p in primes:
        modulus *= p
    full = 1 << 128
    high, low, turns = _sums(
        values, primes, [modulus // p % full for p in primes], [0.0] * len(primes)
    )
    # X = sum_i t_i Q / q_i - turns * Q; X / Q is far from a half, so float64 tells the turns.
    wrapped = modulus % full
    pair = np.uint64(wrapped >> 64), np.uint64(wrapped & ((1 << 64) - 1))
    _subtract_turns(high.reshape(-1), low.reshape(-1), turns.reshape(-1), *pair)
    return high, low


@njit(cache=True, nogil=True)
def _ring_matmul(a, b, out):  # type: ignore[no-untyped-def]
    for i in range(a.shape[0]):
        row = out[i]
        for j in range(a.shape[1]):
            x = a[i, j]
            other = b[j]
            for k in range(other.size):
                row[k] += x * other[k]


def ring_matmul(a: Residues, b: Residues) -> Residues:
    """Product of (..., m, k) and (..., k, n) modulo 2^64, equal leading dimensions."""
    out = np.zeros((*a.shape[:-1], b.shape[-1]), np.uint64)
    m, k, n = *a.shape[-2:], b.shape[-1]
    left = np.ascontiguousarray(a).reshape(-1, m, k)
    right = np.ascontiguousarray(b).reshape(-1, k, n)
    for x, y, target in zip(left, right, out.reshape(-1, m, n), strict=True):
        _ring_matmul(x, y, target)
    return out
