"""GPT-2: LayerNorm before attention and before the GELU layers, learned positions, biases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import gelu

from hybrid.models.architecture import Architecture
from hybrid.models.causal import Cache, CausalPass
from hybrid.models.checkpoint import Checkpoint, Layout
from hybrid.models.decoder import Decoder
from hybrid.models.decoder_graph import EMBEDDING, LOGITS, DecoderGraphBuilder, Pass
from hybrid.models.decoder_settings import GgufNames, head_table
from hybrid.models.folding import LinearMap, behind, gained, linear_map
from hybrid.models.gguf_file import GgufFile
from hybrid.models.graph import Graph
from hybrid.models.random_weights import RandomWeights
from hybrid.models.ranges import Observer, Ranges, widest
from hybrid.models.settings import as_float, read_sizes, require
from hybrid.models.token_table import TokenTable
from hybrid.models.weights import Affine, Array


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpt2Architecture(Architecture):
    """A pre-norm decoder with learned positions."""

    tied: bool
    """Whether the head is the embedding table."""


@dataclass(frozen=True, slots=True)
class Gpt2Layer:
    """One layer; linear weights are (in, out)."""

    attention_norm: Affine
    qkv: Affine
    """Query, key and value side by side."""
    attention_output: Affine
    feed_forward_norm: Affine
    up: Affine
    down: Affine


@dataclass(frozen=True, slots=True)
class Gpt2Weights:
    """Everything the server owns."""

    embedding: TokenTable
    layers: tuple[Gpt2Layer, ...]
    norm: Affine
    """The last one."""
    head: Array
    """(vocabulary, hidden); the embedding's words where it is tied."""


_SIZES = {
    "hidden": "n_embd",
    "layers": "n_layer",
    "heads": "n_head",
    "vocabulary": "vocab_size",
    "positions": "n_positions",
    "epsilon": "layer_norm_epsilon",
}
_GGUF = GgufNames(
    sizes={
        "hidden": "embedding_length",
        "layers": "block_count",
        "heads": "attention.head_count",
        "intermediate": "feed_forward_length",
        "positions": "context_length",
        "epsilon": "attention.layer_norm_epsilon",
    },
    optional=("vocab_size",),
    harmless={"attention.causal": True},
)
_LAYOUT = Layout(
    marker="wte.weight",
    second="wpe.weight",
    tied=("lm_head.weight",),
    # Old checkpoints keep the causal mask, which follows from the number of positions.
    ignored=r"h\.\d+\.attn\.(masked_)?bias",
)
_PARTS = ("attention_norm", "qkv", "attention_output", "feed_forward_norm", "up", "down")
_HF_PARTS = ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")
_GGUF_PARTS = ("attn_norm", "attn_qkv", "attn_output", "ffn_norm", "ffn_up", "ffn_down")


def _shapes(a: Gpt2Architecture) -> tuple[tuple[int, ...], ...]:
    """(width,) of norms and (in, out) of the linear maps of a layer, as `_PARTS` names them."""
    h, i = a.hidden, a.intermediate
    return ((h,), (h, 3 * h), (h, h), (h,), (h, i), (i, h))


class Gpt2(Decoder[Gpt2Architecture, Gpt2Weights]):
    """Decoders: LayerNorm first, learned positions, GELU in its tanh form."""

    name = "gpt2"
    architecture = Gpt2Architecture
    model_types = ("gpt2",)
    gguf_types = ("gpt2",)
    shapes = {
        "gpt2": {
            "hidden": 768, "layers": 12, "heads": 12, "intermediate": 3072,
            "vocabulary": 50257, "positions": 1024,
        },
    }  # fmt: skip
    shape_sizes = ("hidden", "layers", "heads", "intermediate")

    # -- files ----------------------------------------------------------------------------------

    def read_architecture(self, raw: Mapping[str, Any], place: str) -> Gpt2Architecture:
        """From config.json; refuses whatever would be computed otherwise than it says."""
        require(raw, place, "activation_function", "gelu_new", "gelu_pytorch_tanh", None)
        require(raw, place, "scale_attn_weights", True, None)
        for key in ("scale_attn_by_inverse_layer_idx", "add_cross_attention"):
            require(raw, place, key, False, None)
        values = read_sizes(raw, place, _SIZES)
        inner, hidden = raw.get("n_inner"), values["hidden"]
        values["intermediate"] = 4 * hidden if inner is None else inner
        values["epsilon"] = as_float(values["epsilon"])
        values["tied"] = raw.get("tie_word_embeddings", True)
        return Gpt2Architecture.from_public(values, place)

    def read_weights(self, folder: Path, architecture: Gpt2Architecture) -> Gpt2Weights:
        """Every tensor of a folder, checked against the architecture."""
        a = architecture
        file = Checkpoint(folder, _LAYOUT, tied=a.tied)

        def layer(index: int) -> Gpt2Layer:
            # Hugging Face stores these maps (in, out), unlike those of other models.
            pairs = zip(_HF_PARTS, _shapes(a), strict=True)
            return _layer([file.affine(f"h.{index}.{name}", *shape) for name, shape in pairs])

        words = file.take("wte.weight", (a.vocabulary, a.hidden))
        positions = file.take("wpe.weight", (a.positions, a.hidden))
        head = head_table(file, "lm_head.weight", words, a.tied)
        layers = tuple(layer(i) for i in range(a.layers))
        norm = file.affine("ln_f", a.hidden)
        file.finish()
        return Gpt2Weights(TokenTable(words, positions), layers, norm, head)

    def read_gguf_architecture(self, file: GgufFile) -> Gpt2Architecture:
        """From a file's settings; refuses those that it does not know."""
        values, _ = _GGUF.read(file)
        values["tied"] = "output.weight" not in file
        return Gpt2Architecture.from_public(values, str(file.path))

    def read_gguf_weights(self, file: GgufFile, architecture: Gpt2Architecture) -> Gpt2Weights:
        """Every tensor, dequantised; GGUF has linear maps (out, in)."""
        a = architecture

        def affine(name: str, *shape: int) -> Affine:
            weight = file.take(f"{name}.weight", shape[::-1])
            return Affine(np.ascontiguousarray(weight.T), file.take(f"{name}.bias", shape[-1:]))

        def layer(index: int) -> Gpt2Layer:
            pairs = zip(_GGUF_PARTS, _shapes(a), strict=True)
            return _layer([affine(f"blk.{index}.{name}", *shape) for name, shape in pairs])

        words = file.take("token_embd.weight", (a.vocabulary, a.hidden))
        positions = file.take("position_embd.weight", (a.positions, a.hidden))
        head = head_table(file, "output.weight", words, a.tied)
        layers = tuple(layer(i) for i in range(a.layers))
        norm = affine("output_norm", a.hidden)
        file.finish()
        return Gpt2Weights(TokenTable(words, positions), layers, norm, head)

    # -- shapes ---------------------------------------------------------------------------------

    def shape_architecture(self, sizes: Mapping[str, int], place: str) -> Gpt2Architecture:
        """Tied, the usual epsilon."""
        return Gpt2Architecture.from_public({"epsilon": 1e-5, "tied": True, **sizes}, place)

    def random_weights(self, architecture: Gpt2Architecture) -> Gpt2Weights:
        """Magnitudes of trained models; always the same."""
        a, draw = architecture, RandomWeights()
        gains = {"qkv": 1.2, "up": 1.5}

        def part(name: str, shape: tuple[int, ...]) -> Affine:
            if len(shape) == 1:
                return draw.norm(shape[0])
            return draw.linear(shape[0], shape[1], gains.get(name, 1.0))

        def layer() -> Gpt2Layer:
            return _layer([part(n, shape) for n, shape in zip(_PARTS, _shapes(a), strict=True)])

        words = draw.normal(1.0, a.vocabulary, a.hidden)
        table = TokenTable(words, draw.normal(0.3, a.positions, a.hidden))
        head = words if a.tied else draw.normal(1.0, a.vocabulary, a.hidden)
        return Gpt2Weights(
            table, tuple(layer() for _ in range(a.layers)), draw.norm(a.hidden), head
        )

    # -- graph ----------------------------------------------------------------------------------

    learns_positions = True

    def graph(self, architecture: Gpt2Architecture, ranges: Ranges, what: Pass) -> Graph:
        """Layers, then the head on the last row; `ConfigError` where a range is missing."""
        a, b = architecture, DecoderGraphBuilder(what, ranges)
        sources: tuple[str, ...] = (b.embedding(a.vocabulary + a.positions, a.hidden),)
        for layer in range(a.layers):
            name, bound = f"layer{layer}", b.bound
            place = (layer, "attention_norm")
            edge, stream = b.norm(place, "layernorm", sources, a.hidden, a.epsilon)
            parts = [bound(f"{name}.{part}") for part in ("query", "key", "value")]
            ends = bound(f"{name}.attention_norm.normalised"), widest(parts)
            qkv = b.map((layer, "qkv"), edge, (a.hidden, 3 * a.hidden), ends)
            edge = b.attention(layer, qkv, (a.heads, a.head_size), a.heads)
            ends = bound(f"{name}.context"), bound(f"{name}.attention_output")
            edge = b.map((layer, "attention_output"), edge, (a.hidden, a.hidden), ends)
            place = (layer, "feed_forward_norm")
            edge, stream = b.norm(place, "layernorm", (stream, edge), a.hidden, a.epsilon)
            sources = (stream, self._feed_forward_nodes(b, a, layer, edge))
        last = b.last_row(sources, a.hidden)
        edge, _ = b.norm((-1, "final"), "layernorm", (last,), a.hidden, a.epsilon)
        return b.next_token(edge, a.hidden, a.vocabulary)

    @staticmethod
    def _feed_forward_nodes(
        b: DecoderGraphBuilder, a: Gpt2Architecture, layer: int, edge: str
    ) -> str:
        name, bound, width = f"layer{layer}", b.bound, (a.hidden, a.intermediate)
        ends = bound(f"{name}.feed_forward_norm.normalised"), bound(f"{name}.up")
        edge = b.map((layer, "up"), edge, width, ends)
        bounds = {"input": bound(f"{name}.up")}
        edge = b.add((layer, "gelu"), "gelu_tanh", (edge,), (b.rows, a.intermediate), bounds)
        ends = bound(f"{name}.gelu"), bound(f"{name}.down")
        return b.map((layer, "down"), edge, width[::-1], ends)

    def fold(
        self, weights: Gpt2Weights, architecture: Gpt2Architecture
    ) -> Iterator[tuple[str, LinearMap]]:
        """Gain and bias of a norm in the maps that read it; 1/sqrt(head size) in the query."""
        table, hidden = weights.embedding, architecture.hidden
        factors = np.ones(3 * hidden)
        factors[:hidden] = 1 / np.sqrt(architecture.head_size)
        yield EMBEDDING, gained([np.concatenate(table.arrays())])
        for index, part in enumerate(weights.layers):
            name = f"layer{index}"
            heads = behind(part.qkv, part.attention_norm)
            yield f"{name}.qkv", LinearMap(heads.weight * factors, heads.bias * factors)
            yield f"{name}.attention_output", linear_map(part.attention_output)
            yield f"{name}.up", behind(part.up, part.feed_forward_norm)
            yield f"{name}.down", linear_map(part.down)
        no_bias = np.zeros(architecture.vocabulary, np.float32)
        yield LOGITS, behind(Affine(weights.head.T, no_bias), weights.norm)

    # -- plain reference ------------------------------------------------------------------------

    @torch.no_grad()
    def plain_logits(
        self,
        weights: Gpt2Weights,
        architecture: Gpt2Architecture,
        token_ids: NDArray[np.int64],
        cache: Cache,
        see: Observer,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The decoder as published, in torch."""
        a, table = architecture, weights.embedding
        plain = _Plain(see, dtype, cache, a)
        x = plain.tensor(table.words[token_ids])
        assert table.positions is not None
        x = x + plain.tensor(table.positions[cache.length : cache.length + len(token_ids)])
        see(EMBEDDING, x)
        for index, layer in enumerate(weights.layers):
            x = plain.layer(index, layer, x)
        x = plain.norm("final", x, weights.norm)
        logits = x @ plain.tensor(weights.head).T
        see(LOGITS, logits)
        return logits


def _layer(parts: list[Affine]) -> Gpt2Layer:
    return Gpt2Layer(**dict(zip(_PARTS, parts, strict=True)))


@dataclass(frozen=True, slots=True)
class _Plain(CausalPass):
    a: Gpt2Architecture

    def norm(self, name: str, x: Tensor, norm: Affine) -> Tensor:
        """LayerNorm; also shows the rows before gain and bias."""
        normalised, rows = self.layer_norm(name, x, norm, self.a.epsilon)
        self.see(f"{name}.normalised", normalised)
        return rows

    def layer(self, index: int, layer: Gpt2Layer, x: Tensor) -> Tensor:
        """The residual stream behind the layer, from that before it; both (tokens, hidden)."""
        name, see = f"layer{index}", self.see
        rows = self.norm(f"{name}.attention_norm", x, layer.attention_norm)
        parts = self.linear(rows, layer.qkv).chunk(3, -1)
        query, key, value = (self.heads(part, self.a.head_size) for part in parts)
        context = self.attention(name, index, query, key, value)
        output = self.linear(context, layer.attention_output)
        see(f"{name}.attention_output", output)
        x = x + output
        see(f"{name}.attention_sum", x)
        rows = self.norm(f"{name}.feed_forward_norm", x, layer.feed_forward_norm)
        up = self.linear(rows, layer.up)
        active = gelu(up, approximate="tanh")
        down = self.linear(active, layer.down)
        for edge, tensor in (("up", up), ("gelu", active), ("down", down)):
            see(f"{name}.{edge}", tensor)
        x = x + down
        see(f"{name}.sum", x)
        return x
