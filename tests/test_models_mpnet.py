"""MPNet against transformers: relative positions, positions behind padding, and private runs."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml

from hybrid.config.loading import load_config
from hybrid.models import MODELS
from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node
from hybrid.models.heads import Head
from hybrid.models.loading import load_model
from hybrid.models.mpnet import Mpnet
from hybrid.models.poolings import Mean
from hybrid.models.ranges import observed_ranges
from hybrid.models.relative_positions import Buckets
from hybrid.operators.base import Choice, RunState
from hybrid.operators.score_bias import ScoreBias, ScoreBiasOperator
from hybrid.planning.planner import make_plan
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import NO_COST
from tests.model_parts import bare_model, folder_model, read_folder
from tests.parties import FIXED_POINT, PRODUCTS, plan_context, shares
from tests.test_hybrid_batch import asked, check
from tests.tiny_model import WORDS, write_tiny_config
from transport.errors import ConfigError, UsageError
from transport.traffic import Party

SIZES = {
    "hidden_size": 30, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 50,
    "vocab_size": 20, "max_position_embeddings": 310,
}  # fmt: skip


def written(folder, *, masked_lm=False, **changes):
    """A randomly initialised MPNet of transformers, saved as transformers saves it."""
    import transformers

    torch.manual_seed(12)
    config = transformers.MPNetConfig(**{**SIZES, "initializer_range": 0.2, **changes})
    kind = transformers.MPNetForMaskedLM if masked_lm else transformers.MPNetModel
    model = kind(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif "relative_attention_bias" in name or "position_embeddings" in name:
                # The row of the padding id too, which starts as zeros.
                parameter.normal_(0, 1)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize("epsilon", [1e-12, 1e-3])
def test_plain_model_agrees_with_transformers(epsilon, tmp_path):
    reference = written(tmp_path, layer_norm_eps=epsilon).to(torch.float64)
    model = folder_model(tmp_path, 300)
    assert model.public.architecture.positions == 308
    assert model.public.architecture.epsilon == epsilon
    for count in (1, 2, 7, 130, 300):
        # Others are padded to 300, which must change nothing.
        ids = np.random.default_rng(count).integers(3, 20, count)
        with torch.no_grad():
            hidden = reference(torch.from_numpy(ids)[None]).last_hidden_state[0]
        found = model.plain(ids, dtype=torch.float64)
        assert np.abs(found - hidden.mean(0).numpy()).max() < 1e-9


def test_checkpoints_with_a_head_are_read(tmp_path):
    reference = written(tmp_path, masked_lm=True).mpnet.to(torch.float64)
    ids = np.arange(3, 20)
    with torch.no_grad():
        hidden = reference(torch.from_numpy(ids)[None]).last_hidden_state[0]
    found = folder_model(tmp_path, 20).plain(ids, dtype=torch.float64)
    assert np.abs(found - hidden.mean(0).numpy()).max() < 1e-9


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"relative_attention_num_buckets": 64}, "buckets is 64; only 32 is supported"),
        ({"relative_attention_num_buckets": "x" * 999}, r"buckets is 'x+\.\.x+'; only 32"),
        ({"hidden_act": "gelu_new"}, "hidden_act is 'gelu_new'; only 'gelu'"),
        ({"num_attention_heads": 5}, r"bias.weight has shape \(32, 3\), .* implies \(32, 5\)"),
        ({"max_position_embeddings": 309}, r"weight has shape \(310, 30\), .* implies \(309, 30\)"),
        ({"num_hidden_layers": 1}, "holds layer 1, but config.json says 1 layers"),
        ({"max_position_embeddings": 2}, "padding id 1, which needs 3 or more"),
    ],
)
def test_what_is_not_computed_is_refused(change, message, tmp_path):
    written(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ConfigError, match=message):
        folder_model(tmp_path)


# -- relative positions ---------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "distance"), [(32, 128), (32, 20), (8, 50), (64, 300)])
def test_buckets_are_those_of_transformers(count, distance):
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder
    from transformers.models.t5.modeling_t5 import T5Attention

    place = torch.arange(700)
    relative = place[None] - place[:, None]
    of_mpnet = MPNetEncoder.relative_position_bucket(relative, count, distance)
    of_t5 = T5Attention._relative_position_bucket(relative, True, count, distance)
    found = Buckets(count, distance).of_tokens(700)
    assert np.array_equal(found, of_mpnet.numpy())
    assert np.array_equal(found, of_t5.numpy())
    assert found.max() == count - 1
    assert np.array_equal(Buckets(count, distance).of_tokens(1), [[0]])


def biased(scores, batch, table):
    """Shares of these scores, and what the operator makes of them at either party."""
    node = Node(
        "layer0.score_bias", 0, "score_bias", ("scores",), ("biased",), scores.shape, batch=batch,
        constants={"buckets": 32, "max_distance": 128},
    )  # fmt: skip
    operator = ScoreBiasOperator(node, ScoreBias, Choice("local"), plan_context())
    assert operator.cost() == NO_COST
    assert operator.parameters() == {"buckets": 32, "max_distance": 128}
    pair, found = shares(scores), []
    for party, own in zip((Party.CLIENT, Party.SERVER), pair, strict=True):
        # Nothing to send by: a message would fail.
        session = Session(SimpleNamespace(party=party), Context(FIXED_POINT, PRODUCTS), None, None)
        maps = {node.name: table} if party is Party.SERVER and table is not None else {}
        found.append(operator.run([own], RunState(session, None, maps=maps))[0])
    return pair, found


@pytest.mark.parametrize(("batch", "tokens"), [(1, 1), (2, 9), (3, 140)])
def test_the_server_alone_adds_the_bias(batch, tokens):
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    rng = np.random.default_rng(tokens)
    table = rng.normal(0, 5, (32, 3))
    scores = rng.normal(0, 4, (3 * batch, tokens, tokens))
    pair, (client, server) = biased(scores, batch, LinearMap(table, np.empty(0)))
    assert np.array_equal(client, pair[0])
    place = torch.arange(tokens)
    buckets = MPNetEncoder.relative_position_bucket(place[None] - place[:, None]).numpy()
    added = np.stack([FIXED_POINT.encode(table[buckets][:, :, head]) for head in range(3)] * batch)
    assert np.array_equal(client + server, FIXED_POINT.encode(scores) + added)


@pytest.mark.parametrize("table", [None, LinearMap(np.zeros((32, 2)), np.empty(0))])
def test_a_family_that_gives_no_biases_is_told_so(table):
    with pytest.raises(UsageError, match=r"score_bias: no biases \(32, 3\); the family's fold"):
        biased(np.zeros((3, 4, 4)), 1, table)


def test_bounds_before_and_after_the_bias_are_told_apart(tmp_path):
    reference = written(tmp_path)
    with torch.no_grad():
        reference.encoder.relative_attention_bias.weight.fill_(1000.0)
    reference.save_pretrained(tmp_path)
    model = folder_model(tmp_path, 6)
    ranges = observed_ranges(model.plain, [np.arange(3, 9)], 2.0)
    family, head = model.public.family, Head(Mean())
    nodes = {n.name: n for n in family.graph(model.public.architecture, ranges, head, 6, 2).nodes}
    scores, bias, softmax = (nodes[f"layer1.{n}"] for n in ("scores", "score_bias", "softmax"))
    assert scores.outputs == bias.inputs
    assert softmax.inputs == (*bias.outputs, "mask")
    assert bias.shape == softmax.shape == (6, 6, 6)
    assert scores.bounds["output"].max_abs < 1000 < softmax.bounds["input"].max_abs
    # All layers share the one table.
    maps = model.maps()
    for layer in range(2):
        assert np.array_equal(maps[f"layer{layer}.score_bias"].weight, np.full((32, 3), 1000.0))


def test_mpnet_base_is_a_shape():
    family = Mpnet()
    sizes = {"vocabulary": 30, "positions": 40, **family.shapes["mpnet-base"], "layers": 1}
    architecture = family.shape_architecture(sizes, "test")
    assert architecture.line() == "hidden 768, 1 layers, 12 heads, intermediate 3072"
    weights = family.random_weights(architecture)
    assert weights.score_bias.shape == (32, 12)
    model = bare_model(family, architecture, weights, 8)
    seen = {}
    model.plain(np.arange(2, 8), lambda edge, x: seen.update({edge: float(x.std())}))
    assert 1.01 * seen["layer0.scores"] < seen["layer0.score_bias"] < 4


# -- positions behind the padding id --------------------------------------------------------------

KINDS = ("roberta", "xlm-roberta", "camembert", "mpnet")


def padded_model(kind, padding, folder):
    """Of transformers, with rows of its own for every position."""
    import transformers

    torch.manual_seed(13)
    sizes = {**SIZES, "max_position_embeddings": 19, "pad_token_id": padding}
    config = transformers.AutoConfig.for_model(kind, **sizes, initializer_range=0.2)
    model = transformers.AutoModel.from_config(config, add_pooling_layer=False).eval()
    with torch.no_grad():
        model.embeddings.position_embeddings.weight.normal_(0, 1)
        model.embeddings.word_embeddings.weight.normal_(0, 1)
    model.save_pretrained(folder)
    return model.to(torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("padding", [0, 1, 5])
def test_literal_padding_tokens_take_their_own_position(kind, padding, tmp_path):
    reference = padded_model(kind, padding, tmp_path)
    model = folder_model(tmp_path, 13)
    # MPNet's code counts from 1 whatever its config says.
    pad = 1 if kind == "mpnet" else padding
    public = model.public
    assert public.architecture.positions == 18 - pad
    table = model.weights.embedding
    arrays = table.arrays()
    assert public.family.public_shapes(public.architecture) == tuple(a.shape for a in arrays)
    # What the client makes of what it is sent.
    public_table = public.family.public_table(arrays, public.architecture)
    texts = ([pad], [pad, 7, 8], [7, pad, pad, 8], [7, 8, pad], [pad, 9, pad, 10, 11, pad])
    full = np.insert(np.arange(12) + 6, 3, pad)
    for ids in (np.array(text) for text in (*texts, full)):
        tokens = torch.from_numpy(ids)[None]
        with torch.no_grad():
            output = reference(tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state[0]
            embedded = reference.embeddings(tokens)[0].numpy()
        found = model.plain(ids, dtype=torch.float64)
        assert np.abs(found - output.mean(0).numpy()).max() < 1e-9
        assert np.abs(public_table.embed(ids) - embedded).max() < 1e-5
        inputs = public.family.client_inputs(public_table, ids[None], np.ones((1, len(ids)), bool))
        assert np.abs(inputs["embedding"] - embedded).max() < 1e-5


def test_as_many_tokens_as_there_are_positions(tmp_path):
    reference = padded_model("roberta", 5, tmp_path)
    model = folder_model(tmp_path, 13)
    ids = np.arange(6, 19)
    with torch.no_grad():
        output = reference(torch.from_numpy(ids)[None]).last_hidden_state[0]
    assert np.abs(model.plain(ids, dtype=torch.float64) - output.mean(0).numpy()).max() < 1e-9
    with pytest.raises(ConfigError, match="14 exceeds the model's 13 positions"):
        model.public.architecture.check_tokens(14)


def architecture_with(kind, padding, folder):
    padded_model(kind, 1, folder)
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token_id": padding}))
    return read_folder(folder)[2]


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta", "camembert"])
@pytest.mark.parametrize(
    ("padding", "message"),
    [
        (None, "pad_token_id is None; positions count from it"),
        ("1" * 999, r"pad_token_id is '1+\.\.1+'; positions count from it"),
        (True, "pad_token_id is True; positions count from it"),
        (1.0, "pad_token_id is 1.0; positions count from it"),
        (-1, "pad_token_id is -1; positions count from it"),
        (20, "vocab_size is 20, but positions count from the padding id 20, which needs 21"),
        (18, "max_position_embeddings is 19, but .* padding id 18, which needs 20"),
        (10**200, "padding id an integer of 665 bits, which needs"),
    ],
)
def test_padding_ids_that_positions_cannot_count_from_are_refused(kind, padding, message, tmp_path):
    with pytest.raises(ConfigError, match=message) as caught:
        architecture_with(kind, padding, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["roberta", "mpnet"])
def test_a_padding_id_that_is_not_named_is_one(kind, tmp_path):
    padded_model(kind, 1, tmp_path)
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text())
    raw.pop("pad_token_id", None)
    path.write_text(json.dumps(raw))
    assert read_folder(tmp_path)[2].padding == 1


@pytest.mark.parametrize("padding", [None, "x", True, -1, 10**6])
def test_other_padding_ids_are_nobodys_business(padding, tmp_path):
    """BERT's positions simply count; MPNet's count from 1, whatever is written there."""
    found = architecture_with("mpnet", padding, tmp_path / "mpnet")
    assert (found.padding, found.positions) == (1, 17)
    write_tiny_config(tmp_path)
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pad_token_id": padding}))
    found = read_folder(tmp_path / "model")[2]
    assert (found.padding, found.positions) == (-1, 16)


@pytest.mark.parametrize("padding", [-2, 20, True, 1.0, None])
def test_a_padding_id_from_the_peer_is_checked(padding, tmp_path):
    padded_model("mpnet", 1, tmp_path)
    data = read_folder(tmp_path)[2].to_public()
    assert Mpnet.architecture.from_public(data, "handshake").padding == 1
    with pytest.raises(ConfigError, match="handshake: padding is "):
        Mpnet.architecture.from_public({**data, "padding": padding}, "handshake")


# -- private --------------------------------------------------------------------------------------


def tiny_mpnet(folder, batch, **keys):
    """A config with an MPNet of random weights."""
    words = len(WORDS)
    written(folder / "mpnet", vocab_size=words, hidden_size=24, num_hidden_layers=1)
    write_tiny_config(folder, correlations="softspoken")
    # Its tokenizer: token 1 is one that a text may hold.
    (folder / "model" / "tokenizer.json").rename(folder / "mpnet" / "tokenizer.json")
    path = folder / "tiny.yaml"
    config = yaml.safe_load(path.read_text())
    config["model"] |= {"path": "mpnet", "batch": batch}
    path.write_text(yaml.safe_dump({**config, **keys}))
    return load_config(path)


@pytest.mark.long
def test_a_batch_of_two_texts_in_private(tmp_path):
    texts = [np.array([2, 4, 1, 6, 3]), np.array([7])]
    requests, server, _ = asked(tiny_mpnet(tmp_path, 2), texts)
    check(requests, server, texts)
    (step,) = [s for s in requests[0]["steps"] if s["name"] == "layer0.score_bias"]
    assert step["measured"]["rounds"] == step["measured"]["server_sent_bytes"] == 0
    # Without the bias the answers would be others.
    model = server.model
    table = model.weights.score_bias.copy()
    right = model.plain(texts[0])
    model.weights.score_bias[:] = 0
    assert np.abs(model.plain(texts[0]) - right).max() > 0.02
    model.weights.score_bias[:] = table


def test_every_policy_plans_the_bias(tmp_path):
    for policy in ("least_traffic", "fewest_rounds"):
        config = tiny_mpnet(tmp_path / policy, 1)
        raw = yaml.safe_load(config.path.read_text())
        for key in ("protocols", "ckks", "mpc"):
            raw.pop(key)
        raw |= {
            "ckks": {"parameters": "n8192_q88", "baby_steps": 8},
            "mpc": {"fraction_bits": 16, "output_bits": 6},
            "scheduler": {"policy": policy, "pin": {"score_bias": "local"}},
        }
        config.path.write_text(yaml.safe_dump(raw))
        config = load_config(config.path)
        plan = make_plan(config, load_model(config).public, None)
        (row,) = [row for row in plan.rows() if row["op"] == "score_bias"]
        assert row["protocol"] == "local"
        (step,) = [s for s in plan.steps if s.node.name == row["name"]]
        assert step.operator.cost() == NO_COST


def test_names_of_families_and_shapes_are_single():
    names = [name for family in MODELS for name in (family.name, *family.shapes)]
    assert len(names) == len(set(names))
    assert [f.name for f in MODELS if "mpnet" in f.model_types] == ["mpnet"]
