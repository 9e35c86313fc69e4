"""What a family of models is: everything that depends on its architecture, in one class."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hybrid.models.architecture import Architecture
from hybrid.models.checkpoint import Checkpoint, Layout
from hybrid.models.folding import LinearMap
from hybrid.models.graph import Graph
from hybrid.models.heads import Dense, Head
from hybrid.models.ranges import Observer, Ranges
from hybrid.models.weights import Affine, Array
from transport.errors import ConfigError


class PublicTable(Protocol):
    """What `embedding: public_table` gives to the client."""

    def arrays(self) -> tuple[Array, ...]:
        """All arrays in wire order."""

    def digest(self) -> str:
        """SHA-256 over all arrays."""


T = TypeVar("T", bound=PublicTable)


class Weights(Protocol):
    """Everything the server owns."""

    @property
    def embedding(self) -> PublicTable:
        """The part that `embedding: public_table` makes public."""


A = TypeVar("A", bound=Architecture)
W = TypeVar("W", bound=Weights)


class Family(ABC, Generic[A, W, T]):
    """One architecture: names in files, graph, folding, plain reference. It has no state."""

    name: ClassVar[str]
    """In handshakes and in `model.shape.family`."""
    architecture: type[A]
    layout: ClassVar[Layout]
    """How its tensors are told from what lies beside them."""
    model_types: ClassVar[tuple[str, ...]]
    """Values of `model_type` in config.json that it reads."""
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
    def shape_architecture(self, sizes: Mapping[str, int], place: str) -> A:
        """From the sizes of a shape, vocabulary and positions among them."""

    @abstractmethod
    def read_weights(self, folder: Path, raw: Mapping[str, Any], architecture: A) -> W:
        """Every tensor of a folder, checked; raw: its config.json."""

    def classifier(
        self, raw: Mapping[str, Any], architecture: A, labels: int, place: str
    ) -> tuple[tuple[str, Dense], ...]:
        """Names of tensors and sizes of a classification head on the first token's row.

        raw: config.json, `place` of it. `ConfigError` where this family has none.
        """
        del raw, architecture, labels
        raise ConfigError(
            f"{place}: classifiers of the family {self.name} are not computed; set model.pooling "
            "for the encoder's rows, or use another model"
        )

    def read_classifier(
        self, folder: Path, raw: Mapping[str, Any], parts: Sequence[tuple[str, Dense]]
    ) -> tuple[Affine, ...]:
        """The linear maps that `classifier` names, below the encoder's prefix or beside it."""
        file = Checkpoint(folder, self.layout, tied=bool(raw.get("tie_word_embeddings", True)))
        return tuple(file.linear(name, part.width_in, part.width_out) for name, part in parts)

    def unread(self, folder: Path, taken: Iterable[str]) -> tuple[str, ...]:
        """Names, as they are stored, of tensors beside the encoder; taken: by a head."""
        file, parts = Checkpoint(folder, self.layout), tuple(taken)
        return tuple(n for n in file.beside if not any(f".{p}." in f".{n}" for p in parts))

    @abstractmethod
    def random_weights(self, architecture: A) -> W:
        """Always the same ones."""

    @abstractmethod
    def public_shapes(self, architecture: A) -> tuple[tuple[int, ...], ...]:
        """Of the arrays of the public table, in wire order."""

    @abstractmethod
    def public_table(self, arrays: Sequence[Array], architecture: A) -> T:
        """The table of these arrays."""

    @abstractmethod
    def graph(self, architecture: A, ranges: Ranges, head: Head, tokens: int, batch: int) -> Graph:
        """The operations of `batch` texts of `tokens` each, in execution order.

        The head gets normalised rows, before gain and bias of the last norm.
        """

    @abstractmethod
    def client_inputs(
        self, table: T, token_ids: NDArray[np.int64], mask: NDArray[np.bool_]
    ) -> dict[str, NDArray[Any]]:
        """Values of the graph's inputs from padded ids and mask, both (batch, tokens)."""

    @abstractmethod
    def fold(self, weights: W, architecture: A) -> dict[str, LinearMap]:
        """What every node that has weights multiplies with and adds, by node.

        Gain and bias of the last norm are called "pool": the head takes them.
        """

    @abstractmethod
    def plain_rows(
        self,
        weights: W,
        architecture: A,
        token_ids: NDArray[np.int64],
        mask: NDArray[np.bool_],
        see: Observer,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """The plain model: rows (tokens, width) of one padded text before the head.

        `see` is shown every edge of the graph that has a range.
        """

    def __repr__(self) -> str:
        return f"<Family {self.name}>"


AnyFamily = Family[Any, Any, Any]
