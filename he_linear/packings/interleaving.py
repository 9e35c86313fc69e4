"""Merging ciphertexts whose results stand at multiples of a gap into one.

merge(even, odd) = (even + X^h odd) + phi(even - X^h odd) with phi: X -> X^(N/h + 1), which fixes
X^(2 h k) and negates X^(h (2k+1)): twice even's coefficients at even multiples of h, twice odd's
at odd ones; what else stood at multiples of h cancels. [Lu23] BumbleBee, eprint 2023/1678,
ciphertext interleaving, with the tree of [Chen20] eprint 2020/015, Algorithm 2. The factor 2 of
each step is divided out beforehand, modulo Q, where plaintexts are encoded, so that the noise of
key switches stays small.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numba import njit

from he_linear.exact.ring_keys import RingServerKeys
from he_linear.kernels.ring_words import transform
from he_linear.kernels.scalars import Floats, centre, times


def merge_elements(gap: int, group: int, n: int) -> tuple[int, ...]:
    """Automorphisms that merge `group` ciphertexts with results at multiples of `gap`."""
    elements = []
    while group > 1:
        elements.append(n // (gap // group) + 1)
        group //= 2
    return tuple(elements)


def merge_switches(count: int, group: int) -> int:
    """Key switches that merge `count` ciphertexts, `group` into one."""
    full, rest = divmod(count, group)
    return full * (group - 1) + _tree_switches(rest, group)


def _tree_switches(count: int, group: int) -> int:
    if count == 0 or group == 1:
        return 0
    even = -(-count // 2)
    return 1 + _tree_switches(even, group // 2) + _tree_switches(count - even, group // 2)


def merge_noises(group: int) -> int:
    """Noises of one key switch, in variance, that reach one merged coefficient."""
    return (group * group - 1) // 3


def interleave(ciphertexts: Floats, gap: int, group: int, keys: RingServerKeys) -> Floats:
    """(primes, count, 2, N) to (primes, ceil(count / group), 2, N), `group` times as large.

    Result k of ciphertext i moves from coefficient k * gap to k * gap + (i % group) * gap / group.
    """
    rows = [np.ascontiguousarray(np.swapaxes(row, 0, 1)) for row in np.moveaxis(ciphertexts, 1, 0)]
    merged = [_merge(rows[at : at + group], gap, group, keys) for at in range(0, len(rows), group)]
    return np.ascontiguousarray(np.moveaxis(np.stack(merged), (0, 1), (1, 2)))


def _merge(rows: list[Floats], gap: int, group: int, keys: RingServerKeys) -> Floats:
    """Ciphertexts (2, primes, N), the missing ones zero."""
    if group == 1:
        return rows[0]
    even = _merge(rows[::2], gap, group // 2, keys)
    odd = _merge(rows[1::2], gap, group // 2, keys) if len(rows) > 1 else None
    step = gap // group
    primes, n = keys.parameters.primes, keys.parameters.poly_degree
    switcher, key = keys.switching(n // step + 1)
    plus, minus = even, even
    if odd is not None:
        plus, minus = np.empty(even.shape), np.empty(even.shape)
        monomial = _monomial(step, primes, n)
        for half in range(2):
            for index, p in enumerate(primes):
                _butterfly(
                    even[half, index],
                    odd[half, index],
                    monomial[index],
                    float(p),
                    plus[half, index],
                    minus[half, index],
                )
    moved = np.empty(minus.shape)
    switcher.rotated(switcher.decompose(minus[1]), minus[0], key, moved)
    for half in range(2):
        for index, p in enumerate(primes):
            _add(plus[half, index], float(p), moved[half, index])
    return moved


@lru_cache(maxsize=32)
def _monomial(exponent: int, primes: tuple[int, ...], n: int) -> Floats:
    """X^exponent in NTT form; public."""
    values = np.zeros((len(primes), n))
    values[:, exponent] = 1.0
    return transform(values, primes)


@njit(cache=True, nogil=True)
def _butterfly(even, odd, monomial, p, plus, minus):  # type: ignore[no-untyped-def]
    inv = 1.0 / p
    for j in range(even.size):
        w = monomial[j]
        x = times(odd[j], w, w * inv, p)
        plus[j] = centre(even[j] + x, p, inv)
        minus[j] = centre(even[j] - x, p, inv)


@njit(cache=True, nogil=True)
def _add(values, p, out):  # type: ignore[no-untyped-def]
    inv = 1.0 / p
    for j in range(out.size):
        out[j] = centre(out[j] + values[j], p, inv)
