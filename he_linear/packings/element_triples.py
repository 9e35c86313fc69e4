"""Elementwise triples and squares modulo a prime t, 8192 a ciphertext.

Operands are sums of a part of each party. The client's come out of its encryption, uniform; the
server multiplies by its own as plaintext slots. What comes back are shares of the cross terms
a_c b_s + b_c a_s, or of 2 a_c a_s: no key switches, no rotations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from he_linear.ckks.noise import ROUNDING_VARIANCE, NoiseModel
from he_linear.exact.plain_slots import slots_of
from he_linear.exact.slot_parameters import DROPPED_BITS, SlotParameters
from he_linear.kernels.ring_words import multiply_sum, reduce_words, transform
from he_linear.kernels.sampling import uniform_residues
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.base import check_sizes
from he_linear.packings.evaluation_work import EvaluationWork
from he_linear.packings.slot_packing import SlotPacking
from transport.computing import units
from transport.randomness import SecureRandom


class ElementTriplesPacking(SlotPacking):
    """Cross terms of `count` products of shared numbers modulo t; with `squares`, of squares.

    With `crossed`, products a_c b_s of a number of each party's own.

    Not for a config to name: a way to make correlations, see `hybrid.operators.slot_triples`.
    """

    op: ClassVar[str] = "correlations"
    name: ClassVar[str] = "element_triples"
    source: ClassVar[str] = (
        "[Rathee19] triples from RLWE, eprint 2019/577, with encryptions of this project; slots of "
        "[Smart14] eprint 2011/133"
    )
    levels: ClassVar[int] = 1
    local_products: ClassVar[int] = 1
    """Of a number, by each party on what it holds."""

    def __init__(
        self,
        parameters: SlotParameters,
        count: int,
        *,
        squares: bool = False,
        crossed: bool = False,
    ) -> None:
        check_sizes(count=count)
        self.parameters, self.count = parameters, count
        self.operands = 1 if squares or crossed else 2
        self.crossed = crossed
        self.blocks = self.output_ciphertexts = -(-count // parameters.poly_degree)
        self.input_ciphertexts = self.operands * self.blocks

    # -- what it declares -------------------------------------------------------------------

    @property
    def work(self) -> EvaluationWork:
        """Encoding of the server's operands and products, block by block."""
        multiplied = self.input_ciphertexts * 2 * len(self.parameters.primes)
        counts = {
            self.unit("slot_encode"): self.input_ciphertexts,
            "multiply_add": multiplied * self.parameters.poly_degree,
        }
        return EvaluationWork(leaving=units(counts))

    @property
    def noise_std(self) -> float:
        """Standard deviation of a result's coefficient modulo Q, an estimate."""
        return products_noise(self.operands, self.parameters)

    # -- what the parties do ------------------------------------------------------------------

    def draw(self, rng: SecureRandom) -> Residues:
        """The server's operands as polynomials (inputs, N), uniform modulo t: so are the slots."""
        p = self.parameters
        return uniform_residues(rng, self.input_ciphertexts, (p.plain_prime,), p.poly_degree)[:, 0]

    def operands_of(self, coefficients: Residues) -> list[Residues]:
        """This party's operands, (count,) each, of its polynomials (inputs, N)."""
        blocks = coefficients.reshape(self.operands, self.blocks, -1)
        return [self.numbers(block) for block in blocks]

    def numbers(self, coefficients: Residues) -> Residues:
        """Slots (count,) of polynomials (outputs, N): linear, so it maps shares."""
        slots = slots_of(coefficients, self.parameters.plain_prime)
        return slots.reshape(-1)[: self.count]

    def stream(self, ciphertexts: Floats, own: Residues) -> Iterator[Floats]:
        """(inputs, 2, primes, N), and the server's polynomials, to the cross terms.

        One result (1, 2, primes, N) at a time; centred, NTT form.
        """
        for block in range(self.blocks):
            chosen = slice(block, None, self.blocks)
            # a_c meets b_s and b_c meets a_s; of squares, a_c meets 2 a_s.
            yield self._cross(ciphertexts[chosen], own[chosen][::-1])

    def _cross(self, ciphertexts: Floats, own: Residues) -> Floats:
        """The sum of the ciphertexts, each times its polynomial; twice one alone."""
        if len(own) == 1 and not self.crossed:
            own = 2 * own % np.uint64(self.parameters.plain_prime)
        return sum_of_products(ciphertexts, encoded(own, self.parameters), self.parameters)[None]


def encoded(polynomials: Residues, parameters: SlotParameters) -> Floats:
    """Polynomials (count, N) modulo t, as (primes, count, N) NTTs.

    Centred modulo t: then products with a noise are smallest.
    """
    t, words = parameters.plain_prime, polynomials.astype(np.int64)
    centred = np.where(words > t // 2, words - t, words)
    return transform(reduce_words(centred, parameters.primes), parameters.primes)


def sum_of_products(ciphertexts: Floats, plains: Floats, parameters: SlotParameters) -> Floats:
    """Of ciphertexts (count, 2, primes, N), each times its `encoded` one: (2, primes, N)."""
    primes = parameters.primes
    inputs = np.ascontiguousarray(ciphertexts.transpose(2, 0, 1, 3))
    out = np.zeros((len(primes), 2, parameters.poly_degree))
    multiply_sum(inputs, plains, primes, out)
    return np.ascontiguousarray(out.transpose(1, 0, 2))


def products_noise(products: int, parameters: SlotParameters) -> float:
    """Standard deviation of a coefficient modulo Q of a sum of so many products, an estimate.

    A fresh encryption's noise, its body rounded to 2^DROPPED_BITS, times polynomials of N
    coefficients that are uniform modulo t; the fresh zero adds nothing beside that.
    """
    fresh = NoiseModel(parameters).fresh + ROUNDING_VARIANCE * 4.0**DROPPED_BITS
    terms = products * parameters.poly_degree
    return parameters.plain_prime * math.sqrt(ROUNDING_VARIANCE * terms * fresh)
