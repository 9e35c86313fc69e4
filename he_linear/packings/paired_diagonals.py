"""Diagonals of weights modulo t in a small subring, two in one transform.

In the token-periodic layout a diagonal repeats with period c in both rows of slots. So it is a
polynomial in Y = X^(N / 2c), 2c coefficients, unchanged by Y -> 1 / Y: of its 2c NTT values the
second half mirrors the first, and c matrices hold it. Y^c is a root of -1: from the values of
A + Y^c B at a place and at its mirror both diagonals come out, and coefficients tell them apart,
A's being odd and those of Y^c B even. So half of the transforms do.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

from he_linear.exact.plain_slots import slot_places
from he_linear.exact.slot_parameters import SlotParameters
from he_linear.kernels.fused_sums import stored_bias
from he_linear.kernels.ntt import minimal_root, subring_tables
from he_linear.kernels.ntt_butterflies import split_four
from he_linear.kernels.scalars import Floats, centre, centred, times
from he_linear.kernels.vectors import LANES

_NEAR = 50_000
"""Numbers of diagonals that are encoded together, for the second cache."""


@dataclass(frozen=True, slots=True)
class DiagonalSizes:
    """Of one layer's blocks: c columns, v used outputs, giant and baby steps."""

    columns: int
    outputs: int
    giants: int
    babies: int


@njit(cache=True, nogil=True)
def _paired_slots(weights, sizes, places, root, t, out):  # type: ignore[no-untyped-def]
    """Out (giants, inputs * babies / 2, 2c): A + Y^c B of neighbouring diagonals, by place."""
    inputs, w, _ = weights.shape
    c, v, giants, babies = sizes
    out[...] = 0.0
    for g in range(giants):
        for i in range(inputs):
            for b in range(babies):
                row = out[g, (i * babies + b) // 2]
                for j in range(c - v, c):
                    source = j + g * babies + b + 1 - c
                    if 0 <= source < w:
                        # The giant step's own rotation comes after the product.
                        place = places[(j + g * babies) % c]
                        value = weights[i, source, j - c + v]
                        row[2 * c - 1 - place if b & 1 else place] = value
        for pair in range(out.shape[1]):
            row = out[g, pair]
            for b in range(c):
                x, y = row[b], times(row[2 * c - 1 - b], root, root / t, t)
                row[b], row[2 * c - 1 - b] = x + y, x - y


@njit(cache=True, nogil=True)
def _paired_columns(weights, places, root, t, out):  # type: ignore[no-untyped-def]
    """Out (outputs, inner / 2, 2c): A + Y^c B of neighbouring inner indices, by place."""
    outputs, inner, used = weights.shape
    c = places.size
    out[...] = 0.0
    for o in range(outputs):
        for pair in range(out.shape[1]):
            row, first = out[o, pair], 2 * pair
            for j in range(used):
                x = weights[o, first, j]
                y = times(weights[o, first + 1, j], root, root / t, t) if first + 1 < inner else 0.0
                place = places[j]
                row[place] = centre(x + y, t, 1.0 / t)
                row[2 * c - 1 - place] = centre(x - y, t, 1.0 / t)


@njit(cache=True, nogil=True)
def _lift_pairs(rows, half, t):  # type: ignore[no-untyped-def]
    """Coefficients of A + Y^c B modulo t to the sum of both centred lifts."""
    n = rows.shape[1]
    for i in range(rows.shape[0]):
        row = rows[i]
        row[0] = centre(row[0], t, 1.0 / t)
        for k in range(1, n // 2 + 1):
            odd = times(row[k] - row[n - k], half, half / t, t)
            even = times(row[k] + row[n - k], half, half / t, t)
            row[k], row[n - k] = even + odd, even - odd


@njit(cache=True, nogil=True)
def _split_pairs(values, first, factors, p, bias, out):  # type: ignore[no-untyped-def]
    """Values (giants, pairs, 2c) of A + Y^c B to out (c, first + giants, 2 pairs), plus the bias.

    factors: of A, 1 / 2, and of Y^c B, 1 / 2 over Y^c.
    """
    giants, pairs, n = values.shape
    rows, inner = out.shape[1], out.shape[2]
    half, other = factors
    constants = half, half / p, other, other / p, p, bias
    source, target = values.reshape(-1), out.reshape(-1)
    for g in range(giants):
        for start in range(0, n // 2, LANES):
            to = (start * rows + first + g) * inner
            for i in range(0, pairs - 3, 4):
                at = (g * pairs + i) * n
                mirrored = at + n - LANES - start
                split_four(
                    source, at + start, mirrored, n, target, to + 2 * i, rows * inner, *constants
                )
            for i in range(pairs // 4 * 4, pairs):
                row = values[g, i]
                for e in range(start, start + LANES):
                    x, y = row[e], row[n - 1 - e]
                    out[e, first + g, 2 * i] = times(x + y, half, half / p, p) + bias
                    out[e, first + g, 2 * i + 1] = times(x - y, other, other / p, p) + bias


@lru_cache
def _imaginary(p: int, n: int) -> float:
    """Y^c, a root of -1, at the first half of the places; minus that at the others."""
    return centred(pow(minimal_root(p, 2 * n), n // 2, p), p)


@lru_cache
def _places(columns: int) -> NDArray[np.int64]:
    """Of slot j < c in a subring NTT; the other row of slots stands at the mirrored place."""
    places: NDArray[np.int64] = slot_places(2 * columns).min(axis=0)
    return places


def encode_diagonals(
    block: Floats, sizes: DiagonalSizes, parameters: SlotParameters, first: int, out: Floats
) -> None:
    """Weights (inputs, w, v) of one output to rows `first` on of out (primes + 1, c, rows, inner).

    Centred residues of the diagonals' NTT values and `stored_bias`, for every prime; the
    diagonals' coefficients are centred lifts of residues modulo t. Row g is giant step g, inner
    index i * babies + b is baby step b of input i.
    """
    n, t, c = parameters.poly_degree, parameters.plain_prime, sizes.columns
    inner = len(block) * sizes.babies
    values = np.empty((sizes.giants, inner // 2, 2 * c))
    shape = c, sizes.outputs, sizes.giants, sizes.babies
    _paired_slots(block, shape, _places(c), _imaginary(t, n), float(t), values)
    _encode_pairs(values, parameters, parameters.all_primes, first, out)


def encode_columns(weights: Floats, parameters: SlotParameters, columns: int, out: Floats) -> None:
    """Weights (outputs, inner, used columns), a slot each, to out (data primes, c, rows, inner).

    Of output o and inner index i the slots w[o, i], repeated with period c = `columns`, zero beyond
    the used ones: as `encode_diagonals`, which moves slots in between. Weights are residues modulo
    t, centred; inner counts of `out` are even, what is beyond the weights becomes zero.
    """
    n, t = parameters.poly_degree, parameters.plain_prime
    values = np.empty((len(weights), out.shape[-1] // 2, 2 * columns))
    _paired_columns(weights, _places(columns), _imaginary(t, n), float(t), values)
    _encode_pairs(values, parameters, parameters.primes, 0, out)


def _encode_pairs(
    values: Floats, parameters: SlotParameters, primes: tuple[int, ...], first: int, out: Floats
) -> None:
    """Values (rows, pairs, 2c) of A + Y^c B modulo t to rows `first` on of out, for the primes."""
    n, t, length = parameters.poly_degree, parameters.plain_prime, values.shape[-1]
    for start in range(0, len(values), together := max(1, _NEAR // values[0].size)):
        part = values[start : start + together]
        flat = part.reshape(-1, length)
        subring_tables(t, length, n).inverse(flat)
        _lift_pairs(flat, centred(pow(2, -1, t), t), float(t))
        for k, p in enumerate(primes):
            lifted = part.copy()
            subring_tables(p, length, n).forward(lifted.reshape(-1, length))
            half, root = pow(2, -1, p), int(_imaginary(p, n))
            factors = centred(half, p), centred(-half * root, p)
            _split_pairs(lifted, first + start, factors, float(p), stored_bias(p), out[k])
