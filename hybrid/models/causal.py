"""Causal attention with a cache, in the clear: what plain decoders share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hybrid.models.plain import PlainPass


@dataclass(slots=True)
class Cache:
    """Keys and values of the positions so far, a pair a layer, each (kv_heads, positions, size)."""

    layers: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Positions of the last layer, which is complete between two passes."""
        return self.layers[-1][0].shape[1] if self.layers else 0

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Append rows (kv_heads, tokens, size) to a layer; all of its keys and values."""
        if layer == len(self.layers):
            self.layers.append((key, value))
        else:
            keys, values = self.layers[layer]
            self.layers[layer] = (torch.cat((keys, key), 1), torch.cat((values, value), 1))
        return self.layers[layer]

    def copy(self) -> Cache:
        """One that grows by itself: many texts continue one prefix."""
        return Cache(list(self.layers))

    def __repr__(self) -> str:
        return f"<Cache: {self.length} positions, {len(self.layers)} layers>"


@dataclass(frozen=True, slots=True)
class CausalPass(PlainPass):
    """A pass over the positions that follow those of `cache`, which it extends."""

    cache: Cache

    def heads(self, rows: Tensor, size: int) -> Tensor:
        """(heads, tokens, size) from rows (tokens, heads * size)."""
        return rows.reshape(len(rows), -1, size).transpose(0, 1)

    def attention(self, name: str, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Contexts (tokens, heads * size) from query (heads, tokens, size), key and value.

        Key and value have kv_heads, each for heads / kv_heads queries that stand side by side.
        1/sqrt(size) is in the query that is shown, as the private graph folds it in. Scores shown
        are those of positions that the query may see: (heads, pairs).
        """
        heads, tokens, size = query.shape
        query = query / math.sqrt(size)
        for edge, tensor in (("query", query), ("key", key), ("value", value)):
            self.see(f"{name}.{edge}", tensor)
        keys, values = self.cache.extend(layer, key, value)
        group = heads // len(keys)
        keys, values = (x.repeat_interleave(group, 0) for x in (keys, values))
        scores = query @ keys.transpose(1, 2)
        positions = torch.arange(scores.shape[-1])
        visible = positions <= positions[len(positions) - tokens :, None]
        self.see(f"{name}.scores", scores[:, visible])
        weights = torch.softmax(scores.masked_fill(~visible, -torch.inf), -1)
        context = (weights @ values).transpose(0, 1).reshape(tokens, heads * size)
        self.see(f"{name}.context", context)
        return context
