"""ModernBERT against transformers: in the clear, in private, and what is refused of it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from hybrid.config.loading import load_config
from hybrid.config.overrides import overrides_of
from hybrid.models.loading import text_encoder
from tests.encoder_setup import WORDS, cosines, private, write_config
from tests.model_parts import folder_model, read_folder
from tests.modernbert_files import FAR_APART, SIZES, rewrite_config, write_modernbert
from transport.errors import ConfigError

TOKENS = 16
LONG = "a small test of private inference of a test small"
KINDS = ("full_attention", "sliding_attention")


def layer_types(text):
    """g: all tokens, l: a window."""
    return [KINDS[letter == "l"] for letter in text]


def rows_of(model, ids):
    """Of the plain model, behind the last norm; padded to `TOKENS`."""
    padded, mask = np.full(TOKENS, 1), np.arange(TOKENS) < len(ids)
    padded[: len(ids)] = ids
    public = model.public
    found = public.family.plain_rows(
        model.weights, public.architecture, padded, mask, lambda *_: None, torch.float64
    )
    assert torch.isfinite(found).all()
    return found[: len(ids)].numpy()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"local_attention": 4, "layer_types": layer_types("glglg")},
        {"local_attention": 1, "layer_types": layer_types("gllll")},
        {"local_attention": 31, "layer_types": layer_types("ggggg")},
        {"norm_bias": True, "attention_bias": True, "mlp_bias": True},
        {"hidden_size": 24, "num_attention_heads": 6, "intermediate_size": 7, "norm_eps": 0.3},
        {"num_hidden_layers": 1},
    ],
    ids=str,
)
def test_plain_model_agrees_with_transformers(changes, tmp_path):
    reference = write_modernbert(tmp_path, **changes).to(torch.float64)
    model = folder_model(tmp_path)
    for count in (1, 2, 7, TOKENS):
        ids = np.random.default_rng(count).integers(3, len(WORDS), count)
        with torch.no_grad():
            expected = reference(torch.from_numpy(ids)[None]).last_hidden_state[0].numpy()
            embedded = reference.embeddings(torch.from_numpy(ids)[None])[0].numpy()
        # Transformers keeps angles in float32.
        assert np.abs(rows_of(model, ids) - expected).max() < 2e-5
        assert np.abs(model.plain(ids, dtype=torch.float64) - expected.mean(0)).max() < 2e-5
        # The client's table gives what the first layer of the model reads.
        assert np.abs(model.weights.embedding.embed(ids) - embedded).max() < 1e-6


def test_older_settings_mean_what_transformers_takes_them_for(tmp_path):
    from transformers import AutoModel

    write_modernbert(tmp_path, layer_types=layer_types("glglg"))
    newer = read_folder(tmp_path)[2]
    older = {
        "global_rope_theta": 50, "local_rope_theta": 3.0, "global_attn_every_n_layers": 2,
        "position_embedding_type": "absolute", "layer_norm_eps": 9.0,
    }  # fmt: skip
    rewrite_config(tmp_path, ("rope_parameters", "layer_types"), **older)
    assert read_folder(tmp_path)[2] == newer
    ids = np.arange(3, len(WORDS))
    with torch.no_grad():
        reference = AutoModel.from_pretrained(tmp_path).to(torch.float64).eval()
        expected = reference(torch.from_numpy(ids)[None]).last_hidden_state[0].numpy()
    assert np.abs(rows_of(folder_model(tmp_path), ids) - expected).max() < 2e-5


def test_what_config_json_leaves_out_is_what_transformers_takes(tmp_path):
    from transformers import AutoConfig

    write_modernbert(tmp_path)
    left_out = (
        "rope_parameters", "layer_types", "local_attention", "norm_bias", "mlp_bias",
        "attention_bias", "hidden_activation",
    )  # fmt: skip
    rewrite_config(tmp_path, left_out)
    found, wanted = read_folder(tmp_path)[2], AutoConfig.from_pretrained(tmp_path)
    assert found.local_attention // 2 == wanted.sliding_window
    thetas = [wanted.rope_parameters[kind]["rope_theta"] for kind in wanted.layer_types]
    assert [found.theta(i) for i in range(found.layers)] == thetas
    windows = [None if kind == KINDS[0] else wanted.sliding_window for kind in wanted.layer_types]
    assert [found.window(i) for i in range(found.layers)] == windows


def test_checkpoints_with_a_head_are_read(tmp_path):
    write_modernbert(tmp_path, "ForMaskedLM")
    from transformers import AutoModel

    ids = np.arange(3, len(WORDS))
    with torch.no_grad():
        reference = AutoModel.from_pretrained(tmp_path).to(torch.float64).eval()
        expected = reference(torch.from_numpy(ids)[None]).last_hidden_state[0].numpy()
    assert np.abs(rows_of(folder_model(tmp_path), ids) - expected).max() < 2e-5


def test_a_head_is_the_table_only_where_config_json_says_so(tmp_path):
    from safetensors.torch import load_file, save_file

    write_modernbert(tmp_path, "ForMaskedLM")
    whole, path = folder_model(tmp_path).weights.embedding, tmp_path / "model.safetensors"
    tensors = load_file(path)
    table = tensors.pop("model.embeddings.tok_embeddings.weight")
    save_file({**tensors, "decoder.weight": table}, path)
    assert folder_model(tmp_path).weights.embedding.digest() == whole.digest()
    rewrite_config(tmp_path, tie_word_embeddings=False)
    with pytest.raises(ConfigError, match=r"no tensor 'embeddings\.tok_embeddings\.weight'"):
        folder_model(tmp_path)


def nested(**changes):
    """rope_parameters with a change in the table of layers with windows."""
    return {"rope_parameters": {**FAR_APART, KINDS[1]: {**FAR_APART[KINDS[1]], **changes}}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"hidden_activation": "silu"},
            "hidden_activation is 'silu'; only 'gelu' or",
        ),
        ({"norm_bias": "yes"}, "norm_bias is 'yes'"),
        ({"is_decoder": True}, "is_decoder is True; only False"),
        ({"is_causal": True}, "is_causal is True; only False"),
        ({"head_dim": 8}, "head_dim is 8; only 10"),
        ({"sliding_window": 4}, "sliding_window is 4; only 2"),
        ({"local_attention": 0}, "local_attention is 0; expected a positive int"),
        ({"local_attention": 5.5}, "local_attention is 5.5; expected a positive int"),
        ({"num_attention_heads": 10}, "head size 3 is odd; rotary positions need pairs"),
        ({"num_attention_heads": 4}, "hidden size 30 is not a multiple of 4 heads"),
        ({"norm_eps": "x"}, "epsilon is 'x'"),
        ({"max_position_embeddings": 8192.5}, "positions is 8192.5"),
        ({"layer_types": layer_types("glgll")}, "layer_types does not have full_attention in"),
        ({"layer_types": layer_types("lllll")}, "layer_types does not have full_attention in"),
        ({"layer_types": layer_types("gll")}, "layer_types is no list of 5 layers"),
        ({"layer_types": ["chunked_attention"] * 5}, "layer_types does not have"),
        ({"layer_types": None, "global_attn_every_n_layers": 0}, "global_every is 0; expected"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2}}, "rope_type is 'linear'; only"),
        ({"rope_scaling": {"rope_theta": 7.0}}, "rope_scaling.rope_theta is not computed"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn'; expected a table"),
        (nested(rope_type="yarn"), "sliding_attention: rope_type is 'yarn'; only 'default'"),
        (nested(partial_rotary_factor=0.5), "sliding_attention.partial_rotary_factor is not"),
        (nested(rope_theta=None), "local_theta is None; expected a positive float"),
        ({"rope_parameters": {"rope_theta": 5.0}}, "rope_parameters is no table of full_attent"),
        ({"rope_parameters": [1]}, "rope_parameters is no table of full_attention and sliding"),
    ],
    ids=str,
)
def test_what_is_not_computed_is_refused(change, message, tmp_path):
    settings = {**SIZES, "model_type": "modernbert", "norm_eps": 1e-5, **change}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=message) as error:
        read_folder(tmp_path)
    assert str(tmp_path / "config.json") in str(error.value)


def test_weights_of_other_sizes_are_refused(tmp_path):
    write_modernbert(tmp_path)
    rewrite_config(tmp_path, intermediate_size=25)
    with pytest.raises(ConfigError, match=r"mlp\.Wi\.weight has shape \(52, 30\)"):
        folder_model(tmp_path)
    rewrite_config(tmp_path, intermediate_size=26, mlp_bias=True)
    with pytest.raises(ConfigError, match=r"no tensor 'layers\.0\.mlp\.Wi\.bias'"):
        folder_model(tmp_path)
    rewrite_config(tmp_path, ("layer_types",), mlp_bias=False, num_hidden_layers=4)
    with pytest.raises(ConfigError, match="holds layer 4, but config.json says 4 layers"):
        folder_model(tmp_path)


def test_classifiers_are_refused(tmp_path):
    from hybrid.models.loading import load_model

    write_modernbert(tmp_path / "model", "ForSequenceClassification", num_labels=3)
    config = load_config(write_config(tmp_path, tmp_path / "model", pooling="classifier"))
    with pytest.raises(ConfigError, match="classifiers of the family modernbert are not computed"):
        load_model(config)


# -- in private ------------------------------------------------------------------------------


def configured(folder, *changes, **keys):
    return load_config(
        write_config(folder, folder / "model", **keys), overrides_of(changes, None, None)
    )


def expected_of(reference, config, texts, pooled):
    """By transformers, each text by itself."""
    encoder = text_encoder(config)
    with torch.no_grad():
        ids = [torch.from_numpy(encoder.encode(text))[None] for text in texts]
        return np.stack([pooled(reference(x).last_hidden_state[0]).numpy() for x in ids])


@pytest.mark.long
def test_private_rows_see_their_window_alone(tmp_path):
    reference = write_modernbert(tmp_path / "model", num_hidden_layers=3, local_attention=4)
    config = configured(
        tmp_path, "model.tokens=14", "ckks.linear_phase=online", pooling="mean", normalize=True
    )
    texts = [LONG, "private"]
    wanted = expected_of(reference, config, texts, lambda rows: rows.mean(0))
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    found = private(config, texts)
    assert np.abs(found - wanted).max() < 5e-3
    assert cosines(found, wanted).min() > 0.9999


@pytest.mark.long
@pytest.mark.parametrize("softmax", ["squared_polynomial", "bolt", "bumblebee"])
def test_private_texts_of_a_batch_are_as_if_alone(softmax, tmp_path):
    settings = {"num_hidden_layers": 2, "local_attention": 2, "norm_bias": True}
    reference = write_modernbert(tmp_path / "model", **settings, attention_bias=True, mlp_bias=True)
    config = configured(
        tmp_path, "model.tokens=12", "model.batch=2", "ckks.linear_phase=online",
        f"protocols.softmax={softmax}", "protocols.linear=coefficients",
        "protocols.attention=coefficients_interleaved", "protocols.multiply=ot",
        pooling="cls", normalize=False,
    )  # fmt: skip
    texts = [LONG, "test of"]
    wanted = expected_of(reference, config, texts, lambda rows: rows[0])
    found = private(config, texts)
    assert np.abs(found - wanted).max() < 2.0**-4
    assert cosines(found, wanted).min() > 0.999
