"""Exact products of shared matrices modulo 2^l on coefficients: both cross terms in one trip."""

from __future__ import annotations

import numpy as np

from he_linear.exact.ring_encryption import Positions, encode_plain
from he_linear.exact.ring_keys import RingServerKeys
from he_linear.exact.ring_parameters import RingParameters
from he_linear.kernels.ring_words import multiply_sum
from he_linear.kernels.scalars import Floats, Residues
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
from he_linear.packings.ring_base import RingProductPacking, scatter
from transport.errors import UsageError


class CoefficientsProductPacking(RingProductPacking):
    """Enc(a0) b1 + Enc(b0) a1, head by head; bodies are sent back at useful coefficients only.

    A (i, j) stands at i nw kw - j, B (j, c) at c kw + j, the result (i, c) at (i nw + c) kw.
    [Huang22] Cheetah, eprint 2022/207, Section 3.
    """

    name = "coefficients"
    source = "[Huang22] Cheetah, eprint 2022/207, Section 3"
    _merges = False

    def __init__(
        self, parameters: RingParameters, batch: int, rows: int, inner: int, columns: int
    ) -> None:
        check_sizes(batch=batch, rows=rows, inner=inner, columns=columns)
        self.parameters = parameters
        self.batch, self._shape = batch, (rows, inner, columns)
        n = parameters.poly_degree
        deep = power_sizes(inner, n) if self._merges else even_sizes(inner)
        self.blocks = choose_blocks(self._shape, n, (even_sizes(rows), deep), self._seconds)
        self._group = self._group_of(self.blocks)
        self.operand_ciphertexts = self._operands(self.blocks)
        self.output_ciphertexts = -(-batch * self.blocks.outputs // self._group)
        self.useful = self._useful()
        self.check_noise()

    def _group_of(self, blocks: Blocks) -> int:
        return merge_group(blocks, self.batch) if self._merges else 1

    def _operands(self, blocks: Blocks) -> tuple[int, int]:
        rows, inner, columns = blocks.counts
        return self.batch * rows * inner, self.batch * inner * columns

    def _seconds(self, blocks: Blocks) -> float:
        outputs, group = self.batch * blocks.outputs, self._group_of(blocks)
        results = self.batch * self._shape[0] * self._shape[2]
        merged = (-(-outputs // group), merge_switches(outputs, group))
        # The server transforms its own share of every operand as well.
        inputs = sum(self._operands(blocks))
        return trip_seconds(self.parameters, inputs, outputs, results, merged)

    def _useful(self) -> Positions:
        b, n = self.blocks, self.parameters.poly_degree
        head = np.arange(self.batch)[:, None, None]
        i = np.arange(self._shape[0])[:, None]
        c = np.arange(self._shape[2])
        output = head * b.outputs + i // b.rows * b.counts[2] + c // b.columns
        polynomial, member = np.divmod(output, self._group)
        place = (i % b.rows * b.columns + c % b.columns) * b.inner
        index: Positions = polynomial * n + place + member * (b.inner // self._group)
        return index

    @property
    def automorphisms(self) -> tuple[int, ...]:
        """One for each halving of the group."""
        return merge_elements(self.blocks.inner, self._group, self.parameters.poly_degree)

    @property
    def key_switches(self) -> int:
        """Merges, over all heads together."""
        return merge_switches(self.batch * self.blocks.outputs, self._group)

    @property
    def _multiply_adds(self) -> int:
        p = self.parameters
        products = 2 * self.batch * self.blocks.outputs * self.blocks.counts[1]
        return 2 * products * len(p.primes) * p.poly_degree

    @property
    def merge_noises(self) -> int:
        """Of all levels of merging."""
        return merge_noises(self._group)

    @property
    def share_square_sum(self) -> float:
        """Both cross terms."""
        b = self.blocks
        terms = b.counts[1] * b.inner * (b.rows + b.columns)
        return terms * self._uniform_square()

    def pack(self, a: Residues, b: Residues) -> Residues:
        """All polynomials of A, then all of B."""
        rows, inner, columns = self._shape
        expected = ((self.batch, rows, inner), (self.batch, inner, columns))
        if (a.shape, b.shape) != expected:
            raise UsageError(
                f"packing {self.name}: operands of shapes {a.shape} and {b.shape}; expected "
                f"{expected[0]} and {expected[1]}"
            )
        n, sizes = self.parameters.poly_degree, self.blocks
        left, right = self.operand_ciphertexts
        head = np.arange(self.batch)[:, None, None]
        row, i = np.divmod(np.arange(rows)[:, None], sizes.rows)
        block, j = np.divmod(np.arange(inner), sizes.inner)
        column, c = np.divmod(np.arange(columns)[None], sizes.columns)
        polynomial = (head * sizes.counts[0] + row) * sizes.counts[1] + block
        exponent = (i * sizes.columns * sizes.inner - j) % (2 * n)
        packed_a = scatter(a, polynomial * 2 * n + exponent, left, n)
        polynomial = (head * sizes.counts[1] + block[:, None]) * sizes.counts[2] + column
        exponent = c * sizes.inner + j[:, None]
        packed_b = scatter(b, polynomial * 2 * n + exponent, right, n)
        return np.concatenate([packed_a, packed_b])

    def encode(self, a: Residues, b: Residues) -> Floats:
        """Packed, divided by the group's size, transformed: (primes, n, N)."""
        return encode_plain(self.pack(a, b), self.parameters, self._group)

    def evaluate(self, ciphertexts: Floats, operand: Floats, keys: RingServerKeys) -> Floats:
        """Both cross terms of every block, summed over the inner blocks."""
        rows, inner, columns = self.blocks.counts
        primes, n = self.parameters.primes, self.parameters.poly_degree
        left = self.operand_ciphertexts[0]
        out = np.zeros((len(primes), self.batch * rows * columns, 2, n))
        for output in range(out.shape[1]):
            head, place = divmod(output, rows * columns)
            row, column = divmod(place, columns)
            at = (head * rows + row) * inner
            lefts = slice(at, at + inner)
            at = left + head * inner * columns + column
            rights = slice(at, at + (inner - 1) * columns + 1, columns)
            target = out[:, output]
            multiply_sum(ciphertexts[:, lefts], operand[:, rights], primes, target)
            multiply_sum(ciphertexts[:, rights], operand[:, lefts], primes, target)
        if self._group == 1:
            return out
        return interleave(out, self.blocks.inner, self._group, keys)


class CoefficientsInterleavedProductPacking(CoefficientsProductPacking):
    """The same with results of up to kw ciphertexts, of all heads, merged by key switching.

    [Lu23] BumbleBee, eprint 2023/1678.
    """

    name = "coefficients_interleaved"
    source = "[Lu23] BumbleBee, eprint 2023/1678"
    _merges = True


RING_PRODUCT_PACKINGS = (CoefficientsProductPacking, CoefficientsInterleavedProductPacking)
"""Exact packings of products of shared matrices, by name."""
