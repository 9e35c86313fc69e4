"""Squares and cubes modulo a prime t of shared uniform numbers, 8192 in two ciphertexts.

a = a_c + a_s. The client's a_c comes out of its encryption, uniform; another uniform rho is
encrypted beside it, and w = a_c^2 - rho modulo t goes in the clear, which makes an encryption of
a_c^2 of it. What comes back are shares of 2 a_c a_s and of 3 rho a_s + 3 a_c a_s^2; the server adds
3 w a_s on its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from he_linear.ckks.noise import ROUNDING_VARIANCE, NoiseModel
from he_linear.exact.plain_slots import coefficients_of, slots_of
from he_linear.exact.slot_parameters import DROPPED_BITS, SlotParameters
from he_linear.kernels.ring_words import multiply_sum, reduce_words, transform
from he_linear.kernels.sampling import uniform_residues
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.base import check_sizes
from he_linear.packings.evaluation_work import EvaluationWork
from he_linear.packings.slot_packing import SlotPacking
from transport.bitpack import packed_bytes
from transport.computing import units
from transport.randomness import SecureRandom

_INPUTS, _PLAINS = 2, 3
"""Ciphertexts and plaintext factors of a block of N numbers."""


class ElementCubesPacking(SlotPacking):
    """Cross terms of `count` squares and cubes of shared numbers modulo t.

    Not for a config to name: a way to make correlations, see `hybrid.operators.slot_triples`.
    """

    op: ClassVar[str] = "correlations"
    name: ClassVar[str] = "element_cubes"
    source: ClassVar[str] = (
        "this project; as element_triples, [Rathee19] eprint 2019/577 and [Smart14] eprint 2011/133"
    )
    levels: ClassVar[int] = 1
    local_products: ClassVar[int] = 3
    """Of a number, by each party on what it holds."""

    def __init__(self, parameters: SlotParameters, count: int) -> None:
        check_sizes(count=count)
        self.parameters, self.count = parameters, count
        self.blocks = -(-count // parameters.poly_degree)
        self.input_ciphertexts = self.output_ciphertexts = _INPUTS * self.blocks

    # -- what it declares -------------------------------------------------------------------

    @property
    def clear_bytes(self) -> int:
        """Of w, behind the ciphertexts."""
        return packed_bytes(self.count, self.parameters.plain_bits)

    @property
    def upload_bytes(self) -> int:
        """Ciphertexts and w."""
        return super().upload_bytes + self.clear_bytes

    @property
    def work(self) -> EvaluationWork:
        """Encoding of the server's factors and products, block by block."""
        p, plains = self.parameters, _PLAINS * self.blocks
        counts = {
            self.unit("slot_encode"): plains,
            "multiply_add": plains * 2 * len(p.primes) * p.poly_degree,
        }
        return EvaluationWork(leaving=units(counts))

    @property
    def noise_std(self) -> float:
        """Standard deviation of a cube's coefficient modulo Q, an estimate; squares have less.

        As of products of `ElementTriplesPacking`: two fresh noises, times polynomials of N
        coefficients that spread over all of t.
        """
        fresh = NoiseModel(self.parameters).fresh + ROUNDING_VARIANCE * 4.0**DROPPED_BITS
        terms = _INPUTS * self.parameters.poly_degree
        return self.parameters.plain_prime * math.sqrt(ROUNDING_VARIANCE * terms * fresh)

    # -- what the parties do ------------------------------------------------------------------

    def draw(self, rng: SecureRandom) -> Residues:
        """The server's a_s as polynomials (blocks, N), uniform modulo t: so are the slots."""
        p = self.parameters
        return uniform_residues(rng, self.blocks, (p.plain_prime,), p.poly_degree)[:, 0]

    def halves(self, coefficients: Residues) -> tuple[Residues, Residues]:
        """Numbers (count,) of the first and of the second half of polynomials (2 blocks, N).

        Of what the client encrypts: a_c and rho. Of what comes back: of squares and of cubes.
        """
        both = coefficients.reshape(_INPUTS, self.blocks, -1)
        return self.numbers(both[0]), self.numbers(both[1])

    def numbers(self, coefficients: Residues) -> Residues:
        """Slots (count,) of polynomials (blocks, N): linear, so it maps shares."""
        slots = slots_of(coefficients, self.parameters.plain_prime)
        return slots.reshape(-1)[: self.count]

    def polynomials(self, numbers: Residues) -> Residues:
        """Polynomials (blocks, N) of numbers (count,); the slots behind them are zero."""
        n = self.parameters.poly_degree
        slots = np.zeros(self.blocks * n, np.uint64)
        slots[: self.count] = numbers
        return coefficients_of(slots.reshape(self.blocks, 2, -1), self.parameters.plain_prime)

    def stream(self, ciphertexts: Floats, own: Residues, squares: Residues) -> Iterator[Floats]:
        """(inputs, 2, primes, N), and polynomials (blocks, N) of a_s and a_s^2, to cross terms.

        One result (1, 2, primes, N) at a time, squares first; centred, NTT form.
        """
        for block in range(self.blocks):
            yield self._result(ciphertexts[block : block + 1], [(2, own[block])])
        for block in range(self.blocks):
            # a_c meets 3 a_s^2, rho meets 3 a_s.
            factors = [(3, squares[block]), (3, own[block])]
            yield self._result(ciphertexts[block :: self.blocks], factors)

    def _result(self, ciphertexts: Floats, factors: list[tuple[int, Residues]]) -> Floats:
        primes = self.parameters.primes
        inputs = np.ascontiguousarray(ciphertexts.transpose(2, 0, 1, 3))
        out = np.zeros((len(primes), 2, self.parameters.poly_degree))
        multiply_sum(inputs, self._encoded(factors), primes, out)
        return np.ascontiguousarray(out.transpose(1, 0, 2))[None]

    def _encoded(self, factors: list[tuple[int, Residues]]) -> Floats:
        """Multiples of polynomials (N,) as (primes, factors, N) NTTs.

        Centred modulo t: then products with a noise are smallest.
        """
        t = self.parameters.plain_prime
        words = np.stack([times * part.astype(np.int64) % t for times, part in factors])
        centred = np.where(words > t // 2, words - t, words)
        return transform(reduce_words(centred, self.parameters.primes), self.parameters.primes)
