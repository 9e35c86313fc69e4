"""What a family of decoders gives so far: files, random weights, plain model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid.models.architecture import Architecture
from hybrid.models.causal import Cache
from hybrid.models.decoder_graph import Pass
from hybrid.models.folding import FloatArray, LinearMap
from hybrid.models.gguf_file import GgufFile
from hybrid.models.graph import Graph
from hybrid.models.ranges import Observer, Ranges
from hybrid.models.token_table import TokenTable
from hybrid.models.weights import Array


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
    optional_sizes: ClassVar[tuple[str, ...]] = ()
    """Sizes that it may give."""

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
    def graph(self, architecture: A, ranges: Ranges, what: Pass) -> Graph:
        """The operations of one pass, in execution order."""

    @abstractmethod
    def fold(self, weights: W, architecture: A) -> Iterator[tuple[str, LinearMap]]:
        """What every node that has weights multiplies with and adds, one after the other."""

    @property
    @abstractmethod
    def learns_positions(self) -> bool:
        """Whether a token's row depends on its position."""

    turns_keys: ClassVar[bool] = False
    """Whether a key is turned by its position."""

    def turned(self, architecture: A, keys: FloatArray, by: int) -> FloatArray:
        """Keys (kv_heads, positions, size) as they would be `by` positions later."""
        del architecture, by
        return keys

    def public_shapes(self, architecture: A) -> tuple[tuple[int, ...], ...]:
        """Of the arrays of the public table, in wire order."""
        words = (architecture.vocabulary, architecture.hidden)
        positions = (architecture.positions, architecture.hidden)
        return (words, positions) if self.learns_positions else (words,)

    def public_table(self, arrays: Sequence[Array], architecture: A) -> TokenTable:
        """The table of these arrays."""
        del architecture
        return TokenTable.from_arrays(arrays)

    def one_hot(
        self, architecture: A, token_ids: NDArray[np.int64], positions: NDArray[np.int64]
    ) -> NDArray[np.uint64]:
        """Rows (tokens, table rows) of zeros and ones: of tokens at these positions.

        A learned position is a second one in a row.
        """
        a, rows = architecture, np.arange(len(token_ids))
        found = np.zeros((len(rows), sum(s[0] for s in self.public_shapes(a))), np.uint64)
        found[rows, token_ids] = 1
        if self.learns_positions:
            found[rows, a.vocabulary + positions] = 1
        return found

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
