"""GGUF files: tensors, settings, what is refused of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from hybrid.models.decoders import read_decoder
from hybrid.models.gguf_file import GgufFile
from hybrid.models.rotary import angles, halves_from_neighbours, rotate
from tests.decoder_files import gguf_tensors, neighbours, reference, write_gguf, written
from transport.errors import ConfigError

IDS = np.random.default_rng(2).integers(0, 31, 17)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """By kind: the reference and the tensors that a converter would write."""
    found = {}
    for kind in ("llama", "gpt2"):
        model = written(kind, tmp_path_factory.mktemp(kind))
        found[kind] = model, gguf_tensors(kind, model)
    return found


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_logits_agree_with_transformers(kind, made, tmp_path):
    model, tensors = made[kind]
    path = write_gguf(tmp_path / "model.gguf", kind, tensors)
    wanted = reference(model, IDS)
    for place in (path, tmp_path):
        ours = read_decoder(place)
        found = ours.logits(IDS, dtype=torch.float64)
        assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
        assert ours.architecture.tied == (kind == "gpt2")


def test_a_head_of_its_own_and_a_tied_one(made, tmp_path):
    _, tensors = made["llama"]
    path = write_gguf(
        tmp_path / "tied.gguf", "llama", {n: v for n, v in tensors.items() if n != "output.weight"}
    )
    tied = read_decoder(path)
    assert tied.architecture.tied and tied.weights.head is tied.weights.embedding.words


def test_neighbours_come_half_a_head_apart():
    rng = np.random.default_rng(3)
    weight, x = rng.normal(size=(24, 7)).astype(np.float32), rng.normal(size=7)
    stored = neighbours(weight, 4)
    assert not np.array_equal(stored, weight)
    assert np.array_equal(halves_from_neighbours(stored, 4), weight)
    # Turned as llama.cpp turns neighbours, a head has the same products with another.
    turns = angles(5, 1, 6, 10000.0)
    ours = rotate(torch.from_numpy(weight @ x).reshape(4, 1, 6), turns)[:, 0].numpy()
    pairs = (stored @ x).reshape(4, 3, 2)
    complex_turns = np.exp(1j * turns.numpy()[0])
    theirs = (pairs[..., 0] + 1j * pairs[..., 1]) * complex_turns
    assert np.allclose(np.concatenate([theirs.real, theirs.imag], -1), ours, atol=1e-6)


def by_hand(data: np.ndarray, kind: GGMLQuantizationType) -> np.ndarray:
    """Rows of blocks of 32, by ggml's definitions of its types."""
    size = {"Q8_0": 34, "Q4_1": 20, "Q4_0": 18}[kind.name]
    blocks = data.reshape(-1, size)
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float64)
    if kind.name == "Q8_0":
        return scale * blocks[:, 2:].copy().view(np.int8)
    nibbles = blocks[:, -16:]
    numbers = np.concatenate([nibbles & 15, nibbles >> 4], 1).astype(np.float64)
    if kind.name == "Q4_0":
        return scale * (numbers - 8)
    return scale * numbers + blocks[:, 2:4].copy().view(np.float16)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_1", "Q4_0"])
def test_quantised_tensors_are_what_their_type_says(name, tmp_path):
    kind = GGMLQuantizationType[name]
    values = np.random.default_rng(4).normal(size=(6, 64)).astype(np.float32)
    path = write_gguf(tmp_path / "q.gguf", "llama", {"x": values}, quantised={"x": kind})
    found = GgufFile(path).take("x", (6, 64))
    from gguf import GGUFReader

    stored = np.array(GGUFReader(path).tensors[0].data)
    assert np.allclose(found, by_hand(stored, kind).reshape(6, 64), atol=1e-6)
    assert np.abs(found - values).max() < (0.03 if name == "Q8_0" else 0.5)


@pytest.mark.parametrize(
    ("kind", "extra", "message"),
    [
        ("llama", {"llama.rope.scaling.type": "yarn"}, "rope.scaling.type is 'yarn', which is not"),
        ("llama", {"llama.expert_count": 8}, "llama.expert_count is 8"),
        ("llama", {"llama.attention.sliding_window": 64}, "attention.sliding_window is 64"),
        ("llama", {"llama.rope.dimension_count": 4}, "rope.dimension_count is 4; only 10"),
        ("llama", {"llama.attention.value_length": 8}, "value_length is 8; only 10"),
        ("llama", {"llama.vocab_size": 32}, "vocab_size is 32; only 31"),
        ("llama", {"llama.attention.head_count": [2, 4]}, r"heads is \[2, 4\]; expected"),
        ("llama", {"llama.block_count": None}, "missing block_count"),
        ("llama", {"llama.block_count": 2}, "tensor 'blk.2.attn_k.weight' and 8 more would be"),
        ("llama", {"llama.block_count": 4}, "no tensor 'blk.3.attn_q.weight'"),
        ("llama", {"llama.embedding_length": 20}, r"shape \(31, 30\), the settings imply \(31, 20"),
        ("gpt2", {"gpt2.attention.causal": False}, "attention.causal is False"),
        ("gpt2", {"gpt2.context_length": 41}, r"position_embd.weight has shape \(40, 20\)"),
    ],
)  # fmt: skip
def test_what_is_not_computed_is_refused(kind, extra, message, made, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", kind, made[kind][1], extra)
    with pytest.raises(ConfigError, match=message) as caught:
        read_decoder(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_freqs.weight": np.ones(5, np.float32)}, "'rope_freqs.weight' would be ignored"),
        ({"blk.0.attn_q.bias": np.ones(60, np.float32)}, "'blk.0.attn_q.bias' would be ignored"),
        ({"output_norm.weight": np.full(30, np.inf, np.float32)}, "not finite"),
        ({"output_norm.weight": np.ones(30, np.int32)}, "as I32, which is not read; take a file"),
    ],
)
def test_odd_tensors_are_refused(change, message, made, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", "llama", made["llama"][1] | change)
    with pytest.raises(ConfigError, match=message):
        read_decoder(path)


def test_harmless_settings_are_passed_over(made, tmp_path):
    extra = {"llama.expert_count": 0, "llama.rope.scaling.type": "none", "llama.vocab_size": None}
    path = write_gguf(tmp_path / "m.gguf", "llama", made["llama"][1], extra)
    assert read_decoder(path).architecture.vocabulary == 31


def test_damaged_files_are_refused(made, tmp_path):
    path = write_gguf(tmp_path / "m.gguf", "gpt2", made["gpt2"][1])
    whole = path.read_bytes()
    for count in (0, 3, 20, 100, 1000, len(whole) // 2, len(whole) - 64):
        path.write_bytes(whole[:count])
        with pytest.raises(ConfigError, match="not a whole GGUF file"):
            read_decoder(path)
    path.write_bytes(b"PK" + whole)
    with pytest.raises(ConfigError, match="not a whole GGUF file"):
        read_decoder(path)


def test_other_byte_order_is_refused(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "b.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("x", np.ones(3, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ConfigError, match="other byte order"):
        read_decoder(tmp_path / "b.gguf")


def test_other_kinds_of_models_are_named(made, tmp_path):
    path = tmp_path / "m.gguf"
    tensors = made["gpt2"][1]
    write_gguf(path, "gpt2", tensors, {"general.name": "x"})
    data = path.read_bytes().replace(b"gpt2", b"gpt9")
    path.write_bytes(data)
    with pytest.raises(ConfigError, match="general.architecture is 'gpt9'; supported are llama, g"):
        read_decoder(path)
    write_gguf(tmp_path / "n.gguf", "gpt2", tensors)
    with pytest.raises(ConfigError, match="holds 2 GGUF files; name one of them"):
        read_decoder(tmp_path)
