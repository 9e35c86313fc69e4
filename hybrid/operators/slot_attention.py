"""Attention over a decoder's cache by correlations modulo a prime, made in exact slots.

A B = (A_c + A_s)(B_c + B_s): each party multiplies its own parts, and both cross terms are the
client's uniform rows times the server's matrix, A_c B_s and (B_c^T A_s^T)^T, as `slot_matrices`
has them: of all layers, heads and products at once, so that ciphertexts are full.

B of the prefix is the server's alone where the prefix's rows of R are, which it knows anyway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import Any, ClassVar

import numpy as np

from he_linear.exact.slot_parameters import SLOT_SETS
from he_linear.kernels.sampling import uniform_residues
from hybrid.models.graph import Node
from hybrid.operators.base import Choice, Operator, PlanContext, RunState
from hybrid.operators.cached_attention import Masks, PiecewiseCachedAttentionOperator
from hybrid.operators.exact_rows import RowsClient, RowsServer
from hybrid.operators.slot_matrices import (
    RowsTimes,
    answer_rows_times,
    ask_rows_times,
    cut_rows,
    frames_of,
    rows_times_cost,
)
from mpc_nonlinear.blocks.cached_products import CacheSizes
from mpc_nonlinear.blocks.moduli import Modulus, PrimeModulus
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from transport.computing import units
from transport.errors import ConfigError
from transport.randomness import SecureRandom
from transport.traffic import NO_TRAFFIC

SLOT_SET = SLOT_SETS["n8192_t44"]
"""That of prepared rows and of triples, whose keys serve here too."""


class SlotCorrelations:
    """Catalog entry of cached attention by correlations modulo a prime."""

    op: ClassVar[str] = "cached_attention"
    name: ClassVar[str] = "slot_correlations"
    source: ClassVar[str] = "[Beaver91] modulo a prime, made in slots of [Smart14] eprint 2011/133"


@dataclass(frozen=True, slots=True)
class _Cross:
    """One part of a cross term: places in A (rows, inner) and B (inner, columns) of a head."""

    rows: slice
    inner: slice
    columns: slice
    is_left: bool
    """Whether the client's rows are those of A; else they are B's columns."""
    size: RowsTimes


def _score_crosses(s: CacheSizes, first: int) -> Iterator[_Cross]:
    """Of queries times keys; the client has a part of B from key `first` on."""
    inner = slice(s.size)
    for rows in cut_rows(s.rows):
        columns = slice(_seen(s, rows.stop - 1))
        size = RowsTimes(rows.stop - rows.start, s.size, columns.stop)
        yield _Cross(rows, inner, columns, True, size)
    for part in cut_rows(s.keys - first):
        columns = slice(first + part.start, first + part.stop)
        # Rows that see none of these keys are left out.
        rows = slice(s.group * max(0, columns.start - s.prefix), s.rows)
        size = RowsTimes(part.stop - part.start, s.size, rows.stop - rows.start)
        yield _Cross(rows, inner, columns, False, size)


def _context_crosses(s: CacheSizes, first: int) -> Iterator[_Cross]:
    """Of probabilities, which are zero where a row does not see, times values."""
    for rows in cut_rows(s.rows):
        kept = tuple(_seen(s, row) for row in range(rows.start, rows.stop))
        size = RowsTimes(len(kept), kept[-1], s.size, kept)
        yield _Cross(rows, slice(kept[-1]), slice(s.size), True, size)
    for columns in cut_rows(s.size):
        size = RowsTimes(columns.stop - columns.start, s.keys - first, s.rows)
        yield _Cross(slice(s.rows), slice(first, s.keys), columns, False, size)


def _seen(s: CacheSizes, row: int) -> int:
    """Keys that a row of A sees."""
    return s.prefix + row // s.group + 1


class SlotCachedAttentionOperator(PiecewiseCachedAttentionOperator):
    """Correlations modulo a prime of 44 bits; the first of a conversation makes all of them.

    2 rounds for all layers, offline. Exact but for the probability that the cost declares; results
    are off by less than 1.5 units.
    """

    engine = "he_linear"
    entries = SlotCorrelations
    _modulus: ClassVar[Modulus] = PrimeModulus(SLOT_SET.plain_prime)
    _remedy = ", or cached_attention: matrix_correlations"

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        missing = {"left", "right", "output"} - set(node.bounds)
        if missing:
            raise ConfigError(
                f"{node.name}: {entry.name!r} needs bounds on operands and results, which only "
                "decoders have; choose another cached_attention"
            )

    def join(self, operators: Sequence[Operator]) -> None:
        """With all of its kind; both products of a layer must be."""
        super().join(operators)
        if sum(o.node.layer == self.node.layer for o in self._together) % 2:
            raise ConfigError(
                f"{self.node.name}: {self.protocol} for one product of a layer and not for the "
                "other; name the same cached_attention for both"
            )

    @property
    def slot_steps(self) -> tuple[int, ...]:
        """Keys, and no rotations."""
        return ()

    def parameters(self) -> dict[str, float | int | str]:
        """The parameter set; bounds used for the failure probability."""
        bounds = self.node.bounds
        return {
            "slots": "n8192_t44",
            "left_rms": bounds["left"].rms,
            "right_rms": bounds["right"].rms,
        }

    def _lift_cost(self, role: str, count: int) -> Cost:
        """Of numbers in this role."""
        return self._modulus.lift_cost(count, self.node.bounds[role].rms * 2.0**self._bits)

    @cached_property
    def _crosses(self) -> tuple[_Cross, ...]:
        """Of one head."""
        s = self._sizes
        # What the client takes obliviously is nobody's, so its masks are nobody's either.
        first = s.prefix if self._turns == 1 else 0
        crosses = _score_crosses if self._is_scores else _context_crosses
        return tuple(crosses(s, first))

    @property
    def _makes(self) -> Sequence[SlotCachedAttentionOperator]:
        """The first makes those of all."""
        if self._together[0] is not self:
            return ()
        return [o for o in self._together if isinstance(o, SlotCachedAttentionOperator)]

    def _places(self) -> Iterator[tuple[int, int, _Cross]]:
        """Everything that is made together: operator, head, part."""
        for number, operator in enumerate(self._makes):
            for head in range(operator._sizes.kv_heads):
                for cross in operator._crosses:
                    yield number, head, cross

    @property
    def pieces_ahead(self) -> int:
        """One for every frame of ciphertexts that products share."""
        return frames_of(self._cross_sizes, SLOT_SET) if self._makes else 0

    @property
    def _cross_sizes(self) -> list[RowsTimes]:
        return [cross.size for *_, cross in self._places()]

    def _correlations_cost(self, made: int = 0) -> Cost:
        """The first one's is that of all; every one multiplies its own parts."""
        s = self._sizes
        count = s.kv_heads * s.rows * s.size * s.keys
        own = Cost.of(NO_TRAFFIC, counts=units(prime_multiply_add=count))
        return self._pieces_cost(slice(made, None)) + own if self._makes else own

    def _pieces_cost(self, pieces: slice) -> Cost:
        return rows_times_cost(self._cross_sizes, SLOT_SET, pieces)

    def _correlations(self, state: RunState) -> Masks:
        left, right, crosses = super()._correlations(state)
        return left, right, self._modulus.plus(crosses, self._modulus.times(left, right))

    def _make(self, masks: Sequence[Masks], pieces: slice, state: RunState) -> None:
        """Shares of cross terms, and the client's own parts of A and B, which come with them."""
        party, channel = state.slots, state.session.channel
        places, sizes = list(self._places()), self._cross_sizes
        if isinstance(party, RowsClient):
            for place, rho, share in ask_rows_times(sizes, party, SLOT_SET, channel, pieces):
                number, head, cross = places[place]
                left, right, crosses = (part[head] for part in masks[number])
                if cross.is_left:
                    left[cross.rows, cross.inner] = rho
                else:
                    right[cross.inner, cross.columns] = rho.T
                self._add(crosses, cross, share)
            return
        assert isinstance(party, RowsServer)
        matrices = []
        for number, head, cross in places:
            left, right, _ = (part[head] for part in masks[number])
            own = right[cross.inner, cross.columns]
            matrices.append(own if cross.is_left else left[cross.rows, cross.inner].T)
        for place, share in answer_rows_times(sizes, matrices, party, channel, SLOT_SET, pieces):
            number, head, cross = places[place]
            self._add(masks[number][2][head], cross, share)

    def _drawn(self, state: RunState) -> Masks:
        """The server's own A and B; the client's come with the products. No cross terms yet."""
        s, party = self._sizes, state.slots
        shapes = s.score_shapes if self._is_scores else s.context_shapes
        products = np.zeros((s.kv_heads, s.rows, shapes[1][2]), np.uint64)
        if not isinstance(party, RowsServer):
            return np.zeros(shapes[0], np.uint64), np.zeros(shapes[1], np.uint64), products
        left, right = (_uniform(shape, party.randomness) for shape in shapes)
        if not self._is_scores:
            left[:, ~s.visible(0, s.capacity)] = 0
        return left, right, products

    def _add(self, crosses: RingArray, cross: _Cross, share: RingArray) -> None:
        """Of a product, in the places that it belongs to."""
        own = crosses[cross.rows, cross.columns]
        own[...] = self._modulus.plus(own, share if cross.is_left else share.T)


def _uniform(shape: tuple[int, ...], randomness: SecureRandom) -> RingArray:
    count = prod(shape)
    return uniform_residues(randomness, 1, (SLOT_SET.plain_prime,), count).reshape(shape)
