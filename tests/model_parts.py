"""Models without a config: what tests of families and of plain models start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hybrid.models import MODELS
from hybrid.models.architecture import read_model_config
from hybrid.models.family import AnyFamily
from hybrid.models.heads import Head
from hybrid.models.loading import family_of
from hybrid.models.model import Model, PublicModel
from hybrid.models.poolings import Mean


def read_folder(folder: Path) -> tuple[AnyFamily, Mapping[str, Any], Any]:
    """Family, config.json and architecture."""
    raw, place = read_model_config(folder), str(folder / "config.json")
    family = family_of(raw, MODELS, place)
    return family, raw, family.read_architecture(raw, place)


def folder_model(folder: Path, tokens: int = 16) -> Model:
    """Weights of a folder, without ranges."""
    family, raw, architecture = read_folder(folder)
    weights = family.read_weights(folder, raw, architecture)
    return bare_model(family, architecture, weights, tokens)


def bare_model(family: AnyFamily, architecture: Any, weights: Any, tokens: int = 16) -> Model:
    """Without ranges."""
    head = Head(Mean())
    return Model(PublicModel(family, architecture, {}, head, tokens, 1), weights, "test weights")
