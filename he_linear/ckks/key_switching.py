"""Key switching over centred float64 residues, compatible with SEAL's keys.

A polynomial c modulo Q = prod q_i is written in digits c_i = c mod q_i [Bajard16], each lifted
to all primes, special prime P included; sum_i c_i key_i, divided by P with rounding, is c under
the other key. Digits are lifted centred: SEAL's lift to [0, q_i) has mean q_i / 2, whose product
with the key's noise concentrates in few slots. Rotations of one ciphertext share their digits
("hoisting", [Halevi18]): the automorphism permutes the results' NTT values.

Noise of one switch: rounding, sqrt(N / 18) rms a coefficient, and the key's, about a tenth of it
where P is much larger than the digits, and some seven times it in exact slots, where it is not.

Shapes: polynomials (primes, N), extended ones (primes + 1, N), all in NTT form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from he_linear.ckks.parameters import CkksParameters
from he_linear.kernels.ntt import automorphism_order, tables
from he_linear.kernels.residues import to_centred
from he_linear.kernels.scalars import Floats, Residues, centre, centred, times


@dataclass(frozen=True, slots=True)
class SwitchingKey:
    """One key, and how its automorphism orders NTT values.

    residues (digits, 2, primes + 1, N) are in the order from before the automorphism: it then
    moves the two sums, not every digit.
    """

    residues: Floats
    order: NDArray[np.int64]

    @property
    def moved(self) -> Floats:
        """The residues in the order from after the automorphism, as SEAL has them."""
        return self.residues[..., self.order]

    @classmethod
    def from_residues(
        cls, residues: Residues, element: int, parameters: CkksParameters
    ) -> SwitchingKey:
        """From SEAL's layout; element 1 for relinearisation."""
        order = automorphism_order(element, parameters.poly_degree)
        before = to_centred(residues, parameters.all_primes)[..., np.argsort(order)]
        return cls(np.ascontiguousarray(before), order)


@njit(cache=True, nogil=True)
def _inner_product(digits, key, rows, moduli, out):  # type: ignore[no-untyped-def]
    """Out (2, primes + 1, N) = sum over digits times key, |out| <= p.

    Row k of the digits meets row rows[k] of the key: a key of all primes serves every level.
    """
    for k in range(rows.size):
        p = moduli[rows[k]]
        inv = 1.0 / p
        first, second = out[0, k], out[1, k]
        for d in range(digits.shape[0]):
            row, left, right = digits[d, k], key[d, 0, rows[k]], key[d, 1, rows[k]]
            if d == 0:
                for j in range(row.size):
                    first[j] = times(row[j], left[j], left[j] * inv, p)
                    second[j] = times(row[j], right[j], right[j] * inv, p)
            else:
                for j in range(row.size):
                    x = first[j] + times(row[j], left[j], left[j] * inv, p)
                    y = second[j] + times(row[j], right[j], right[j] * inv, p)
                    first[j] = centre(x, p, inv)
                    second[j] = centre(y, p, inv)


@njit(cache=True, nogil=True)
def _centre_into(values, p, out):  # type: ignore[no-untyped-def]
    inv = 1.0 / p
    for j in range(values.size):
        out[j] = centre(values[j], p, inv)


@njit(cache=True, nogil=True)
def _divide(extended, remainder, inverse, p, addend, out):  # type: ignore[no-untyped-def]
    """Out = (extended - remainder) * inverse + addend, modulo p."""
    inv = 1.0 / p
    quotient = inverse * inv
    for j in range(out.size):
        x = times(extended[j] - remainder[j], inverse, quotient, p)
        out[j] = centre(x + addend[j], p, inv)


@njit(cache=True, nogil=True)
def _gather(values, order, out):  # type: ignore[no-untyped-def]
    """Out (rows, N) = values in this order."""
    for k in range(values.shape[0]):
        row, target = values[k], out[k]
        for j in range(order.size):
            target[j] = row[order[j]]


@njit(cache=True, nogil=True)
def gather_add(values, order, addend, p, out):  # type: ignore[no-untyped-def]
    """Out = values in this order + addend, modulo p."""
    inv = 1.0 / p
    for j in range(order.size):
        out[j] = centre(values[order[j]] + addend[j], p, inv)


@njit(cache=True, nogil=True)
def _add_scaled(total, addend, factor, p):  # type: ignore[no-untyped-def]
    """Total += addend * factor, modulo p."""
    inv = 1.0 / p
    quotient = factor * inv
    for j in range(total.size):
        total[j] = centre(total[j] + times(addend[j], factor, quotient, p), p, inv)


@njit(cache=True, nogil=True)
def _horner(total, switched, order, addend, factor, p):  # type: ignore[no-untyped-def]
    """Total = (total + switched)[order] + addend * factor, modulo p; spoils `switched`."""
    inv = 1.0 / p
    quotient = factor * inv
    for j in range(total.size):
        switched[j] += total[j]
    for j in range(total.size):
        x = times(addend[j], factor, quotient, p)
        total[j] = centre(switched[order[j]] + x, p, inv)


@njit(cache=True, nogil=True)
def _garner_digit(first, second, inverse, q):  # type: ignore[no-untyped-def]
    """Second becomes (second - first) / P modulo q: X = first + P second is centred modulo P q."""
    inv = 1.0 / q
    quotient = inverse * inv
    for j in range(first.size):
        second[j] = centre(times(second[j] - first[j], inverse, quotient, q), q, inv)


@njit(cache=True, nogil=True)
def _garner_value(first, second, factor, p, out):  # type: ignore[no-untyped-def]
    """First + factor * second modulo p."""
    inv = 1.0 / p
    quotient = factor * inv
    for j in range(first.size):
        out[j] = centre(first[j] + times(second[j], factor, quotient, p), p, inv)


@njit(cache=True, nogil=True)
def _square(values, p, out):  # type: ignore[no-untyped-def]
    """Out (3, N) = (a0^2, 2 a0 a1, a1^2) of values (2, N)."""
    inv = 1.0 / p
    for j in range(values.shape[1]):
        a0, a1 = values[0, j], values[1, j]
        q0, q1 = a0 * inv, a1 * inv
        out[0, j] = centre(times(a0, a0, q0, p), p, inv)
        out[1, j] = centre(2.0 * times(a0, a1, q1, p), p, inv)
        out[2, j] = centre(times(a1, a1, q1, p), p, inv)


@njit(cache=True, nogil=True)
def _tensor(left, right, p, out):  # type: ignore[no-untyped-def]
    """Out (3, N) += (a0 b0, a0 b1 + a1 b0, a1 b1) over the rows of (count, 2, N)."""
    inv = 1.0 / p
    for i in range(left.shape[0]):
        for j in range(out.shape[1]):
            a0, a1 = left[i, 0, j], left[i, 1, j]
            b0, b1 = right[i, 0, j], right[i, 1, j]
            q0, q1 = b0 * inv, b1 * inv
            out[0, j] = centre(out[0, j] + times(a0, b0, q0, p), p, inv)
            cross = times(a0, b1, q1, p) + times(a1, b0, q0, p)
            out[1, j] = centre(out[1, j] + cross, p, inv)
            out[2, j] = centre(out[2, j] + times(a1, b1, q1, p), p, inv)


class KeySwitcher:
    """The key-switching arithmetic of one parameter set; holds public constants only."""

    def __init__(self, parameters: CkksParameters) -> None:
        self.parameters = parameters
        self._moduli = np.array(parameters.all_primes, np.float64)
        special = parameters.all_primes[-1]
        self._special = [centred(special, p) for p in parameters.primes]
        self._inverse_special = [centred(pow(special, -1, p), p) for p in parameters.primes]
        self._tables = [tables(p, parameters.poly_degree) for p in parameters.all_primes]
        self._zero = np.zeros(parameters.poly_degree)

    def _rows(self, level: int) -> NDArray[np.int64]:
        """Rows of a key that a polynomial of `level` primes meets: those and the special one's."""
        return np.array([*range(level), len(self._moduli) - 1])

    def decompose(self, polynomial: Floats) -> Floats:
        """(level, N) to digits (level, level + 1, N), for the first `level` primes."""
        digits = len(polynomial)
        out = np.empty((digits, digits + 1, polynomial.shape[-1]))
        coefficients = polynomial.copy()
        rows = self._rows(digits)
        for d in range(digits):
            self._tables[d].inverse(coefficients[d : d + 1])
            for k, row in enumerate(rows):
                if k == d:
                    out[d, k] = polynomial[d]
                    continue
                _centre_into(coefficients[d], self._moduli[row], out[d, k])
                self._tables[row].forward(out[d, k : k + 1])
        return out

    def switch(self, digits: Floats, key: SwitchingKey) -> Floats:
        """The key applied: an extended ciphertext (2, level + 1, N), before the automorphism."""
        out = np.empty((2, *digits.shape[1:]))
        _inner_product(digits, key.residues, self._rows(len(digits)), self._moduli, out)
        return out

    def divide(self, extended: Floats, addend: Floats | None = None) -> Floats:
        """round(extended / P) + addend: (level + 1, N) to (level, N); spoils its input."""
        return self._divide(extended, -1, self._inverse_special, addend)

    def rescale(self, polynomial: Floats) -> Floats:
        """round(polynomial / q) for the last prime q: (level, N) to (level - 1, N); spoils it."""
        last = len(polynomial) - 1
        prime = self.parameters.primes[last]
        inverses = [centred(pow(prime, -1, p), p) for p in self.parameters.primes[:last]]
        return self._divide(polynomial, last, inverses, None)

    def _divide(
        self,
        extended: Floats,
        last: int,
        inverses: Sequence[float],
        addend: Floats | None,
    ) -> Floats:
        count = len(extended) - 1
        self._tables[last].inverse(extended[count:])
        out = np.empty((count, extended.shape[1]))
        remainder = np.empty((1, extended.shape[1]))
        for k in range(count):
            _centre_into(extended[count], self._moduli[k], remainder[0])
            self._tables[k].forward(remainder)
            other = self._zero if addend is None else addend[k]
            _divide(extended[k], remainder[0], inverses[k], self._moduli[k], other, out[k])
        return out

    def extended(self, polynomial: Floats) -> Floats:
        """P times a polynomial (primes, N), modulo the data primes."""
        out = np.zeros(polynomial.shape)
        for k, special in enumerate(self._special):
            _add_scaled(out[k], polynomial[k], special, self._moduli[k])
        return out

    def rotations(self, ciphertext: Floats, keys: Sequence[SwitchingKey | None]) -> Floats:
        """(2, primes, N) under every key's automorphism: (keys, 2, primes, N); None copies."""
        out = np.empty((len(keys), *ciphertext.shape))
        digits = self.decompose(ciphertext[1])
        for index, key in enumerate(keys):
            if key is None:
                out[index] = ciphertext
                continue
            self.rotated(digits, ciphertext[0], key, out[index])
        return out

    def rotated(self, digits: Floats, body: Floats, key: SwitchingKey, out: Floats) -> None:
        """Out (2, level, N): the ciphertext of this body and these digits, under the key's map."""
        extended = self.switch(digits, key)
        # Rounding is odd, so an automorphism may follow it as well as go before.
        _gather(self.divide(extended[0], body), key.order, out[0])
        _gather(self.divide(extended[1]), key.order, out[1])

    def horner(self, rows: Floats, key: SwitchingKey) -> Floats:
        """Sum over i of rows[i] rotated i times: (count, 2, primes, N) to (2, primes, N).

        The first polynomial needs no digits, so it stays extended until the end.
        """
        primes = rows.shape[2]
        moduli, factors = self._moduli, self._special
        second = rows[-1, 1]
        total = np.zeros((primes + 1, rows.shape[-1]))
        for k in range(primes):
            _add_scaled(total[k], rows[-1, 0, k], factors[k], moduli[k])
        for row in rows[-2::-1]:
            extended = self.switch(self.decompose(second), key)
            for k in range(primes + 1):
                # The special prime's part of a multiple of P is zero.
                addend, factor = (row[0, k], factors[k]) if k < primes else (self._zero, 0.0)
                _horner(total[k], extended[0, k], key.order, addend, factor, moduli[k])
            switched = self.divide(extended[1])
            second = np.empty(switched.shape)
            for k in range(primes):
                gather_add(switched[k], key.order, row[1, k], moduli[k], second[k])
        return np.stack([self.divide(total), second])

    @property
    def product_shape(self) -> tuple[int, int, int]:
        """Of what `add_tensor` adds to: (primes, 3, N)."""
        return len(self.parameters.primes), 3, self.parameters.poly_degree

    def add_tensor(self, left: Floats, right: Floats, total: Floats) -> None:
        """Total (primes, 3, N) += product of two (2, primes, N), not relinearised."""
        for k, p in enumerate(self._moduli[: len(total)]):
            first = np.ascontiguousarray(left[None, :, k])
            second = np.ascontiguousarray(right[None, :, k])
            _tensor(first, second, p, total[k])

    def tensor(self, left: Floats, right: Floats) -> Floats:
        """Sum of products of (count, 2, primes, N), not relinearised: (3, primes, N)."""
        out = np.zeros((3, *left.shape[2:]))
        for k, p in enumerate(self._moduli[: left.shape[2]]):
            row = np.zeros((3, left.shape[-1]))
            _tensor(left[:, :, k], right[:, :, k], p, row)
            out[:, k] = row
        return out

    def square(self, value: Floats) -> Floats:
        """Square of (2, level, N), not relinearised: (3, level, N)."""
        out = np.empty((3, *value.shape[1:]))
        row = np.empty((3, value.shape[-1]))
        for k, p in enumerate(self._moduli[: value.shape[1]]):
            _square(np.ascontiguousarray(value[:, k]), p, row)
            out[:, k] = row
        return out

    def relinearise(self, product: Floats, key: SwitchingKey, *, rescaled: bool = False) -> Floats:
        """(3, level, N) back to (2, level, N), or divided by the last prime, (2, level - 1, N)."""
        extended = self.switch(self.decompose(product[2]), key)
        divide = self._divide_rescaled if rescaled else self.divide
        return np.stack([divide(extended[i], product[i]) for i in range(2)])

    def _divide_rescaled(self, extended: Floats, addend: Floats) -> Floats:
        """round((extended + P addend) / (P q)), q the last prime; spoils its input.

        Both divisions at once: the remainder modulo P q comes from its two residues by Garner.
        """
        count = len(addend) - 1
        p, q = self.parameters.all_primes[-1], self.parameters.primes[count]
        for k, prime in enumerate(self._moduli[: count + 1]):
            _add_scaled(extended[k], addend[k], self._special[k], prime)
        self._tables[-1].inverse(extended[-1:])
        self._tables[count].inverse(extended[count : count + 1])
        _garner_digit(extended[-1], extended[count], centred(pow(p, -1, q), q), float(q))
        out = np.empty((count, extended.shape[1]))
        remainder = np.empty((1, extended.shape[1]))
        for k, prime in enumerate(self.parameters.primes[:count]):
            _garner_value(
                extended[-1], extended[count], self._special[k], float(prime), remainder[0]
            )
            self._tables[k].forward(remainder)
            inverse = centred(pow(p * q, -1, prime), prime)
            _divide(extended[k], remainder[0], inverse, float(prime), self._zero, out[k])
        return out
