"""BERT and what computes as it does under other names: post-norm encoders with exact GELU."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import gelu

from hybrid.models.architecture import Architecture
from hybrid.models.bert_names import FIXED, LAYOUT, LINEAR, NAMES, Names
from hybrid.models.checkpoint import Checkpoint
from hybrid.models.embedding import EmbeddingTable
from hybrid.models.family import Family
from hybrid.models.folding import LinearMap, after_norm, linear_map, norm_alone, side_by_side
from hybrid.models.graph import Graph
from hybrid.models.graph_builder import GraphBuilder, normalised_bound
from hybrid.models.heads import Dense, Head
from hybrid.models.plain import PlainPass
from hybrid.models.random_weights import RandomWeights
from hybrid.models.ranges import Observer, Ranges
from hybrid.models.relative_positions import Buckets, of_buckets
from hybrid.models.settings import as_float, read_sizes, require
from hybrid.models.weights import Affine, Array
from transport.errors import ConfigError

INPUT, MASK = "embedding", "mask"


@dataclass(frozen=True, slots=True, kw_only=True)
class BertArchitecture(Architecture):
    """A post-norm encoder."""

    token_types: int
    padding: int = field(metadata={"smallest": -1})
    """The token id that positions count from, as `EmbeddingTable` has it; -1: they simply count."""

    def check_sizes(self, place: str) -> None:
        """`ConfigError` when sizes do not go together."""
        Architecture.check_sizes(self, place)
        if self.padding >= self.vocabulary:
            raise ConfigError(
                f"{place}: padding is {self.padding}, no token of {self.vocabulary}; use the "
                "config.json that belongs to these weights"
            )

    @property
    def takes_types(self) -> bool:
        """Where its table has more than one."""
        return self.token_types > 1


@dataclass(frozen=True, slots=True)
class BertLayer:
    """One layer; linear weights are (in, out)."""

    query: Affine
    key: Affine
    value: Affine
    attention_output: Affine
    attention_norm: Affine
    intermediate: Affine
    output: Affine
    output_norm: Affine


@dataclass(frozen=True, slots=True)
class BertWeights:
    """Everything the server owns."""

    embedding: EmbeddingTable
    layers: tuple[BertLayer, ...]
    score_bias: Array | None = None
    """(buckets, heads), of families with relative positions; all layers share it."""


class Bert(Family[BertArchitecture, BertWeights, EmbeddingTable]):
    """Encoders: LayerNorm after every residual sum, learned positions, exact GELU.

    LayerNorm gains and biases are folded into the linear maps that read it; the same upload also
    yields the residual branch, as one elementwise scaling. 1/sqrt(head size) is folded into the
    query.
    """

    name = "bert"
    architecture = BertArchitecture
    layout = LAYOUT
    model_types = tuple(NAMES)
    shapes = {
        "minilm-l6": {"hidden": 384, "layers": 6, "heads": 12, "intermediate": 1536},
        "bert-base": {"hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072},
        "bert-large": {"hidden": 1024, "layers": 24, "heads": 16, "intermediate": 4096},
    }
    shape_sizes = ("hidden", "layers", "heads", "intermediate")
    names: ClassVar[Mapping[str, Names]] = NAMES
    """By model type."""
    buckets: ClassVar[Buckets | None] = None
    """Of relative positions, by which scores are biased; none for most."""

    # -- files ----------------------------------------------------------------------------------

    def read_architecture(self, raw: Mapping[str, Any], place: str) -> BertArchitecture:
        """From config.json; refuses whatever would be computed otherwise than it says."""
        names = self.names[raw["model_type"]]
        wanted: dict[str, tuple[Any, ...]] = {
            names.activation: ("gelu", "gelu_python"),
            "position_embedding_type": ("absolute", None),
            "is_decoder": (False, None),
            "is_causal": (False, None),
            "add_cross_attention": (False, None),
            # An embedding of another width is projected first, which is one more layer.
            "embedding_size": (raw.get("hidden_size"), None),
        }
        for key, allowed in wanted.items():
            require(raw, place, key, *allowed)
        values = {**FIXED, **read_sizes(raw, place, names.sizes, "an encoder")}
        values["padding"] = names.padding_id(raw, place)
        if type(values["positions"]) is int:
            values["positions"] -= values["padding"] + 1
        values["epsilon"] = as_float(values["epsilon"])
        return BertArchitecture.from_public(values, place)

    def shape_architecture(self, sizes: Mapping[str, int], place: str) -> BertArchitecture:
        """One token type, the usual epsilon."""
        return BertArchitecture.from_public({**FIXED, **sizes}, place)

    def read_weights(
        self, folder: Path, raw: Mapping[str, Any], architecture: BertArchitecture
    ) -> BertWeights:
        """Every tensor of the encoder, checked against the architecture; heads are left."""
        names, a = self.names[raw["model_type"]], architecture
        file = Checkpoint(folder, LAYOUT, tied=bool(raw.get("tie_word_embeddings", True)))
        file.refuse_layer(names.layer, a.layers)
        layers = tuple(self._layer_weights(file, names, i, a) for i in range(a.layers))
        words, positions, types, *_ = self.public_shapes(a)
        # Nothing takes a row before that of the padding id.
        unused = max(a.padding, 0)
        rows = file.take("embeddings.position_embeddings.weight", (positions[0] + unused, a.hidden))
        token_types = np.zeros(types, np.float32)
        if names.has_token_types:
            token_types = file.take("embeddings.token_type_embeddings.weight", types)
        table = EmbeddingTable(
            file.take("embeddings.word_embeddings.weight", words),
            np.ascontiguousarray(rows[unused:]),
            token_types,
            file.norm("embeddings.LayerNorm", a.hidden),
            a.epsilon,
            a.padding,
        )
        bias = None
        if self.buckets is not None:
            bias = file.take(names.score_bias, (self.buckets.count, a.heads))
        file.finish()
        return BertWeights(table, layers, bias)

    def classifier(
        self, raw: Mapping[str, Any], architecture: BertArchitecture, labels: int, place: str
    ) -> tuple[tuple[str, Dense], ...]:
        """Two maps of the first row, as transformers has them for this model type."""
        del place
        inner, outer, activation = self.names[raw["model_type"]].classifier
        first = Dense(architecture.hidden, architecture.hidden, activation)
        return (inner, first), (outer, Dense(architecture.hidden, labels))

    @staticmethod
    def _layer_weights(
        file: Checkpoint, names: Names, index: int, a: BertArchitecture
    ) -> BertLayer:
        prefix = f"{names.layer}.{index}"
        sizes = {"intermediate": (a.hidden, a.intermediate), "output": (a.intermediate, a.hidden)}
        linears = {
            ours: file.linear(f"{prefix}.{theirs}", *sizes.get(ours, (a.hidden, a.hidden)))
            for ours, theirs in zip(LINEAR, names.linear, strict=True)
        }
        attention_norm, output_norm = (file.norm(f"{prefix}.{n}", a.hidden) for n in names.norms)
        return BertLayer(**linears, attention_norm=attention_norm, output_norm=output_norm)

    def random_weights(self, architecture: BertArchitecture) -> BertWeights:
        """Magnitudes of trained models; always the same."""
        a, draw = architecture, RandomWeights()

        def layer() -> BertLayer:
            query, key = (draw.linear(a.hidden, a.hidden, 1.2) for _ in range(2))
            value, output = (draw.linear(a.hidden, a.hidden) for _ in range(2))
            up = draw.linear(a.hidden, a.intermediate, 1.5)
            down = draw.linear(a.intermediate, a.hidden)
            norms = [draw.norm(a.hidden) for _ in range(2)]
            return BertLayer(query, key, value, output, norms[0], up, down, norms[1])

        scales = (1.0, 0.3, 0.1)
        shapes = self.public_shapes(a)[:3]
        rows = [draw.normal(s, *shape) for s, shape in zip(scales, shapes, strict=True)]
        norm = draw.norm(a.hidden)
        table = EmbeddingTable(rows[0], rows[1], rows[2], norm, a.epsilon, a.padding)
        layers = tuple(layer() for _ in range(a.layers))
        if self.buckets is None:
            return BertWeights(table, layers)
        return BertWeights(table, layers, draw.normal(0.5, self.buckets.count, a.heads))

    def public_shapes(self, architecture: BertArchitecture) -> tuple[tuple[int, ...], ...]:
        """Words, positions behind that of padding, token types, gain and bias of their norm."""
        a = architecture
        rows = (a.vocabulary, a.positions + (a.padding >= 0), a.token_types)
        return (*((n, a.hidden) for n in rows), (a.hidden,), (a.hidden,))

    def public_table(
        self, arrays: Sequence[Array], architecture: BertArchitecture
    ) -> EmbeddingTable:
        """All of the embedding."""
        return EmbeddingTable.from_arrays(arrays, architecture.epsilon, architecture.padding)

    # -- graph ----------------------------------------------------------------------------------

    def graph(
        self, architecture: BertArchitecture, ranges: Ranges, head: Head, tokens: int, batch: int
    ) -> Graph:
        """Layers, then the head; `ConfigError` where a range is missing."""
        a, builder = architecture, GraphBuilder(tokens, batch, ranges)
        edge = builder.input(INPUT, (builder.rows, a.hidden))
        mask = builder.input(MASK, (batch, tokens), is_bits=True)
        for layer in range(a.layers):
            context, residual = self._attention(builder, a, layer, edge, mask)
            edge = self._feed_forward(builder, a, layer, context, residual)
        public = (
            "The embedding table (words, positions, token types and their LayerNorm) is public to "
            "the client; token ids never leave the client."
        )
        output = head.add(builder, edge, mask, a.hidden)
        return builder.graph((output,), (public, head.disclosure))

    def _attention(
        self, builder: GraphBuilder, a: BertArchitecture, layer: int, edge: str, mask: str
    ) -> tuple[str, str]:
        """Edges of the context and of the residual branch."""
        name, bound = f"layer{layer}", builder.bound
        query, key, value = (bound(f"{name}.{part}") for part in ("query", "key", "value"))
        # Query, key and value are one product, since they share an input.
        projected = max((query, key, value), key=lambda b: b.rms)
        kept = None if edge == INPUT else f"{name}.residual"
        ends = bound(f"{name}.input"), projected
        qkv = builder.linear((layer, "qkv"), edge, (a.hidden, 3 * a.hidden), ends, kept)
        sizes = (a.heads, a.head_size)
        context = builder.self_attention(layer, (qkv, mask), sizes, buckets=self.buckets)
        return context, edge if kept is None else kept

    def _feed_forward(
        self, builder: GraphBuilder, a: BertArchitecture, layer: int, context: str, residual: str
    ) -> str:
        """The edge of the layer's normalised rows."""
        name, bound = f"layer{layer}", builder.bound
        hidden, middle, width = a.hidden, f"{name}.attention_norm", (a.hidden, a.intermediate)
        ends = bound(f"{name}.context"), bound(f"{middle}.sum")
        edge = builder.linear((layer, "attention_output"), context, (hidden, hidden), ends)
        edge = builder.layer_norm((layer, "attention_norm"), edge, residual, hidden, a.epsilon)
        up, kept = bound(f"{name}.intermediate"), f"{middle}.residual"
        ends = normalised_bound(hidden), up
        edge = builder.linear((layer, "intermediate"), edge, width, ends, kept)
        shape = (builder.rows, a.intermediate)
        edge = builder.add((layer, "gelu"), "gelu", (edge,), shape, {"input": up})
        ends = bound(f"{name}.gelu"), bound(f"{name}.output_norm.sum")
        edge = builder.linear((layer, "output"), edge, width[::-1], ends)
        return builder.layer_norm((layer, "output_norm"), edge, kept, hidden, a.epsilon)

    def client_inputs(
        self, table: EmbeddingTable, token_ids: NDArray[np.int64], mask: NDArray[np.bool_]
    ) -> dict[str, NDArray[Any]]:
        """The embedding of every text, (batch * tokens, hidden), and which tokens are real."""
        return {INPUT: np.concatenate([table.embed(ids) for ids in token_ids]), MASK: mask}

    def fold(self, weights: BertWeights, architecture: BertArchitecture) -> dict[str, LinearMap]:
        """Gains and biases of a norm in the maps that read it; the last ones under "pool"."""
        maps: dict[str, LinearMap] = {}
        previous: Affine | None = None
        shrink = 1 / math.sqrt(architecture.head_size)
        for index, layer in enumerate(weights.layers):
            name = f"layer{index}"
            parts = [linear_map(part) for part in (layer.query, layer.key, layer.value)]
            maps[f"{name}.qkv"] = after_norm(side_by_side(parts, (shrink, 1.0, 1.0)), previous)
            maps[f"{name}.attention_output"] = linear_map(layer.attention_output)
            up = linear_map(layer.intermediate)
            maps[f"{name}.intermediate"] = after_norm(up, layer.attention_norm)
            maps[f"{name}.output"] = linear_map(layer.output)
            if weights.score_bias is not None:
                maps[f"{name}.score_bias"] = of_buckets(weights.score_bias)
            previous = layer.output_norm
        assert previous is not None
        maps["pool"] = norm_alone(previous)
        return maps

    # -- plain reference ------------------------------------------------------------------------

    @torch.no_grad()
    def plain_rows(
        self,
        weights: BertWeights,
        architecture: BertArchitecture,
        token_ids: NDArray[np.int64],
        mask: NDArray[np.bool_],
        see: Observer,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The encoder as published, in torch."""
        bias = None
        if self.buckets is not None and weights.score_bias is not None:
            bias = self.buckets.bias(weights.score_bias, len(token_ids))
        plain = _Plain(see, dtype, architecture, torch.from_numpy(mask), bias)
        table = weights.embedding
        words, positions, types = table.parts(token_ids)
        x = plain.tensor(words) + plain.tensor(positions) + plain.tensor(types)
        _, x = plain.layer_norm("embedding", x, table.norm, table.epsilon)
        normalised = x
        for index, layer in enumerate(weights.layers):
            normalised, x = plain.layer(f"layer{index}", layer, x, normalised)
        return x


@dataclass(frozen=True, slots=True)
class _Plain(PlainPass):
    a: BertArchitecture
    mask: Tensor
    bias: Array | None
    """(heads, tokens, tokens), added to the scores of every layer."""

    def layer(
        self, name: str, layer: BertLayer, x: Tensor, normalised: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Rows before and after gain and bias of the last norm, from those of the layer before."""
        see, epsilon = self.see, self.a.epsilon
        see(f"{name}.input", normalised)
        see(f"{name}.residual", x)
        x = x + self.linear(self._attention(name, layer, x), layer.attention_output)
        _, x = self.layer_norm(f"{name}.attention_norm", x, layer.attention_norm, epsilon)
        see(f"{name}.attention_norm.residual", x)
        up = self.linear(x, layer.intermediate)
        see(f"{name}.intermediate", up)
        active = gelu(up)
        see(f"{name}.gelu", active)
        down = x + self.linear(active, layer.output)
        return self.layer_norm(f"{name}.output_norm", down, layer.output_norm, epsilon)

    def _attention(self, name: str, layer: BertLayer, x: Tensor) -> Tensor:
        a = self.a
        query, key, value = (
            self.linear(x, part).reshape(len(x), a.heads, a.head_size).transpose(0, 1)
            for part in (layer.query, layer.key, layer.value)
        )
        # 1/sqrt(head size) is folded into the query, as in the private graph.
        query = query / math.sqrt(a.head_size)
        scores = query @ key.transpose(1, 2)
        for edge, tensor in (("query", query), ("key", key), ("value", value), ("scores", scores)):
            self.see(f"{name}.{edge}", tensor)
        if self.bias is not None:
            scores = scores + self.tensor(self.bias)
            self.see(f"{name}.score_bias", scores)
        weights = torch.softmax(scores.masked_fill(~self.mask, -torch.inf), -1)
        context = (weights @ value).transpose(0, 1).reshape(len(x), a.hidden)
        self.see(f"{name}.context", context)
        return context
