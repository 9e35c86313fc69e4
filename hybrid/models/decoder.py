"""What a family of decoders gives so far: files, random weights, plain model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid.models.architecture import Architecture
from hybrid.models.causal import Cache
from hybrid.models.gguf_file import GgufFile
from hybrid.models.ranges import Observer
from hybrid.models.token_table import TokenTable


class DecoderWeights(Protocol):
    """Everything the server owns."""

    @property
    def embedding(self) -> TokenTable:
        """The part that the client looks tokens up in where it is public."""


A = TypeVar("A", bound=Architecture)
W = TypeVar("W", bound=DecoderWeights)


class Decoder(ABC, Generic[A, W]):
    """One architecture of decoders. It has no state."""

    name: ClassVar[str]
    architecture: type[A]
    model_types: ClassVar[tuple[str, ...]]
    """Values of `model_type` in config.json that it reads."""
    gguf_types: ClassVar[tuple[str, ...]]
    """Values of `general.architecture` in GGUF files that it reads."""
    shapes: ClassVar[Mapping[str, Mapping[str, int]]]
    """Sizes by the names that `model.shape` may use."""
    shape_sizes: ClassVar[tuple[str, ...]]
    """Sizes that a written-out shape must give."""

    @abstractmethod
    def read_architecture(self, raw: Mapping[str, Any], place: str) -> A:
        """From config.json; `ConfigError` for what is not computed as it asks."""

    @abstractmethod
    def read_weights(self, folder: Path, architecture: A) -> W:
        """Every tensor of a folder, checked."""

    @abstractmethod
    def read_gguf_architecture(self, file: GgufFile) -> A:
        """From a file's settings; `ConfigError` for what is not computed as they ask."""

    @abstractmethod
    def read_gguf_weights(self, file: GgufFile, architecture: A) -> W:
        """Every tensor of a file, checked."""

    @abstractmethod
    def shape_architecture(self, sizes: Mapping[str, int], place: str) -> A:
        """From the sizes of a shape, vocabulary and positions among them."""

    @abstractmethod
    def random_weights(self, architecture: A) -> W:
        """Always the same ones."""

    @abstractmethod
    def plain_logits(
        self,
        weights: W,
        architecture: A,
        token_ids: NDArray[np.int64],
        cache: Cache,
        see: Observer,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The plain model: logits (tokens, vocabulary) of tokens after those of the cache.

        The cache is extended by them. `see` is shown every edge, with rows of these tokens alone.
        """

    def __repr__(self) -> str:
        return f"<Decoder {self.name}>"


AnyDecoder = Decoder[Any, Any]
