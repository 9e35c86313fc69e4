"""Products of residues modulo a prime of up to 50 bits, exact, in compiled loops."""

from __future__ import annotations

import numpy as np
from numba import njit

from mpc_nonlinear.fixed_point import RingArray
from transport.errors import UsageError

MAX_MODULUS_BITS = 50


def multiply_add(x: RingArray, y: RingArray, z: RingArray, modulus: int) -> RingArray:
    """X y + z modulo t, for residues of equal shape; same shape.

    The quotient x y / t of float64 is off by less than one: x and y are exact there, the product
    and its multiple of 1 / t each lose 2^-53 of at most 2^50. The remainder, taken modulo 2^64, is
    then within one t of the right one, far from a wrap.
    """
    _check(modulus)
    assert x.shape == y.shape == z.shape
    out = np.empty(x.shape, np.uint64)
    a, b, c = (np.ascontiguousarray(part).reshape(-1).view(np.int64) for part in (x, y, z))
    _multiply_add(a, b, c, np.int64(modulus), out.reshape(-1).view(np.int64))
    return out


def combinations(
    operands: RingArray, factors: RingArray, constants: RingArray, modulus: int
) -> RingArray:
    """Sums (m, n) of residues (k, n) by public factors (m, k), and constants (m,), modulo t.

    As `multiply_add`, term by term.
    """
    _check(modulus)
    (k, n), m = operands.shape, len(factors)
    assert factors.shape == (m, k)
    assert constants.shape == (m,)
    out = np.empty((m, n), np.uint64)
    x, f, c = (np.ascontiguousarray(part).view(np.int64) for part in (operands, factors, constants))
    _combinations(x, f, c, np.int64(modulus), out.view(np.int64))
    return out


def matrix_product(x: RingArray, y: RingArray, modulus: int) -> RingArray:
    """X y modulo t for residues (batch, n, k) and (batch, k, m): (batch, n, m).

    As `multiply_add`; remainders are added up before they are reduced, so k t stays below 2^63.
    """
    _check(modulus)
    assert x.shape[0] == y.shape[0]
    assert x.shape[2] == y.shape[1]
    if x.shape[2] * modulus >= 1 << 63:
        raise UsageError(
            f"products modulo {modulus}: sums of {x.shape[2]}; use fewer terms, or fewer bits"
        )
    out = np.zeros((x.shape[0], x.shape[1], y.shape[2]), np.uint64)
    a, b = (np.ascontiguousarray(part).view(np.int64) for part in (x, y))
    _matrix_product(a, b, np.int64(modulus), out.view(np.int64))
    return out


def quotients(x: RingArray, factor: int, addend: int, modulus: int) -> RingArray:
    """Floor of (x factor + addend) / t over the integers, for residues x, factor and addend.

    Same shape; as `multiply_add`, whose remainder this leaves out.
    """
    if modulus.bit_length() > MAX_MODULUS_BITS or min(factor, addend) < 0:
        raise UsageError(
            f"quotients by {modulus}: use at most {MAX_MODULUS_BITS} bits, factors of no sign"
        )
    assert max(factor, addend) < modulus
    out = np.empty(x.shape, np.uint64)
    flat = np.ascontiguousarray(x).reshape(-1).view(np.int64)
    numbers = np.int64(factor), np.int64(addend), np.int64(modulus)
    _quotients(flat, *numbers, out.reshape(-1).view(np.int64))
    return out


def _check(modulus: int) -> None:
    if modulus.bit_length() > MAX_MODULUS_BITS:
        raise UsageError(
            f"products modulo {modulus}: use a modulus of at most {MAX_MODULUS_BITS} bits"
        )


@njit(cache=True, nogil=True)
def _matrix_product(x, y, t, out):  # type: ignore[no-untyped-def]
    inverse = 1.0 / np.float64(t)
    batch, rows, inner = x.shape
    for g in range(batch):
        for i in range(rows):
            total = out[g, i]
            for k in range(inner):
                a, row = x[g, i, k], y[g, k]
                share = np.float64(a) * inverse
                for j in range(row.size):
                    rest = a * row[j] - np.int64(share * np.float64(row[j])) * t
                    rest += t if rest < 0 else 0
                    total[j] += rest - t if rest >= t else rest
            for j in range(total.size):
                total[j] %= t


@njit(cache=True, nogil=True)
def _quotients(x, factor, addend, t, out):  # type: ignore[no-untyped-def]
    inverse = 1.0 / np.float64(t)
    for i in range(x.size):
        quotient = np.int64(np.float64(x[i]) * np.float64(factor) * inverse)
        rest = x[i] * factor - quotient * t
        quotient -= 1 if rest < 0 else 0
        rest += t if rest < 0 else 0
        quotient += 1 if rest >= t else 0
        rest -= t if rest >= t else 0
        out[i] = quotient + (1 if rest + addend >= t else 0)


@njit(cache=True, nogil=True)
def _multiply_add(x, y, z, t, out):  # type: ignore[no-untyped-def]
    inverse = 1.0 / np.float64(t)
    for i in range(x.size):
        a, b = x[i], y[i]
        quotient = np.int64(np.float64(a) * np.float64(b) * inverse)
        rest = a * b - quotient * t
        # The quotient may be one too large or too small.
        rest += t if rest < 0 else 0
        rest -= t if rest >= t else 0
        total = rest + z[i]
        out[i] = total - t if total >= t else total


@njit(cache=True, nogil=True)
def _combinations(operands, factors, constants, t, out):  # type: ignore[no-untyped-def]
    inverse = 1.0 / np.float64(t)
    for row in range(out.shape[0]):
        for i in range(out.shape[1]):
            total = constants[row]
            for j in range(operands.shape[0]):
                a, b = operands[j, i], factors[row, j]
                quotient = np.int64(np.float64(a) * np.float64(b) * inverse)
                rest = a * b - quotient * t
                # The quotient may be one too large or too small.
                rest += t if rest < 0 else 0
                rest -= t if rest >= t else 0
                total += rest
                total -= t if total >= t else 0
            out[row, i] = total
