"""Attention over a decoder's cache by correlations from exact products modulo 2^64."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from math import prod
from typing import ClassVar

import numpy as np

from he_linear.exact.ring_parameters import RING_SETS
from he_linear.packings.coefficients_product import CoefficientsInterleavedProductPacking
from he_linear.packings.ring_base import RingProductPacking
from hybrid.operators.base import RingKeySet, RunState
from hybrid.operators.cached_attention import Masks, PiecewiseCachedAttentionOperator
from hybrid.operators.exact_products import exact_matmul, exact_traffic, exact_work
from mpc_nonlinear.blocks.cached_products import causal_masks
from mpc_nonlinear.cost import NO_COST, Cost
from transport.computing import units

RING_SET = "n8192_l64"
"""The cheaper of the sets for products of two shares: what it is off by is truncated away."""
BLOCK = 128
"""Positions whose rows of a product are made in one trip, without later positions. For 256
positions a tenth fewer bytes than all at once and a sixth fewer than 64, in equal time (measured:
SmolLM2's heads, one core each)."""

Shape = tuple[int, int, int, int]
"""(kv_heads, rows, inner, columns) of a product."""


class MatrixCorrelations:
    """Catalog entry of cached attention by correlations from exact homomorphic products."""

    op: ClassVar[str] = "cached_attention"
    name: ClassVar[str] = "matrix_correlations"
    source: ClassVar[str] = "[Beaver91]; products as [Lu23] BumbleBee, eprint 2023/1678"


class ExactCachedAttentionOperator(PiecewiseCachedAttentionOperator):
    """Correlations by exact products in coefficients, 2 rounds a block of positions, offline.

    A B is off by one in its last bit, 2^-32 at 16 fraction bits, about once in 10^4 numbers.
    Results are interleaved: key switches cost less than the ciphertexts that they save.
    """

    engine = "he_linear"
    entries = MatrixCorrelations

    @property
    def ring_keys(self) -> RingKeySet:
        """Automorphisms that merge results."""
        elements = {e for *_, shape in self._blocks() for e in _packing(*shape).automorphisms}
        return RingKeySet(RING_SETS[RING_SET], tuple(sorted(elements)))

    def parameters(self) -> dict[str, float | int | str]:
        """The ring's parameter set, and the positions made at once."""
        return {"ring": RING_SET, "block": BLOCK}

    def _blocks(self) -> Iterator[tuple[slice, slice, Shape]]:
        """Rows of A B that are made in one trip, positions that they see, the product's shape."""
        s = self._sizes
        for start in range(0, s.capacity, BLOCK):
            stop = min(start + BLOCK, s.capacity)
            seen, rows = s.prefix + stop, s.group * (stop - start)
            inner, columns = (s.size, seen) if self._is_scores else (seen, s.size)
            place = slice(start * s.group, stop * s.group)
            yield place, slice(seen), (s.kv_heads, rows, inner, columns)

    @property
    def pieces_ahead(self) -> int:
        """One for every block of positions."""
        return len(range(0, self._sizes.capacity, BLOCK))

    def _correlations_cost(self, made: int = 0) -> Cost:
        return self._pieces_cost(slice(made, None))

    def _pieces_cost(self, pieces: slice) -> Cost:
        total = NO_COST
        for *_, shape in [*self._blocks()][pieces]:
            packing = _packing(*shape)
            encoded = {packing.unit("encode"): sum(packing.operand_ciphertexts)}
            own = units(encoded, word_multiply_add=prod(shape))
            total += Cost(exact_traffic(packing), work=exact_work(packing, own))
        return total

    def _drawn(self, state: RunState) -> Masks:
        s, randomness = self._sizes, state.session.randomness
        shapes = s.score_shapes if self._is_scores else s.context_shapes
        left = randomness.uint64(shapes[0]) if self._is_scores else causal_masks(s, randomness)
        right = randomness.uint64(shapes[1])
        return left, right, np.zeros((s.kv_heads, s.rows, shapes[1][2]), np.uint64)

    def _make(self, masks: Sequence[Masks], pieces: slice, state: RunState) -> None:
        ((left, right, products),) = masks
        party, channel = state.ring[RING_SETS[RING_SET]], state.session.channel
        for rows, seen, shape in [*self._blocks()][pieces]:
            if self._is_scores:
                a, b, place = left[:, rows], right[:, :, seen], products[:, rows, seen]
            else:
                a, b, place = left[:, rows, seen], right[:, seen], products[:, rows]
            place[...] = exact_matmul(a, b, _packing(*shape), party, channel)


@lru_cache(maxsize=256)
def _packing(batch: int, rows: int, inner: int, columns: int) -> RingProductPacking:
    """Layers are alike, and so are the passes of a conversation."""
    return CoefficientsInterleavedProductPacking(RING_SETS[RING_SET], batch, rows, inner, columns)
