"""A small random encoder in Hugging Face layout with a config, for end-to-end tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

TEXT = "a small test of private inference"
CONFIG = """
name: tiny
model: {{path: {model}, tokens: {tokens}, embedding: public_table, pooling: mean, normalize: true}}
texts: texts.txt
ckks: {{parameters: n8192_q88, linear_phase: offline, baby_steps: 8}}
mpc: {{fraction_bits: 16, output_bits: 6, correlations: {correlations}}}
protocols:
  {{linear: token_periodic, attention: rotated_slots, gelu: even_polynomial,
   softmax: squared_polynomial, layernorm: octave_polynomial, multiply: cheapest}}
ranges: {{sentences: samples.txt, margin: 4.0}}
runtime: {{timeout_s: 600.0, pin_cores: false}}
"""
"""Its keys in braces are those of `write_tiny_config`."""
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "small", "test", "of", "private", "inference"]


def write_tiny_model(
    folder: Path, *, hidden: int = 24, layers: int = 1, heads: int = 3, intermediate: int = 40
) -> Path:
    """Random weights with well-behaved magnitudes; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": intermediate,
        "vocab_size": len(WORDS),
        "max_position_embeddings": 16,
        "type_vocab_size": 2,
        "layer_norm_eps": 1e-12,
        "position_embedding_type": "absolute",
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(_weights(hidden, layers, intermediate), folder / "model.safetensors")
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def _weights(hidden: int, layers: int, intermediate: int) -> dict[str, NDArray[np.float32]]:
    """By name, drawn in the order of the file."""
    rng = np.random.default_rng(7)
    tensors: dict[str, NDArray[np.float32]] = {}

    def matrix(name: str, rows: int, columns: int, scale: float) -> None:
        tensors[name] = rng.normal(0, scale, (rows, columns)).astype(np.float32)

    def linear(name: str, d_out: int, d_in: int) -> None:
        matrix(f"{name}.weight", d_out, d_in, d_in**-0.5)
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, d_out).astype(np.float32)

    def norm(name: str) -> None:
        tensors[f"{name}.weight"] = (1 + rng.normal(0, 0.1, hidden)).astype(np.float32)
        tensors[f"{name}.bias"] = rng.normal(0, 0.1, hidden).astype(np.float32)

    matrix("embeddings.word_embeddings.weight", len(WORDS), hidden, 0.5)
    matrix("embeddings.position_embeddings.weight", 16, hidden, 0.2)
    matrix("embeddings.token_type_embeddings.weight", 2, hidden, 0.1)
    norm("embeddings.LayerNorm")
    for index in range(layers):
        prefix = f"encoder.layer.{index}"
        for part in ("query", "key", "value"):
            linear(f"{prefix}.attention.self.{part}", hidden, hidden)
        linear(f"{prefix}.attention.output.dense", hidden, hidden)
        linear(f"{prefix}.intermediate.dense", intermediate, hidden)
        linear(f"{prefix}.output.dense", hidden, intermediate)
        norm(f"{prefix}.attention.output.LayerNorm")
        norm(f"{prefix}.output.LayerNorm")
    return tensors


def write_tiny_config(
    folder: Path,
    *,
    tokens: int = 8,
    correlations: str = "ferret",
    extra: str = "",
    model: Path | None = None,
) -> Path:
    """A config with texts and calibration samples, and the tiny model unless another is named.

    Returns the config's path.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if model is None:
        write_tiny_model(folder / "model")
    (folder / "texts.txt").write_text(TEXT + "\n", encoding="utf-8")
    samples = f"{TEXT}\na test\nprivate\nof of of a small inference\n"
    (folder / "samples.txt").write_text(samples, encoding="utf-8")
    path = folder / "tiny.yaml"
    path.write_text(
        CONFIG.format(model=model or "model", tokens=tokens, correlations=correlations) + extra,
        encoding="utf-8",
    )
    return path
