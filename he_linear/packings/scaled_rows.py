"""Rows times one number each, and their squares, modulo a prime t, 8192 numbers a ciphertext.

As element triples with one b for a whole row. The server repeats its part of b itself. What an
encryption holds is not chosen, so the client sends the difference from its own part of b beside it,
in the clear: a pseudorandom number for every number of a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from he_linear.exact.plain_slots import ROWS, coefficients_of
from he_linear.exact.slot_parameters import SlotParameters
from he_linear.kernels.sampling import uniform_residues
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.base import check_sizes
from he_linear.packings.element_triples import ElementTriplesPacking
from he_linear.packings.evaluation_work import EvaluationWork
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.computing import units
from transport.errors import FrameError
from transport.randomness import SecureRandom


class ScaledRowsPacking(ElementTriplesPacking):
    """Cross terms a_c b_s + b_c a_s and 2 a_c a_s of `rows` rows a of `width` numbers, b one a row.

    Not for a config to name: a way to make correlations, see `hybrid.operators.slot_triples`.
    """

    op: ClassVar[str] = "correlations"
    name: ClassVar[str] = "scaled_rows"

    def __init__(self, parameters: SlotParameters, rows: int, width: int) -> None:
        check_sizes(rows=rows, width=width)
        super().__init__(parameters, rows * width)
        self.rows, self.width = rows, width
        self.output_ciphertexts = 2 * self.blocks

    # -- what it declares -------------------------------------------------------------------

    @property
    def upload_bytes(self) -> int:
        """Ciphertexts, and the differences."""
        return super().upload_bytes + self.difference_bytes

    @property
    def difference_bytes(self) -> int:
        """Of `differences`."""
        return packed_bytes(self.count, self.parameters.plain_prime.bit_length())

    @property
    def work(self) -> EvaluationWork:
        """Encoding of the server's operands, of a once more for squares, and products."""
        encoded = 3 * self.blocks
        multiplied = encoded * 2 * len(self.parameters.primes)
        counts = {
            self.unit("slot_encode"): encoded,
            "multiply_add": multiplied * self.parameters.poly_degree,
        }
        return EvaluationWork(leaving=units(counts))

    # -- what the parties do ------------------------------------------------------------------

    def draw(self, rng: SecureRandom) -> Residues:
        """The server's polynomials (inputs, N): a uniform in all slots, b in every row's."""
        own = super().draw(rng)
        slots = np.zeros((self.blocks, self.parameters.poly_degree), np.uint64)
        slots.reshape(-1)[: self.count] = self.spread(self.draw_factors(rng)).reshape(-1)
        t = self.parameters.plain_prime
        own[self.blocks :] = coefficients_of(slots.reshape(self.blocks, ROWS, -1), t)
        return own

    def draw_factors(self, rng: SecureRandom) -> Residues:
        """This party's part of b, uniform modulo t, (rows,)."""
        (drawn,) = uniform_residues(rng, 1, (self.parameters.plain_prime,), self.rows)[0]
        factors: Residues = drawn
        return factors

    def spread(self, factors: Residues) -> Residues:
        """B of every number of a row, (rows, width)."""
        return np.ascontiguousarray(np.broadcast_to(factors[:, None], (self.rows, self.width)))

    def differences(self, factors: Residues, encrypted: Residues) -> bytes:
        """The client's b less what its ciphertexts hold, (count,), modulo t."""
        t = np.uint64(self.parameters.plain_prime)
        moved = (self.spread(factors).reshape(-1) + t - encrypted) % t
        return pack_bits(moved, self.parameters.plain_prime.bit_length())

    def parse_differences(self, data: bytes) -> Residues:
        """Untrusted bytes to residues (count,)."""
        t = self.parameters.plain_prime
        if len(data) != self.difference_bytes:
            raise FrameError(
                f"scaled rows: got {len(data)} bytes, expected {self.difference_bytes}; are both "
                "parties the same version?"
            )
        moved = unpack_bits(data, self.count, t.bit_length())
        if moved.max() >= t:
            raise FrameError("scaled rows: a word exceeds the prime; the frame is corrupt")
        return moved

    def numbers_of_both(self, coefficients: Residues) -> tuple[Residues, Residues]:
        """Slots of the results' polynomials (outputs, N): of products, of squares; (count,)."""
        return self.numbers(coefficients[: self.blocks]), self.numbers(coefficients[self.blocks :])

    def stream(self, ciphertexts: Floats, own: Residues) -> Iterator[Floats]:
        """Cross terms of products, then of squares, one result (1, 2, primes, N) at a time."""
        yield from super().stream(ciphertexts, own)
        for block in range(self.blocks):
            yield self._cross(ciphertexts[block][None], own[block][None])
