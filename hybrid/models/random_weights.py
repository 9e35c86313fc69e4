"""Models of which only the shape is real: random weights, for studies of cost."""

from __future__ import annotations

import hashlib
import math

import numpy as np
from numpy.typing import NDArray

from hybrid.models.architecture import Architecture
from hybrid.config.schema import SHAPES, ShapeConfig
from hybrid.models.weights import Affine, Array, EmbeddingTable, EncoderWeights, LayerWeights
from transport.errors import ConfigError

_SEED = 20240
_SPECIAL = 2
"""Ids of the token before and the token after every text."""
_SAMPLES = 8


def architecture_of(shape: str | ShapeConfig) -> Architecture:
    """Sizes of a named or written-out shape; `ConfigError` where one is missing."""
    given = ShapeConfig.model_validate({"like": shape}) if isinstance(shape, str) else shape
    sizes: dict[str, int] = {"vocabulary": 1024, "positions": 512}
    if given.like is not None:
        sizes |= SHAPES[given.like]
    sizes |= given.model_dump(exclude={"like"}, exclude_none=True)
    missing = [n for n in ("hidden", "layers", "heads", "intermediate") if n not in sizes]
    if missing:
        raise ConfigError(
            f"model.shape: {', '.join(missing)} missing; give all four sizes or `like: bert-base`"
        )
    return Architecture.from_public({**sizes, "token_types": 1, "epsilon": 1e-12}, "model.shape")


def random_weights(architecture: Architecture) -> EncoderWeights:
    """Weights, always the same, under which magnitudes are those of trained models.

    Normalised rows have root mean square one, scores and inputs of GELU that of 1.5.
    """
    # No secret: nobody's model. Both sides of a comparison need the same one.
    rng = np.random.default_rng(_SEED)
    a = architecture

    def normal(scale: float, *shape: int) -> Array:
        return rng.normal(0, scale, shape).astype(np.float32)

    def linear(d_in: int, d_out: int, gain: float = 1.0) -> Affine:
        return Affine(normal(gain / math.sqrt(d_in), d_in, d_out), normal(0.1, d_out))

    def norm() -> Affine:
        return Affine(1 + normal(0.1, a.hidden), normal(0.1, a.hidden))

    def layer() -> LayerWeights:
        query, key = (linear(a.hidden, a.hidden, 1.2) for _ in range(2))
        value, output = (linear(a.hidden, a.hidden) for _ in range(2))
        up = linear(a.hidden, a.intermediate, 1.5)
        down = linear(a.intermediate, a.hidden)
        return LayerWeights(query, key, value, output, norm(), up, down, norm())

    shapes = EmbeddingTable.shapes(a)[:3]
    scales = (1.0, 0.3, 0.1)
    words, positions, types = (
        normal(scale, *shape) for scale, shape in zip(scales, shapes, strict=True)
    )
    table = EmbeddingTable(words, positions, types, norm(), a.epsilon)
    return EncoderWeights(table, tuple(layer() for _ in range(a.layers)))


def random_samples(architecture: Architecture, tokens: int) -> list[NDArray[np.int64]]:
    """Token ids to calibrate bounds on."""
    rng = np.random.default_rng(_SEED + 1)
    return [rng.integers(_SPECIAL, architecture.vocabulary, tokens) for _ in range(_SAMPLES)]


class WordEncoder:
    """In place of a tokenizer: one token a word, its id a hash of the word."""

    def __init__(self, architecture: Architecture, tokens: int) -> None:
        if architecture.vocabulary <= _SPECIAL:
            raise ConfigError(
                f"model.shape.vocabulary: {architecture.vocabulary}; give at least {_SPECIAL + 1}"
            )
        self.vocabulary = architecture.vocabulary
        self._tokens = tokens

    def encode(self, text: str, *, truncate: bool = False) -> NDArray[np.int64]:
        """Token ids, one more at either end, at most the limit."""
        words = text.split()
        if not words:
            raise ConfigError("text: empty; give at least one word")
        room = self._tokens - _SPECIAL
        if len(words) > room and not truncate:
            raise ConfigError(
                f"text: {text[:30]!r}... has {len(words) + _SPECIAL} tokens, model.tokens is "
                f"{self._tokens}; shorten it, raise model.tokens or pass --truncate"
            )
        ids = np.array([0, *(self._id(word) for word in words[: max(room, 0)]), 1], np.int64)
        return ids[: self._tokens]

    def _id(self, word: str) -> int:
        digest = hashlib.sha256(word.encode()).digest()
        return _SPECIAL + int.from_bytes(digest[:8], "big") % (self.vocabulary - _SPECIAL)
