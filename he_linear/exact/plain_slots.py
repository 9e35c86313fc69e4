"""Slots modulo a prime t = 1 modulo 2N: all N of them, as two rows of N / 2.

Slot i of the rows is the value at the roots 3^i and -3^i, so that the automorphism of a CKKS
rotation rotates both rows; [Smart14] eprint 2011/133.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from he_linear.kernels.ntt import bit_reversal, tables
from he_linear.kernels.residues import from_centred, to_centred
from he_linear.kernels.scalars import Residues

ROWS = 2
"""Of slots."""


@lru_cache
def slot_places(n: int) -> NDArray[np.int64]:
    """(2, n / 2): where the slots of both rows stand in an NTT of degree n."""
    powers = [1]
    for _ in range(n // ROWS - 1):
        powers.append(powers[-1] * 3 % (2 * n))
    exponents = np.array([powers, [2 * n - e for e in powers]])
    places: NDArray[np.int64] = np.argsort(bit_reversal(n))[(exponents - 1) // 2]
    return places


def slots_of(coefficients: Residues, t: int) -> Residues:
    """Polynomials (count, N) modulo t to slots (count, 2, N / 2): linear, so it maps shares."""
    count, n = coefficients.shape
    values = to_centred(coefficients[:, None], (t,))[:, 0]
    tables(t, n).forward(values)
    slots = np.ascontiguousarray(values[:, slot_places(n).reshape(-1)])
    return from_centred(slots[:, None], (t,)).reshape(count, ROWS, n // ROWS)


def coefficients_of(slots: Residues, t: int) -> Residues:
    """Inverse of `slots_of`."""
    count, n = len(slots), slots.shape[1] * slots.shape[2]
    values = np.empty((count, n))
    values[:, slot_places(n).reshape(-1)] = to_centred(slots.reshape(count, 1, n), (t,))[:, 0]
    tables(t, n).inverse(values)
    return from_centred(values[:, None], (t,))[:, 0]
