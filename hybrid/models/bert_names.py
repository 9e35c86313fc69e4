"""Names of sizes and tensors in checkpoints of BERT and what computes as it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hybrid.models.checkpoint import Layout
from transport.errors import ConfigError
from transport.foreign import shown

_BERT_SIZES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "epsilon": "layer_norm_eps",
}
_DISTILBERT_SIZES = {
    "hidden": "dim",
    "layers": "n_layers",
    "heads": "n_heads",
    "intermediate": "hidden_dim",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
}


@dataclass(frozen=True, slots=True)
class Names:
    """Where a checkpoint keeps what; tensors are relative to the prefix that it has there."""

    sizes: Mapping[str, str] = field(default_factory=lambda: _BERT_SIZES)
    """Our names of sizes to keys of config.json; those that it has not are `FIXED`."""
    layer: str = "encoder.layer"
    linear: tuple[str, ...] = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
        "attention.output.dense",
        "intermediate.dense",
        "output.dense",
    )
    norms: tuple[str, str] = ("attention.output.LayerNorm", "output.LayerNorm")
    activation: str = "hidden_act"
    has_token_types: bool = True
    classifier: tuple[str, str, str] = ("pooler.dense", "classifier", "tanh")
    """Maps of a classification head and the activation between them."""
    counts_from_padding: bool = False
    """Whether positions start behind the padding id, as RoBERTa's do."""
    padding: int | None = None
    """That id where the family fixes it; None: `pad_token_id` of config.json."""
    score_bias: str = ""
    """The table of biases by relative position, where there is one."""

    def padding_id(self, raw: Mapping[str, Any], place: str) -> int:
        """The token id that positions count from, -1 where they simply count.

        `ConfigError` where it is none.
        """
        if not self.counts_from_padding:
            return -1
        found = raw.get("pad_token_id", 1) if self.padding is None else self.padding
        if type(found) is not int or found < 0:
            raise ConfigError(
                f"{place}: pad_token_id is {shown(found)}; positions count from it: give the "
                "id of the padding token"
            )
        for ours, least in (("vocabulary", found + 1), ("positions", found + 2)):
            size = raw.get(self.sizes[ours])
            if type(size) is int and size < least:
                raise ConfigError(
                    f"{place}: {self.sizes[ours]} is {shown(size)}, but positions count from "
                    f"the padding id {shown(found)}, which needs {shown(least)} or more; "
                    "use the config.json that belongs to these weights"
                )
        return found


FIXED = {"token_types": 1, "epsilon": 1e-12, "padding": -1}
LINEAR = ("query", "key", "value", "attention_output", "intermediate", "output")
_BERT = Names()
_ROBERTA = Names(
    classifier=("classifier.dense", "classifier.out_proj", "tanh"),
    counts_from_padding=True,
)
_DISTILBERT = Names(
    _DISTILBERT_SIZES,
    "transformer.layer",
    tuple(f"attention.{n}_lin" for n in ("q", "k", "v", "out")) + ("ffn.lin1", "ffn.lin2"),
    ("sa_layer_norm", "output_layer_norm"),
    activation="activation",
    has_token_types=False,
    classifier=("pre_classifier", "classifier", "relu"),
)
NAMES: Mapping[str, Names] = {
    "bert": _BERT,
    "roberta": _ROBERTA,
    "xlm-roberta": _ROBERTA,
    "camembert": _ROBERTA,
    "electra": replace(_BERT, classifier=("classifier.dense", "classifier.out_proj", "gelu")),
    "distilbert": _DISTILBERT,
}
LAYOUT = Layout(
    marker="embeddings.word_embeddings.weight",
    second="embeddings.position_embeddings.weight",
    tied=(
        "cls.predictions.decoder.weight", "lm_head.decoder.weight", "vocab_projector.weight",
        "generator_lm_head.weight", "lm_head.weight",
    ),
    ignored=r"embeddings\.(position|token_type)_ids",
    heads=(
        "pooler", "classifier", "pre_classifier", "cls", "lm_head", "qa_outputs", "score",
        "sequence_summary", "vocab_transform", "vocab_layer_norm", "vocab_projector",
        "generator_predictions", "generator_lm_head", "discriminator_predictions",
    ),
)  # fmt: skip
MPNET = Names(
    {ours: theirs for ours, theirs in _BERT_SIZES.items() if ours != "token_types"},
    linear=tuple(f"attention.attn.{n}" for n in "qkvo") + ("intermediate.dense", "output.dense"),
    norms=("attention.LayerNorm", "output.LayerNorm"),
    has_token_types=False,
    classifier=_ROBERTA.classifier,
    counts_from_padding=True,
    # Its code never reads pad_token_id.
    padding=1,
    score_bias="encoder.relative_attention_bias.weight",
)
