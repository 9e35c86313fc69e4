"""Weights, plain model, calibration and graph, against transformers and against wrong files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file

from hybrid.config.loading import checked, load_config
from hybrid.models.bert import Bert, BertArchitecture
from hybrid.models.graph import Graph, GraphInput, Node
from hybrid.models.heads import Head
from hybrid.models.loading import load_model, public_model
from hybrid.models.poolings import Mean
from hybrid.models.ranges import (
    default_sentences,
    observed_ranges,
    ranges_from_public,
    ranges_to_public,
)
from hybrid.models.tokenizing import FileTokenizer
from tests.model_parts import folder_model, read_folder
from tests.tiny_model import write_tiny_config
from transport.errors import ConfigError, UsageError

SENTENCES = ["Hello", "How do I reset my online banking password?", "zx 77 ##! é"]


def bare_graph(architecture, ranges, tokens):
    return Bert().graph(architecture, ranges, Head(Mean()), tokens, 1)


@pytest.mark.parametrize("text", SENTENCES)
def test_plain_model_agrees_with_transformers(minilm, text):
    from transformers import BertModel

    reference = BertModel.from_pretrained(minilm, add_pooling_layer=False).eval()
    ids = FileTokenizer(minilm, 32).encode(text)
    with torch.no_grad():
        hidden = reference(torch.from_numpy(ids)[None]).last_hidden_state[0]
    expected = hidden.mean(0).numpy()
    assert np.abs(folder_model(minilm, 32).plain(ids) - expected).max() < 2e-5


def test_padding_does_not_change_the_plain_model(tiny_model):
    ids = np.array([2, 4, 5, 3])
    short, long = (
        folder_model(tiny_model, tokens).plain(ids, dtype=torch.float64) for tokens in (4, 11)
    )
    assert np.abs(short - long).max() < 1e-12


def test_folded_maps_compute_the_same_model(tiny_model):
    """gain and bias of a norm folded into the next map give what the norm's output would."""
    model = folder_model(tiny_model)
    architecture, weights, maps = model.public.architecture, model.weights, model.maps()
    layer = weights.layers[0]
    n = np.random.default_rng(0).normal(size=(5, architecture.hidden))
    normed = n * layer.attention_norm.weight + layer.attention_norm.bias
    direct = normed @ layer.intermediate.weight + layer.intermediate.bias
    folded = maps["layer0.intermediate"]
    assert np.abs(n @ folded.weight + folded.bias - direct).max() < 1e-5
    assert np.abs(n * folded.scale + folded.shift - normed).max() < 1e-6
    query = n @ layer.query.weight + layer.query.bias
    qkv = n @ maps["layer0.qkv"].weight + maps["layer0.qkv"].bias
    shrunk = query / np.sqrt(architecture.head_size)
    assert np.abs(qkv[:, : architecture.hidden] - shrunk).max() < 1e-5


def test_bounds_are_powers_of_two_that_hold(tiny_model):
    encoder = FileTokenizer(tiny_model, 8)
    samples = [encoder.encode(text) for text in ("a small test", "private of inference")]
    bounds = observed_ranges(folder_model(tiny_model, 8).plain, samples, 2.0)
    for bound in bounds.values():
        for value in (bound.low, bound.rms, bound.max_abs):
            assert np.log2(value) == round(np.log2(value))
    seen = {}

    def observe(edge, tensor):
        seen[edge] = max(seen.get(edge, 0.0), float(tensor.abs().max()))

    for ids in samples:
        folder_model(tiny_model, 8).plain(ids, observe)
    assert seen
    for edge, largest in seen.items():
        assert 2 * largest <= bounds[edge].max_abs or bounds[edge].max_abs <= 2**-19
    assert ranges_from_public(ranges_to_public(bounds)) == bounds


@pytest.mark.parametrize(
    "bad", [None, [], {"e": [1.0, 1.0]}, {"e": [1.0, 3.0, 4.0]}, {"e": [1, 1, 1]}]
)
def test_malformed_public_bounds_are_refused(bad):
    with pytest.raises(ConfigError, match="handshake"):
        ranges_from_public(bad)


def test_graph_edges_connect_and_every_layer_is_there(tiny_model):
    model = folder_model(tiny_model, 8)
    architecture = model.public.architecture
    ranges = observed_ranges(model.plain, [np.array([2, 4, 3])], 2.0)
    graph = bare_graph(architecture, ranges, 8)
    assert [edge.name for edge in graph.inputs] == ["embedding", "mask"]
    assert graph.outputs == ("pool",)
    assert [n.op for n in graph.nodes] == [
        "linear", "scores", "softmax", "context", "linear", "layernorm", "linear", "gelu", "linear",
        "layernorm", "pool",
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="exceeds the model's 16 positions"):
        _ = replace(model.public, ranges=ranges, tokens=17).graph
    with pytest.raises(ConfigError, match="none for edge"):
        bare_graph(architecture, {}, 8)


def test_graphs_that_do_not_connect_are_refused():
    node = Node("a", -1, "gelu", ("x",), ("y",), (1, 1))
    x = GraphInput("x", (1, 1))
    assert Graph((node,), (x,), ("y",)).nodes == (node,)
    broken = [
        ((node,), (), ("y",)),
        ((node, node), (x,), ("y",)),
        ((node,), (x,), ("z",)),
        ((node,), (x, x), ("y",)),
    ]
    for graph in broken:
        with pytest.raises(UsageError, match="graph: "):
            Graph(*graph)


def test_wrong_model_files_are_named(tiny_model):
    path = tiny_model / "model.safetensors"
    tensors = load_file(path)
    name = "encoder.layer.0.output.dense.weight"

    def refuse(message, **changes):
        save_file({k: v for k, v in {**tensors, **changes}.items() if v is not None}, path)
        with pytest.raises(ConfigError, match=message):
            folder_model(tiny_model)

    refuse("no tensor", **{name: None})
    refuse("has shape", **{name: tensors[name][1:].copy()})
    refuse("not finite", **{name: np.full_like(tensors[name], np.nan)})
    refuse("holds layer 1", **{"encoder.layer.1.output.dense.bias": np.zeros(3, np.float32)})
    path.write_bytes(b"no safetensors")
    with pytest.raises(ConfigError, match="not a safetensors file"):
        folder_model(tiny_model)
    path.unlink()
    with pytest.raises(ConfigError, match="missing"):
        folder_model(tiny_model)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("model_type", "gpt2", "supported are bert"),
        ("hidden_act", "relu", "only 'gelu'"),
        ("num_attention_heads", 5, "not a multiple"),
        ("hidden_size", -1, "expected a positive"),
        ("vocab_size", None, "expected a positive"),
    ],
)
def test_wrong_architectures_are_named(tiny_model, key, value, message):
    path = tiny_model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ConfigError, match=message):
        read_folder(tiny_model)


def test_untrusted_architecture_is_checked():
    for data in (None, {}, {"hidden": 1}):
        with pytest.raises(ConfigError, match="handshake"):
            BertArchitecture.from_public(data, "handshake")


@pytest.mark.parametrize(
    "data",
    [None, [], {}, {"family": [1], "architecture": {}, "ranges": {}},
     {"family": "none", "architecture": {}, "ranges": {}},
     {"family": "bert", "architecture": {}, "ranges": {}}],
)  # fmt: skip
def test_untrusted_models_are_checked(data, tiny_config):
    with pytest.raises(ConfigError, match="handshake"):
        public_model(load_config(tiny_config), data)


def test_a_servers_sizes_are_shown_in_part_and_held_to_the_clients_shape(tmp_path):
    raw = yaml.safe_load(write_tiny_config(tmp_path).read_text())
    raw["model"].pop("path")
    raw["model"]["shape"] = {"hidden": 24, "layers": 1, "heads": 3, "intermediate": 40}
    raw["ranges"].pop("sentences")
    config = checked(raw, tmp_path / "shape.yaml")
    data = load_model(config).public.to_public()
    assert public_model(config, data).graph.nodes
    data["architecture"]["intermediate"] = 80
    with pytest.raises(ConfigError, match="not of the shape"):
        public_model(config, data)
    data["architecture"]["intermediate"] = "x" * 100_000
    with pytest.raises(ConfigError, match="intermediate is") as error:
        public_model(config, data)
    assert len(str(error.value)) < 200


def test_what_a_model_says_of_itself_comes_back(tiny_config):
    config = load_config(tiny_config)
    public = load_model(config).public
    data = json.loads(json.dumps(public.to_public()))
    again = public_model(config, data)
    assert again.graph == public.graph
    assert again == public


def test_text_limits(tiny_model):
    encoder = FileTokenizer(tiny_model, 5)
    assert len(encoder.encode("a a a")) == 5
    with pytest.raises(ConfigError, match="has 6 tokens, model.tokens is 5; .*--truncate"):
        encoder.encode("a a a a")
    shortened = encoder.encode("a a a a", truncate=True)
    assert len(shortened) == 5
    assert shortened[-1] == 3
    with pytest.raises(ConfigError, match="empty"):
        encoder.encode("  ")


def test_calibration_sentences_are_there():
    assert len(default_sentences()) >= 20
