"""What a sentence-transformers folder says follows its transformer: `modules.json` and subfolders.

Pooling, then Dense modules, then Normalize; any other module is refused by name.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid.models.checkpoint import Checkpoint, Layout
from hybrid.models.heads import Dense
from hybrid.models.model_files import read_json
from hybrid.models.poolings import POOLINGS
from hybrid.models.sentence_folder import optional_table, sentence_modules
from hybrid.models.weights import Affine
from transport.errors import ConfigError
from transport.foreign import cut, shown

_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Keys of 1_Pooling/config.json, one bool each; newer folders have `pooling_mode`."""
_WIDTHS = ("embedding_dimension", "word_embedding_dimension")
_POOLING_KEYS = {*_OLD_MODES, *_WIDTHS, "pooling_mode", "include_prompt"}
_ACTIVATIONS = {
    "torch.nn.modules.activation.Tanh": "tanh",
    "torch.nn.modules.activation.ReLU": "relu",
    "torch.nn.modules.activation.GELU": "gelu",
    "torch.nn.modules.linear.Identity": "identity",
}
_NAMED: Mapping[str, tuple[Any, ...]] = {
    "module_input_name": ("sentence_embedding", None),
    "module_output_name": ("sentence_embedding", None),
}
_DENSE_KEYS: Mapping[str, tuple[Any, ...]] = {**_NAMED, "use_residual": (False, None)}
"""Keys of N_Dense/config.json besides sizes, and the values under which it is a plain map."""
_LAYOUT = Layout(marker="linear.weight", second="linear.bias", tied=())
_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")
_HARMLESS = ("Dropout",)
"""Nothing in inference."""


@dataclass(frozen=True)
class Modules:
    """What follows the transformer."""

    pooling: str
    dense: tuple[Dense, ...] = ()
    weights: tuple[Affine, ...] = field(default=(), repr=False)
    normalize: bool | None = None
    """None: not said, since an empty folder may not have been copied."""
    place: str = ""
    """The file that says so, for errors."""


def read_modules(folder: Path) -> Modules | None:
    """Of a folder; None where it says nothing. `ConfigError` for what is not computed."""
    listed = [m for m in sentence_modules(folder) if m.kind not in _HARMLESS]
    if not listed:
        return _by_subfolders(folder)
    path, names = folder / "modules.json", [module.kind for module in listed]
    for name in names:
        if name not in _ORDER:
            raise ConfigError(
                f"{path}: module {shown(name)} is not computed; supported are {', '.join(_ORDER)}"
            )
    places = [_ORDER.index(name) for name in names]
    if places != sorted(places) or any(names.count(n) > 1 for n in set(names) - {"Dense"}):
        raise ConfigError(
            f"{path}: modules {', '.join(names)}; only Transformer, Pooling, Dense and Normalize "
            "in this order are computed"
        )
    if names[:2] != ["Transformer", "Pooling"]:
        raise ConfigError(
            f"{path}: modules {', '.join(names)}; a Transformer and a Pooling are needed"
        )
    dense = [module.folder for module in listed if module.kind == "Dense"]
    for module in listed:
        if module.kind == "Normalize":
            _check_plain(module.folder / "config.json")
    pooling = listed[1].folder / "config.json"
    return _found(pooling, dense, normalize="Normalize" in names, place=str(path))


def _by_subfolders(folder: Path) -> Modules | None:
    """Without a list: `1_Pooling`, `2_Dense` and so on, by their numbers."""
    numbered = sorted(
        (int(number), name, sub)
        for sub in folder.glob("[0-9]*_*")
        if sub.is_dir()
        for number, _, name in [sub.name.partition("_")]
        if number.isdecimal()
    )
    others = [sub for _, name, sub in numbered if name not in _ORDER]
    if others:
        raise ConfigError(
            f"{others[0]}: a module that is not computed, and there is no modules.json; supported "
            f"are {', '.join(_ORDER[1:])}"
        )
    poolings = [sub for _, name, sub in numbered if name == "Pooling"]
    dense = [sub for _, name, sub in numbered if name == "Dense"]
    for _, name, sub in numbered:
        if name == "Normalize":
            _check_plain(sub / "config.json")
    if not poolings and not dense:
        return None
    if len(poolings) != 1:
        raise ConfigError(f"{folder}: {len(poolings)} folders of a Pooling; one is needed")
    normalize = True if any(name == "Normalize" for _, name, _ in numbered) else None
    place = poolings[0] / "config.json"
    return _found(place, dense, normalize=normalize, place=str(place))


def _check_plain(path: Path) -> None:
    """`ConfigError` where a Normalize module scales something else than the text's vector."""
    for key, value in optional_table(path).items():
        if value not in _NAMED.get(key, ()):
            raise ConfigError(
                f"{path}: {cut(key)} is {cut(json.dumps(value))}, which is not computed; use a "
                "model without it"
            )


def _found(pooling: Path, dense: Iterable[Path], *, normalize: bool | None, place: str) -> Modules:
    name = _pooling(pooling)
    parts = [_dense(folder) for folder in dense]
    shapes, weights = tuple(p for p, _ in parts), tuple(w for _, w in parts)
    return Modules(name, shapes, weights, normalize, place)


def _pooling(path: Path) -> str:
    """Its name."""
    raw = read_json(path)
    for key in raw:
        if key not in _POOLING_KEYS:
            close = difflib.get_close_matches(key, _POOLING_KEYS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ConfigError(f"{path}: {shown(key)} is a setting that is not computed{hint}")
    for key in (*_OLD_MODES, "include_prompt"):
        if type(raw.get(key, False)) is not bool:
            raise ConfigError(f"{path}: {key} is {shown(raw[key])}; use true or false")
    modes = raw.get("pooling_mode")
    if modes is None:
        modes = [name for key, name in _OLD_MODES.items() if raw.get(key) is True] or ["mean"]
    modes = [modes] if isinstance(modes, str) else modes
    named = modes if isinstance(modes, list) and all(isinstance(m, str) for m in modes) else []
    if len(named) != 1 or named[0] not in POOLINGS:
        raise ConfigError(
            f"{path}: pooling {shown(' and '.join(named) or modes)} is not computed; supported is "
            f"one of {', '.join(POOLINGS)}"
        )
    return str(named[0])


def _dense(folder: Path) -> tuple[Dense, Affine]:
    """Sizes and weights of a Dense module."""
    path = folder / "config.json"
    raw = read_json(path)
    known = {"in_features", "out_features", "bias", "activation_function", *_DENSE_KEYS}
    for key, value in raw.items():
        if key not in known or value not in _DENSE_KEYS.get(key, (value,)):
            raise ConfigError(
                f"{path}: {cut(key)} is {cut(json.dumps(value))}, which is not computed; use "
                "a model without it"
            )
    sizes = [n for n in (raw.get("in_features"), raw.get("out_features")) if type(n) is int]
    has_bias = raw.get("bias", True)
    if len(sizes) != 2 or min(sizes) < 1 or type(has_bias) is not bool:
        raise ConfigError(f"{path}: in_features, out_features, bias are not two sizes and a bool")
    named = raw.get("activation_function", "torch.nn.modules.activation.Tanh")
    if not isinstance(named, str) or named not in _ACTIVATIONS:
        known_names = ", ".join(name.rpartition(".")[2] for name in _ACTIVATIONS)
        raise ConfigError(
            f"{path}: activation_function {shown(named)} is not computed; supported are "
            f"{known_names}"
        )
    file = Checkpoint(folder, _LAYOUT, tied=False)
    part = Dense(sizes[0], sizes[1], _ACTIVATIONS[named])
    weight = file.matrix("linear", part.width_in, part.width_out)
    bias = file.take("linear.bias", (part.width_out,)) if has_bias else weight[0] * 0
    file.finish()
    return part, Affine(weight, bias)
