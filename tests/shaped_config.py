"""A config of a small model with random weights, without any file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hybrid.config.loading import Config, checked

SHAPE = {"hidden": 24, "layers": 1, "heads": 3, "intermediate": 40, "positions": 16}
PROTOCOLS = {
    "linear": "token_periodic",
    "attention": "rotated_slots",
    "gelu": "even_polynomial",
    "softmax": "squared_polynomial",
    "layernorm": "octave_polynomial",
    "multiply": "ckks",
}


def shaped_config(
    *,
    tokens: int = 8,
    batch: int = 1,
    margin: float = 4.0,
    phase: str = "online",
    exact: bool = False,
    **protocols: str,
) -> Config:
    """Under the policy `fixed`, with other protocols."""
    raw: dict[str, Any] = {
        "name": "shaped",
        "model": {
            "shape": SHAPE,
            "tokens": tokens,
            "batch": batch,
            "embedding": "public_table",
            "pooling": "mean",
            "normalize": True,
        },
        "ckks": {
            "parameters": "n8192_q88",
            "baby_steps": 8,
            "exact": exact,
            "linear_phase": phase,
        },
        "mpc": {"fraction_bits": 16, "output_bits": 6, "correlations": "softspoken"},
        "protocols": PROTOCOLS | protocols,
        "ranges": {"margin": margin},
    }
    return checked(raw, Path("shaped.yaml"))
