"""The public shape of an encoder, read from a Hugging Face `config.json`."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from transport.errors import ConfigError

_MAX_DIMENSION = 1 << 20


@dataclass(frozen=True, slots=True)
class Architecture:
    """A BERT-family post-norm encoder."""

    hidden: int
    layers: int
    heads: int
    intermediate: int
    vocabulary: int
    positions: int
    token_types: int
    epsilon: float

    @property
    def head_size(self) -> int:
        """Columns of one attention head."""
        return self.hidden // self.heads

    def to_public(self) -> dict[str, Any]:
        """Plain data for the handshake."""
        return asdict(self)

    @classmethod
    def from_public(cls, data: object, place: str) -> Architecture:
        """Rebuild from untrusted plain data; `place` prefixes errors."""
        names = {f.name for f in fields(cls)}
        if not isinstance(data, dict) or set(data) != names:
            raise ConfigError(f"{place}: not a model architecture; are both parties one version?")
        for key, value in data.items():
            wanted = float if key == "epsilon" else int
            if type(value) is not wanted or not 0 < value <= _MAX_DIMENSION:
                raise ConfigError(
                    f"{place}: {key} is {value!r}; expected a positive {wanted.__name__}"
                )
        found = cls(**data)
        if found.hidden % found.heads:
            raise ConfigError(
                f"{place}: hidden size {found.hidden} is not a multiple of {found.heads} heads"
            )
        return found


_HF_KEYS = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "token_types": "type_vocab_size",
    "epsilon": "layer_norm_eps",
}
_REQUIRED = {
    "model_type": ("bert",),
    "hidden_act": ("gelu",),
    "position_embedding_type": ("absolute", None),
}


def read_architecture(folder: Path) -> Architecture:
    """Read `config.json` of a Hugging Face folder; refuses what this project cannot compute."""
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text())
    except OSError:
        raise ConfigError(f"{path}: missing; name a folder in Hugging Face layout") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid JSON ({error})") from None
    for key, allowed in _REQUIRED.items():
        if raw.get(key) not in allowed:
            raise ConfigError(
                f"{path}: {key} is {raw.get(key)!r}; only {allowed[0]!r} encoders are supported"
            )
    missing = [hf for hf in _HF_KEYS.values() if hf not in raw]
    if missing:
        raise ConfigError(f"{path}: missing {', '.join(missing)}; is this an encoder's config?")
    values = {ours: raw[hf] for ours, hf in _HF_KEYS.items()}
    values["epsilon"] = float(values["epsilon"])
    return Architecture.from_public(values, str(path))
