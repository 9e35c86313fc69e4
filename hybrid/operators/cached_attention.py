"""Attention over a decoder's cache: keys and values stay shared, rows come one after the other.

Correlations for a whole conversation are made before it: by exact homomorphic products modulo 2^64
or by a dealer, here, or modulo a prime, in `slot_attention`. Then a pass costs an exchange and a
truncation a product, however long the context. `mpc_nonlinear.blocks.cached_products` has the
protocol.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any, ClassVar

import numpy as np

from he_linear.exact.ring_parameters import RING_SETS
from he_linear.packings.coefficients_product import CoefficientsInterleavedProductPacking
from he_linear.packings.ring_base import RingProductPacking
from hybrid.models.graph import Node
from hybrid.operators.base import Choice, Operator, PlanContext, RingKeySet, RunState
from hybrid.operators.dealt_layers import require_dealer
from hybrid.operators.exact_products import exact_matmul, exact_traffic, exact_work
from mpc_nonlinear.blocks.cached_products import (
    CacheSizes,
    KeyProducts,
    ValueProducts,
    append_known,
    append_known_cost,
    cached_context,
    cached_context_cost,
    cached_scores,
    cached_scores_cost,
    causal_masks,
    made_causal,
    made_causal_cost,
)
from mpc_nonlinear.blocks.long_tables import offer_tables, take_tables, take_tables_cost
from mpc_nonlinear.blocks.moduli import WORDS, Modulus
from mpc_nonlinear.correlations.dealt import matrix_kind
from mpc_nonlinear.cost import NO_COST, Cost, Demand
from mpc_nonlinear.fixed_point import RING_BYTES, RingArray
from transport.computing import units
from transport.errors import ConfigError, UsageError
from transport.traffic import NO_TRAFFIC

RING_SET = "n8192_l64"
"""The cheaper of the sets for products of two shares: what it is off by is truncated away."""
BLOCK = 128
"""Positions whose rows of a product are made in one trip, without later positions. For 256
positions a tenth fewer bytes than all at once and a sixth fewer than 64, in equal time (measured:
SmolLM2's heads, one core each)."""

Shape = tuple[int, int, int, int]
"""(kv_heads, rows, inner, columns) of a product."""
Masks = tuple[RingArray, RingArray, RingArray]
"""Shares of A, B and A B, as `CacheSizes` has the shapes."""


class MatrixCorrelations:
    """Catalog entry of cached attention by correlations from exact homomorphic products."""

    op: ClassVar[str] = "cached_attention"
    name: ClassVar[str] = "matrix_correlations"
    source: ClassVar[str] = "[Beaver91]; products as [Lu23] BumbleBee, eprint 2023/1678"


class DealtCorrelations:
    """Catalog entry of cached attention by correlations from a dealer."""

    op: ClassVar[str] = "cached_attention"
    name: ClassVar[str] = "beaver"
    source: ClassVar[str] = "[Beaver91]"


@dataclass
class LayerCache:
    """What one party keeps of one layer for one conversation."""

    keys: KeyProducts
    values: ValueProducts | None = None
    """Added by the node of the context."""


class CachedAttentionOperator(Operator):
    """One of the two products of a layer over its cache. 2 rounds.

    cached_scores: qkv (n, (heads + 2 kv_heads) * size) to (heads, n, positions so far), zero where
    a row does not see; opens keys and values with the queries. cached_context: (weights) to
    (n, heads * size).
    """

    outlasts_pass = True
    _modulus: ClassVar[Modulus] = WORDS
    _remedy: ClassVar[str] = ""
    """Another way out where results are too large."""

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        self._is_scores = node.op == "cached_scores"
        heads, rows, inner, columns = node.shape
        size, seen = (inner, columns) if self._is_scores else (columns, inner)
        place = node.cache
        if place is None or heads % place.kv_heads or seen != place.keys(rows):
            raise UsageError(
                f"{node.name}: shape {node.shape} does not fit the cache {place}; mend the family "
                "that built it"
            )
        self._place, self._rows = place, rows
        self._turns = place.turns if self._is_scores else 1
        group = heads // place.kv_heads
        self._sizes = CacheSizes(place.kv_heads, group, size, place.prefix, place.capacity)
        self._layer = f"layer{node.layer}"
        self._bits = context.fixed_point.fraction_bits
        self._require_room()
        if (bound := node.bounds.get("output")) is not None:
            largest = self._modulus.limit(self._bits) * 2.0 ** (-2 * self._bits)
            if bound.max_abs >= largest:
                raise ConfigError(
                    f"{node.name}: results up to {bound.max_abs:g}, the truncation takes less than "
                    f"{largest:g}; use fewer mpc.fraction_bits{self._remedy}"
                )

    def _require_room(self) -> None:
        place = self._place
        if place.past + self._rows > place.capacity:
            raise UsageError(
                f"{self.node.name}: {self._rows} positions after {place.past}, the cache has room "
                f"for {place.capacity}; start a conversation with more room"
            )

    def cost(self) -> Cost:
        """One exchange of masked shares, one truncation of all that is seen; lifts may fail."""
        cost = cached_scores_cost if self._is_scores else cached_context_cost
        place = self._sizes, self._place.past, self._rows
        return self._lifts_cost() + cost(*place, self._bits, self._modulus)

    def _lifts_cost(self) -> Cost:
        """Of what a pass lifts; values are the context's, though they are opened with the keys."""
        s, n = self._sizes, self._rows
        kept = s.kv_heads * n * s.size
        asked = s.group * kept if self._is_scores else s.visible_count(self._place.past, n)
        return self._lift_cost("left", asked) + self._lift_cost("right", kept)

    def _lift_cost(self, role: str, count: int) -> Cost:
        """Nothing modulo 2^64."""
        del role, count
        return NO_COST

    def conversation_cost(self) -> Cost:
        """Correlations for all positions that there is room for; the prefix's rows, opened."""
        turned = NO_COST
        if self._turns > 1:
            words = self._sizes.kv_heads * self._sizes.prefix * self._sizes.size
            # Without turns all of it is the server's, which cannot fail to lift.
            batch = self.node.batch
            turned = take_tables_cost(self._turns, words // batch, batch)
            turned += self._lift_cost("right", words)
        return self._correlations_cost() + turned + append_known_cost(self._sizes, self._modulus)

    def prepare_conversation(self, state: RunState) -> None:
        """Masks that no other conversation has, and the prefix under them."""
        if self._is_scores:
            # Nothing of an earlier conversation is left, whatever happens next.
            state.caches.pop(self._layer, None)
        elif self._cache(state).values is not None:
            raise UsageError(
                f"{self.node.name}: its layer is prepared already; a conversation prepares the "
                "nodes in the graph's order"
            )
        left, right, products = self._correlations(state)
        if self._is_scores:
            # Keys are appended as rows, whatever side of the product they are on.
            masks = left, np.ascontiguousarray(right.transpose(0, 2, 1)), products
            keys = KeyProducts(self._layer, self._sizes, masks, state.session.party, self._modulus)
            append_known(keys, self._prefix("keys", state), state.session)
            state.caches[self._layer] = LayerCache(keys)
        else:
            masks = left, right, products
            values = ValueProducts(
                self._layer, self._sizes, masks, state.session.party, self._modulus
            )
            append_known(values, self._prefix("values", state), state.session)
            self._cache(state).values = values

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """As the class says."""
        cache, past = self._cache(state), self._place.past
        values = cache.values
        if values is None:
            raise self._unprepared()
        if values.sizes != self._sizes or cache.keys.sizes != self._sizes:
            raise UsageError(f"{self.node.name}: the cache was prepared for {values.sizes}")
        s, n = self._sizes, self._rows
        if self._is_scores:
            scores = cached_scores(cache.keys, values, self._split(inputs[0]), past, state.session)
            by_head = scores.reshape(s.kv_heads, n, s.group, -1).transpose(0, 2, 1, 3)
            return [np.ascontiguousarray(by_head.reshape(s.kv_heads * s.group, n, -1))]
        weights = inputs[0].reshape(s.kv_heads, s.group, n, -1).transpose(0, 2, 1, 3)
        rows = weights.reshape(s.kv_heads, n * s.group, -1)
        context = cached_context(values, rows, past, state.session)
        by_row = context.reshape(self.node.batch, -1, n, s.group, s.size).transpose(0, 2, 1, 3, 4)
        return [by_row.reshape(self.node.batch * n, -1)]

    def _split(self, qkv: RingArray) -> Masks:
        """Rows of queries (kv_heads, n * group, size), of keys and values (kv_heads, n, size).

        Of all conversations, the heads of each behind those of the one before.
        """
        s, n, batch = self._sizes, self._rows, self.node.batch
        own = s.kv_heads // batch
        heads = qkv.reshape(batch, n, -1, s.size).transpose(0, 2, 1, 3)
        queries = heads[:, : own * s.group].reshape(s.kv_heads, s.group, n, s.size)
        keys, values = (
            heads[:, -i * own :][:, :own].reshape(s.kv_heads, n, s.size) for i in (2, 1)
        )
        by_head = queries.transpose(0, 2, 1, 3).reshape(s.kv_heads, n * s.group, s.size)
        return by_head, keys, values

    def _prefix(self, what: str, state: RunState) -> RingArray:
        """This party's share of the public prefix's rows: the server's is all of them.

        Of keys that may be turned the client takes those that stand as far from its first token as
        if no filler came between, and the server does not learn which.
        """
        s, turns, batch = self._sizes, self._turns, self.node.batch
        shape = s.kv_heads // batch, s.prefix, s.size
        if not s.prefix or (turns == 1 and state.is_client):
            return np.zeros((s.kv_heads, *shape[1:]), np.uint64)
        if turns == 1:
            return np.tile(self._own(what, shape, state), (batch, 1, 1))
        if state.is_client:
            taken = take_tables(state.fillers, turns, shape, state.session)
        else:
            tables = self._own(what, (turns, *shape), state)
            taken = offer_tables(tables, batch, state.session)
        return taken.reshape(s.kv_heads, *shape[1:])

    @property
    def cache_bytes(self) -> int:
        """Memory at each party while the conversations last: A, B, A B, and R as it was opened."""
        s = self._sizes
        shapes = s.score_shapes if self._is_scores else s.context_shapes
        left, right = (prod(shape) for shape in shapes)
        products = s.kv_heads * s.rows * shapes[1][2]
        return RING_BYTES * (left + 2 * right + products)

    def _own(self, what: str, shape: tuple[int, ...], state: RunState) -> RingArray:
        """Rows of the prefix that the server has."""
        name = f"{self._layer}.{what}"
        found = state.prefix.get(name)
        if found is None or found.shape != shape:
            raise UsageError(
                f"{self.node.name}: the prefix's {what} of shape {shape} are missing; pass them as "
                f"prefix[{name!r}] at the server"
            )
        return state.encode(found)

    def _cache(self, state: RunState) -> LayerCache:
        cache = state.caches.get(self._layer)
        if not isinstance(cache, LayerCache):
            raise self._unprepared()
        return cache

    def _unprepared(self) -> UsageError:
        return UsageError(
            f"{self.node.name}: no conversation has begun; prepare the nodes of the graph, in its "
            "order, before the first pass"
        )

    @abstractmethod
    def _correlations_cost(self) -> Cost:
        """Cost of `_correlations`."""

    @abstractmethod
    def _correlations(self, state: RunState) -> Masks:
        """Fresh shares of A, B and A B; A of probabilities is zero where a row does not see."""


class ExactCachedAttentionOperator(CachedAttentionOperator):
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

    def _correlations_cost(self) -> Cost:
        total = NO_COST
        for *_, shape in self._blocks():
            packing = _packing(*shape)
            encoded = {packing.unit("encode"): sum(packing.operand_ciphertexts)}
            own = units(encoded, word_multiply_add=prod(shape))
            total += Cost(exact_traffic(packing), work=exact_work(packing, own))
        return total

    def _correlations(self, state: RunState) -> Masks:
        s, randomness = self._sizes, state.session.randomness
        shapes = s.score_shapes if self._is_scores else s.context_shapes
        left = randomness.uint64(shapes[0]) if self._is_scores else causal_masks(s, randomness)
        right = randomness.uint64(shapes[1])
        products = np.zeros((s.kv_heads, s.rows, shapes[1][2]), np.uint64)
        party, channel = state.ring[RING_SETS[RING_SET]], state.session.channel
        for rows, seen, shape in self._blocks():
            if self._is_scores:
                a, b, place = left[:, rows], right[:, :, seen], products[:, rows, seen]
            else:
                a, b, place = left[:, rows, seen], right[:, seen], products[:, rows]
            place[...] = exact_matmul(a, b, _packing(*shape), party, channel)
        return left, right, products


@lru_cache(maxsize=256)
def _packing(batch: int, rows: int, inner: int, columns: int) -> RingProductPacking:
    """Layers are alike, and so are the passes of a conversation."""
    return CoefficientsInterleavedProductPacking(RING_SETS[RING_SET], batch, rows, inner, columns)


class DealtCachedAttentionOperator(CachedAttentionOperator):
    """Correlations whole from a dealer, offline."""

    engine = "mpc_nonlinear"
    entries = DealtCorrelations

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        require_dealer("cached_attention", context)
        shapes = self._sizes.score_shapes if self._is_scores else self._sizes.context_shapes
        (batch, rows, inner), (*_, columns) = shapes
        self._kind = matrix_kind(batch, rows, inner, columns)

    def parameters(self) -> dict[str, float | int | str]:
        """Nothing but the shape."""
        return {}

    def _correlations_cost(self) -> Cost:
        dealt = Cost.of(NO_TRAFFIC, Demand.of(self._kind, 1))
        return dealt if self._is_scores else dealt + made_causal_cost(self._sizes)

    def _correlations(self, state: RunState) -> Masks:
        left, right, products = (part[0] for part in state.session.prepared.dealt(self._kind, 1))
        masks = left, right, products
        return masks if self._is_scores else made_causal(self._sizes, masks, state.session)
