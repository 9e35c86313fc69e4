"""Small decoders with random weights, as `transformers` saves them and as GGUF has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

LLAMA = {
    "hidden_size": 30, "num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2,
    "head_dim": 10, "intermediate_size": 27, "vocab_size": 31, "max_position_embeddings": 40,
    "rope_theta": 500.0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT2 = {
    "n_embd": 20, "n_layer": 3, "n_head": 4, "vocab_size": 31, "n_positions": 40, "n_inner": 27,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def written(kind: str, folder: Path, dtype: torch.dtype = torch.float32, **changes: Any) -> Any:
    """A model of transformers with random weights, saved; evaluates in float64."""
    import transformers

    torch.manual_seed(5)
    sizes = {"llama": LLAMA, "gpt2": GPT2}[kind] | changes
    shards = {k: sizes.pop(k) for k in ("max_shard_size",) if k in sizes}
    config = transformers.AutoConfig.for_model(kind, **sizes, initializer_range=0.3)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(0 if name.endswith("bias") else 1, 0.2)
    model.to(dtype).save_pretrained(folder, **shards)
    # Loaded again, since the frequencies of rotary positions were shortened too.
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()


def reference(model: Any, ids: np.ndarray) -> np.ndarray:
    """Its logits (tokens, vocabulary)."""
    with torch.no_grad():
        found = model(torch.from_numpy(ids)[None]).logits[0]
    return np.asarray(found.double().numpy())


def neighbours(rows: np.ndarray, heads: int) -> np.ndarray:
    """Query or key rows as llama.cpp's converter puts them (`LlamaModel.permute`)."""
    split = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)


_PARTS = {
    "llama": {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm", "model.embed_tokens": "token_embd",
        "model.norm": "output_norm", "lm_head": "output",
    },
    "gpt2": {
        "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down", "ln_1": "attn_norm", "ln_2": "ffn_norm",
        "transformer.wte": "token_embd", "transformer.wpe": "position_embd",
        "transformer.ln_f": "output_norm", "lm_head": "output",
    },
}  # fmt: skip


def gguf_tensors(kind: str, model: Any) -> dict[str, np.ndarray]:
    """Names and layout of llama.cpp's converter."""
    found = {}
    for name, parameter in model.named_parameters():
        values = parameter.detach().to(torch.float32).numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = LLAMA["num_attention_heads" if "q_proj" in name else "num_key_value_heads"]
            values = neighbours(values, heads)
        if ".c_" in name and values.ndim == 2:
            values = values.T
        short = name.replace("model.layers.", "blk.").replace("transformer.h.", "blk.")
        for theirs, ours in _PARTS[kind].items():
            short = short.replace(theirs, ours)
        found[short] = np.ascontiguousarray(values)
    return found


SETTINGS = {
    "llama": {
        "embedding_length": 30, "block_count": 3, "feed_forward_length": 27, "context_length": 40,
        "attention.head_count": 6, "attention.head_count_kv": 2, "attention.key_length": 10,
        "attention.value_length": 10, "rope.dimension_count": 10, "rope.freq_base": 500.0,
        "attention.layer_norm_rms_epsilon": 1e-6, "vocab_size": 31,
    },
    "gpt2": {
        "embedding_length": 20, "block_count": 3, "feed_forward_length": 27, "context_length": 40,
        "attention.head_count": 4, "attention.layer_norm_epsilon": 1e-5,
    },
}  # fmt: skip


def write_gguf(
    path: Path,
    kind: str,
    tensors: Mapping[str, np.ndarray],
    extra: Mapping[str, Any] | None = None,
    quantised: Mapping[str, gguf.GGMLQuantizationType] | None = None,
) -> Path:
    """A file with these tensors; `extra` settings are below the architecture's name or absolute."""
    writer = gguf.GGUFWriter(path, kind)
    settings = {f"{kind}.{key}": value for key, value in SETTINGS[kind].items()} | dict(extra or {})
    for key, value in settings.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32,
               str: writer.add_string, list: writer.add_array}  # fmt: skip
        if value is not None:
            add[type(value)](key, value)
    for name, values in tensors.items():
        kept = (quantised or {}).get(name)
        if kept is None:
            writer.add_tensor(name, values)
        else:
            writer.add_tensor(name, gguf.quants.quantize(values, kept), raw_dtype=kept)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
