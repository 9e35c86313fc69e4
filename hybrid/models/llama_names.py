"""What LLaMA models call their sizes, matrices and norms, in folders and in GGUF files."""

from __future__ import annotations

from hybrid.models.checkpoint import Layout
from hybrid.models.decoder_settings import GgufNames

SIZES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "epsilon": "rms_norm_eps",
}
GGUF = GgufNames(
    sizes={
        "hidden": "embedding_length",
        "layers": "block_count",
        "heads": "attention.head_count",
        "intermediate": "feed_forward_length",
        "positions": "context_length",
        "epsilon": "attention.layer_norm_rms_epsilon",
    },
    optional=(
        "attention.head_count_kv", "attention.key_length", "attention.value_length",
        "rope.freq_base", "rope.dimension_count", "vocab_size",
    ),
    harmless={
        "rope.scaling.type": "none", "expert_count": 0, "expert_used_count": 0,
        "attention.causal": True,
    },
)  # fmt: skip
ROPE_THETA = 10000.0
"""Where nothing says otherwise, in both kinds of file."""
LINEAR = ("query", "key", "value", "attention_output", "gate", "up", "down")
NORMS = ("attention_norm", "feed_forward_norm")
HF_LINEAR = tuple(f"self_attn.{n}_proj" for n in ("q", "k", "v", "o")) + tuple(
    f"mlp.{n}_proj" for n in ("gate", "up", "down")
)
HF_NORMS = ("input_layernorm", "post_attention_layernorm")
GGUF_LINEAR = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
GGUF_NORMS = ("attn_norm", "ffn_norm")
LAYOUT = Layout(
    marker="embed_tokens.weight",
    second="layers.0.input_layernorm.weight",
    tied=("lm_head.weight",),
    # Old checkpoints keep the angles' frequencies, which follow from rope_theta.
    ignored=r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq",
)
