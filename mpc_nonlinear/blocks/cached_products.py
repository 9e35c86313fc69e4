"""The two products of attention over a cache, by matrix correlations consumed row by row.

A product L R of shared matrices takes masks A of L, B of R and shares of A B, as [Beaver91], but
L and R come row by row. Row j of R is opened once, as R_j - B_j, when it is appended, and kept; a
row of L is opened as L_p - A_p when it comes, and its product with all rows of R so far is then
local:

    L R = (L - A) (R - B) + (L - A) B + A (R - B) + A B.

So a token opens its own query, key, value and probabilities, a number of the modulus each way, in
one round a product, and nothing of earlier positions again. All of it is exact modulo 2^64 or
modulo a prime, see `moduli`.
Every row of A and of B masks one value, once: it is gone before anything is sent.

Scores: L are queries (group, size), R keys; a row of A B has a number for every key. Context: L
are probabilities, R values. A row of probabilities sees the positions up to its own only, so its
mask is zero after them, and its row of A B sums over nothing that is yet to come.

Layout: the first axis is that of key/value heads; rows of L are positions, `group` rows each, one
for every query head that shares the key/value head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.blocks.moduli import WORDS, Modulus
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RingArray
from transport.errors import UsageError
from transport.randomness import SecureRandom
from transport.traffic import Party

Shape = tuple[int, int, int]
"""Of a matrix for every key/value head."""


@dataclass(frozen=True, slots=True)
class CacheSizes:
    """Public sizes of one layer's cache."""

    kv_heads: int
    group: int
    """Query heads that share one key/value head."""
    size: int
    """Of a head."""
    prefix: int
    """Positions that the server knows; they come first."""
    capacity: int
    """Further positions, shared."""

    @property
    def keys(self) -> int:
        """Positions in all."""
        return self.prefix + self.capacity

    @property
    def rows(self) -> int:
        """Of L, a head."""
        return self.group * self.capacity

    @property
    def score_shapes(self) -> tuple[Shape, Shape]:
        """Of A and B transposed, of queries and keys."""
        heads = self.kv_heads
        return (heads, self.rows, self.size), (heads, self.size, self.keys)

    @property
    def context_shapes(self) -> tuple[Shape, Shape]:
        """Of A and B, of probabilities and values."""
        heads = self.kv_heads
        return (heads, self.rows, self.keys), (heads, self.keys, self.size)

    def visible(self, past: int, count: int) -> NDArray[np.bool_]:
        """Which positions `count` of them after `past` see: (count * group, prefix + past + count).

        Every one sees itself and all before it.
        """
        last = self.prefix + past + np.arange(count).repeat(self.group)
        seen: NDArray[np.bool_] = np.arange(self.prefix + past + count) <= last[:, None]
        return seen

    def visible_count(self, past: int, count: int) -> int:
        """How many pairs of a query head and a position these are, over all heads."""
        pairs = count * (self.prefix + past) + count * (count + 1) // 2
        return self.kv_heads * self.group * pairs


class GrowingProduct(ABC):
    """L R for one layer, rows of both one after the other; this party's half, for one conversation.

    masks: shares of A (kv_heads, group * capacity, ...), of B (kv_heads, keys, size), of A B with
    rows as A, all of them modulo `modulus`, as is whatever is hidden, kept, asked and answered.
    """

    def __init__(
        self,
        layer: str,
        sizes: CacheSizes,
        masks: tuple[RingArray, RingArray, RingArray],
        party: Party,
        modulus: Modulus = WORDS,
    ) -> None:
        self.layer, self.sizes, self.modulus, self._party = layer, sizes, modulus, party
        self._left, right, self._products = masks
        # At the server the opened rows are added to its share of B, which makes it one of R.
        self._own = right.copy()
        self._opened = np.zeros_like(right)
        self._hidden = self._known = 0
        self._asked = self._answered = 0

    @property
    def length(self) -> int:
        """Shared positions appended so far."""
        return max(0, self._hidden - self.sizes.prefix)

    @property
    def used(self) -> int:
        """Rows of L so far, in positions."""
        return self._asked

    def require(self, past: int, appended: int = 0) -> None:
        """`UsageError` unless `past` positions came before, and `appended` ones since."""
        if (self.length, self.used) != (past + appended, past):
            raise UsageError(
                f"{self.layer}: a pass after {past} shared positions; the cache holds "
                f"{self.length}, and {self.used} have asked: a pass follows the one before it, and "
                "none can be repeated; start a new conversation"
            )

    def hide(self, rows: RingArray) -> RingArray:
        """This party's share of the next rows of R (kv_heads, n, size), masked, to be opened.

        Their masks are gone from here on.
        """
        start, stop = self._hidden, self._hidden + rows.shape[1]
        if self._known != start:
            raise self._broken()
        if stop > self.sizes.keys:
            raise self._full(rows.shape[1], start - self.sizes.prefix)
        masks = self._own[:, start:stop]
        if rows.shape != masks.shape:
            raise UsageError(
                f"{self.layer}: rows of shape {rows.shape}, masks of {masks.shape}; give "
                "(key/value heads, positions, size of a head)"
            )
        self._hidden = stop
        return self.modulus.minus(rows, masks)

    def keep(self, opened: RingArray) -> None:
        """What the rows hidden last opened to; public to both parties and kept."""
        place = slice(self._known, self._hidden)
        self._opened[:, place] = opened
        if self._party is Party.SERVER:
            self._own[:, place] = self.modulus.plus(self._own[:, place], opened)
        self._known = self._hidden

    def ask(self, rows: RingArray) -> RingArray:
        """This party's share of the next rows of L, (kv_heads, n * group, ...), masked.

        Their masks are gone from here on.
        """
        start, count = self._asked, rows.shape[1] // self.sizes.group
        if start + count > self.sizes.capacity:
            raise self._full(count, start)
        masks = self._masks(start, count)
        if rows.shape != masks.shape:
            raise UsageError(f"{self.layer}: rows of shape {rows.shape}, masks of {masks.shape}")
        self._answered, self._asked = start, start + count
        return self.modulus.minus(rows, masks)

    def answer(self, opened: RingArray) -> RingArray:
        """Shares of the product, with all rows of R that the last of these sees.

        opened: of the rows of L asked for last. Exact, not truncated, local. Each serves once.
        """
        start, count = self._answered, self._asked - self._answered
        seen = self.sizes.prefix + self._asked
        if not count or self._known < seen:
            raise self._broken()
        self._answered = self._asked
        own, public = self._own[:, :seen], self._opened[:, :seen]
        masks = self._masks(start, count)
        total = self.modulus.plus(self._multiply(opened, own), self._row(start, count))
        return self.modulus.plus(total, self._multiply(masks, public))

    def _masks(self, start: int, count: int) -> RingArray:
        return self._places(self._left, start, count)

    def _row(self, start: int, count: int) -> RingArray:
        return self._places(self._products, start, count)

    def _places(self, array: RingArray, start: int, count: int) -> RingArray:
        group = self.sizes.group
        return array[:, start * group : (start + count) * group]

    @abstractmethod
    def _multiply(self, left: RingArray, right: RingArray) -> RingArray:
        """Of every head, rows of R as they are kept."""

    def _full(self, count: int, past: int) -> UsageError:
        return UsageError(
            f"{self.layer}: {count} positions after {past} shared ones, masks are left for "
            f"{self.sizes.capacity - past}; every mask serves once, so start a new conversation, "
            "with more room"
        )

    def _broken(self) -> UsageError:
        return UsageError(
            f"{self.layer}: an earlier pass broke off after its masks were used, and they would "
            "leak if they were used again; start a new conversation"
        )


class KeyProducts(GrowingProduct):
    """Queries times keys: A (kv_heads, group * capacity, size), A B (..., keys)."""

    def _multiply(self, left: RingArray, right: RingArray) -> RingArray:
        return self.modulus.times(left, right.transpose(0, 2, 1))

    def _row(self, start: int, count: int) -> RingArray:
        return super()._row(start, count)[..., : self.sizes.prefix + start + count]


class ValueProducts(GrowingProduct):
    """Probabilities times values: A (kv_heads, group * capacity, keys), A B (..., size).

    A is zero, at both parties, where a row does not see, and A B was made of that A.
    """

    def _multiply(self, left: RingArray, right: RingArray) -> RingArray:
        return self.modulus.times(left, right)

    def _masks(self, start: int, count: int) -> RingArray:
        return super()._masks(start, count)[..., : self.sizes.prefix + start + count]


def causal_masks(sizes: CacheSizes, randomness: SecureRandom) -> RingArray:
    """This party's share of A of `ValueProducts`: uniform where a row sees, zero elsewhere.

    Modulo 2^64.
    """
    shape, _ = sizes.context_shapes
    return np.where(sizes.visible(0, sizes.capacity), randomness.uint64(shape), np.uint64(0))


def made_causal_cost(sizes: CacheSizes) -> Cost:
    """Cost of `made_causal`."""
    hidden = sizes.kv_heads * int((~sizes.visible(0, sizes.capacity)).sum())
    return WORDS.opening_cost(hidden, hidden * sizes.size) if hidden else NO_COST


def made_causal(
    sizes: CacheSizes, masks: tuple[RingArray, RingArray, RingArray], session: Session
) -> tuple[RingArray, RingArray, RingArray]:
    """Shares of A, B, A B with A zero where a row does not see, from those of a whole uniform A.

    What is in the way is opened, masks nothing afterwards, and its product with B is local. Modulo
    2^64. 1 round, or none where every row sees everything.
    """
    left, right, products = masks
    seen = sizes.visible(0, sizes.capacity)
    if seen.all():
        return masks
    (found,) = WORDS.opened([left[:, ~seen]], session)
    later = np.zeros_like(left)
    later[:, ~seen] = found
    kept = np.where(seen, left, np.uint64(0))
    return kept, right, products - WORDS.times(later, right)


def append_known_cost(sizes: CacheSizes, modulus: Modulus = WORDS) -> Cost:
    """Cost of `append_known`."""
    count = sizes.kv_heads * sizes.prefix * sizes.size
    return modulus.opening_cost(count) if count else NO_COST


def append_known(product: GrowingProduct, rows: RingArray, session: Session) -> None:
    """The prefix's rows of R (kv_heads, prefix, size): the server's words, zero at the client.

    Words modulo 2^64, opened under masks as all others. 1 round, none for an empty prefix.
    """
    if rows.size:
        modulus = product.modulus
        (opened,) = modulus.opened([product.hide(modulus.lifted(rows))], session)
        product.keep(opened)


def cached_scores_cost(
    sizes: CacheSizes, past: int, count: int, shift: int, modulus: Modulus = WORDS
) -> Cost:
    """Cost of `cached_scores`, the lifts' failures apart."""
    heads = sizes.kv_heads * (sizes.group + 2)
    seen = sizes.prefix + past + count
    work = 2 * sizes.kv_heads * sizes.group * count * seen * sizes.size
    opened = modulus.opening_cost(heads * count * sizes.size, work)
    return opened + modulus.result_cost(sizes.visible_count(past, count), shift)


def cached_scores(
    keys: KeyProducts,
    values: ValueProducts,
    rows: tuple[RingArray, RingArray, RingArray],
    past: int,
    session: Session,
) -> RingArray:
    """Shares of scores (kv_heads, n * group, seen) of n positions after `past`, 0 where unseen.

    rows: shares of their queries (kv_heads, n * group, size), keys and values (kv_heads, n, size),
    all appended, modulo 2^64 as the result. Off by as much as `Modulus.result`, whose limit holds
    for every score. 2 rounds. [Beaver91].
    """
    modulus = keys.modulus
    query, key, value = (modulus.lifted(part) for part in rows)
    keys.require(past)
    values.require(past)
    hidden = [keys.hide(key), values.hide(value), keys.ask(query)]
    opened_key, opened_value, opened_query = modulus.opened(hidden, session)
    keys.keep(opened_key)
    values.keep(opened_value)
    product = keys.answer(opened_query)
    visible = keys.sizes.visible(past, key.shape[1])
    scores, shift = np.zeros_like(product), session.fixed_point.fraction_bits
    scores[:, visible] = modulus.result(product[:, visible], shift, session)
    return scores


def cached_context_cost(
    sizes: CacheSizes, past: int, count: int, shift: int, modulus: Modulus = WORDS
) -> Cost:
    """Cost of `cached_context`, the lifts' failures apart."""
    seen, results = sizes.prefix + past + count, sizes.kv_heads * sizes.group * count * sizes.size
    opened = modulus.opening_cost(sizes.visible_count(past, count), 2 * seen * results)
    return opened + modulus.result_cost(results, shift)


def cached_context(
    values: ValueProducts, weights: RingArray, past: int, session: Session
) -> RingArray:
    """Shares of the context (kv_heads, n * group, size) of the n positions after `past`.

    weights: shares of their probabilities (kv_heads, n * group, seen); read where seen. Modulo 2^64
    as the result, which is off by as much as `Modulus.result`. 2 rounds. [Beaver91].
    """
    sizes, modulus = values.sizes, values.modulus
    count = weights.shape[1] // sizes.group
    values.require(past, count)
    visible = sizes.visible(past, count)
    hidden = values.ask(modulus.lifted(weights))
    (found,) = modulus.opened([hidden[:, visible]], session)
    opened = np.zeros_like(hidden)
    opened[:, visible] = found
    return modulus.result(values.answer(opened), session.fixed_point.fraction_bits, session)
