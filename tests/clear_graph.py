"""The graph of a decoder's pass, node by node in float64 with the folded maps: no shares."""

from __future__ import annotations

from typing import Any

import numpy as np

from hybrid.models.decoder_graph import EMBEDDING, MASK, ONE_HOT
from hybrid.models.generator import Generator, client_rows


def softmax(scores: np.ndarray) -> np.ndarray:
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


class ClearConversation:
    """Passes one after the other, each over the cache of those before it; without fillers."""

    def __init__(self, generator: Generator) -> None:
        self._public = generator.public
        self._table = generator.model.weights.embedding
        self._maps = dict(generator.maps())
        # Where keys are turned in several ways, the first leaves them as they are.
        ways = generator.public.turns > 1
        self._cache = {
            name: rows[0] if ways and name.endswith(".keys") else rows
            for name, rows in generator.prefix_rows().items()
        }
        self.past = 0

    def logits(self, ids: np.ndarray) -> np.ndarray:
        """(vocabulary,) behind these ids, the next rows."""
        graph = self._public.graph(len(ids), self.past)
        rows = client_rows(self._public, ids, self.past, 0)
        words = rows.one_hot(self._public).astype(float)
        known = {
            MASK: rows.visible,
            ONE_HOT: words,
            EMBEDDING: self._table.embed(rows.ids, rows.positions),
        }
        edges = {edge.name: known[edge.name] for edge in graph.inputs}
        for edge in graph.inputs:
            assert edges[edge.name].shape == edge.shape
        for node in graph.nodes:
            found = getattr(self, f"_{node.op}")(node, *(edges[name] for name in node.inputs))
            found = found if isinstance(found, tuple) else (found,)
            edges.update(zip(node.outputs, found, strict=True))
        self.past += len(ids)
        _token, logits = (edges[name] for name in graph.outputs)
        return logits[0]

    # -- operations, by name --------------------------------------------------------------------

    def _linear(self, node: Any, x: np.ndarray) -> np.ndarray:
        linear = self._maps[node.name]
        assert (*x.shape, linear.weight.shape[1]) == node.shape
        return x @ linear.weight + linear.bias

    _embedding = _linear

    def _rmsnorm(self, node: Any, *terms: np.ndarray) -> Any:
        return self._normalised(node, terms, 0.0)

    def _layernorm(self, node: Any, *terms: np.ndarray) -> Any:
        return self._normalised(node, terms, 1.0)

    @staticmethod
    def _normalised(node: Any, terms: tuple[np.ndarray, ...], centred: float) -> Any:
        assert len(terms) == 1 + node.residuals
        total = sum(terms)
        x = total - centred * total.mean(-1, keepdims=True)
        rows = x / np.sqrt((x**2).mean(-1, keepdims=True) + node.constants["epsilon"])
        return (rows, total) if len(node.outputs) == 2 else rows

    @staticmethod
    def _rotary(node: Any, x: np.ndarray) -> np.ndarray:
        found = node.constants
        heads, size = int(found["heads"]), int(found["size"])
        turned = np.array(x)
        for row in range(len(x)):
            for head in range(heads):
                for i in range(size // 2):
                    angle = (found["first"] + row) * found["theta"] ** (-2 * i / size)
                    a, b = head * size + i, head * size + i + size // 2
                    pair = complex(x[row, a], x[row, b]) * np.exp(1j * angle)
                    turned[row, a], turned[row, b] = pair.real, pair.imag
        return turned

    @staticmethod
    def _halves(node: Any, x: np.ndarray) -> Any:
        width = node.shape[1] // 2
        return x[:, :width], x[:, width:]

    def _cached_scores(self, node: Any, qkv: np.ndarray) -> np.ndarray:
        heads, rows, size, _ = node.shape
        kv_heads = node.cache.kv_heads
        split = qkv.reshape(rows, heads + 2 * kv_heads, size).transpose(1, 0, 2)
        for part, new in (("keys", split[heads:-kv_heads]), ("values", split[-kv_heads:])):
            name = f"layer{node.layer}.{part}"
            before = self._cache.get(name, np.zeros((kv_heads, 0, size)))
            self._cache[name] = np.concatenate([before, new], axis=1)
        keys = np.repeat(self._cache[f"layer{node.layer}.keys"], heads // kv_heads, axis=0)
        assert keys.shape[1] == node.shape[3] == node.cache.keys(rows)
        return split[:heads] @ keys.transpose(0, 2, 1)

    @staticmethod
    def _causal_softmax(node: Any, scores: np.ndarray, visible: np.ndarray) -> np.ndarray:
        assert visible.all()
        _, rows, seen = scores.shape
        place = node.cache.prefix + node.cache.past + np.arange(rows)
        return softmax(np.where(np.arange(seen) <= place[:, None], scores, -np.inf))

    def _cached_context(self, node: Any, weights: np.ndarray) -> np.ndarray:
        values = self._cache[f"layer{node.layer}.values"]
        values = np.repeat(values, len(weights) // len(values), axis=0)
        return (weights @ values).transpose(1, 0, 2).reshape(weights.shape[1], -1)

    @staticmethod
    def _silu(_node: Any, x: np.ndarray) -> np.ndarray:
        return x / (1 + np.exp(-x))

    @staticmethod
    def _gelu_tanh(_node: Any, x: np.ndarray) -> np.ndarray:
        return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    @staticmethod
    def _product(_node: Any, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        return left * right

    @staticmethod
    def _last_row(_node: Any, *terms: np.ndarray) -> np.ndarray:
        return sum(terms)[-1:]

    @staticmethod
    def _next_token(_node: Any, logits: np.ndarray) -> np.ndarray:
        return logits.argmax(-1)
