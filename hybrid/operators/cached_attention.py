"""Attention over a decoder's cache: keys and values stay shared, rows come one after the other.

Correlations for a whole conversation are made before it: by a dealer, here, by exact homomorphic
products modulo 2^64, in `exact_cached_attention`, or modulo a prime, in `slot_attention`; the last
two piece by piece, so that they can be made before anybody asks. Then a pass costs an exchange and
a truncation a product, however long the context. `mpc_nonlinear.blocks.cached_products` has the
protocol.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, ClassVar

import numpy as np

from hybrid.models.graph import Node
from hybrid.operators.base import Choice, Operator, PlanContext, RunState
from hybrid.operators.cached_prefix import PrefixRows, enter_prefix, prefix_cost
from hybrid.operators.dealt_layers import require_dealer
from mpc_nonlinear.blocks.cached_products import (
    CacheSizes,
    KeyProducts,
    ValueProducts,
    cached_context,
    cached_context_cost,
    cached_scores,
    cached_scores_cost,
    made_causal,
    made_causal_cost,
)
from mpc_nonlinear.blocks.moduli import WORDS, Modulus
from mpc_nonlinear.correlations.dealt import matrix_kind
from mpc_nonlinear.cost import NO_COST, Cost, Demand
from mpc_nonlinear.fixed_point import RING_BYTES, RingArray
from transport.errors import ConfigError, UsageError
from transport.traffic import NO_TRAFFIC

Masks = tuple[RingArray, RingArray, RingArray]
"""Shares of A, B and A B, as `CacheSizes` has the shapes."""


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
    entered: int = 0
    """Of both products, those that the prefix has entered."""


@dataclass(frozen=True, slots=True)
class Begun:
    """Correlations of a conversation to come, as far as they are made."""

    masks: Masks
    made: int = 0
    """Pieces, of the operator that makes them."""


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
        self._together: tuple[CachedAttentionOperator, ...] = (self,)
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

    def join(self, operators: Sequence[Operator]) -> None:
        """The prefix enters the caches of all of a kind at once, with the last of them."""
        self._together = tuple(o for o in operators if type(o) is type(self))

    def conversation_cost(self, made: int = 0) -> Cost:
        """Correlations for all positions that there is room for; the prefix's rows, opened."""
        own, entering = self._correlations_cost(made), NO_COST
        if self._turns > 1:
            # Without turns all of it is the server's, which cannot fail to lift.
            own += self._lift_cost("right", self.node.batch * self._prefix.words)
        if self._together[-1] is self:
            entering = prefix_cost([o._prefix for o in self._together])
        return own + entering

    def prepare_conversation(self, state: RunState) -> None:
        """Masks that no other conversation has; the last one of a kind, the prefix under them."""
        if self._is_scores:
            # Nothing of an earlier conversation is left, whatever happens next.
            state.caches.pop(self._layer, None)
        elif self._cache(state).values is not None:
            raise UsageError(
                f"{self.node.name}: its layer is prepared already; a conversation prepares the "
                "nodes in the graph's order"
            )
        left, right, products = self._correlations(state)
        place = self._layer, self._sizes
        if self._is_scores:
            # Keys are appended as rows, whatever side of the product they are on.
            masks = left, np.ascontiguousarray(right.transpose(0, 2, 1)), products
            keys = KeyProducts(*place, masks, state.session.party, self._modulus)
            state.caches[self._layer] = LayerCache(keys)
        else:
            masks = left, right, products
            values = ValueProducts(*place, masks, state.session.party, self._modulus)
            self._cache(state).values = values
        if self._together[-1] is self:
            self._enter_prefix(state)

    def _enter_prefix(self, state: RunState) -> None:
        """Of all that are together."""
        caches = [o._cache(state) for o in self._together]
        growing = [
            cache.keys if o._is_scores else cache.values
            for o, cache in zip(self._together, caches, strict=True)
        ]
        ready = [one for one in growing if one is not None]
        enter_prefix([o._prefix for o in self._together], ready, state)
        for cache in caches:
            cache.entered += 1

    @property
    def _prefix(self) -> PrefixRows:
        edge = f"{self._layer}.{'keys' if self._is_scores else 'values'}"
        rows = self._sizes, self._modulus, self.node.batch, self._turns
        return PrefixRows(self.node.name, edge, *rows)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """As the class says."""
        cache, past = self._cache(state), self._place.past
        values = cache.values
        if values is None or cache.entered < 2:
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

    @property
    def cache_bytes(self) -> int:
        """Memory at each party while the conversations last: A, B, A B, and R as it was opened."""
        s = self._sizes
        return self.masks_bytes + RING_BYTES * s.kv_heads * s.keys * s.size

    @property
    def masks_bytes(self) -> int:
        """Of A, B and A B, before they begin."""
        s = self._sizes
        shapes = s.score_shapes if self._is_scores else s.context_shapes
        products = s.kv_heads * s.rows * shapes[1][2]
        return RING_BYTES * (sum(prod(shape) for shape in shapes) + products)

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
    def _correlations_cost(self, made: int = 0) -> Cost:
        """Cost of `_correlations` where so many of their pieces are there."""

    @abstractmethod
    def _correlations(self, state: RunState) -> Masks:
        """Fresh shares of A, B and A B; A of probabilities is zero where a row does not see."""


class PiecewiseCachedAttentionOperator(CachedAttentionOperator):
    """Correlations that are made piece by piece, by one operator for all that it makes them for."""

    @property
    def _makes(self) -> Sequence[PiecewiseCachedAttentionOperator]:
        """Whose correlations are made here; none where another makes this one's."""
        return (self,)

    def piece_cost(self, piece: int) -> Cost:
        """Exact traffic; products in slots may fail."""
        return self._pieces_cost(slice(piece, piece + 1))

    def prepare_piece(self, piece: int, state: RunState) -> None:
        """The next piece for a conversation to come; nothing is left where it breaks off."""
        begun = self._taken(state)
        if {one.made for one in begun} != {piece}:
            raise UsageError(
                f"{self.node.name}: piece {piece} of a conversation to come is not the next one; "
                "pieces are made in order, each once"
            )
        self._keep(self._continued(begun, piece + 1, state), state)

    def _taken(self, state: RunState) -> list[Begun]:
        """What is there, gone from the stock, or begun anew."""
        found = [state.to_come.pop(one.node.name, None) for one in self._makes]
        there = [one for one in found if one is not None]
        if not there:
            return [Begun(one._drawn(state)) for one in self._makes]
        if len(there) < len(found):
            raise self._unmade()
        return there

    def _continued(self, begun: list[Begun], stop: int, state: RunState) -> list[Begun]:
        start = begun[0].made
        if start < stop:
            self._make([one.masks for one in begun], slice(start, stop), state)
        return [replace(one, made=stop) for one in begun]

    def _keep(self, begun: list[Begun], state: RunState) -> None:
        names = [one.node.name for one in self._makes]
        state.to_come.update(zip(names, begun, strict=True))

    def _correlations(self, state: RunState) -> Masks:
        """What is there of them, the rest made now."""
        if self._makes:
            self._keep(self._continued(self._taken(state), self.pieces_ahead, state), state)
        found = state.to_come.pop(self.node.name, None)
        if found is None:
            raise self._unmade()
        masks: Masks = found.masks
        return masks

    def _unmade(self) -> UsageError:
        first = self._together[0].node.name
        return UsageError(
            f"{self.node.name}: its correlations are made by {first}; a conversation prepares "
            "the nodes in the graph's order"
        )

    @abstractmethod
    def _pieces_cost(self, pieces: slice) -> Cost:
        """Cost of `_make`, what it computes of own masks alone included."""

    @abstractmethod
    def _drawn(self, state: RunState) -> Masks:
        """Fresh masks A and B of this party, as far as they are its own choice, and no A B."""

    @abstractmethod
    def _make(self, masks: Sequence[Masks], pieces: slice, state: RunState) -> None:
        """Some of the pieces, at once, into the masks of all that are made here."""


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

    def _correlations_cost(self, made: int = 0) -> Cost:
        del made
        dealt = Cost.of(NO_TRAFFIC, Demand.of(self._kind, 1))
        return dealt if self._is_scores else dealt + made_causal_cost(self._sizes)

    def _correlations(self, state: RunState) -> Masks:
        left, right, products = (part[0] for part in state.session.prepared.dealt(self._kind, 1))
        masks = left, right, products
        return masks if self._is_scores else made_causal(self._sizes, masks, state.session)
