"""Words of 128 bits, as high and low halves: fractions of a modulus, and their multiples of t."""

from __future__ import annotations

import numpy as np
from numba import njit

from he_linear.kernels.scalars import Residues, mulhi
from transport.bitpack import WORD_BITS

WidePair = tuple[Residues, Residues]
"""High and low halves."""


@njit(cache=True, nogil=True)
def _rounded_multiple(high, low, t, out):  # type: ignore[no-untyped-def]
    for i in range(high.size):
        middle = t * high[i]
        s = middle + mulhi(t, low[i])
        top = mulhi(t, high[i]) + np.uint64(s < middle) + (s >> np.uint64(63))
        out[i] = top - t if top >= t else top


def rounded_multiple(word: WidePair, t: int) -> Residues:
    """round(t word / 2^128) modulo t < 2^63; the product is taken to 2^-64 before it is rounded."""
    high, low = (np.ascontiguousarray(half) for half in word)
    out = np.empty(high.shape, np.uint64)
    _rounded_multiple(high.reshape(-1), low.reshape(-1), np.uint64(t), out.reshape(-1))
    return out


@njit(cache=True, nogil=True)
def _rounded_with_hint(high, low, t, spread, out, hints):  # type: ignore[no-untyped-def]
    quarter, last = np.uint64(1 << 62), np.uint64(63)
    for i in range(high.size):
        middle = t * high[i]
        s = middle + mulhi(t, low[i])
        hint = (s + spread[i] + quarter) >> last
        top = mulhi(t, high[i]) + np.uint64(s < middle) + (hint | s >> last)
        out[i] = top - t if top >= t else top
        hints[i] = hint


def rounded_with_hint(word: WidePair, t: int, spread: Residues) -> tuple[Residues, Residues]:
    """X = t word / 2^128 rounded to nearest, or up where the hint says so, modulo t; and hints.

    A hint is 1 where X + spread / 2^64 lies within a quarter of a half: surely where X lies within
    1/4 - |spread| of it, never where it lies so close to an integer.
    """
    high, low = (np.ascontiguousarray(half) for half in word)
    out, hints = np.empty(high.shape, np.uint64), np.empty(high.shape, np.uint64)
    flat = spread.reshape(-1), out.reshape(-1), hints.reshape(-1)
    _rounded_with_hint(high.reshape(-1), low.reshape(-1), np.uint64(t), *flat)
    return out, hints


@njit(cache=True, nogil=True)
def _rounded_by_hint(high, low, t, hints, out):  # type: ignore[no-untyped-def]
    for i in range(high.size):
        middle = t * high[i]
        s = middle + mulhi(t, low[i])
        top = mulhi(t, high[i]) + np.uint64(s < middle)
        top += (s >> np.uint64(63)) & (hints[i] ^ np.uint64(1))
        out[i] = top - t if top >= t else top


def rounded_by_hint(word: WidePair, t: int, hints: Residues) -> Residues:
    """T word / 2^128 modulo t, rounded to nearest, or down where the hint says so."""
    high, low = (np.ascontiguousarray(half) for half in word)
    out = np.empty(high.shape, np.uint64)
    flat = hints.reshape(-1), out.reshape(-1)
    _rounded_by_hint(high.reshape(-1), low.reshape(-1), np.uint64(t), *flat)
    return out


def add_wide(a: WidePair, b: WidePair) -> WidePair:
    """A + b modulo 2^128."""
    low = a[1] + b[1]
    return a[0] + b[0] + (low < b[1]), low


def subtract_wide(a: WidePair, b: WidePair) -> WidePair:
    """A - b modulo 2^128."""
    return a[0] - b[0] - (a[1] < b[1]), a[1] - b[1]


def raised(word: WidePair, bits: int) -> WidePair:
    """The word times 2^bits modulo 2^128, 0 <= bits < 128."""
    high, low = word
    if bits >= WORD_BITS:
        return low << np.uint64(bits - WORD_BITS), np.zeros_like(low)
    if not bits:
        return word
    return high << np.uint64(bits) | low >> np.uint64(WORD_BITS - bits), low << np.uint64(bits)
