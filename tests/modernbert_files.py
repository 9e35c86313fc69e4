"""ModernBERT folders with random weights, as transformers writes them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch

from tests.encoder_setup import WORDS, write_tokenizer

SIZES = {
    "hidden_size": 30, "num_hidden_layers": 5, "num_attention_heads": 3, "intermediate_size": 26,
    "vocab_size": len(WORDS), "max_position_embeddings": 40, "local_attention": 5,
    "eos_token_id": 2, "bos_token_id": 0, "cls_token_id": 0, "sep_token_id": 2, "pad_token_id": 1,
}  # fmt: skip
FAR_APART = {
    "full_attention": {"rope_type": "default", "rope_theta": 50.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 3.0},
}
"""Thetas so small that every pair of coordinates turns within a short text."""


def write_modernbert(folder: Path, head: str = "Model", **changes: Any) -> Any:
    """A model of transformers with its tokenizer, saved as transformers saves it.

    head: the end of its class's name; changes: of its config.
    """
    import transformers

    torch.manual_seed(11)
    settings = {**SIZES, "rope_parameters": copy.deepcopy(FAR_APART), **changes}
    config = transformers.ModernBertConfig(**settings)
    model = getattr(transformers, f"ModernBert{head}")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_gain = "norm" in name and name.endswith("weight")
            if is_gain or name.endswith("bias"):
                parameter.normal_(float(is_gain), 0.2)
            elif "embeddings" not in name:
                # Scores and inputs of GELU far from where both are straight.
                parameter.normal_(0, 1.2 * parameter.shape[1] ** -0.5)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return model


def rewrite_config(folder: Path, drop: tuple[str, ...] = (), **changes: Any) -> None:
    """The folder's config.json without some keys and with others."""
    path = folder / "config.json"
    raw = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in raw.items() if key not in drop}))
