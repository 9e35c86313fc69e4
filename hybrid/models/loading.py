"""The model that a config names: a folder of weights, or a shape with random ones."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hybrid.models.architecture import Architecture, read_architecture
from hybrid.models.ranges import default_sentences, read_sentences
from hybrid.config.schema import LoadedConfig
from hybrid.models.random_weights import WordEncoder, architecture_of, random_samples, random_weights
from hybrid.models.tokenizing import TextEncoder
from hybrid.models.weights import EncoderWeights, load_weights


class Encoder(Protocol):
    """From a text to token ids."""

    @property
    def vocabulary(self) -> int:
        """Number of token ids."""

    def encode(self, text: str, *, truncate: bool = False) -> NDArray[np.int64]:
        """Token ids, special tokens included, at most `model.tokens`."""


def text_encoder(loaded: LoadedConfig) -> Encoder:
    """The client's: the folder's tokenizer, or one word a token where there is only a shape."""
    tokens, shape = loaded.run.model.tokens, loaded.run.model.shape
    if shape is not None:
        return WordEncoder(architecture_of(shape), tokens)
    return TextEncoder(loaded.model_folder, tokens)


def model_architecture(loaded: LoadedConfig) -> Architecture:
    """Sizes, without reading any weights."""
    shape = loaded.run.model.shape
    return read_architecture(loaded.model_folder) if shape is None else architecture_of(shape)


def model_weights(loaded: LoadedConfig, architecture: Architecture) -> EncoderWeights:
    """The server's."""
    if loaded.run.model.shape is not None:
        return random_weights(architecture)
    return load_weights(loaded.model_folder, architecture)


def calibration_samples(
    loaded: LoadedConfig, architecture: Architecture
) -> list[NDArray[np.int64]]:
    """Public token ids for bounds: sentences, or random ids where there is only a shape."""
    tokens, sentences = loaded.run.model.tokens, loaded.run.calibration.sentences
    if loaded.run.model.shape is not None and sentences is None:
        return random_samples(architecture, tokens)
    texts = default_sentences() if sentences is None else read_sentences(loaded.resolve(sentences))
    encoder = text_encoder(loaded)
    return [encoder.encode(text, truncate=True) for text in texts]


def model_line(loaded: LoadedConfig, architecture: Architecture) -> str:
    """What the report says of the model."""
    a, shape = architecture, loaded.run.model.shape
    sizes = f"hidden {a.hidden}, {a.layers} layers, {a.heads} heads, intermediate {a.intermediate}"
    if shape is None:
        return f"weights of {loaded.model_folder.name}: {sizes}"
    named = shape if isinstance(shape, str) else shape.like
    return f"RANDOM weights of the shape{f' of {named}' if named else ''}: {sizes}"
