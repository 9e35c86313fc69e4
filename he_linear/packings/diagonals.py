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

import numpy as np
from numba import njit
from numpy.typing import NDArray

from he_linear.embedding import slots_to_coefficients
from he_linear.kernels import Floats, Residues, from_centred, multiply, to_centred
from he_linear.keys import ServerKeys
from he_linear.ntt import centre, tables, times
from he_linear.packings.base import LinearPacking, Weights, power_of_two, rounded_weights
from he_linear.packings.work import EvaluationWork
from he_linear.params import CkksParameters
from he_linear.rotation import rotations
from transport.errors import UsageError
from transport.work import units


@dataclass(frozen=True, slots=True)
class DiagonalWeights:
    """Centred NTT values (outputs * giants, inputs * babies, primes, N), column factors."""

    values: Floats
    diagonal: Residues | None
    """(inputs, primes, N)"""

    @property
    def nbytes(self) -> int:
        """Memory of the encoded weights."""
        return self.values.nbytes + (0 if self.diagonal is None else self.diagonal.nbytes)


@njit(cache=True, nogil=True)
def accumulate_diagonals(inputs, weights, moduli, out):  # type: ignore[no-untyped-def]
    """Out (rows, 2, primes, N) = sum over i of weights (rows, inner, primes, N) * inputs[i]."""
    rows, inner, primes, n = weights.shape
    for r in range(rows):
        for k in range(primes):
            p = moduli[k]
            inv = 1.0 / p
            first, second = out[r, 0, k], out[r, 1, k]
            first[:] = 0.0
            second[:] = 0.0
            for i in range(inner):
                w, a, b = weights[r, i, k], inputs[i, 0, k], inputs[i, 1, k]
                for j in range(n):
                    quotient = w[j] * inv
                    first[j] = centre(first[j] + times(a[j], w[j], quotient, p), p, inv)
                    second[j] = centre(second[j] + times(b[j], w[j], quotient, p), p, inv)


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
        returned = {
            "diagonal_multiply_add": times * products * 2 * len(p.primes) * p.poly_degree,
            self.unit("horner_step"): times * self._products * (self._giants - 1),
            self.unit("horner_end"): times * self._products if self._giants > 1 else 0,
            self.unit("plain_multiply"): 2 * factors,
        }
        return EvaluationWork((), units(turned), units(returned))

    @property
    def encoded_bytes(self) -> int:
        """Eight bytes for each residue of each diagonal."""
        p = self.parameters
        polynomial = 8 * len(p.primes) * p.poly_degree
        factors = self._inputs if self.diagonal else 0
        return polynomial * (self._products * self._count * self._inputs + factors)

    @abstractmethod
    def _diagonals(self, weights: Weights, giant: int) -> NDArray[np.complex128]:
        """Slots (outputs, inputs, babies, slots) of diagonals giant * babies + b, unrotated."""

    def _factors(self, diagonal: Weights) -> NDArray[np.complex128]:
        """Slots (inputs, slots) of column factors, where the packing has a diagonal."""
        raise UsageError(f"packing {self.name}: has no column factors; {diagonal.shape} given")

    def encode_weights(self, weights: Weights, diagonal: Weights | None = None) -> DiagonalWeights:
        """Every diagonal over the whole ring, in NTT form."""
        self.check_weights(weights, diagonal)
        p = self.parameters
        shape = (self._products, self._giants, self._inputs, self._babies)
        values = np.empty((*shape, len(p.primes), p.poly_degree))
        for giant in range(self._giants):
            # The giant step's own rotation comes after the product.
            slots = np.roll(
                self._diagonals(weights, giant), giant * self._babies * self._step, axis=-1
            )
            values[:, giant] = self._encode(slots)
        factors = None
        if diagonal is not None:
            factors = from_centred(self._encode(self._factors(diagonal)), p.primes)
        inner = self._inputs * self._babies
        return DiagonalWeights(values.reshape(-1, inner, *values.shape[4:]), factors)

    def _encode(self, slots: NDArray[np.complex128]) -> Floats:
        """Slots (..., N/2) to centred NTT values (..., primes, N) at the weight scale."""
        p = self.parameters
        scaled = rounded_weights(slots_to_coefficients(slots), self.weight_scale_bits)
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
        """`evaluate`, ciphertext by ciphertext."""
        received: list[Residues] = []
        for _ in range(self._repeats):
            part = list(itertools.islice(inputs, self._inputs))
            yield from self._multiply(part, encoded, keys)
            received += part
        if encoded.diagonal is not None:
            for ciphertext, factor in zip(received, encoded.diagonal, strict=True):
                yield multiply(ciphertext, factor[None], self.parameters.primes)

    def _multiply(
        self, ciphertexts: list[Residues], encoded: DiagonalWeights, keys: ServerKeys
    ) -> Iterator[Residues]:
        p: CkksParameters = self.parameters
        steps = [self._step * b for b in range(self._babies)]

        def rotated(ciphertext: Residues) -> Floats:
            return rotations(to_centred(ciphertext, p.primes), steps, keys)

        babies = np.concatenate(list(keys.workers.map(rotated, ciphertexts)))
        moduli = np.array(p.primes, np.float64)
        key = keys.rotation_key(self._step * self._babies) if self._giants > 1 else None

        def output(index: int) -> Residues:
            part = encoded.values[index * self._giants : (index + 1) * self._giants]
            sums = np.empty((self._giants, *babies.shape[1:]))
            accumulate_diagonals(babies, part, moduli, sums)
            total = sums[0] if key is None else keys.switcher.horner(sums, key)
            return from_centred(total, p.primes)

        yield from keys.workers.map(output, range(self._products))
