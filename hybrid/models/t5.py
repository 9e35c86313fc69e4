"""T5's encoder: RMSNorm before attention and feed-forward, scores biased by relative position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import gelu, relu

from hybrid.models.architecture import Architecture
from hybrid.models.checkpoint import Checkpoint, Layout
from hybrid.models.family import Family
from hybrid.models.folding import LinearMap, gained, norm_alone
from hybrid.models.graph import Graph
from hybrid.models.graph_builder import GraphBuilder
from hybrid.models.heads import Head
from hybrid.models.plain import PlainPass
from hybrid.models.random_weights import RandomWeights
from hybrid.models.ranges import Observer, Ranges, widest
from hybrid.models.relative_positions import Buckets, of_buckets
from hybrid.models.settings import as_float, even_split, read_sizes, require
from hybrid.models.token_table import TokenTable
from hybrid.models.weights import Affine, Array
from transport.errors import ConfigError

INPUT, MASK = "embedding", "mask"
_SIZES = {
    "hidden": "d_model",
    "layers": "num_layers",
    "heads": "num_heads",
    "head_size": "d_kv",
    "intermediate": "d_ff",
    "vocabulary": "vocab_size",
    "epsilon": "layer_norm_epsilon",
}
_DEFAULTS = {"buckets": 32, "max_distance": 128, "epsilon": 1e-6, "gated": False}
_POSITIONS = 1 << 20
"""Distances beyond the largest are one bucket: a text may be of any length."""
_ACTIVATIONS = {"relu": ("relu", False), "gated-gelu": ("gelu_new", True)}
"""By `feed_forward_proj`: what transformers makes of it."""
_LAYOUT = Layout(
    marker="shared.weight",
    second="encoder.final_layer_norm.weight",
    # It is the same table, whatever config.json ties.
    tied=("encoder.embed_tokens.weight",),
    ignored=r"encoder\.embed_tokens\.weight",
    heads=("decoder", "lm_head", "classification_head", "classifier"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class T5Architecture(Architecture):
    """A pre-norm encoder without biases."""

    head_size: int = field()
    """Columns of one head; heads * head_size need not be `hidden`."""
    buckets: int
    """Of relative positions."""
    max_distance: int
    gated: bool
    """Whether a GELU by tanh is multiplied with another map's result; else there is a ReLU."""

    def check_sizes(self, place: str) -> None:
        """`ConfigError` when sizes do not go together."""
        if self.buckets % 4:
            raise ConfigError(
                f"{place}: {self.buckets} buckets of relative positions are no multiple of four"
            )
        if self.max_distance <= self.buckets // 4:
            raise ConfigError(
                f"{place}: the largest distance {self.max_distance} leaves no span for "
                f"{self.buckets} buckets of relative positions"
            )

    def line(self) -> str:
        """Sizes for a reader."""
        kind = "gated GELU" if self.gated else "ReLU"
        return f"{Architecture.line(self)}, heads of {self.head_size}, {kind}"


@dataclass(frozen=True, slots=True)
class T5Layer:
    """One layer; matrices are (in, out), norms are gains (hidden,)."""

    attention_norm: Array
    query: Array
    key: Array
    value: Array
    attention_output: Array
    feed_forward_norm: Array
    up: Array
    """What goes into the activation and, where it is gated, what multiplies it, side by side."""
    down: Array


@dataclass(frozen=True, slots=True)
class T5Weights:
    """Everything the server owns."""

    embedding: TokenTable
    layers: tuple[T5Layer, ...]
    norm: Array
    """Gain of the last norm."""
    score_bias: Array
    """(buckets, heads); all layers share it."""


class T5(Family[T5Architecture, T5Weights, TokenTable]):
    """Encoders: scores are not divided by a root, sums of raw rows are kept.

    Gains of RMSNorms are folded into the maps that read them. Raffel et al., "T5",
    arXiv 1910.10683; gated as in Shazeer, arXiv 2002.05202.
    """

    name = "t5"
    architecture = T5Architecture
    model_types = ("t5",)
    shapes = {
        "t5-base-encoder": {"hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072},
    }
    shape_sizes = ("hidden", "layers", "heads", "intermediate")
    optional_sizes = ("head_size",)

    # -- files ----------------------------------------------------------------------------------

    def read_architecture(self, raw: Mapping[str, Any], place: str) -> T5Architecture:
        """From config.json; refuses whatever would be computed otherwise than it says."""
        values = read_sizes(raw, place, _SIZES, "an encoder")
        require(raw, place, "feed_forward_proj", "relu", "gated-gelu", None)
        activation, gated = _ACTIVATIONS[raw.get("feed_forward_proj") or "relu"]
        # Both would be taken instead of what they follow from.
        require(raw, place, "dense_act_fn", activation, None)
        require(raw, place, "is_gated_act", gated, None)
        require(raw, place, "is_decoder", False, None)
        require(raw, place, "is_causal", False, None)
        values["epsilon"] = as_float(values["epsilon"])
        for ours, theirs in (("buckets", "num_buckets"), ("max_distance", "max_distance")):
            values[ours] = raw.get(f"relative_attention_{theirs}", _DEFAULTS[ours])
        return T5Architecture.from_public(
            {**values, "positions": _POSITIONS, "gated": gated}, place
        )

    def shape_architecture(self, sizes: Mapping[str, int], place: str) -> T5Architecture:
        """Buckets and epsilon of the published models, a ReLU."""
        values = {**_DEFAULTS, **sizes}
        if "head_size" not in values:
            values["head_size"] = even_split(values, place)
        return T5Architecture.from_public(values, place)

    def read_weights(
        self, folder: Path, raw: Mapping[str, Any], architecture: T5Architecture
    ) -> T5Weights:
        """Every tensor of the encoder, checked against the architecture; decoders are left."""
        del raw
        a, file = architecture, Checkpoint(folder, _LAYOUT)
        file.refuse_layer("encoder.block", a.layers)
        inner, ups = a.heads * a.head_size, ("wi_0", "wi_1") if a.gated else ("wi",)

        def gain(name: str) -> Array:
            return file.take(f"{name}.weight", (a.hidden,))

        def layer(index: int) -> T5Layer:
            name = f"encoder.block.{index}.layer"
            dense, attention = f"{name}.1.DenseReluDense", f"{name}.0.SelfAttention"
            parts = [file.matrix(f"{dense}.{up}", a.hidden, a.intermediate) for up in ups]
            query, key, value = (file.matrix(f"{attention}.{n}", a.hidden, inner) for n in "qkv")
            return T5Layer(
                gain(f"{name}.0.layer_norm"),
                query,
                key,
                value,
                file.matrix(f"{attention}.o", inner, a.hidden),
                gain(f"{name}.1.layer_norm"),
                np.concatenate(parts, axis=1),
                file.matrix(f"{dense}.wo", a.intermediate, a.hidden),
            )

        words = file.take("shared.weight", (a.vocabulary, a.hidden))
        twin = "encoder.embed_tokens.weight"
        if twin in file and not np.array_equal(file.take(twin, words.shape), words):
            raise ConfigError(
                f"{folder}: {twin} is not shared.weight, which it stands for; keep the one that is "
                "meant"
            )
        bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        found = T5Weights(
            TokenTable(words),
            tuple(layer(i) for i in range(a.layers)),
            gain("encoder.final_layer_norm"),
            file.take(bias, (a.buckets, a.heads)),
        )
        file.finish()
        return found

    def random_weights(self, architecture: T5Architecture) -> T5Weights:
        """Magnitudes of trained models; always the same."""
        a, draw = architecture, RandomWeights()
        inner, ups = a.heads * a.head_size, 1 + a.gated

        def matrix(d_in: int, d_out: int, gain: float = 1.0) -> Array:
            return draw.normal(gain / np.sqrt(d_in), d_in, d_out)

        def gain() -> Array:
            return 1 + draw.normal(0.1, a.hidden)

        def layer() -> T5Layer:
            return T5Layer(
                gain(),
                # Trained queries are as small as if they were divided by the root.
                matrix(a.hidden, inner, 1.2 / np.sqrt(a.head_size)),
                matrix(a.hidden, inner, 1.2),
                matrix(a.hidden, inner),
                matrix(inner, a.hidden),
                gain(),
                matrix(a.hidden, ups * a.intermediate, 1.5),
                matrix(a.intermediate, a.hidden),
            )

        words = draw.normal(1.0, a.vocabulary, a.hidden)
        layers = tuple(layer() for _ in range(a.layers))
        return T5Weights(TokenTable(words), layers, gain(), draw.normal(0.5, a.buckets, a.heads))

    def public_shapes(self, architecture: T5Architecture) -> tuple[tuple[int, ...], ...]:
        """Words."""
        return ((architecture.vocabulary, architecture.hidden),)

    def public_table(self, arrays: Sequence[Array], architecture: T5Architecture) -> TokenTable:
        """All of the embedding."""
        del architecture
        return TokenTable.from_arrays(arrays)

    # -- graph ----------------------------------------------------------------------------------

    def graph(
        self, architecture: T5Architecture, ranges: Ranges, head: Head, tokens: int, batch: int
    ) -> Graph:
        """Layers, the last norm, then the head; `ConfigError` where a range is missing."""
        a, b = architecture, GraphBuilder(tokens, batch, ranges)
        sources: tuple[str, ...] = (b.input(INPUT, (b.rows, a.hidden)),)
        mask = b.input(MASK, (batch, tokens), is_bits=True)
        for layer in range(a.layers):
            place = (layer, "attention_norm")
            edge, stream = b.norm(place, "rmsnorm", sources, a.hidden, a.epsilon)
            edge = self._attention(b, a, layer, edge, mask)
            place = (layer, "feed_forward_norm")
            edge, stream = b.norm(place, "rmsnorm", (stream, edge), a.hidden, a.epsilon)
            sources = (stream, self._feed_forward(b, a, layer, edge))
        edge, _ = b.norm((-1, "final_norm"), "rmsnorm", sources, a.hidden, a.epsilon)
        public = (
            "The embedding table (words) is public to the client; token ids never leave the client."
        )
        output = head.add(b, edge, mask, a.hidden)
        return b.graph((output,), (public, head.disclosure))

    @staticmethod
    def _attention(b: GraphBuilder, a: T5Architecture, layer: int, edge: str, mask: str) -> str:
        name, bound, inner = f"layer{layer}", b.bound, a.heads * a.head_size
        parts = [bound(f"{name}.{part}") for part in ("query", "key", "value")]
        ends = bound(f"{name}.attention_norm.normalised"), widest(parts)
        qkv = b.linear((layer, "qkv"), edge, (a.hidden, 3 * inner), ends)
        buckets = Buckets(a.buckets, a.max_distance)
        sizes = (a.heads, a.head_size)
        context = b.self_attention(layer, (qkv, mask), sizes, buckets=buckets)
        ends = bound(f"{name}.context"), bound(f"{name}.attention_output")
        return b.linear((layer, "attention_output"), context, (inner, a.hidden), ends)

    @staticmethod
    def _feed_forward(b: GraphBuilder, a: T5Architecture, layer: int, edge: str) -> str:
        name, bound, inner = f"layer{layer}", b.bound, a.intermediate
        names, op = (("up", "gate"), "gelu_tanh") if a.gated else (("up",), "relu")
        widest_up = widest([bound(f"{name}.{part}") for part in names])
        ends = bound(f"{name}.feed_forward_norm.normalised"), widest_up
        place = (layer, "up_gate" if a.gated else "up")
        up = edge = b.linear(place, edge, (a.hidden, len(names) * inner), ends)
        if a.gated:
            up, gate = b.halves(layer, edge, ("up", "gate"), inner)
        bounds = {"input": bound(f"{name}.up")}
        edge = b.add((layer, op), op, (up,), (b.rows, inner), bounds)
        if a.gated:
            edge = b.gated(layer, (edge, gate), ("active", "gate"), inner)
        last = bound(f"{name}.gated" if a.gated else f"{name}.active")
        return b.linear((layer, "down"), edge, (inner, a.hidden), (last, bound(f"{name}.down")))

    def client_inputs(
        self, table: TokenTable, token_ids: NDArray[np.int64], mask: NDArray[np.bool_]
    ) -> dict[str, NDArray[Any]]:
        """The embedding of every text, (batch * tokens, hidden), and which tokens are real."""
        places = np.arange(token_ids.shape[1])
        return {
            INPUT: np.concatenate([table.embed(ids, places) for ids in token_ids]),
            MASK: mask,
        }

    def fold(self, weights: T5Weights, architecture: T5Architecture) -> dict[str, LinearMap]:
        """Gains of a norm in the maps that read it; the last ones under "pool"."""
        maps: dict[str, LinearMap] = {}
        up = "up_gate" if architecture.gated else "up"
        for index, layer in enumerate(weights.layers):
            name = f"layer{index}"
            parts = [layer.query, layer.key, layer.value]
            maps[f"{name}.qkv"] = gained(parts, layer.attention_norm)
            maps[f"{name}.score_bias"] = of_buckets(weights.score_bias)
            maps[f"{name}.attention_output"] = gained([layer.attention_output])
            maps[f"{name}.{up}"] = gained([layer.up], layer.feed_forward_norm)
            maps[f"{name}.down"] = gained([layer.down])
        maps["pool"] = norm_alone(Affine(weights.norm, np.zeros_like(weights.norm)))
        return maps

    # -- plain reference ------------------------------------------------------------------------

    @torch.no_grad()
    def plain_rows(
        self,
        weights: T5Weights,
        architecture: T5Architecture,
        token_ids: NDArray[np.int64],
        mask: NDArray[np.bool_],
        see: Observer,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The encoder as published, in torch."""
        a = architecture
        bias = Buckets(a.buckets, a.max_distance).bias(weights.score_bias, len(token_ids))
        plain = _Plain(see, dtype, a, torch.from_numpy(mask), bias)
        x = plain.tensor(weights.embedding.words[token_ids])
        for index, layer in enumerate(weights.layers):
            x = plain.layer(f"layer{index}", layer, x)
        return plain.rms_norm("final_norm", x, weights.norm, a.epsilon)


@dataclass(frozen=True, slots=True)
class _Plain(PlainPass):
    a: T5Architecture
    mask: Tensor
    bias: Array
    """(heads, tokens, tokens)"""

    def layer(self, name: str, layer: T5Layer, x: Tensor) -> Tensor:
        """The sum of raw rows behind the layer, from that before it; both (tokens, hidden)."""
        epsilon = self.a.epsilon
        rows = self.rms_norm(f"{name}.attention_norm", x, layer.attention_norm, epsilon)
        output = self._attention(name, layer, rows) @ self.tensor(layer.attention_output)
        self.see(f"{name}.attention_output", output)
        x = x + output
        rows = self.rms_norm(f"{name}.feed_forward_norm", x, layer.feed_forward_norm, epsilon)
        up = rows @ self.tensor(layer.up)
        if self.a.gated:
            up, gate = up.chunk(2, -1)
            active = gelu(up, approximate="tanh")
            last = active * gate
            self.see(f"{name}.gate", gate)
            self.see(f"{name}.gated", last)
        else:
            active = last = relu(up)
        down = last @ self.tensor(layer.down)
        for edge, tensor in {"up": up, "active": active, "down": down}.items():
            self.see(f"{name}.{edge}", tensor)
        return x + down

    def _attention(self, name: str, layer: T5Layer, rows: Tensor) -> Tensor:
        a, count = self.a, len(rows)
        query, key, value = (
            (rows @ self.tensor(part)).reshape(count, a.heads, a.head_size).transpose(0, 1)
            for part in (layer.query, layer.key, layer.value)
        )
        scores = query @ key.transpose(1, 2)
        biased = scores + self.tensor(self.bias)
        edges = {"query": query, "key": key, "value": value, "scores": scores}
        weights = torch.softmax(biased.masked_fill(~self.mask, -torch.inf), -1)
        context = (weights @ value).transpose(0, 1).reshape(count, a.heads * a.head_size)
        for edge, tensor in (edges | {"score_bias": biased, "context": context}).items():
            self.see(f"{name}.{edge}", tensor)
        return context
