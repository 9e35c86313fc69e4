"""ModernBERT: LayerNorm before attention and gated GELU, rotary positions, windows of attention."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import gelu

from hybrid.models.checkpoint import Checkpoint, Layout
from hybrid.models.embedding import NormalisedWords
from hybrid.models.family import Family
from hybrid.models.folding import LinearMap, behind, linear_map, norm_alone, scaled
from hybrid.models.graph import Graph
from hybrid.models.graph_builder import GraphBuilder, normalised_bound
from hybrid.models.heads import Head
from hybrid.models.modernbert_settings import (
    BIASES,
    DEFAULTS,
    ModernBertArchitecture,
    read_settings,
)
from hybrid.models.plain import PlainPass
from hybrid.models.random_weights import RandomWeights
from hybrid.models.ranges import Observer, Ranges, widest
from hybrid.models.rotary import angles, rotate
from hybrid.models.weights import Affine, Array
from hybrid.models.windows import visible

INPUT, MASK = "embedding", "mask"


@dataclass(frozen=True, slots=True)
class ModernBertLayer:
    """One layer; linear weights are (in, out)."""

    attention_norm: Affine | None
    """None in the first layer, which reads the normalised embedding."""
    qkv: Affine
    """Query, key and value side by side."""
    attention_output: Affine
    feed_forward_norm: Affine
    up: Affine
    """What goes into the GELU and what its result is multiplied with, side by side."""
    down: Affine


@dataclass(frozen=True, slots=True)
class ModernBertWeights:
    """Everything the server owns."""

    embedding: NormalisedWords
    layers: tuple[ModernBertLayer, ...]
    norm: Affine
    """The last one."""


_LAYOUT = Layout(
    marker="embeddings.tok_embeddings.weight",
    second="embeddings.norm.weight",
    tied=("decoder.weight",),
    heads=("head", "decoder", "classifier"),
)


class ModernBert(Family[ModernBertArchitecture, ModernBertWeights, NormalisedWords]):
    """Encoders: sums of raw rows are kept, and normalised where a linear map reads them.

    Gains and biases of LayerNorms are folded into those maps, 1/sqrt(head size) into the query.
    """

    name = "modernbert"
    architecture = ModernBertArchitecture
    layout = _LAYOUT
    model_types = ("modernbert",)
    shapes = {
        "modernbert-base": {"hidden": 768, "layers": 22, "heads": 12, "intermediate": 1152},
        "modernbert-large": {"hidden": 1024, "layers": 28, "heads": 16, "intermediate": 2624},
    }
    shape_sizes = ("hidden", "layers", "heads", "intermediate")
    optional_sizes = ("global_every", "local_attention")

    # -- files ----------------------------------------------------------------------------------

    def read_architecture(self, raw: Mapping[str, Any], place: str) -> ModernBertArchitecture:
        """From config.json; refuses whatever would be computed otherwise than it says."""
        return read_settings(raw, place)

    def shape_architecture(self, sizes: Mapping[str, int], place: str) -> ModernBertArchitecture:
        """Windows, angles and epsilon of the published models."""
        return ModernBertArchitecture.from_public({**DEFAULTS, **sizes}, place)

    def read_weights(
        self, folder: Path, raw: Mapping[str, Any], architecture: ModernBertArchitecture
    ) -> ModernBertWeights:
        """Every tensor of the encoder, checked against the architecture; heads are left."""
        a, tied = architecture, bool(raw.get("tie_word_embeddings", True))
        file = Checkpoint(folder, _LAYOUT, tied=tied)
        of_norms, of_attention, of_mlp = (bool(raw.get(key)) for key in BIASES)
        file.refuse_layer("layers", a.layers)

        def affine(name: str, d_in: int, d_out: int, has_bias: bool) -> Affine:
            if has_bias:
                return file.linear(name, d_in, d_out)
            return Affine(file.matrix(name, d_in, d_out), np.zeros(d_out, np.float32))

        def norm(name: str) -> Affine:
            if of_norms:
                return file.norm(name, a.hidden)
            gain = file.take(f"{name}.weight", (a.hidden,))
            return Affine(gain, np.zeros_like(gain))

        def layer(index: int) -> ModernBertLayer:
            name = f"layers.{index}"
            return ModernBertLayer(
                norm(f"{name}.attn_norm") if index else None,
                affine(f"{name}.attn.Wqkv", a.hidden, 3 * a.hidden, of_attention),
                affine(f"{name}.attn.Wo", a.hidden, a.hidden, of_attention),
                norm(f"{name}.mlp_norm"),
                affine(f"{name}.mlp.Wi", a.hidden, 2 * a.intermediate, of_mlp),
                affine(f"{name}.mlp.Wo", a.intermediate, a.hidden, of_mlp),
            )

        words = file.take("embeddings.tok_embeddings.weight", (a.vocabulary, a.hidden))
        table = NormalisedWords(words, norm("embeddings.norm"), a.epsilon)
        layers = tuple(layer(i) for i in range(a.layers))
        final = norm("final_norm")
        file.finish()
        return ModernBertWeights(table, layers, final)

    def random_weights(self, architecture: ModernBertArchitecture) -> ModernBertWeights:
        """Magnitudes of trained models; always the same."""
        a, draw = architecture, RandomWeights()

        def linear(d_in: int, d_out: int, *gains: float) -> Affine:
            """Without biases, as the published models."""
            parts = [draw.normal(g / math.sqrt(d_in), d_in, d_out) for g in gains]
            return Affine(np.concatenate(parts, axis=1), np.zeros(d_out * len(gains), np.float32))

        def norm() -> Affine:
            return Affine(1 + draw.normal(0.1, a.hidden), np.zeros(a.hidden, np.float32))

        def layer(index: int) -> ModernBertLayer:
            return ModernBertLayer(
                norm() if index else None,
                linear(a.hidden, a.hidden, 1.2, 1.2, 1.0),
                linear(a.hidden, a.hidden, 1.0),
                norm(),
                linear(a.hidden, a.intermediate, 1.5, 1.0),
                linear(a.intermediate, a.hidden, 1.0),
            )

        words = draw.normal(1.0, a.vocabulary, a.hidden)
        table = NormalisedWords(words, norm(), a.epsilon)
        return ModernBertWeights(table, tuple(layer(i) for i in range(a.layers)), norm())

    def public_shapes(self, architecture: ModernBertArchitecture) -> tuple[tuple[int, ...], ...]:
        """Words, gain and bias of their norm."""
        a = architecture
        return ((a.vocabulary, a.hidden), (a.hidden,), (a.hidden,))

    def public_table(
        self, arrays: Sequence[Array], architecture: ModernBertArchitecture
    ) -> NormalisedWords:
        """All of the embedding."""
        return NormalisedWords.from_arrays(arrays, architecture.epsilon)

    # -- graph ----------------------------------------------------------------------------------

    def graph(
        self,
        architecture: ModernBertArchitecture,
        ranges: Ranges,
        head: Head,
        tokens: int,
        batch: int,
    ) -> Graph:
        """Layers, the last norm, then the head; `ConfigError` where a range is missing."""
        a, b = architecture, GraphBuilder(tokens, batch, ranges)
        edge = stream = b.input(INPUT, (b.rows, a.hidden))
        mask = b.input(MASK, (batch, tokens), is_bits=True)
        sources: tuple[str, ...] = (stream,)
        for layer in range(a.layers):
            if layer:
                place = (layer, "attention_norm")
                edge, stream = b.norm(place, "layernorm", sources, a.hidden, a.epsilon)
            edge = self._attention(b, a, layer, edge, mask)
            place = (layer, "feed_forward_norm")
            edge, stream = b.norm(place, "layernorm", (stream, edge), a.hidden, a.epsilon)
            sources = (stream, self._feed_forward(b, a, layer, edge))
        edge, _ = b.norm((-1, "final_norm"), "layernorm", sources, a.hidden, a.epsilon)
        public = (
            "The embedding table (words and their LayerNorm) is public to the client; token ids "
            "never leave the client."
        )
        output = head.add(b, edge, mask, a.hidden)
        return b.graph((output,), (public, head.disclosure))

    @staticmethod
    def _attention(
        b: GraphBuilder, a: ModernBertArchitecture, layer: int, edge: str, mask: str
    ) -> str:
        name, bound, width = f"layer{layer}", b.bound, 3 * a.hidden
        parts = [bound(f"{name}.{p}") for p in ("query_projection", "key_projection", "value")]
        ends = bound(f"{name}.input"), widest(parts)
        qkv = b.linear((layer, "qkv"), edge, (a.hidden, width), ends)
        qkv = b.rotary(layer, qkv, 2 * a.heads, (width, a.head_size, a.theta(layer)))
        context = b.self_attention(layer, (qkv, mask), (a.heads, a.head_size), a.window(layer))
        ends = bound(f"{name}.context"), bound(f"{name}.attention_output")
        return b.linear((layer, "attention_output"), context, (a.hidden, a.hidden), ends)

    @staticmethod
    def _feed_forward(b: GraphBuilder, a: ModernBertArchitecture, layer: int, edge: str) -> str:
        name, bound, inner = f"layer{layer}", b.bound, a.intermediate
        names = ("up", "gate")
        ends = normalised_bound(a.hidden), widest([bound(f"{name}.{part}") for part in names])
        both = b.linear((layer, "up_gate"), edge, (a.hidden, 2 * inner), ends)
        up, gate = b.halves(layer, both, names, inner)
        bounds = {"input": bound(f"{name}.up")}
        active = b.add((layer, "gelu"), "gelu", (up,), (b.rows, inner), bounds)
        edge = b.gated(layer, (active, gate), ("gelu", "gate"), inner)
        ends = bound(f"{name}.gated"), bound(f"{name}.down")
        return b.linear((layer, "down"), edge, (inner, a.hidden), ends)

    def client_inputs(
        self, table: NormalisedWords, token_ids: NDArray[np.int64], mask: NDArray[np.bool_]
    ) -> dict[str, NDArray[Any]]:
        """The embedding of every text, (batch * tokens, hidden), and which tokens are real."""
        return {INPUT: np.concatenate([table.embed(ids) for ids in token_ids]), MASK: mask}

    def fold(
        self, weights: ModernBertWeights, architecture: ModernBertArchitecture
    ) -> dict[str, LinearMap]:
        """Gains and biases of a norm in the maps that read it; the last ones under "pool"."""
        maps: dict[str, LinearMap] = {}
        a = architecture
        factors = np.repeat([1 / math.sqrt(a.head_size), 1.0, 1.0], a.hidden)
        for index, layer in enumerate(weights.layers):
            name, norm = f"layer{index}", layer.attention_norm
            qkv = linear_map(layer.qkv) if norm is None else behind(layer.qkv, norm)
            maps[f"{name}.qkv"] = scaled(qkv, factors)
            maps[f"{name}.attention_output"] = linear_map(layer.attention_output)
            maps[f"{name}.up_gate"] = behind(layer.up, layer.feed_forward_norm)
            maps[f"{name}.down"] = linear_map(layer.down)
        maps["pool"] = norm_alone(weights.norm)
        return maps

    # -- plain reference ------------------------------------------------------------------------

    @torch.no_grad()
    def plain_rows(
        self,
        weights: ModernBertWeights,
        architecture: ModernBertArchitecture,
        token_ids: NDArray[np.int64],
        mask: NDArray[np.bool_],
        see: Observer,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The encoder as published, in torch."""
        plain = _Plain(see, dtype, architecture, mask)
        table = weights.embedding
        rows = plain.tensor(table.words[token_ids])
        _, x = plain.layer_norm(INPUT, rows, table.norm, table.epsilon)
        for index, layer in enumerate(weights.layers):
            x = plain.layer(index, layer, x)
        return plain.layer_norm("final_norm", x, weights.norm, architecture.epsilon)[1]


@dataclass(frozen=True, slots=True)
class _Plain(PlainPass):
    a: ModernBertArchitecture
    mask: NDArray[np.bool_]

    def layer(self, index: int, layer: ModernBertLayer, x: Tensor) -> Tensor:
        """The sum of raw rows behind the layer, from that before it; both (tokens, hidden)."""
        name, see, epsilon = f"layer{index}", self.see, self.a.epsilon
        normalised = rows = x
        if layer.attention_norm is not None:
            place = f"{name}.attention_norm"
            normalised, rows = self.layer_norm(place, x, layer.attention_norm, epsilon)
        see(f"{name}.input", normalised)
        output = self.linear(self._attention(name, index, layer, rows), layer.attention_output)
        x = x + output
        place = f"{name}.feed_forward_norm"
        _, rows = self.layer_norm(place, x, layer.feed_forward_norm, epsilon)
        up, gate = self.linear(rows, layer.up).chunk(2, -1)
        active = gelu(up)
        gated = active * gate
        down = self.linear(gated, layer.down)
        edges = {"attention_output": output, "up": up, "gate": gate, "gelu": active}
        for edge, tensor in (edges | {"gated": gated, "down": down}).items():
            see(f"{name}.{edge}", tensor)
        return x + down

    def _attention(self, name: str, index: int, layer: ModernBertLayer, rows: Tensor) -> Tensor:
        a, count = self.a, len(rows)
        query, key, value = (
            part.reshape(count, a.heads, a.head_size).transpose(0, 1)
            for part in self.linear(rows, layer.qkv).chunk(3, -1)
        )
        # 1/sqrt(head size) is folded into the query, as in the private graph.
        query = query / math.sqrt(a.head_size)
        edges = {"query_projection": query, "key_projection": key, "value": value}
        turns = angles(0, count, a.head_size, a.theta(index))
        query, key = rotate(query, turns), rotate(key, turns)
        scores = query @ key.transpose(1, 2)
        for edge, tensor in (edges | {"query": query, "key": key, "scores": scores}).items():
            self.see(f"{name}.{edge}", tensor)
        window = a.window(index)
        seen = torch.from_numpy(visible(self.mask, count if window is None else window))
        weights = torch.softmax(scores.masked_fill(~seen, -torch.inf), -1)
        context = (weights @ value).transpose(0, 1).reshape(count, a.hidden)
        self.see(f"{name}.context", context)
        return context
