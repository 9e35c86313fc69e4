"""Encoder families of Hugging Face that compute what BERT does, under other names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transport.errors import ConfigError

_BERT_KEYS = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "epsilon": "layer_norm_eps",
}
_BERT_LINEAR = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "attention_output": "attention.output.dense",
    "intermediate": "intermediate.dense",
    "output": "output.dense",
}
_BERT_NORMS = {
    "attention_norm": "attention.output.LayerNorm",
    "output_norm": "output.LayerNorm",
}
_EXACT_GELU = ("gelu", "gelu_python")


@dataclass(frozen=True)
class Family:
    """Where a family keeps what; every tensor name is relative to `prefix`."""

    prefix: str
    """Of tensors in a checkpoint with a head; without one there is none."""
    keys: Mapping[str, str] = field(default_factory=lambda: _BERT_KEYS)
    """Our names of sizes to those of `config.json`."""
    fixed: Mapping[str, float] = field(default_factory=dict)
    """Sizes that `config.json` does not hold."""
    layer: str = "encoder.layer"
    linear: Mapping[str, str] = field(default_factory=lambda: _BERT_LINEAR)
    norms: Mapping[str, str] = field(default_factory=lambda: _BERT_NORMS)
    activation: str = "hidden_act"
    has_token_types: bool = True
    counts_from_padding: bool = False
    """Whether positions start behind the padding id, as RoBERTa's do."""

    def first_position(self, raw: Mapping[str, Any]) -> int:
        """Row of the position table that belongs to the first token."""
        return int(raw.get("pad_token_id", 1)) + 1 if self.counts_from_padding else 0


_ROBERTA = Family("roberta.", counts_from_padding=True)
FAMILIES: Mapping[str, Family] = {
    "bert": Family("bert."),
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": Family("electra."),
    "distilbert": Family(
        "distilbert.",
        {
            "hidden": "dim",
            "layers": "n_layers",
            "heads": "n_heads",
            "intermediate": "hidden_dim",
            "vocabulary": "vocab_size",
            "positions": "max_position_embeddings",
        },
        {"token_types": 1, "epsilon": 1e-12},
        "transformer.layer",
        {
            "query": "attention.q_lin",
            "key": "attention.k_lin",
            "value": "attention.v_lin",
            "attention_output": "attention.out_lin",
            "intermediate": "ffn.lin1",
            "output": "ffn.lin2",
        },
        {"attention_norm": "sa_layer_norm", "output_norm": "output_layer_norm"},
        activation="activation",
        has_token_types=False,
    ),
}
"""By `model_type`."""


def family_of(raw: Mapping[str, Any], place: str) -> Family:
    """The family of a `config.json`; `ConfigError` for what is not computed here."""
    kind = raw.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        raise ConfigError(
            f"{place}: model_type is {kind!r}; supported encoders are {', '.join(FAMILIES)}"
        )
    wanted: dict[str, tuple[Any, ...]] = {
        family.activation: _EXACT_GELU,
        "position_embedding_type": ("absolute", None),
        "is_decoder": (False, None),
        "add_cross_attention": (False, None),
        # An embedding of another width is projected first, which is one more layer.
        "embedding_size": (raw.get("hidden_size"), None),
    }
    for key, allowed in wanted.items():
        if raw.get(key) not in allowed:
            raise ConfigError(
                f"{place}: {key} is {raw.get(key)!r}; only {allowed[0]!r} is supported: use an "
                "encoder that was trained with it"
            )
    return family
