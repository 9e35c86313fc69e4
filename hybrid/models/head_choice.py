"""The head of a run: what the model's folder says, held against what the config says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hybrid.config.loading import Config
from hybrid.models.family import AnyFamily
from hybrid.models.folder_modules import read_modules
from hybrid.models.heads import Head
from hybrid.models.poolings import POOLINGS, FirstToken
from hybrid.models.weights import Affine
from transport.errors import ConfigError
from transport.foreign import cut, shown

_LABEL = 60
"""Characters of a class's name."""
CLASSIFIER = "classifier"
"""What `model.pooling` calls the head of a classification model."""
_CLASSIFIES = "ForSequenceClassification"
_ENCODES = ("Model", "ForMaskedLM", "ForPreTraining")
"""Endings of names in `architectures` beside which nothing is lost by pooling rows."""


@dataclass(frozen=True)
class ChosenHead:
    """A head, what only the server has of it, and what the user should know."""

    head: Head
    weights: tuple[Affine, ...] = field(default=(), repr=False)
    notes: tuple[str, ...] = ()
    """A sentence for what of the folder is not used, or is not said by it."""


def folder_head(
    config: Config, folder: Path, raw: Mapping[str, Any], family: AnyFamily, architecture: Any
) -> ChosenHead:
    """Of a folder; `ConfigError` where config and folder say different things."""
    modules, model, kind = read_modules(folder), config.run.model, _kind(raw)
    if modules is None and kind.endswith(_CLASSIFIES) and model.pooling in ("", CLASSIFIER):
        return _classifier(config, folder, raw, family, architecture)
    if model.pooling == CLASSIFIER:
        raise ConfigError(
            f"{config.path}: model.pooling: {CLASSIFIER}, but {folder} holds {shown(kind)}; name a "
            f"folder of a model {_CLASSIFIES}"
        )
    if modules is None:
        if not model.pooling:
            raise ConfigError(
                f"{config.path}: model.pooling: missing, and {folder} does not say how its rows "
                f"become one (no modules.json, no 1_Pooling); set one of {', '.join(POOLINGS)}"
            )
        head = Head(named_pooling(config), (), bool(model.normalize), config.run.mpc.output_bits)
        return ChosenHead(head, (), _unused(kind))
    if model.pooling not in ("", modules.pooling):
        raise ConfigError(
            f"{config.path}: model.pooling: {shown(model.pooling)}, but {modules.place} says "
            f"{shown(modules.pooling)}; remove the key, or that file if it is wrong"
        )
    if None not in (model.normalize, modules.normalize) and model.normalize != modules.normalize:
        raise ConfigError(
            f"{config.path}: model.normalize: {str(model.normalize).lower()}, but {modules.place} "
            f"{'lists' if modules.normalize else 'does not list'} Normalize; remove the key"
        )
    said = modules.normalize if model.normalize is None else model.normalize
    head = Head(POOLINGS[modules.pooling], modules.dense, bool(said), config.run.mpc.output_bits)
    _check_widths(head, architecture.hidden, modules.place)
    notes = list(_unused(kind))
    if said is None:
        notes.append(
            "answers are not scaled to unit length: there is no modules.json to say so, and no "
            "model.normalize"
        )
    return ChosenHead(head, modules.weights, tuple(notes))


def folder_says_head(folder: Path, raw: Mapping[str, Any]) -> bool:
    """Whether a config may leave `model.pooling` out."""
    return read_modules(folder) is not None or _kind(raw).endswith(_CLASSIFIES)


def _kind(raw: Mapping[str, Any]) -> str:
    """The class of transformers that config.json was written for."""
    names = raw.get("architectures") or ["Model"]
    return str(names[0]) if isinstance(names, list) else str(names)


def shape_head(config: Config) -> ChosenHead:
    """Of a model of which only the shape is real."""
    if not config.run.model.pooling:
        raise ConfigError(
            f"{config.path}: model.pooling: missing, and a shape does not say it; set one of "
            f"{', '.join(POOLINGS)}"
        )
    normalize = bool(config.run.model.normalize)
    return ChosenHead(Head(named_pooling(config), (), normalize, config.run.mpc.output_bits))


def named_pooling(config: Config) -> Any:
    """What `model.pooling` names."""
    name = config.run.model.pooling
    if name not in POOLINGS:
        raise ConfigError(
            f"{config.path}: model.pooling: {shown(name)} is not known; choose among "
            f"{', '.join(POOLINGS)}"
        )
    return POOLINGS[name]


def public_head(config: Config, data: object, width: int) -> Head:
    """The client's: what the server says, held against the own config."""
    head, model = Head.from_public(data, width, config.run.mpc.output_bits), config.run.model
    named = CLASSIFIER if head.labels else head.pooling.name
    if model.pooling not in ("", named):
        raise ConfigError(
            f"handshake: the server's model ends in {named}, model.pooling is "
            f"{shown(model.pooling)}; use the same config at both parties"
        )
    if model.normalize not in (None, head.normalize):
        raise ConfigError(
            "handshake: the server's answers are "
            f"{'' if head.normalize else 'not '}scaled to unit length, model.normalize says "
            "otherwise; use the same config at both parties"
        )
    return head


def _classifier(
    config: Config, folder: Path, raw: Mapping[str, Any], family: AnyFamily, architecture: Any
) -> ChosenHead:
    place = folder / "config.json"
    if config.run.model.normalize:
        raise ConfigError(
            f"{config.path}: model.normalize: true, but {place} is that of a classifier, whose "
            "logits are not scaled; remove the key"
        )
    labels = _labels(raw, str(place))
    parts = family.classifier(raw, architecture, len(labels), str(place))
    weights = family.read_classifier(folder, raw, parts)
    dense = tuple(part for _, part in parts)
    head = Head(FirstToken(), dense, False, config.run.mpc.output_bits, labels)
    return ChosenHead(head, weights)


def _labels(raw: Mapping[str, Any], place: str) -> tuple[str, ...]:
    """Names of the classes, by their ids; transformers' own where config.json gives none."""
    given = raw.get("id2label")
    if given is None:
        count = raw.get("num_labels", 2)
        if type(count) is not int or not 1 <= count <= 1 << 16:
            raise ConfigError(f"{place}: num_labels is {shown(count)}; expected a number")
        return tuple(f"LABEL_{index}" for index in range(count))
    wanted = [str(index) for index in range(len(given))] if isinstance(given, dict) else []
    if not wanted or sorted(given) != sorted(wanted):
        raise ConfigError(f"{place}: id2label does not name the classes 0, 1 and so on")
    return tuple(cut(str(given[index]), _LABEL) for index in wanted)


def _check_widths(head: Head, width: int, place: str) -> None:
    for part in head.dense:
        if part.width_in != width:
            raise ConfigError(
                f"{place}: a Dense module reads {part.width_in} numbers, what comes before it "
                f"gives {width}; is a file of another model in the folder?"
            )
        width = part.width_out


def _unused(kind: str) -> tuple[str, ...]:
    if kind.endswith(_ENCODES):
        return ()
    return (f"the head of {cut(kind)} is not used, since rows are pooled",)
