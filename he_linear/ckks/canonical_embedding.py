"""The CKKS embedding: complex slots to real coefficients and back.

Slot i of a plaintext a is a(zeta^(3^i)), zeta = exp(i pi / N). Conjugate slots are redundant: the
exponents 1 modulo 4 hold one of each pair, and
    a(zeta^(4k + 1)) = sum over j < N/2 of (a_j + i a_(j + N/2)) zeta^j exp(4 i pi j k / N)
is one complex FFT of length N/2.

Shares fill 64 bits and more, which a double does not hold: `encode_slots` and `decode_slots` run in
double-double, on any machine. The other functions take doubles, for weights, or long doubles, as an
independent reference on machines whose long double has a 64-bit mantissa (x86-64).
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
from numba import njit
from numpy.typing import NDArray

from he_linear.kernels.double_double import Doubles, Grid, plan
from he_linear.kernels.scalars import Floats, Residues, centre, centred, fma, times
from transport.errors import ParameterError

LONG_DOUBLE = np.longdouble
_MANTISSA_BITS = 63
_PI = "3.14159265358979323846264338327950288419716939937510"
_HIGH_BITS = 51
"""High parts are below 2^51 grid steps."""
_MAX_SCALE_BITS = 36
"""Integers below 2^64 times the scale split into two numbers that doubles hold."""
WRAP_BITS = 32
"""Bits beyond 64 of the wide coefficients of `decode_slots`."""
_CREST_BITS = 4
"""Sums of n random numbers below B stay below 2^4 sqrt(n) B but with probability 2 exp(-2^7)."""


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


# -- shares, in double-double --------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Leaves:
    """Where the slots of one degree stand among the leaves of the double-double FFT."""

    slot: NDArray[np.int64]
    """Slot of each leaf, in the leaves' memory order."""
    sign: Doubles
    """Of the imaginary part: -1 where the leaf is the conjugate."""
    unsigned: Doubles
    """Of the real part."""


@lru_cache
def _leaves(half: int) -> _Leaves:
    angles = plan(half).angles.reshape(-1)
    exponents = np.array([pow(3, i, 4 * half) for i in range(half)])
    slots = np.empty(4 * half, np.int64)
    slots[exponents] = slots[4 * half - exponents] = np.arange(half)
    slot = slots[angles]
    return _Leaves(slot, np.where(exponents[slot] == angles, 1.0, -1.0), np.ones(half))


def _safe_grid(half: int) -> Grid:
    """No sum of 64-bit integers leaves it, whatever they are."""
    return Grid(64 + half.bit_length() - 1 - _HIGH_BITS)


def encode_slots(
    real: NDArray[np.int64], imag: NDArray[np.int64] | None, scale: float, primes: tuple[int, ...]
) -> Floats:
    """Integer slots (n, N/2) times `scale`, rounded: centred coefficients (primes, n, N).

    Exact but for the rounding: the error before it is below 2^-20 times `scale` / sqrt(N).
    """
    count, half = real.shape
    if not 0.0 < scale < 2.0**_MAX_SCALE_BITS:
        raise ParameterError(
            f"ckks: scale {scale:g} of an encoded integer; use a positive one below "
            f"2^{_MAX_SCALE_BITS}"
        )
    bits = int(np.frexp(scale)[1])
    p, leaves, grid = plan(half), _leaves(half), _safe_grid(half)
    # A coefficient is below 2^64 scale; cut so that the upper part is below 2^51.
    cut = max(0, 65 + bits - _HIGH_BITS)
    steps = [(centred(1 << cut, prime), float(prime)) for prime in primes]
    values, natural = p.leaves(1), p.natural(1)
    out = np.empty((len(primes), count, 2 * half))
    # Row by row, so that the work stays in the cache.
    for row in range(count):
        _place(real[row], leaves.slot, leaves.unsigned, np.int64(grid.first), values[0, ..., :2, :])
        if imag is None:
            values[0, ..., 2:, :] = 0.0
        else:
            _place(imag[row], leaves.slot, leaves.sign, np.int64(grid.first), values[0, ..., 2:, :])
        p.inverse(values, grid, natural)
        _round_pairs(natural[0], scale / half, float(2.0**cut))
        for index, (step, prime) in enumerate(steps):
            _reduce_pairs(natural[0], step, prime, out[index, row])
    return out


@njit(cache=True, nogil=True)
def _place(part, slot, sign, first, values):  # type: ignore[no-untyped-def]
    """Integers (slots,) as pairs at the leaves (panels, columns, 2, 8), cut at the grid 2^first."""
    panels, columns, _, lanes = values.shape
    unit, one = 2.0**first, np.int64(1)
    for q in range(panels):
        for column in range(columns):
            at = (q * columns + column) * lanes
            cell = values[q, column]
            for lane in range(lanes):
                x = part[slot[at + lane]]
                upper = (x >> first) + ((x >> (first - one)) & one)
                cell[0, lane] = sign[at + lane] * (np.float64(upper) * unit)
                cell[1, lane] = sign[at + lane] * np.float64(x - (upper << first))


@njit(cache=True, nogil=True)
def _round_pairs(natural, factor, step):  # type: ignore[no-untyped-def]
    """Pairs times factor, rounded: high to the number of steps, low to the rest, an integer."""
    inv = 1.0 / step
    for word in range(0, 4, 2):
        high, low = natural[word], natural[word + 1]
        for j in range(high.size):
            p, r = high[j] * factor, low[j] * factor
            rest = fma(high[j], factor, -p)
            upper, carried = np.rint(p * inv), np.rint(r * inv)
            high[j] = upper + carried
            low[j] = np.rint(fma(-upper, step, p) + (fma(-carried, step, r) + rest))


@njit(cache=True, nogil=True)
def _reduce_pairs(natural, step, p, out):  # type: ignore[no-untyped-def]
    """(high * step + low) mod p of pairs of integers below 2^51, centred."""
    inv, step_over_p = 1.0 / p, step / p
    half = natural.shape[1]
    for part in range(2):
        high, low = natural[2 * part], natural[2 * part + 1]
        target = out[part * half : part * half + half]
        for j in range(half):
            target[j] = centre(times(high[j], step, step_over_p, p) + low[j], p, inv)


def decode_slots(
    coefficients: Residues,
    factor: Fraction,
    tops: NDArray[np.int64] | None = None,
) -> tuple[Residues, Residues]:
    """Real and imaginary slots (n, N/2) times `factor`, rounded, modulo 2^64.

    coefficients: (n, N) modulo 2^64, read as signed; with `tops` as 2^64 tops + coefficients, where
    |tops| <= 2^(WRAP_BITS - 1), spread at random. Besides the rounding: an error below 2^-15 factor
    without and, for N = 8192, below 2^6 factor with `tops`.
    """
    count, half = len(coefficients), coefficients.shape[-1] // 2
    p, leaves, grid = plan(half), _leaves(half), _safe_grid(half)
    if tops is not None:
        # Before the first product no more than a number itself, after the last one sqrt(N).
        grid = Grid(64 + WRAP_BITS - 1 + _CREST_BITS - _HIGH_BITS, growth=1)
    high = float(factor)
    factors = high, float(factor - Fraction(high))
    natural, values = p.natural(1), p.leaves(1)
    real, imag = np.empty((count, half), np.uint64), np.empty((count, half), np.uint64)
    first = np.int64(grid.first)
    for row in range(count):
        if tops is None:
            _cut(coefficients[row].view(np.int64), first, natural[0])
        else:
            _cut_wide(tops[row], coefficients[row], first, natural[0])
        p.forward(natural, grid, values)
        _round_leaves(values[0], *factors, leaves.slot, leaves.sign, real[row], imag[row])
    return real, imag


@njit(cache=True, nogil=True)
def _cut(values, first, natural):  # type: ignore[no-untyped-def]
    """Signed integers (N,) as pairs (4, N/2), cut at the grid 2^first."""
    unit, one, half = 2.0**first, np.int64(1), natural.shape[1]
    for part in range(2):
        x = values[part * half : part * half + half]
        high, low = natural[2 * part], natural[2 * part + 1]
        for j in range(half):
            upper = (x[j] >> first) + ((x[j] >> (first - one)) & one)
            high[j] = np.float64(upper) * unit
            low[j] = np.float64(x[j] - (upper << first))


@njit(cache=True, nogil=True)
def _cut_wide(tops, words, first, natural):  # type: ignore[no-untyped-def]
    """The same for 2^64 tops + words, first <= 63."""
    unit, one, half = 2.0**first, np.uint64(1), natural.shape[1]
    shift, rest = np.uint64(first), np.int64(64) - first
    for part in range(2):
        top = tops[part * half : part * half + half]
        word = words[part * half : part * half + half]
        high, low = natural[2 * part], natural[2 * part + 1]
        for j in range(half):
            below = (word[j] >> shift) + ((word[j] >> (shift - one)) & one)
            upper = (top[j] << rest) + np.int64(below)
            high[j] = np.float64(upper) * unit
            low[j] = np.float64(np.int64(word[j] - (below << shift)))


@njit(cache=True, nogil=True)
def _round_leaves(values, factor, factor_low, slot, sign, real, imag):  # type: ignore[no-untyped-def]
    """Pairs at the leaves times a factor, itself a pair, in slot order, modulo 2^64."""
    panels, columns, _, lanes = values.shape
    for q in range(panels):
        for column in range(columns):
            at = (q * columns + column) * lanes
            cell = values[q, column]
            for lane in range(lanes):
                j, s = slot[at + lane], sign[at + lane]
                real[j] = _word(cell[0, lane], cell[1, lane], factor, factor_low)
                imag[j] = _word(s * cell[2, lane], s * cell[3, lane], factor, factor_low)


@njit(cache=True, nogil=True)
def _word(high, low, factor, factor_low):  # type: ignore[no-untyped-def]
    """(high + low) (factor + factor_low), rounded, modulo 2^64."""
    p = high * factor
    rest = fma(low, factor, fma(high, factor_low, fma(high, factor, -p)))
    p = fma(-np.rint(p * 2.0**-64), 2.0**64, p)
    upper = np.rint(p * 2.0**-32)
    lower = np.int64(np.rint(fma(-upper, 2.0**32, p) + rest))
    return (np.uint64(np.int64(upper)) << np.uint64(32)) + np.uint64(lower)
