"""Rows times one number each, and sums of their squares, modulo a prime t, in slots.

Rows lie across ciphertexts: a ciphertext holds some numbers of every row, so that a row's squares
add up over ciphertexts, slot by slot, and one ciphertext brings all sums back. As element triples
with one b for a whole row, which one ciphertext holds for all numbers. What an encryption holds is
not chosen, so the client sends the difference from its own part of b beside it, in the clear: a
pseudorandom number for every slot of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from he_linear.exact.plain_slots import ROWS, coefficients_of, slots_of
from he_linear.exact.slot_parameters import SlotParameters
from he_linear.kernels.sampling import uniform_residues
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.base import check_sizes
from he_linear.packings.element_triples import encoded, products_noise, sum_of_products
from he_linear.packings.evaluation_work import EvaluationWork
from he_linear.packings.slot_packing import SlotPacking
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.computing import units
from transport.errors import FrameError, UsageError
from transport.randomness import SecureRandom


class ScaledRowsPacking(SlotPacking):
    """Cross terms a_c b_s + b_c a_s, and sums of a_c a_s, of `rows` rows a of `width` numbers.

    Number c `columns` + p of row r is in slot r `columns` + p of ciphertext c; one ciphertext more
    holds b, one a row. Not for a config to name: a way to make correlations, see
    `hybrid.operators.slot_triples`.
    """

    op: ClassVar[str] = "correlations"
    name: ClassVar[str] = "scaled_rows"
    source: ClassVar[str] = "element triples, their squares added before they come back"
    levels: ClassVar[int] = 1
    local_products: ClassVar[int] = 2
    """Of a number, by each party on what it holds."""

    def __init__(self, parameters: SlotParameters, rows: int, width: int) -> None:
        check_sizes(rows=rows, width=width)
        if rows > parameters.poly_degree:
            raise UsageError(
                f"scaled rows: {rows} rows; a ciphertext has {parameters.poly_degree} slots"
            )
        self.parameters, self.rows, self.width = parameters, rows, width
        self.count = rows * width
        fewest = -(-width // (parameters.poly_degree // rows))
        self.columns = -(-width // fewest)
        self.blocks = -(-width // self.columns)
        """Ciphertexts of a; only the last may hold less than `columns` numbers of a row."""
        self.input_ciphertexts = self.output_ciphertexts = self.blocks + 1

    @staticmethod
    def most_rows(width: int, blocks: int, parameters: SlotParameters) -> int:
        """Rows of this width that so many ciphertexts take: one at least, in more if need be."""
        return max(1, parameters.poly_degree // -(-width // blocks))

    # -- what it declares -------------------------------------------------------------------

    @property
    def upload_bytes(self) -> int:
        """Ciphertexts, and the differences."""
        return super().upload_bytes + self.difference_bytes

    @property
    def difference_bytes(self) -> int:
        """Of `differences`."""
        return packed_bytes(self.rows * self.columns, self.parameters.plain_prime.bit_length())

    @property
    def work(self) -> EvaluationWork:
        """Encoding of the server's operands; two products a ciphertext, and one for its squares."""
        multiplied = 3 * self.blocks * 2 * len(self.parameters.primes)
        counts = {
            self.unit("slot_encode"): self.input_ciphertexts,
            "multiply_add": multiplied * self.parameters.poly_degree,
        }
        return EvaluationWork(leaving=units(counts))

    @property
    def noise_std(self) -> float:
        """Standard deviation of a coefficient of a row's products modulo Q, an estimate."""
        return products_noise(2, self.parameters)

    @property
    def sum_noise_std(self) -> float:
        """The same of sums of squares: one product of every ciphertext."""
        return products_noise(self.blocks, self.parameters)

    @property
    def wrong_probability(self) -> float:
        """Of products, and of sums."""
        chance = self.parameters.wrong_probability
        whole = self.blocks * chance(self.noise_std) + chance(self.sum_noise_std)
        return self.parameters.poly_degree * whole

    @property
    def hint_distance(self) -> float:
        """Of products, and of sums."""
        p, n = self.parameters, self.parameters.poly_degree
        products = p.hint_distance(self.noise_std, self.blocks * n)
        return math.hypot(products, p.hint_distance(self.sum_noise_std, n))

    # -- what the parties do ------------------------------------------------------------------

    def draw(self, rng: SecureRandom) -> tuple[Residues, Residues]:
        """The server's polynomials (inputs, N), and its part of b.

        Slots of a are uniform, but zero where a row has no number: these would add to its sum.
        """
        t, n = self.parameters.plain_prime, self.parameters.poly_degree
        own = uniform_residues(rng, self.input_ciphertexts, (t,), n)[:, 0]
        if empty := self.blocks * self.columns - self.width:
            slots = slots_of(own[-2:-1], t).reshape(-1)
            self._by_row(slots)[:, -empty:] = 0
            own[-2:-1] = coefficients_of(slots.reshape(1, ROWS, -1), t)
        factors = self.draw_factors(rng)
        slots = np.zeros(n, np.uint64)
        self._by_row(slots)[:] = factors[:, None]
        own[-1:] = coefficients_of(slots.reshape(1, ROWS, -1), t)
        return own, factors

    def draw_factors(self, rng: SecureRandom) -> Residues:
        """This party's part of b, uniform modulo t, (rows,)."""
        (drawn,) = uniform_residues(rng, 1, (self.parameters.plain_prime,), self.rows)
        factors: Residues = drawn[0].copy()
        return factors

    def numbers(self, coefficients: Residues) -> Residues:
        """Numbers (rows, width) of the polynomials of a, or of their products: linear."""
        slots = slots_of(coefficients, self.parameters.plain_prime).reshape(self.blocks, -1)
        parts = slots[:, : self.rows * self.columns].reshape(self.blocks, self.rows, self.columns)
        rows = parts.transpose(1, 0, 2).reshape(self.rows, -1)
        return np.ascontiguousarray(rows[:, : self.width])

    def columns_of(self, coefficients: Residues) -> Residues:
        """Slots (rows, columns) of one polynomial (1, N)."""
        return self._by_row(slots_of(coefficients, self.parameters.plain_prime).reshape(-1)).copy()

    def repeated(self, by_column: Residues) -> Residues:
        """(rows, columns) to what every number of a row has of it, (rows, width)."""
        return np.ascontiguousarray(np.tile(by_column, self.blocks)[:, : self.width])

    def _by_row(self, slots: Residues) -> Residues:
        """The slots in use as (rows, columns), not a copy."""
        return slots[: self.rows * self.columns].reshape(self.rows, self.columns)

    def differences(self, factors: Residues, encrypted: Residues) -> bytes:
        """The client's b less what its ciphertext holds, (rows, columns), modulo t."""
        t = np.uint64(self.parameters.plain_prime)
        moved = (factors[:, None] + t - encrypted) % t
        return pack_bits(moved.reshape(-1), self.parameters.plain_prime.bit_length())

    def parse_differences(self, data: bytes) -> Residues:
        """Untrusted bytes to residues (rows, columns)."""
        t = self.parameters.plain_prime
        if len(data) != self.difference_bytes:
            raise FrameError(
                f"scaled rows: got {len(data)} bytes, expected {self.difference_bytes}; are both "
                "parties the same version?"
            )
        moved = unpack_bits(data, self.rows * self.columns, t.bit_length())
        if moved.max() >= t:
            raise FrameError("scaled rows: a word exceeds the prime; the frame is corrupt")
        return moved.reshape(self.rows, self.columns)

    def stream(self, ciphertexts: Floats, own: Residues) -> Iterator[Floats]:
        """(inputs, 2, primes, N), and the server's polynomials, to the cross terms.

        Products a ciphertext of a, then one of the sums of a_c a_s, (1, 2, primes, N) each;
        centred, NTT form. Of squares, twice these are the cross terms.
        """
        p = self.parameters
        plains, squares = encoded(own, p), np.zeros((2, len(p.primes), p.poly_degree))
        primes = np.array(p.primes, np.float64)[:, None]
        for block in range(self.blocks):
            # a_c meets b_s and b_c meets a_s.
            chosen, crossed = [block, self.blocks], [self.blocks, block]
            yield sum_of_products(ciphertexts[chosen], plains[:, crossed], p)[None]
            one = slice(block, block + 1)
            squares += sum_of_products(ciphertexts[one], plains[:, one], p)
            # Centred each time: sums of some residues of 51 bits are not exact.
            squares -= np.rint(squares / primes) * primes
        yield squares[None]
