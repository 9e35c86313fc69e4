"""LLaMA and what computes as it does: RMSNorm, rotary positions, grouped queries, SwiGLU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import silu

from hybrid.models.architecture import Architecture
from hybrid.models.causal import Cache, CausalPass
from hybrid.models.checkpoint import Checkpoint
from hybrid.models.decoder import Decoder
from hybrid.models.decoder_graph import EMBEDDING, LOGITS, DecoderGraphBuilder, Pass
from hybrid.models.decoder_settings import head_table
from hybrid.models.folding import FloatArray, LinearMap, gained
from hybrid.models.gguf_file import GgufFile
from hybrid.models.graph import Graph
from hybrid.models.llama_names import (
    GGUF,
    GGUF_LINEAR,
    GGUF_NORMS,
    HF_LINEAR,
    HF_NORMS,
    LAYOUT,
    LINEAR,
    NORMS,
    ROPE_THETA,
    SIZES,
)
from hybrid.models.random_weights import RandomWeights
from hybrid.models.ranges import Observer, Ranges, widest
from hybrid.models.rotary import angles, halves_from_neighbours, rotate
from hybrid.models.settings import as_float, even_split, read_sizes, require
from hybrid.models.token_table import TokenTable
from hybrid.models.weights import Array
from transport.errors import ConfigError
from transport.foreign import shown


@dataclass(frozen=True, slots=True, kw_only=True)
class LlamaArchitecture(Architecture):
    """A pre-norm decoder."""

    kv_heads: int
    """Heads of keys and values; heads / kv_heads queries that stand side by side share one."""
    head_size: int = field()
    """Columns of one head; heads * head_size need not be `hidden`."""
    rope_theta: float
    tied: bool
    """Whether the head is the embedding table."""

    def check_sizes(self, place: str) -> None:
        """`ConfigError` when sizes do not go together."""
        if self.heads % self.kv_heads:
            raise ConfigError(
                f"{place}: {self.heads} heads are not a multiple of {self.kv_heads} key/value heads"
            )
        if self.head_size % 2:
            raise ConfigError(
                f"{place}: head size {self.head_size} is odd; rotary positions need pairs"
            )

    def line(self) -> str:
        """Sizes for a reader."""
        return f"{Architecture.line(self)}, {self.kv_heads} key/value heads of {self.head_size}"


@dataclass(frozen=True, slots=True)
class LlamaLayer:
    """One layer; matrices are (in, out), norms are gains (hidden,)."""

    attention_norm: Array
    query: Array
    """Columns of each head pair i with i + size / 2."""
    key: Array
    value: Array
    attention_output: Array
    feed_forward_norm: Array
    gate: Array
    up: Array
    down: Array


@dataclass(frozen=True, slots=True)
class LlamaWeights:
    """Everything the server owns."""

    embedding: TokenTable
    layers: tuple[LlamaLayer, ...]
    norm: Array
    """Gain of the last norm."""
    head: Array
    """(vocabulary, hidden); the embedding's words where it is tied."""


def _shapes(a: LlamaArchitecture) -> tuple[tuple[int, int], ...]:
    """(in, out) of the linear maps of a layer, as `LINEAR` names them."""
    queries, keys = a.heads * a.head_size, a.kv_heads * a.head_size
    into = (a.hidden, keys), (a.hidden, keys), (queries, a.hidden)
    wide = (a.hidden, a.intermediate), (a.hidden, a.intermediate), (a.intermediate, a.hidden)
    return ((a.hidden, queries), *into, *wide)


class Llama(Decoder[LlamaArchitecture, LlamaWeights]):
    """Decoders: RMSNorm before attention and before SwiGLU, rotary positions, no biases."""

    name = "llama"
    architecture = LlamaArchitecture
    model_types = ("llama",)
    gguf_types = ("llama",)
    shapes = {
        "smollm2-135m": {
            "hidden": 576, "layers": 30, "heads": 9, "kv_heads": 3, "intermediate": 1536,
            "vocabulary": 49152, "positions": 8192,
        },
        "llama-1b": {
            "hidden": 2048, "layers": 16, "heads": 32, "kv_heads": 8, "intermediate": 8192,
            "vocabulary": 128256, "positions": 131072,
        },
    }  # fmt: skip
    shape_sizes = ("hidden", "layers", "heads", "intermediate")
    optional_sizes = ("kv_heads", "head_size")

    # -- Hugging Face folders -------------------------------------------------------------------

    def read_architecture(self, raw: Mapping[str, Any], place: str) -> LlamaArchitecture:
        """From config.json; refuses whatever would be computed otherwise than it says."""
        rope = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
        if not isinstance(rope, dict):
            raise ConfigError(f"{place}: rope_parameters is {shown(rope)}; expected a table")
        require(raw, place, "hidden_act", "silu")
        for key in ("attention_bias", "mlp_bias"):
            require(raw, place, key, False, None)
        require(raw, place, "sliding_window", None)
        for key in ("rope_type", "type"):
            require(rope, f"{place}: rope_parameters", key, "default", None)
        for table in (raw, rope):
            require(table, place, "partial_rotary_factor", 1, None)
        values = read_sizes(raw, place, SIZES)
        heads, size = raw.get("num_key_value_heads"), raw.get("head_dim")
        values["kv_heads"] = values["heads"] if heads is None else heads
        values["head_size"] = even_split(values, place) if size is None else size
        values["rope_theta"] = as_float(rope.get("rope_theta", raw.get("rope_theta", ROPE_THETA)))
        values["epsilon"] = as_float(values["epsilon"])
        values["tied"] = raw.get("tie_word_embeddings", False)
        return LlamaArchitecture.from_public(values, place)

    def read_weights(self, folder: Path, architecture: LlamaArchitecture) -> LlamaWeights:
        """Every tensor of a folder, checked against the architecture."""
        a = architecture
        file = Checkpoint(folder, LAYOUT, tied=a.tied)

        def layer(index: int) -> LlamaLayer:
            names = [f"layers.{index}.{name}" for name in (*HF_LINEAR, *HF_NORMS)]
            shapes = _shapes(a)
            linear = [file.matrix(n, *s) for n, s in zip(names, shapes, strict=False)]
            norms = [file.take(f"{n}.weight", (a.hidden,)) for n in names[len(shapes) :]]
            return _layer(linear, norms)

        words = file.take("embed_tokens.weight", (a.vocabulary, a.hidden))
        head = head_table(file, "lm_head.weight", words, a.tied)
        layers = tuple(layer(i) for i in range(a.layers))
        norm = file.take("norm.weight", (a.hidden,))
        file.finish()
        return LlamaWeights(TokenTable(words), layers, norm, head)

    # -- GGUF -----------------------------------------------------------------------------------

    def read_gguf_architecture(self, file: GgufFile) -> LlamaArchitecture:
        """From a file's settings; refuses those that it does not know."""
        values, settings = GGUF.read(file)
        place = str(file.path)
        values["kv_heads"] = settings.get("attention.head_count_kv", values["heads"])
        size = settings.get("attention.key_length") or even_split(values, place)
        for key in ("attention.value_length", "rope.dimension_count"):
            require(settings, place, key, size, None)
        values["head_size"] = size
        values["rope_theta"] = settings.get("rope.freq_base", ROPE_THETA)
        values["tied"] = "output.weight" not in file
        return LlamaArchitecture.from_public(values, place)

    def read_gguf_weights(self, file: GgufFile, architecture: LlamaArchitecture) -> LlamaWeights:
        """Every tensor, dequantised; pairs of query and key moved to where ours are."""
        a = architecture

        def matrix(name: str, d_in: int, d_out: int) -> Array:
            rows = file.take(f"{name}.weight", (d_out, d_in))
            heads = {"attn_q": a.heads, "attn_k": a.kv_heads}.get(name.rpartition(".")[2])
            if heads is not None:
                rows = halves_from_neighbours(rows, heads)
            return np.ascontiguousarray(rows.T)

        def layer(index: int) -> LlamaLayer:
            at = f"blk.{index}."
            shapes = zip(GGUF_LINEAR, _shapes(a), strict=True)
            linear = [matrix(at + n, *shape) for n, shape in shapes]
            norms = [file.take(f"{at}{n}.weight", (a.hidden,)) for n in GGUF_NORMS]
            return _layer(linear, norms)

        words = file.take("token_embd.weight", (a.vocabulary, a.hidden))
        head = head_table(file, "output.weight", words, a.tied)
        layers = tuple(layer(i) for i in range(a.layers))
        norm = file.take("output_norm.weight", (a.hidden,))
        file.finish()
        return LlamaWeights(TokenTable(words), layers, norm, head)

    # -- shapes ---------------------------------------------------------------------------------

    def shape_architecture(self, sizes: Mapping[str, int], place: str) -> LlamaArchitecture:
        """As many key/value heads as heads unless given, tied, the usual epsilon."""
        values = {"epsilon": 1e-5, "rope_theta": ROPE_THETA, "tied": True, **sizes}
        values.setdefault("kv_heads", sizes["heads"])
        if "head_size" not in values:
            values["head_size"] = even_split(values, place)
        return LlamaArchitecture.from_public(values, place)

    def random_weights(self, architecture: LlamaArchitecture) -> LlamaWeights:
        """Magnitudes of trained models; always the same."""
        a, draw = architecture, RandomWeights()

        def gain() -> Array:
            return 1 + draw.normal(0.1, a.hidden)

        def layer() -> LlamaLayer:
            gains = (1.2, 1.2, 1.0, 1.0, 1.5, 1.0, 1.0)
            linear = [
                draw.normal(g / np.sqrt(d_in), d_in, d_out)
                for g, (d_in, d_out) in zip(gains, _shapes(a), strict=True)
            ]
            return _layer(linear, [gain(), gain()])

        words = draw.normal(1.0, a.vocabulary, a.hidden)
        head = words if a.tied else draw.normal(1.0, a.vocabulary, a.hidden)
        layers = tuple(layer() for _ in range(a.layers))
        return LlamaWeights(TokenTable(words), layers, gain(), head)

    # -- graph ----------------------------------------------------------------------------------

    learns_positions = False
    turns_keys = True

    def turned(self, architecture: LlamaArchitecture, keys: FloatArray, by: int) -> FloatArray:
        """Keys (kv_heads, positions, size) as they would be `by` positions later."""
        a = architecture
        further = angles(by, 1, a.head_size, a.rope_theta)
        found: FloatArray = rotate(torch.from_numpy(keys), further).numpy()
        return found

    def graph(self, architecture: LlamaArchitecture, ranges: Ranges, what: Pass) -> Graph:
        """Layers, then the head on the last row; `ConfigError` where a range is missing."""
        a, b = architecture, DecoderGraphBuilder(what, ranges)
        sources: tuple[str, ...] = (b.embedding(a.vocabulary, a.hidden),)
        for layer in range(a.layers):
            place = (layer, "attention_norm")
            edge, stream = b.norm(place, "rmsnorm", sources, a.hidden, a.epsilon)
            edge = self._attention_nodes(b, a, layer, edge)
            place = (layer, "feed_forward_norm")
            edge, stream = b.norm(place, "rmsnorm", (stream, edge), a.hidden, a.epsilon)
            sources = (stream, self._feed_forward_nodes(b, a, layer, edge))
        last = b.last_row(sources, a.hidden)
        edge, _ = b.norm((-1, "final"), "rmsnorm", (last,), a.hidden, a.epsilon)
        return b.next_token(edge, a.hidden, a.vocabulary)

    @staticmethod
    def _attention_nodes(
        b: DecoderGraphBuilder, a: LlamaArchitecture, layer: int, edge: str
    ) -> str:
        name, bound, size = f"layer{layer}", b.bound, a.head_size
        width = (a.heads + 2 * a.kv_heads) * size
        parts = [bound(f"{name}.{part}") for part in ("query", "key_projection", "value")]
        ends = bound(f"{name}.attention_norm.normalised"), widest(parts)
        qkv = b.map((layer, "qkv"), edge, (a.hidden, width), ends)
        qkv = b.turned(layer, qkv, a.heads + a.kv_heads, (width, size, a.rope_theta))
        context = b.attention(layer, qkv, (a.heads, size), a.kv_heads, turned=True)
        ends = bound(f"{name}.context"), bound(f"{name}.attention_output")
        return b.map((layer, "attention_output"), context, (a.heads * size, a.hidden), ends)

    @staticmethod
    def _feed_forward_nodes(
        b: DecoderGraphBuilder, a: LlamaArchitecture, layer: int, edge: str
    ) -> str:
        name, bound, inner = f"layer{layer}", b.bound, a.intermediate
        parts = [bound(f"{name}.{part}") for part in ("gate", "up")]
        ends = bound(f"{name}.feed_forward_norm.normalised"), widest(parts)
        both = b.map((layer, "gate_up"), edge, (a.hidden, 2 * inner), ends)
        gate, up = b.halves(layer, both, ("gate", "up"), inner)
        bounds = {"input": bound(f"{name}.gate")}
        active = b.add((layer, "silu"), "silu", (gate,), (b.rows, inner), bounds)
        edge = b.gated(layer, (active, up), ("silu", "up"), inner)
        ends = bound(f"{name}.gated"), bound(f"{name}.down")
        return b.map((layer, "down"), edge, (inner, a.hidden), ends)

    def fold(
        self, weights: LlamaWeights, architecture: LlamaArchitecture
    ) -> Iterator[tuple[str, LinearMap]]:
        """Gains of a norm in the maps that read it; 1/sqrt(head size) in the query."""
        shrink = np.float32(1 / np.sqrt(architecture.head_size))
        yield EMBEDDING, gained([weights.embedding.words])
        for index, part in enumerate(weights.layers):
            name = f"layer{index}"
            heads = [part.query * shrink, part.key, part.value]
            yield f"{name}.qkv", gained(heads, part.attention_norm)
            yield f"{name}.attention_output", gained([part.attention_output])
            yield f"{name}.gate_up", gained([part.gate, part.up], part.feed_forward_norm)
            yield f"{name}.down", gained([part.down])
        yield LOGITS, gained([weights.head.T], weights.norm)

    # -- plain reference ------------------------------------------------------------------------

    @torch.no_grad()
    def plain_logits(
        self,
        weights: LlamaWeights,
        architecture: LlamaArchitecture,
        token_ids: NDArray[np.int64],
        cache: Cache,
        see: Observer,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The decoder as published, in torch."""
        a = architecture
        turns = angles(cache.length, len(token_ids), a.head_size, a.rope_theta)
        plain = _Plain(see, dtype, cache, a, turns)
        x = plain.tensor(weights.embedding.words[token_ids])
        see(EMBEDDING, x)
        for index, layer in enumerate(weights.layers):
            x = plain.layer(index, layer, x)
        x = plain.rms_norm("final", x, weights.norm, a.epsilon)
        logits = x @ plain.tensor(weights.head).T
        see(LOGITS, logits)
        return logits


def _layer(linear: list[Array], norms: list[Array]) -> LlamaLayer:
    parts = dict(zip(LINEAR, linear, strict=True)) | dict(zip(NORMS, norms, strict=True))
    return LlamaLayer(**parts)


@dataclass(frozen=True, slots=True)
class _Plain(CausalPass):
    a: LlamaArchitecture
    turns: Tensor
    """Angles of the positions of this pass."""

    def layer(self, index: int, layer: LlamaLayer, x: Tensor) -> Tensor:
        """The residual stream behind the layer, from that before it; both (tokens, hidden)."""
        name, see, epsilon = f"layer{index}", self.see, self.a.epsilon
        rows = self.rms_norm(f"{name}.attention_norm", x, layer.attention_norm, epsilon)
        x = x + self._attention(name, index, layer, rows)
        see(f"{name}.attention_sum", x)
        rows = self.rms_norm(f"{name}.feed_forward_norm", x, layer.feed_forward_norm, epsilon)
        gate, up = rows @ self.tensor(layer.gate), rows @ self.tensor(layer.up)
        active = silu(gate)
        gated = active * up
        down = gated @ self.tensor(layer.down)
        for edge, tensor in zip(
            ("gate", "up", "silu", "gated", "down"), (gate, up, active, gated, down), strict=True
        ):
            see(f"{name}.{edge}", tensor)
        x = x + down
        see(f"{name}.sum", x)
        return x

    def _attention(self, name: str, index: int, layer: LlamaLayer, rows: Tensor) -> Tensor:
        query, key, value = (
            self.heads(rows @ self.tensor(part), self.a.head_size)
            for part in (layer.query, layer.key, layer.value)
        )
        self.see(f"{name}.query_projection", query)
        self.see(f"{name}.key_projection", key)
        query, key = rotate(query, self.turns), rotate(key, self.turns)
        output = self.attention(name, index, query, key, value) @ self.tensor(
            layer.attention_output
        )
        self.see(f"{name}.attention_output", output)
        return output
