"""What config.json of a ModernBERT folder says: sizes, which layers see all tokens, angles."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hybrid.models.architecture import Architecture
from hybrid.models.settings import as_float, read_sizes, require
from transport.errors import ConfigError
from transport.foreign import cut, shown

_SIZES = {
    "hidden": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
    "positions": "max_position_embeddings",
    "epsilon": "norm_eps",
}
_GLOBAL, _LOCAL = "full_attention", "sliding_attention"
BIASES = ("norm_bias", "attention_bias", "mlp_bias")
DEFAULTS: Mapping[str, Any] = {
    "global_every": 3,
    "local_attention": 128,
    "global_theta": 160000.0,
    "local_theta": 10000.0,
    "epsilon": 1e-5,
}
"""Where nothing says otherwise: the published models' values, which `transformers` takes too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModernBertArchitecture(Architecture):
    """A pre-norm encoder whose layers see all tokens or a window of them."""

    global_every: int
    """Every so many layers, from the first on, one sees all tokens; the others see a window."""
    local_attention: int
    """Width of the window, half of it to each side of a token."""
    global_theta: float
    local_theta: float
    """Of rotary positions, in layers of either kind."""

    def window(self, layer: int) -> int | None:
        """Tokens that a layer sees to each side of one; None: all."""
        return self.local_attention // 2 if layer % self.global_every else None

    def theta(self, layer: int) -> float:
        """Of a layer's rotary positions."""
        return self.local_theta if layer % self.global_every else self.global_theta

    def check_sizes(self, place: str) -> None:
        """`ConfigError` when sizes do not go together."""
        Architecture.check_sizes(self, place)
        if self.head_size % 2:
            raise ConfigError(
                f"{place}: head size {self.head_size} is odd; rotary positions need pairs"
            )

    def line(self) -> str:
        """Sizes for a reader."""
        return (
            f"{Architecture.line(self)}, 1 of {self.global_every} layers sees all tokens, the "
            f"others {self.local_attention // 2} to each side"
        )


def read_settings(raw: Mapping[str, Any], place: str) -> ModernBertArchitecture:
    """From config.json; `ConfigError` for whatever would be computed otherwise than it says."""
    values = read_sizes(raw, place, _SIZES, "an encoder")
    require(raw, place, "hidden_activation", "gelu", "gelu_python", None)
    for key in BIASES:
        require(raw, place, key, False, True, None)
    require(raw, place, "is_decoder", False, None)
    require(raw, place, "is_causal", False, None)
    require(raw, place, "quantization_config", None)
    # It is meant for layers of both kinds.
    _check_unscaled(raw.get("rope_scaling") or {}, f"{place}: rope_scaling")
    values["epsilon"] = as_float(values["epsilon"])
    values["local_attention"] = raw.get("local_attention", DEFAULTS["local_attention"])
    values["global_every"] = _global_every(raw, place)
    values["global_theta"] = _theta(raw, place, _GLOBAL, "global")
    values["local_theta"] = _theta(raw, place, _LOCAL, "local")
    found = ModernBertArchitecture.from_public(values, place)
    # Both would be taken instead of what they follow from.
    require(raw, place, "head_dim", found.head_size, None)
    require(raw, place, "sliding_window", found.local_attention // 2, None)
    return found


def _global_every(raw: Mapping[str, Any], place: str) -> Any:
    """From the list of layers, else from the number that older files have; not checked yet."""
    types = raw.get("layer_types")
    if types is None:
        return raw.get("global_attn_every_n_layers", DEFAULTS["global_every"])
    layers = raw["num_hidden_layers"]
    if not isinstance(types, list) or len(types) != layers or not types:
        raise ConfigError(
            f"{place}: layer_types is no list of {shown(layers)} layers; fetch the file again"
        )
    later = [i for i, kind in enumerate(types) if i and kind == _GLOBAL]
    every = later[0] if later else len(types)
    if types != [_LOCAL if i % every else _GLOBAL for i in range(len(types))]:
        raise ConfigError(
            f"{place}: layer_types does not have {_GLOBAL} in the first layer and every so many "
            f"from there, {_LOCAL} between; use a model with such layers"
        )
    return every


def _theta(raw: Mapping[str, Any], place: str, kind: str, old: str) -> Any:
    """Of layers of a kind, by either form of the settings; not checked yet."""
    tables = raw.get("rope_parameters") or {}
    where = f"{place}: rope_parameters"
    if not isinstance(tables, dict) or not set(tables) <= {_GLOBAL, _LOCAL}:
        raise ConfigError(f"{where} is no table of {_GLOBAL} and {_LOCAL}; fetch the file again")
    rope = tables.get(kind) or {}
    _check_unscaled(rope, f"{where}.{kind}", "rope_theta")
    theta = rope.get("rope_theta", raw.get(f"{old}_rope_theta", DEFAULTS[f"{old}_theta"]))
    return as_float(theta)


def _check_unscaled(rope: Any, place: str, *read: str) -> None:
    """`ConfigError` where angles would not be a power of theta times the position."""
    if not isinstance(rope, dict):
        raise ConfigError(f"{place} is {shown(rope)}; expected a table")
    kinds = ("rope_type", "type")
    for key in kinds:
        require(rope, place, key, "default", None)
    for key in rope:
        if key not in (*kinds, *read):
            raise ConfigError(
                f"{place}.{cut(str(key))} is not computed; use a model without scaled positions"
            )
