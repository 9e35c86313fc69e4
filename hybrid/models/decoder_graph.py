"""Graphs of decoders: one pass over the rows that follow those of a cache.

A prompt is one pass of several rows, every further token one of a single row. Nodes have the same
names in all passes, so that what is prepared for a node serves any of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hybrid.models.graph import CachePlace, Graph
from hybrid.models.graph_builder import GraphBuilder, node_name
from hybrid.models.ranges import Bound, Ranges

EMBEDDING, ONE_HOT, MASK = "embedding", "one_hot", "mask"
LOGITS, NEXT_TOKEN = "logits", "next_token"
_PROBABILITY = Bound(2.0**-20, 1.0, 1.0)
_ONE = Bound(1.0, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Decoding:
    """How the next token is chosen."""

    temperature: float = 0.0
    """0: greedy."""
    top_k: int | None = None

    def constants(self) -> dict[str, float]:
        """Of the node; a missing top_k is zero."""
        return {"temperature": self.temperature, "top_k": float(self.top_k or 0)}


@dataclass(frozen=True, slots=True)
class Pass:
    """What is public of one pass."""

    rows: int
    prefix: int
    """Positions of the public prefix."""
    past: int
    """Private positions before this pass."""
    capacity: int
    """Private positions of a conversation."""
    private_embedding: bool
    """Whether tokens enter as one-hot rows, else as rows of a table that the client has."""
    decoding: Decoding
    bucket: int = 1
    """A conversation's first pass has a multiple of so many rows. Its first rows may be fillers,
    which nobody but the client tells from tokens; 1: there are none."""
    batch: int = 1
    """Conversations that share the pass: each has as many rows in it, and a cache of its own."""

    @property
    def may_hide(self) -> bool:
        """Whether a conversation may have rows that are no tokens."""
        return self.bucket > 1 or self.batch > 1


class DecoderGraphBuilder(GraphBuilder):
    """Collects the nodes of a pass."""

    def __init__(self, what: Pass, ranges: Ranges) -> None:
        super().__init__(what.rows, what.batch, ranges)
        self.what = what
        keys = what.prefix + what.past + what.rows
        self._masks: tuple[str, ...] = ()
        """The edge that says which positions are tokens, where some may not be."""
        if what.may_hide:
            self._masks = (self.input(MASK, (what.batch, keys), is_bits=True),)

    def embedding(self, table_rows: int, width: int) -> str:
        """Rows of the table: of what the client looks up, or the product of one-hot rows."""
        if not self.what.private_embedding:
            return self.input(EMBEDDING, (self.rows, width))
        tokens = self.input(ONE_HOT, (self.rows, table_rows))
        bounds = {"input": _ONE, "output": self.bound(EMBEDDING), **self._weight(EMBEDDING)}
        shape = (self.rows, table_rows, width)
        return self.add((-1, EMBEDDING), "embedding", (tokens,), shape, bounds)

    def map(
        self, place: tuple[int, str], source: str, sizes: tuple[int, int], ends: tuple[Bound, Bound]
    ) -> str:
        """A linear layer of all rows of an edge that has as many rows as `source`."""
        name = node_name(place)
        bounds = {"input": ends[0], "output": ends[1], **self._weight(name)}
        return self.add(place, "linear", (source,), (self._rows_at(place), *sizes), bounds)

    def _rows_at(self, place: tuple[int, str]) -> int:
        """Behind the layers only the newest row of each conversation is left."""
        return self.batch if place[0] < 0 else self.rows

    def turned(self, layer: int, source: str, heads: int, sizes: tuple[int, int, float]) -> str:
        """Rotary positions of this pass; see `rotary`."""
        return self.rotary(layer, source, heads, sizes, self.what.prefix + self.what.past)

    def last_row(self, sources: Sequence[str], width: int) -> str:
        """The newest row of each conversation: all that the next tokens depend on."""
        shape, residuals = (self.rows, width), len(sources) - 1
        return self.add((-1, "last_row"), "last_row", sources, shape, {}, residuals=residuals)

    def attention(
        self, layer: int, qkv: str, sizes: tuple[int, int], kv_heads: int, *, turned: bool = False
    ) -> str:
        """Contexts (rows, heads * size) of one edge of queries, keys and values, side by side.

        Conversations are further heads: none sees another's cache.
        turned: whether keys are turned by their positions; then those of the prefix must keep
        their distance to the tokens behind the fillers.
        """
        heads, size = sizes[0] * self.batch, sizes[1]
        name, bound, what = f"layer{layer}", self.bound, self.what
        turns = what.bucket if turned and what.prefix else 1
        kv_heads *= self.batch
        cache = CachePlace(what.prefix, what.past, what.capacity, kv_heads, turns)
        rows, keys = self.tokens, cache.keys(self.tokens)
        query, key, value = (bound(f"{name}.{part}") for part in ("query", "key", "value"))
        scores = bound(f"{name}.scores")
        bounds = {"left": query, "right": key, "output": scores}
        shape = (heads, rows, size, keys)
        edge = self.add((layer, "scores"), "cached_scores", (qkv,), shape, bounds, cache=cache)
        square, bounds = (heads, rows, keys), {"input": scores}
        sources = (edge, *self._masks)
        edge = self.add((layer, "softmax"), "causal_softmax", sources, square, bounds, cache=cache)
        bounds = {"left": _PROBABILITY, "right": value, "output": bound(f"{name}.context")}
        shape = (heads, rows, keys, size)
        return self.add((layer, "context"), "cached_context", (edge,), shape, bounds, cache=cache)

    def next_token(self, source: str, width: int, vocabulary: int) -> Graph:
        """The head, the choice, and the whole graph."""
        ends = self.bound("final.normalised"), self.bound(LOGITS)
        logits = self.map((-1, LOGITS), source, (width, vocabulary), ends)
        token = self.add(
            (-1, NEXT_TOKEN),
            "next_token",
            (logits,),
            (self.batch, vocabulary),
            {"input": self.bound(LOGITS)},
            constants=self.what.decoding.constants(),
        )
        return self.graph((token, logits), self._disclosures())

    def _weight(self, name: str) -> Mapping[str, Bound]:
        return {"weight": self.bound(f"{name}.weight")}

    def _disclosures(self) -> list[str]:
        table = (
            "The embedding table is private: tokens enter as one-hot rows."
            if self.what.private_embedding
            else "The embedding table is public to the client, and a tied head with it; token ids "
            "never leave the client."
        )
        return [
            table,
            f"The public prefix of {self.what.prefix} tokens is known to both parties.",
            "Only the next token is opened, to the client alone; logits and probabilities never "
            "are.",
        ]
