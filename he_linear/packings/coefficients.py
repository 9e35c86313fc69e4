"""Exact linear layers modulo 2^l on coefficients of polynomial products.

Blocks of mw tokens, kw inputs and nw outputs, mw kw nw <= N, meet in one product: X^(-j) of the
input times X^j of the weights, summed over j, falls on one coefficient.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from he_linear.exact.ring_encryption import encode_plain, signed
from he_linear.exact.ring_keys import RingServerKeys
from he_linear.exact.ring_parameters import RingParameters
from he_linear.kernels.modular_matmul import LimbMatrices, modular_matmul
from he_linear.kernels.ntt import subring_tables
from he_linear.kernels.ring_words import multiply_sum, reduce_words
from he_linear.kernels.scalars import Floats, Integers, Residues
from he_linear.packings.base import check_sizes
from he_linear.packings.coefficient_blocks import (
    Blocks,
    choose_blocks,
    even_sizes,
    merge_group,
    power_sizes,
    trip_seconds,
)
from he_linear.packings.interleaving import (
    interleave,
    merge_elements,
    merge_noises,
    merge_switches,
)
from he_linear.packings.ring_base import RingLinearPacking, scatter
from transport.computing import Units, units
from transport.errors import UsageError

_MIN_BLOCKS = 16
"""Values of the subring's NTT: fewer are not worth a matrix product each."""


class _BlockLinear(RingLinearPacking):
    """What both packings share: blocks, shapes, noise."""

    blocks: Blocks

    def __init__(self, parameters: RingParameters, tokens: int, d_in: int, d_out: int) -> None:
        check_sizes(tokens=tokens, d_in=d_in, d_out=d_out)
        self.parameters = parameters
        self.tokens, self.d_in, self.d_out = tokens, d_in, d_out
        n = parameters.poly_degree
        self.blocks = choose_blocks((tokens, d_in, d_out), n, self._sizes(), self._seconds)
        rows, inner, _ = self.blocks.counts
        self.input_ciphertexts = rows * inner
        self.operand_ciphertexts = (self.input_ciphertexts,)
        self.output_ciphertexts = self._returned(self.blocks)

    @abstractmethod
    def _sizes(self) -> tuple[list[int], list[int]]:
        """Candidates for the rows and the inner length of a block."""

    def _returned(self, blocks: Blocks) -> int:
        return blocks.outputs

    def _switches(self, _blocks: Blocks) -> int:
        return 0

    @property
    def _multiply_adds(self) -> int:
        rows, inner, columns = self.blocks.counts
        return (
            2 * rows * inner * columns * len(self.parameters.primes) * self.parameters.poly_degree
        )

    def _seconds(self, blocks: Blocks) -> float:
        inputs = blocks.counts[0] * blocks.counts[1]
        merged = (self._returned(blocks), self._switches(blocks))
        results = self.tokens * self.d_out
        return trip_seconds(self.parameters, inputs, blocks.outputs, results, merged)

    @property
    def share_square_sum(self) -> float:
        """If the weights were uniform."""
        terms = self.blocks.counts[1] * self.blocks.inner * self.blocks.columns
        return terms * self._uniform_square()

    def square_sum(self, weights: Integers) -> float:
        """Largest sum over the columns of one block."""
        columns = (self._reduced(weights).astype(np.float64) ** 2).sum(axis=0)
        starts = np.arange(0, self.d_out, self.blocks.columns)
        return float(np.add.reduceat(columns, starts).max())

    def _reduced(self, weights: Integers) -> Integers:
        """The integers of least magnitude modulo 2^l, which noise grows with."""
        if weights.shape != (self.d_in, self.d_out):
            raise UsageError(
                f"packing {self.name}: weights of shape {weights.shape}; expected "
                f"{(self.d_in, self.d_out)}"
            )
        return signed(weights.view(np.uint64), self.parameters.plain_bits)

    def _split(self, x: Residues) -> tuple[Any, Any, Any, Any]:
        """Token and input indices of (tokens, in) as (block, place in it), for broadcasting."""
        if x.shape != (self.tokens, self.d_in):
            raise UsageError(
                f"packing {self.name}: input of shape {x.shape}; expected "
                f"{(self.tokens, self.d_in)}"
            )
        i = np.divmod(np.arange(self.tokens)[:, None], self.blocks.rows)
        j = np.divmod(np.arange(self.d_in)[None], self.blocks.inner)
        return *i, *j


@dataclass(frozen=True, slots=True)
class SubringWeights:
    """For each prime, small matrices over the distinct NTT values of the weights."""

    matrices: tuple[LimbMatrices, ...]


class CoefficientsPacking(_BlockLinear):
    """Bodies are sent back at useful coefficients only; no key switching.

    Token i, input j stands at i - j mw, weight (j, c) at (c kw + j) mw, result (i, c) at
    i + c kw mw. With mw a power of two weights are polynomials in X^mw, whose NTT repeats each
    value mw times: 8 bytes a weight and prime, however many tokens, and the products are small
    matrix products. [Huang22] Cheetah, eprint 2022/207, Section 3, with tokens innermost.
    """

    name = "coefficients"
    source = "[Huang22] Cheetah, eprint 2022/207, Section 3"

    def __init__(self, parameters: RingParameters, tokens: int, d_in: int, d_out: int) -> None:
        super().__init__(parameters, tokens, d_in, d_out)
        b, n = self.blocks, parameters.poly_degree
        i, c = np.arange(tokens)[:, None], np.arange(d_out)[None]
        polynomial = c // b.columns * b.counts[0] + i // b.rows
        place = i % b.rows + c % b.columns * b.inner * b.rows
        self.useful = (polynomial * n + place).astype(np.int64)

    def _sizes(self) -> tuple[list[int], list[int]]:
        most = self.parameters.poly_degree // _MIN_BLOCKS
        return power_sizes(self.tokens, most), even_sizes(self.d_in)

    @property
    def work(self) -> Units:
        """One matrix product for each prime."""
        rows, inner, columns = self.blocks.counts
        residues = 2 * len(self.parameters.primes) * self.parameters.poly_degree
        return units(
            multiply_add=rows * inner * columns * residues,
            operand_residue=rows * inner * residues,
            product_residue=rows * columns * residues,
            weight_limb=self.encoded_bytes / 4,
        )

    @property
    def encoded_bytes(self) -> int:
        """Two float32 limbs a value and prime."""
        b = self.blocks
        values = b.counts[1] * b.counts[2] * self.parameters.poly_degree // b.rows
        return 8 * values * len(self.parameters.primes)

    def pack(self, x: Residues) -> Residues:
        """(tokens, in) to polynomials (token blocks * input blocks, N)."""
        n = self.parameters.poly_degree
        row, i, column, j = self._split(x)
        exponent = (i - j * self.blocks.rows) % (2 * n)
        index = (row * self.blocks.counts[1] + column) * 2 * n + exponent
        return scatter(x, index, self.input_ciphertexts, n)

    def encode_weights(self, weights: Integers) -> SubringWeights:
        """Polynomials in X^mw, transformed once."""
        self.check_noise(self.square_sum(weights))
        b, n = self.blocks, self.parameters.poly_degree
        degree = n // b.rows
        column, c = np.divmod(np.arange(self.d_out)[None], b.columns)
        row, j = np.divmod(np.arange(self.d_in)[:, None], b.inner)
        coefficients = np.zeros((b.counts[2], b.counts[1], degree), np.int64)
        coefficients[column, row, c * b.inner + j] = self._reduced(weights)
        values = reduce_words(coefficients, self.parameters.primes)
        matrices = []
        for row_values, p in zip(values, self.parameters.primes, strict=True):
            subring_tables(p, degree, n).forward(row_values.reshape(-1, degree))
            matrices.append(LimbMatrices.from_values(row_values, p))
        return SubringWeights(tuple(matrices))

    def evaluate(
        self,
        ciphertexts: Floats,
        operand: SubringWeights,
        keys: RingServerKeys,  # noqa: ARG002
    ) -> Floats:
        """Small matrix products, block by block of the NTT."""
        rows, inner, columns = self.blocks.counts
        n = self.parameters.poly_degree
        out = np.empty((len(ciphertexts), columns * rows, 2, n))
        for index, matrices in enumerate(operand.matrices):
            values = ciphertexts[index].reshape(rows, inner, 2, n).swapaxes(0, 1)
            values = np.ascontiguousarray(values).reshape(inner, 2 * rows, n)
            out[index] = modular_matmul(matrices, values).reshape(-1, 2, n)
        return out


class CoefficientsInterleavedPacking(_BlockLinear):
    """Results of up to kw ciphertexts are merged into one by key switching.

    Token i, input j stands at i nw kw - j, weight (j, c) at c kw + j, result (i, c) at
    (i nw + c) kw with kw a power of two. Less comes back, so deeper blocks pay and less goes up.
    The weights are dense: 8 * primes * mw bytes each. [Lu23] BumbleBee, eprint 2023/1678.
    """

    name = "coefficients_interleaved"
    source = "[Lu23] BumbleBee, eprint 2023/1678"

    def __init__(self, parameters: RingParameters, tokens: int, d_in: int, d_out: int) -> None:
        super().__init__(parameters, tokens, d_in, d_out)
        b, n = self.blocks, parameters.poly_degree
        self._group = merge_group(b)
        i, c = np.arange(tokens)[:, None], np.arange(d_out)[None]
        polynomial, member = np.divmod(i // b.rows * b.counts[2] + c // b.columns, self._group)
        place = (i % b.rows * b.columns + c % b.columns) * b.inner
        self.useful = (polynomial * n + place + member * (b.inner // self._group)).astype(np.int64)

    def _sizes(self) -> tuple[list[int], list[int]]:
        n = self.parameters.poly_degree
        return even_sizes(self.tokens), power_sizes(self.d_in, n)

    def _returned(self, blocks: Blocks) -> int:
        return -(-blocks.outputs // merge_group(blocks))

    def _switches(self, blocks: Blocks) -> int:
        return merge_switches(blocks.outputs, merge_group(blocks))

    @property
    def automorphisms(self) -> tuple[int, ...]:
        """One for each halving of the group."""
        return merge_elements(self.blocks.inner, self._group, self.parameters.poly_degree)

    @property
    def key_switches(self) -> int:
        """All merges but one a ciphertext returned."""
        return self._switches(self.blocks)

    @property
    def merge_noises(self) -> int:
        """Of all levels of merging."""
        return merge_noises(self._group)

    @property
    def encoded_bytes(self) -> int:
        """A float64 for each coefficient and prime."""
        _, inner, columns = self.blocks.counts
        return 8 * inner * columns * len(self.parameters.primes) * self.parameters.poly_degree

    def pack(self, x: Residues) -> Residues:
        """(tokens, in) to polynomials (token blocks * input blocks, N)."""
        b, n = self.blocks, self.parameters.poly_degree
        row, i, column, j = self._split(x)
        exponent = (i * b.columns * b.inner - j) % (2 * n)
        index = (row * b.counts[1] + column) * 2 * n + exponent
        return scatter(x, index, self.input_ciphertexts, n)

    def encode_weights(self, weights: Integers) -> Floats:
        """Polynomials (primes, output blocks, input blocks, N), divided by the group's size."""
        self.check_noise(self.square_sum(weights))
        b, n = self.blocks, self.parameters.poly_degree
        column, c = np.divmod(np.arange(self.d_out)[None], b.columns)
        row, j = np.divmod(np.arange(self.d_in)[:, None], b.inner)
        coefficients = np.zeros((b.counts[2], b.counts[1], n), np.uint64)
        coefficients[column, row, c * b.inner + j] = self._reduced(weights).view(np.uint64)
        return encode_plain(coefficients, self.parameters, self._group)

    def evaluate(self, ciphertexts: Floats, operand: Floats, keys: RingServerKeys) -> Floats:
        """Products summed over the input blocks, then merged."""
        rows, inner, columns = self.blocks.counts
        primes, n = self.parameters.primes, self.parameters.poly_degree
        out = np.zeros((len(primes), rows * columns, 2, n))
        for row in range(rows):
            inputs = ciphertexts[:, row * inner : (row + 1) * inner]
            for column in range(columns):
                target = out[:, row * columns + column]
                multiply_sum(inputs, operand[:, column], primes, target)
        return interleave(out, self.blocks.inner, self._group, keys)


RING_LINEAR_PACKINGS = (CoefficientsPacking, CoefficientsInterleavedPacking)
"""Exact linear packings, by name."""
