"""T5's encoder against transformers: in the clear, in private, and what is refused of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hybrid.config.loading import load_config
from hybrid.config.overrides import overrides_of
from hybrid.models.loading import load_model, text_encoder
from hybrid.models.t5 import T5
from hybrid.planning.planner import make_plan
from tests.encoder_setup import WORDS, cosines, private, write_config, write_tokenizer
from tests.model_parts import folder_model, read_folder
from tests.test_models_modernbert_plans import configured
from transport.errors import ConfigError

TOKENS = 16
FREE = {"vocabulary": 9, "positions": 16}
LONG = "a small test of private inference of a test small"
SIZES = {
    "d_model": 30, "num_layers": 3, "num_heads": 3, "d_kv": 7, "d_ff": 26,
    "vocab_size": len(WORDS), "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 9, "layer_norm_epsilon": 1e-6,
    "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip


def write_t5(folder, kind="T5EncoderModel", **changes):
    """A model of transformers with its tokenizer, saved as transformers saves it."""
    import transformers

    torch.manual_seed(12)
    config = transformers.T5Config(**{**SIZES, **changes})
    model = getattr(transformers, kind)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter.normal_(1, 0.2)
            elif "bias" in name or "shared" in name:
                parameter.normal_(0, 1)
            else:
                small = 7**-0.5 if name.endswith("q.weight") else 1.2
                parameter.normal_(0, small * parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def rows_of(model, ids):
    """Of the plain model, behind the last norm; padded to `TOKENS`."""
    padded, mask = np.full(TOKENS, 1), np.arange(TOKENS) < len(ids)
    padded[: len(ids)] = ids
    public = model.public
    found = public.family.plain_rows(
        model.weights, public.architecture, padded, mask, lambda *_: None, torch.float64
    )
    return found[: len(ids)].numpy()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"feed_forward_proj": "gated-gelu"},
        {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 12},
        {"d_model": 24, "num_heads": 5, "d_kv": 4, "num_layers": 1, "layer_norm_epsilon": 0.3},
    ],
    ids=str,
)
def test_plain_model_agrees_with_transformers(changes, tmp_path):
    reference = write_t5(tmp_path, **changes).to(torch.float64)
    model = folder_model(tmp_path)
    for count in (1, 2, 7, TOKENS):
        ids = np.random.default_rng(count).integers(3, len(WORDS), count)
        with torch.no_grad():
            expected = reference(input_ids=torch.from_numpy(ids)[None]).last_hidden_state[0].numpy()
        # Transformers takes mean squares in float32.
        assert np.abs(rows_of(model, ids) - expected).max() < 2e-5
        assert np.abs(model.plain(ids, dtype=torch.float64) - expected.mean(0)).max() < 2e-5


@pytest.mark.parametrize("proj", ["relu", "gated-gelu"])
def test_encoders_of_whole_models_are_read(proj, tmp_path):
    from transformers import T5EncoderModel

    write_t5(tmp_path, "T5ForConditionalGeneration", feed_forward_proj=proj)
    ids = np.arange(3, len(WORDS))
    with torch.no_grad():
        reference = T5EncoderModel.from_pretrained(tmp_path).to(torch.float64).eval()
        expected = reference(input_ids=torch.from_numpy(ids)[None]).last_hidden_state[0].numpy()
    assert np.abs(rows_of(folder_model(tmp_path), ids) - expected).max() < 2e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feed_forward_proj": "gated-silu"}, "feed_forward_proj is 'gated-silu'; only 'relu'"),
        ({"feed_forward_proj": "gelu"}, "feed_forward_proj is 'gelu'; only 'relu'"),
        ({"dense_act_fn": "gelu"}, "dense_act_fn is 'gelu'; only 'relu'"),
        ({"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}, "only 'gelu_new'"),
        ({"is_gated_act": True}, "is_gated_act is True; only False"),
        ({"is_decoder": True}, "is_decoder is True; only False"),
        ({"is_causal": True}, "is_causal is True; only False"),
        ({"relative_attention_num_buckets": 6}, "6 buckets of relative positions are no multiple"),
        ({"relative_attention_max_distance": 2}, "the largest distance 2 leaves no span"),
        ({"d_kv": 0}, "head_size is 0; expected a positive int"),
        ({"layer_norm_epsilon": "x"}, "epsilon is 'x'"),
    ],
    ids=str,
)
def test_what_is_not_computed_is_refused(change, message, tmp_path):
    settings = {**SIZES, "model_type": "t5", **change}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=message) as error:
        read_folder(tmp_path)
    assert str(tmp_path / "config.json") in str(error.value)


def test_a_gated_checkpoint_is_no_plain_one(tmp_path):
    write_t5(tmp_path, feed_forward_proj="gated-gelu")
    path = tmp_path / "config.json"
    raw = json.loads(path.read_text()) | {"feed_forward_proj": "relu"}
    path.write_text(json.dumps({k: v for k, v in raw.items() if "act" not in k}))
    with pytest.raises(ConfigError, match=r"no tensor 'encoder\.block\.0\.layer\.1\.Dense"):
        folder_model(tmp_path)


# -- in private ------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("proj", ["relu", "gated-gelu"])
def test_private_texts_are_those_of_transformers(proj, tmp_path):
    reference = write_t5(tmp_path / "model", feed_forward_proj=proj, num_layers=2)
    activation = {"relu": "relu: exact", "gated-gelu": "gelu_tanh: even_polynomial"}[proj]
    path = write_config(tmp_path, tmp_path / "model", pooling="mean", normalize=True)
    text = path.read_text().replace("gelu: even_polynomial", activation)
    path.write_text(text.replace("layernorm: octave_", "rmsnorm: octave_"))
    changes = [
        "model.tokens=12", "model.batch=2", "ckks.linear_phase=online",
        "protocols.linear=coefficients", "protocols.attention=coefficients_interleaved",
        "protocols.multiply=ot",
    ]  # fmt: skip
    config = load_config(path, overrides_of(changes, None, None))
    encoder, texts = text_encoder(config), [LONG, "test of"]
    with torch.no_grad():
        ids = [torch.from_numpy(encoder.encode(text))[None] for text in texts]
        wanted = np.stack([reference(input_ids=x).last_hidden_state[0].mean(0) for x in ids])
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    found = private(config, texts)
    assert np.abs(found - wanted).max() < 2.0**-6
    assert cosines(found, wanted).min() > 0.9999


@pytest.mark.parametrize("policy", ["least_traffic", "fewest_rounds"])
def test_shapes_have_plans(policy):
    shape = {"family": "t5", "hidden": 24, "layers": 1, "heads": 3, "intermediate": 20}
    config = configured({**shape, "head_size": 6}, scheduler={"policy": policy})
    model = load_model(config)
    assert model.line.startswith("RANDOM weights of the shape: hidden 24, 1 layers")
    plan = make_plan(config, model.public, None)
    assert [s.operator.node.op for s in plan.steps].count("score_bias") == 1
    assert {s.operator.node.op for s in plan.steps} >= {"rmsnorm", "relu", "pool"}
    assert T5().shape_architecture({**T5.shapes["t5-base-encoder"], **FREE}, "test").head_size == 64


def test_folders_of_sentence_t5_are_read(tmp_path):
    """Mean, a map without bias, unit length."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    write_t5(tmp_path / "plain")
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    kinds = {"tokenizer_class": "PreTrainedTokenizerFast", **special}
    (tmp_path / "plain" / "tokenizer_config.json").write_text(json.dumps(kinds))
    parts = [
        Transformer(str(tmp_path / "plain")),
        Pooling(30, pooling_mode="mean"),
        Dense(30, 11, bias=False, activation_function=torch.nn.Identity()),
        Normalize(),
    ]
    model = SentenceTransformer(modules=parts, device="cpu")
    model.save(str(tmp_path / "model"))
    texts = [LONG, "private inference"]
    path = write_config(tmp_path, tmp_path / "model")
    config = load_config(path, overrides_of(["model.tokens=12"], None, None))
    mine, encoder = load_model(config), text_encoder(config)
    head = mine.public.head
    found = np.stack([head.finished(mine.plain(encoder.encode(text))) for text in texts])
    assert np.abs(found - model.encode(texts)).max() < 2e-5


def test_two_tables_for_one_are_refused_unless_they_are_the_same(tmp_path):
    write_t5(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors, twin = load_file(path), "encoder.embed_tokens.weight"
    same = tensors["shared.weight"].clone()
    save_file({**tensors, twin: same}, path, metadata={"format": "pt"})
    assert folder_model(tmp_path, TOKENS).weights.layers
    save_file({**tensors, twin: same + 1}, path, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="is not shared.weight, which it stands for"):
        folder_model(tmp_path, TOKENS)
