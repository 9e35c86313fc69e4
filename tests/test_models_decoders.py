"""Plain decoders against transformers: logits, cache, edges; and what is refused of folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hybrid.models.causal import Cache
from hybrid.models.decoders import DECODERS, DecoderModel, read_decoder
from hybrid.models.llama import Llama
from hybrid.models.sampling import greedy
from tests.decoder_files import reference, written
from transport.errors import ConfigError

IDS = np.random.default_rng(1).integers(0, 31, 23)
VARIANTS = {
    "llama": ("llama", {}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "one group": ("llama", {"num_key_value_heads": 1, "num_attention_heads": 3, "head_dim": 6}),
    "no groups": ("llama", {"num_key_value_heads": 5, "num_attention_heads": 5, "head_dim": 4}),
    "head size follows": (
        "llama",
        {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": None},
    ),
    "gpt2": ("gpt2", {}),
    "four times": ("gpt2", {"n_inner": None}),
    "untied": ("gpt2", {"tie_word_embeddings": False}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By kind: the reference and ours."""
    found = {}
    for kind in ("llama", "gpt2"):
        folder = tmp_path_factory.mktemp(kind)
        found[kind] = written(kind, folder), read_decoder(folder)
    return found


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_agree_with_transformers(variant, tmp_path):
    kind, changes = VARIANTS[variant]
    model = written(kind, tmp_path, **changes)
    ours = read_decoder(tmp_path)
    for count in (1, 2, 23):
        wanted = reference(model, IDS[:count])
        assert np.ptp(wanted) > 3
        # transformers turns and normalises LLaMA in float32 whatever it is asked for.
        tolerance, largest = 1e-12 if kind == "gpt2" else 1e-5, np.abs(wanted).max()
        found = ours.logits(IDS[:count], dtype=torch.float64)
        assert np.abs(found - wanted).max() < tolerance * largest
        assert np.abs(ours.logits(IDS[:count]) - wanted).max() < 1e-5 * largest


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("parts", [(7, 16), (1, 1, 1, 20), tuple([1] * 23)])
def test_a_cache_changes_nothing(kind, parts, models):
    _, ours = models[kind]
    wanted = ours.logits(IDS, dtype=torch.float64)
    cache, found, first = Cache(), [], 0
    for count in parts:
        found.append(ours.logits(IDS[first : first + count], cache, dtype=torch.float64))
        first += count
        assert cache.length == first
    assert np.abs(np.concatenate(found) - wanted).max() < 1e-11


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_copies_of_a_cache_grow_apart(kind, models):
    _, ours = models[kind]
    prefix = Cache()
    ours.logits(IDS[:9], prefix)
    texts = [IDS[9:14], IDS[14:21]]
    found = [ours.logits(text, prefix.copy()) for text in texts]
    assert prefix.length == 9
    for text, logits in zip(texts, found, strict=True):
        whole = ours.logits(np.concatenate([IDS[:9], text]))
        assert np.abs(logits - whole[9:]).max() < 1e-5


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_greedy_answers_are_those_of_transformers(kind, models):
    model, ours = models[kind]
    with torch.no_grad():
        whole = model.generate(
            torch.from_numpy(IDS[None, :5]), max_new_tokens=35, do_sample=False, eos_token_id=None
        )[0]
    found = list(ours.generate(IDS[:5], greedy, dtype=torch.float64))
    # The logits of the last position give one token more, which could not be read again.
    assert found[:-1] == whole[5:].tolist() and len(found) == 36
    end = int(whole[9])
    ended = list(ours.generate(IDS[:5], greedy, frozenset({end}), dtype=torch.float64))
    assert ended == found[: found.index(end)]


def test_positions_end(models):
    for _, ours in models.values():
        ids = np.zeros(41, np.int64)
        with pytest.raises(ConfigError, match="41 exceeds the model's 40 positions"):
            ours.logits(ids)
        cache = Cache()
        ours.logits(ids[:40], cache)
        with pytest.raises(ConfigError, match="41 exceeds"):
            ours.logits(ids[:1], cache)


def edges(ours: DecoderModel, ids, cache=None):
    seen: dict[str, np.ndarray] = {}
    ours.logits(ids, cache, lambda e, x: seen.update({e: x.numpy()}), torch.float64)
    return seen


def test_edges_of_llama_are_what_their_names_say(models):
    model, ours = models["llama"]
    seen, a = edges(ours, IDS), ours.architecture
    layer, weights = model.model.layers[1], ours.weights.layers[1]
    with torch.no_grad():
        states = model(torch.from_numpy(IDS)[None], output_hidden_states=True).hidden_states
    x = states[1][0].double()
    assert np.abs(seen["layer1.attention_norm.sum"] - x.numpy()).max() < 1e-5
    assert np.abs(seen["layer0.sum"] - x.numpy()).max() < 1e-5
    normalised = seen["layer1.attention_norm.normalised"]
    assert np.allclose((normalised**2).mean(-1), 1, atol=1e-4)
    query = (normalised * weights.attention_norm) @ weights.query
    assert np.allclose(seen["layer1.query_projection"][2], query[:, 20:30])
    # Scores are of rotated rows, and only of positions that may be seen.
    assert seen["layer1.query"].shape == (6, 23, 10) and seen["layer1.key"].shape == (2, 23, 10)
    scores = np.einsum("hqs,hks->hqk", seen["layer1.query"], np.repeat(seen["layer1.key"], 3, 0))
    assert np.allclose(seen["layer1.scores"], scores[:, np.tril(np.ones((23, 23), bool))])
    with torch.no_grad():
        rows = layer.input_layernorm(x)
        turns = model.model.rotary_emb(rows[None], torch.arange(23)[None])
        attended = layer.self_attn(rows[None], turns, None)[0][0]
        mid = x + layer.self_attn.o_proj(torch.from_numpy(seen["layer1.context"]))
        gated = layer.mlp.act_fn(torch.from_numpy(seen["layer1.gate"])).numpy()
    assert attended.shape == (23, 30)
    assert np.abs(seen["layer1.attention_sum"] - mid.numpy()).max() < 1e-5
    mean_square = (seen["layer1.feed_forward_norm.sum"] ** 2).mean(-1, keepdims=True)
    assert np.allclose(seen["layer1.feed_forward_norm.mean_square"], mean_square)
    assert np.allclose(seen["layer1.gated"], gated * seen["layer1.up"])
    assert np.allclose(seen["layer1.down"], seen["layer1.gated"] @ weights.down)
    assert np.allclose(seen["logits"], ours.logits(IDS, dtype=torch.float64))
    assert seen["final.mean_square"].shape == (23, 1) and a.head_size == 10


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_edges_behind_a_prefix_are_those_of_private_positions(kind, models):
    _, ours = models[kind]
    whole, cache = edges(ours, IDS), Cache()
    ours.logits(IDS[:20], cache, dtype=torch.float64)
    private = edges(ours, IDS[20:], cache)
    assert private.keys() == whole.keys()
    visible = 21 + 22 + 23
    for edge, values in private.items():
        rows = whole[edge]
        if edge.endswith(".scores"):
            assert values.shape == (rows.shape[0], visible)
            wanted = rows[:, -visible:]
        else:
            wanted = rows[..., 20:, :]
        assert np.allclose(values, wanted, atol=1e-9), edge
    assert {"layer2.query", "layer2.scores", "layer0.down", "logits"} <= private.keys()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_random_weights_have_the_magnitudes_of_trained_ones(kind):
    family = {f.name: f for f in DECODERS}[kind]
    shape = next(iter(family.shapes.values()))
    sizes = {**shape, "layers": 3, "vocabulary": 500, "positions": 64}
    architecture = family.shape_architecture(sizes, "model.shape")
    model = DecoderModel(family, architecture, family.random_weights(architecture), "random")
    again = family.random_weights(architecture)
    assert again.embedding.digest() == model.weights.embedding.digest()
    seen = edges(model, np.arange(32))
    for layer in range(3):
        assert 0.3 < np.sqrt((seen[f"layer{layer}.scores"] ** 2).mean()) < 4
        assert 0.3 < np.sqrt((seen[f"layer{layer}.up"] ** 2).mean()) < 4
    assert architecture == family.architecture.from_public(architecture.to_public(), "handshake")


def test_shapes_are_those_of_published_models():
    llama = Llama()
    sizes = {"vocabulary": 1024, "positions": 512, **llama.shapes["llama-1b"]}
    architecture = llama.shape_architecture(sizes, "model.shape")
    assert (architecture.head_size, architecture.kv_heads) == (64, 8)
    assert (
        llama.shape_architecture(
            {k: v for k, v in sizes.items() if k != "kv_heads"}, "model.shape"
        ).kv_heads
        == 32
    )


# -- files ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_short_floats_and_shards_are_read(kind, dtype, tmp_path):
    model = written(kind, tmp_path, dtype, max_shard_size="4KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    found = read_decoder(tmp_path).logits(IDS, dtype=torch.float64)
    wanted = reference(model, IDS)
    assert np.abs(found - wanted).max() < 2e-6 * np.abs(wanted).max()


def changed(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("llama", {"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "rope_type is 'll"),
        ("llama", {"rope_scaling": {"type": "linear"}, "rope_parameters": None}, "type is 'linea"),
        ("llama", {"rope_parameters": "default"}, "rope_parameters is 'default'; expected a t"),
        ("llama", {"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ("llama", {"rope_parameters": {"rope_theta": "big"}}, "rope_theta is 'big'; expected a p"),
        ("llama", {"sliding_window": 128}, "sliding_window is 128; only None"),
        ("llama", {"attention_bias": True}, "attention_bias is True; only False"),
        ("llama", {"mlp_bias": True}, "mlp_bias is True"),
        ("llama", {"hidden_act": "gelu"}, "hidden_act is 'gelu'; only 'silu'"),
        ("llama", {"quantization_config": {"bits": 4}}, "quantization_config is"),
        ("llama", {"num_key_value_heads": 4}, "6 heads are not a multiple of 4 key/value"),
        ("llama", {"head_dim": 5}, "head size 5 is odd"),
        ("llama", {"head_dim": None}, "head size 5 is odd"),
        ("llama", {"head_dim": None, "num_attention_heads": 4}, "30 is not a multiple of 4 heads"),
        ("llama", {"tie_word_embeddings": 1}, "tied is 1; expected a bool"),
        ("llama", {"model_type": "mistral"}, "model_type is 'mistral'; supported are llama, gpt2"),
        ("llama", {"num_hidden_layers": 2}, "'model.layers.2.input_layernorm.weight' and 8 more"),
        ("llama", {"num_hidden_layers": 4}, "no tensor 'layers.3.self_attn.q_proj.weight'"),
        ("llama", {"vocab_size": 30}, r"shape \(31, 30\), config.json implies \(30, 30\)"),
        ("llama", {"tie_word_embeddings": True}, "lm_head.weight is not the embedding"),
        ("gpt2", {"activation_function": "gelu"}, "activation_function is 'gelu'; only 'gelu_new"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is"),
        ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False"),
        ("gpt2", {"add_cross_attention": True}, "add_cross_attention is True"),
        ("gpt2", {"n_head": 3}, "hidden size 20 is not a multiple of 3 heads"),
        ("gpt2", {"tie_word_embeddings": False}, "no tensor 'lm_head.weight'"),
        ("gpt2", {"n_positions": 39}, r"wpe.weight has shape \(40, 20\)"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused(kind, change, message, tmp_path):
    written(kind, tmp_path)
    changed(tmp_path, **change)
    with pytest.raises(ConfigError, match=message) as caught:
        read_decoder(tmp_path)
    assert "\n" not in str(caught.value)


def with_tensors(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_tensors_that_would_be_ignored_are_refused(tmp_path):
    written("llama", tmp_path)
    extra = {"model.layers.0.self_attn.q_proj.bias": torch.zeros(60)}
    with_tensors(tmp_path, lambda tensors: tensors.update(extra))
    with pytest.raises(ConfigError, match="q_proj.bias' would be ignored"):
        read_decoder(tmp_path)


@pytest.mark.parametrize(
    ("kind", "name", "shape"),
    [
        ("llama", "model.layers.1.self_attn.rotary_emb.inv_freq", (5,)),
        ("gpt2", "transformer.h.0.attn.bias", (1, 1, 40, 40)),
        ("gpt2", "transformer.h.2.attn.masked_bias", ()),
    ],
)
def test_what_old_checkpoints_keep_beside_is_passed_over(kind, name, shape, tmp_path):
    written(kind, tmp_path)
    wanted = read_decoder(tmp_path).logits(IDS)
    with_tensors(tmp_path, lambda tensors: tensors.update({name: torch.ones(shape)}))
    assert np.array_equal(read_decoder(tmp_path).logits(IDS), wanted)


def test_a_tied_head_may_stand_in_the_file_again(tmp_path):
    written("gpt2", tmp_path)
    wanted = read_decoder(tmp_path).logits(IDS)
    with_tensors(
        tmp_path, lambda t: t.update({"lm_head.weight": t["transformer.wte.weight"].clone()})
    )
    assert np.array_equal(read_decoder(tmp_path).logits(IDS), wanted)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.zeros(30, dtype=torch.int8), "model.norm.weight is int8; expected float32, float16"),
        (torch.full((30,), torch.nan), "not finite"),
        (torch.zeros(19), r"shape \(19,\), config.json implies \(30,\)"),
    ],
)
def test_odd_tensors_are_refused(tensor, message, tmp_path):
    written("llama", tmp_path)
    with_tensors(tmp_path, lambda tensors: tensors.update({"model.norm.weight": tensor}))
    with pytest.raises(ConfigError, match=message):
        read_decoder(tmp_path)


def test_damaged_folders_are_refused(tmp_path):
    written("llama", tmp_path, max_shard_size="9KB")
    index = tmp_path / "model.safetensors.index.json"
    good = index.read_text()
    shard = sorted(tmp_path.glob("model-*"))[1]
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(ConfigError, match=f"{shard.name}: not a safetensors file"):
        read_decoder(tmp_path)
    shard.unlink()
    with pytest.raises(ConfigError, match=f"{shard.name}: missing; {index.name} names it"):
        read_decoder(tmp_path)
    shard.write_bytes(whole)
    table = json.loads(good)
    for change, message in (
        ({"model.norm.bias": shard.name}, "tensor 'model.norm.bias' is only in"),
        ({"model.norm.weight": "../other.safetensors"}, "is no file of this folder"),
    ):
        index.write_text(json.dumps({"weight_map": {**table["weight_map"], **change}}))
        with pytest.raises(ConfigError, match=message):
            read_decoder(tmp_path)
    places = list(table["weight_map"].values())
    name = next(n for n, place in table["weight_map"].items() if places.count(place) > 1)
    del table["weight_map"][name]
    index.write_text(json.dumps(table))
    with pytest.raises(ConfigError, match=f"tensor '{name}' is not in model.safetensors.index"):
        read_decoder(tmp_path)
    for text in ("{}", '{"weight_map": {}}', '{"weight_map": [1]}'):
        index.write_text(text)
        with pytest.raises(ConfigError, match="not an index of shards"):
            read_decoder(tmp_path)
    index.unlink()
    with pytest.raises(ConfigError, match="weights missing, neither model.safetensors nor"):
        read_decoder(tmp_path)
    with pytest.raises(ConfigError, match="missing; name a GGUF file or a folder"):
        read_decoder(tmp_path / "nothing")
