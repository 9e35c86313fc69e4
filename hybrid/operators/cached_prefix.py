"""The public prefix enters the caches of all layers of a conversation at once.

Its keys and values are the server's. Of keys that positions turn the client takes those of its own
distance: one transfer for the tables of many layers, which it takes alike. Then every row is opened
under its mask, as all others are, in one exchange.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from hybrid.operators.base import RunState
from mpc_nonlinear.blocks.cached_products import CacheSizes, GrowingProduct
from mpc_nonlinear.blocks.long_tables import offer_tables, take_tables, take_tables_cost
from mpc_nonlinear.blocks.moduli import Modulus
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RING_BYTES, RingArray
from transport.errors import UsageError

TABLES_BYTES = 1 << 26
"""Of tables that one transfer offers each conversation, unless a layer's take more."""


@dataclass(frozen=True, slots=True)
class PrefixRows:
    """The prefix's rows of one product of one layer."""

    node: str
    edge: str
    """Where the server has them."""
    sizes: CacheSizes
    """Of the cache, with the heads of all conversations of a pass."""
    modulus: Modulus
    """What they are opened modulo; that of all that enter together."""
    batch: int = 1
    """Conversations that share passes."""
    turns: int = 1
    """Ways to turn them, of which the client takes one."""

    @property
    def words(self) -> int:
        """Numbers, of one conversation."""
        s = self.sizes
        return s.kv_heads // self.batch * s.prefix * s.size


def _tables(products: Sequence[PrefixRows]) -> Iterator[Sequence[PrefixRows]]:
    """Those whose rows the client takes, in one transfer as many as memory should hold."""
    taken = [one for one in products if one.turns > 1 and one.words]
    start, size = 0, 0
    for place, one in enumerate(taken):
        own = RING_BYTES * one.turns * one.words
        if place > start and size + own > TABLES_BYTES:
            yield taken[start:place]
            start, size = place, 0
        size += own
    if taken:
        yield taken[start:]


def prefix_cost(products: Sequence[PrefixRows]) -> Cost:
    """Cost of `enter_prefix`, the lifts' failures apart."""
    transfers = (
        take_tables_cost(part[0].turns, sum(one.words for one in part), part[0].batch)
        for part in _tables(products)
    )
    count = sum(one.batch * one.words for one in products)
    opening = products[0].modulus.opening_cost(count) if count else NO_COST
    return sum(transfers, NO_COST) + opening


def enter_prefix(
    products: Sequence[PrefixRows], growing: Sequence[GrowingProduct], state: RunState
) -> None:
    """Rows of the public prefix into the products that grow, one for each; none for no prefix.

    1 round, 2 more for every `TABLES_BYTES` of keys that the client takes turned. It takes those
    that stand as far from its first token as if no filler came between, and the server does not
    learn which.
    """
    taken: dict[str, RingArray] = {}
    for part in _tables(products):
        taken |= _taken(part, state)
    found = [(g, _rows(one, taken, state)) for one, g in zip(products, growing, strict=True)]
    entering = [(g, rows) for g, rows in found if rows.size]
    if not entering:
        return
    modulus = products[0].modulus
    hidden = [g.hide(modulus.lifted(rows)) for g, rows in entering]
    opened = modulus.opened(hidden, state.session)
    for (g, _), rows in zip(entering, opened, strict=True):
        g.keep(rows)


def _taken(part: Sequence[PrefixRows], state: RunState) -> dict[str, RingArray]:
    """This party's shares of what the client takes, (conversations, words) by node."""
    turns, counts = part[0].turns, [one.words for one in part]
    if state.is_client:
        shares = take_tables(state.fillers, turns, (sum(counts),), state.session)
    else:
        own = [_own(one, state).reshape(turns, -1) for one in part]
        shares = offer_tables(np.concatenate(own, axis=1), part[0].batch, state.session)
    split = np.split(shares, np.cumsum(counts)[:-1], axis=1)
    return {one.node: found for one, found in zip(part, split, strict=True)}


def _rows(one: PrefixRows, taken: dict[str, RingArray], state: RunState) -> RingArray:
    """This party's share of rows, of all conversations: the server's is what nobody has taken."""
    s = one.sizes
    shape = s.kv_heads, s.prefix, s.size
    if one.node in taken:
        return taken[one.node].reshape(shape)
    if not s.prefix or state.is_client:
        return np.zeros(shape, np.uint64)
    return np.tile(_own(one, state), (one.batch, 1, 1))


def _own(one: PrefixRows, state: RunState) -> RingArray:
    """Rows of the prefix that the server has; with turns one for each before them."""
    s, name = one.sizes, one.edge
    shape: tuple[int, ...] = s.kv_heads // one.batch, s.prefix, s.size
    if one.turns > 1:
        shape = one.turns, *shape
    found = state.prefix.get(name)
    if found is None or found.shape != shape:
        raise UsageError(
            f"{one.node}: the prefix's {name.partition('.')[2]} of shape {shape} are missing; "
            f"pass them as prefix[{name!r}] at the server"
        )
    return state.encode(found)
