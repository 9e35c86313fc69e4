"""Baby-step giant-step sums of full-size diagonals: what the classical packings share.

A diagonal is a plaintext of all slots, so a weight costs as many residues as there are slots that
repeat it. Rotations split as r = g n1 + b: babies rotate inputs and share their digits, giants
accumulate by Horner's rule. [Halevi18] eprint 2018/244.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from he_linear.ckks.canonical_embedding import slots_to_coefficients
from he_linear.ckks.keys import ServerKeys
from he_linear.ckks.parameters import CkksParameters
from he_linear.ckks.rotation import rotations
from he_linear.kernels.diagonal_sums import (
    accumulate_diagonals,
    empty_weights,
    in_order_of_use,
    mirrored,
)
from he_linear.kernels.ntt import tables
from he_linear.kernels.residues import from_centred, multiply, to_centred
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.base import LinearPacking, Weights, power_of_two, rounded_weights
from he_linear.packings.evaluation_work import EvaluationWork
from transport.computing import units
from transport.errors import UsageError

_ROWS = 32
"""Sums that are made together, in one pass over the rotated inputs."""


@dataclass(frozen=True, slots=True)
class DiagonalWeights:
    """Centred NTT values of the diagonals, column factors.

    values (outputs * giants, primes, M / 8, inputs * babies, 8), see `diagonal_sums`: M is N / 2
    where slots are real, else N.
    """

    values: Floats
    diagonal: Residues | None
    """(inputs, primes, N)"""

    @property
    def nbytes(self) -> int:
        """Memory of the encoded weights."""
        return self.values.nbytes + (0 if self.diagonal is None else self.diagonal.nbytes)


class DiagonalPacking(LinearPacking):
    """Common to packings that multiply rotated inputs by full-size diagonals."""

    input_scale_bits = 26
    weight_scale_bits = 24
    _step: int
    """Slots of the smallest rotation."""
    _count: int
    """Diagonals of a block, a power of two."""
    _inputs: int
    _products: int
    """Ciphertexts in and out of one matrix product."""
    _real: ClassVar[bool]
    """Whether diagonals have no imaginary part."""
    _repeats: int = 1
    """Matrix products, one after the other, with the same weights."""
    _babies: int
    _giants: int

    def _split(self, baby_steps: int | None) -> None:
        """Babies and giants: near the root of their number weighed by inputs and outputs."""
        if baby_steps is not None and (baby_steps < 1 or baby_steps & (baby_steps - 1)):
            raise UsageError(f"baby_steps is {baby_steps}; choose a power of two")
        best = isqrt(max(1, self._count * self._products // self._inputs))
        self._babies = min(baby_steps or power_of_two(best), self._count)
        self._giants = self._count // self._babies

    @property
    def galois_steps(self) -> tuple[int, ...]:
        """Baby steps and one giant step."""
        steps = {self._step * b for b in range(1, self._babies)}
        if self._giants > 1:
            steps.add(self._step * self._babies)
        return tuple(sorted(steps))

    @property
    def rotations(self) -> int:
        """Per input babies, per output giants."""
        once = self._inputs * (self._babies - 1) + self._products * (self._giants - 1)
        return self._repeats * once

    @property
    def work(self) -> EvaluationWork:
        """Hoisted rotations, products with full-size diagonals, Horner's rule."""
        p = self.parameters
        times = self._repeats
        turned = {
            self.unit("hoist"): times * self._inputs,
            self.unit("rotation"): times * self._inputs * (self._babies - 1),
        }
        products = self._products * self._count * self._inputs
        factors = self.input_ciphertexts if self.diagonal else 0
        kind = "real" if self._real else "complex"
        summed = times * products * 2 * len(p.primes) * p.poly_degree
        # The first outputs' sums come before any answer leaves.
        first = min(1.0, self._summed_together / self._products)
        returned = {
            f"{kind}_diagonal_multiply_add": (1 - first) * summed,
            self.unit("horner_step"): times * self._products * (self._giants - 1),
            self.unit("horner_end"): times * self._products if self._giants > 1 else 0,
            self.unit("plain_multiply"): 2 * factors,
        }
        before = units({f"{kind}_diagonal_multiply_add": first * summed})
        return EvaluationWork(units(turned), before, units(returned))

    @property
    def _summed_together(self) -> int:
        """Outputs whose sums are made in one pass over the rotated inputs."""
        return max(1, _ROWS // self._giants)

    @property
    def encoded_bytes(self) -> int:
        """Eight bytes for each residue of each diagonal, for half of them where slots are real."""
        p = self.parameters
        polynomial = 8 * len(p.primes) * p.poly_degree
        factors = self._inputs if self.diagonal else 0
        diagonals = self._products * self._count * self._inputs
        return polynomial * factors + self._kept * 8 * len(p.primes) * diagonals

    @property
    def _kept(self) -> int:
        """Values that are kept of a diagonal's N."""
        n = self.parameters.poly_degree
        return n // 2 if self._real else n

    @abstractmethod
    def _diagonals(self, weights: Weights, giant: int) -> NDArray[np.complex128]:
        """Slots (outputs, inputs, babies, slots) of diagonals giant * babies + b, unrotated."""

    def _factors(self, diagonal: Weights) -> NDArray[np.complex128]:
        """Slots (inputs, slots) of column factors, where the packing has a diagonal."""
        raise UsageError(f"packing {self.name}: has no column factors; {diagonal.shape} given")

    def encode_weights(self, weights: Weights, diagonal: Weights | None = None) -> DiagonalWeights:
        """Every diagonal over the whole ring, in NTT form."""
        self.check_weights(weights, diagonal)
        inner, primes = self._inputs * self._babies, len(self.parameters.primes)
        rows = self._products * self._giants
        values = empty_weights(rows, primes, self._kept, inner)
        by_output = values.reshape(self._products, self._giants, *values.shape[1:])
        for giant in range(self._giants):
            # The giant step's own rotation comes after the product.
            slots = np.roll(
                self._diagonals(weights, giant), giant * self._babies * self._step, axis=-1
            )
            encoded = self._encode(slots)[..., : self._kept]
            inner_shape = (self._products, inner, *encoded.shape[3:])
            by_output[:, giant] = in_order_of_use(encoded.reshape(inner_shape))
        factors = None
        if diagonal is not None:
            factors = from_centred(self._encode(self._factors(diagonal)), self.parameters.primes)
        return DiagonalWeights(values, factors)

    def _encode(self, slots: NDArray[np.complex128]) -> Floats:
        """Slots (..., N/2) to centred NTT values (..., primes, N) at the weight scale."""
        p = self.parameters
        scaled = rounded_weights(slots_to_coefficients(slots), self.weight_scale_bits)
        if self._real:
            scaled = mirrored(scaled)
        out = np.empty((*slots.shape[:-1], len(p.primes), p.poly_degree))
        for index, prime in enumerate(p.primes):
            rows = scaled.reshape(-1, p.poly_degree).copy()
            tables(prime, p.poly_degree).forward(rows)
            out[..., index, :] = rows.reshape(scaled.shape)
        return out

    def evaluate(
        self, ciphertexts: Residues, encoded: DiagonalWeights, keys: ServerKeys
    ) -> Residues:
        """Hoisted baby rotations, products with diagonals, giant rotations by Horner."""
        return np.stack(list(self.stream(iter(ciphertexts), encoded, keys)))

    def stream(
        self, inputs: Iterator[Residues], encoded: DiagonalWeights, keys: ServerKeys
    ) -> Iterator[Residues]:
        """`evaluate`, ciphertext by ciphertext: rotates while others arrive."""
        received: list[Residues] = []

        def arriving() -> Iterator[Residues]:
            for ciphertext in itertools.islice(inputs, self._inputs):
                received.append(ciphertext)
                yield ciphertext

        for _ in range(self._repeats):
            yield from self._multiply(arriving(), encoded, keys)
        if encoded.diagonal is not None:
            for ciphertext, factor in zip(received, encoded.diagonal, strict=True):
                yield multiply(ciphertext, factor[None], self.parameters.primes)

    def _multiply(
        self, ciphertexts: Iterator[Residues], encoded: DiagonalWeights, keys: ServerKeys
    ) -> Iterator[Residues]:
        p: CkksParameters = self.parameters
        steps = [self._step * b for b in range(self._babies)]

        def rotated(ciphertext: Residues) -> Floats:
            return rotations(to_centred(ciphertext, p.primes), steps, keys)

        parts = list(keys.workers.map(rotated, ciphertexts))
        babies = parts[0] if len(parts) == 1 else np.concatenate(parts)
        moduli = np.array(p.primes, np.float64)
        key = keys.rotation_key(self._step * self._babies) if self._giants > 1 else None

        outputs = self._summed_together

        def output(sums: Floats) -> Residues:
            total = sums[0] if key is None else keys.switcher.horner(sums, key)
            return from_centred(total, p.primes)

        def summed() -> Iterator[Floats]:
            for start in range(0, self._products, outputs):
                part = encoded.values[start * self._giants : (start + outputs) * self._giants]
                sums = np.empty((len(part), *babies.shape[1:]))
                accumulate_diagonals(babies, part, moduli, sums)
                yield from sums.reshape(-1, self._giants, *sums.shape[1:])

        yield from keys.workers.map(output, summed())
