"""One model object: what both parties know of it, and what only the server has."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hybrid.models.architecture import Architecture
from hybrid.models.embedding import words_of
from hybrid.models.family import AnyFamily, Weights
from hybrid.models.folding import FloatArray, LinearMap
from hybrid.models.graph import Graph
from hybrid.models.heads import Head
from hybrid.models.range_check import RangeCheck, check_ranges, used_ranges
from hybrid.models.ranges import (
    Bound,
    Observer,
    Ranges,
    ranges_from_public,
    ranges_to_public,
    seen_by,
)
from hybrid.models.weights import Affine
from transport.errors import ConfigError
from transport.foreign import shown


@dataclass(frozen=True)
class PublicModel:
    """What both parties know: family, sizes, ranges, head, and the size of a request."""

    family: AnyFamily
    architecture: Architecture
    ranges: Ranges
    head: Head
    tokens: int
    batch: int

    @cached_property
    def graph(self) -> Graph:
        """The operations of one request."""
        self.architecture.check_tokens(self.tokens)
        return self.family.graph(self.architecture, self.ranges, self.head, self.tokens, self.batch)

    @cached_property
    def used_ranges(self) -> dict[str, Bound]:
        """Of the edges whose bounds the graph depends on."""

        def build(ranges: Ranges) -> Graph:
            sizes = self.head, self.tokens, self.batch
            return self.family.graph(self.architecture, ranges, *sizes)

        return used_ranges(self.ranges, build)

    def ids(self, token_ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """As the model takes them: without types where it knows none, as its library does."""
        return token_ids if self.architecture.takes_types else words_of(token_ids)

    def to_public(self) -> dict[str, Any]:
        """Plain data for the client, but for what its own config says."""
        return {
            "family": self.family.name,
            "architecture": self.architecture.to_public(),
            "ranges": ranges_to_public(self.ranges),
            "head": self.head.to_public(),
        }

    @classmethod
    def from_public(
        cls,
        data: object,
        families: Mapping[str, AnyFamily],
        head_of: Callable[[object, int], Head],
        tokens: int,
        batch: int,
    ) -> PublicModel:
        """From untrusted plain data and the own config; head_of: from its part and a width."""
        keys = {"family", "architecture", "ranges", "head"}
        if not isinstance(data, dict) or set(data) != keys or not isinstance(data["family"], str):
            raise ConfigError("handshake: not a model; are both parties one version?")
        family = families.get(data["family"])
        if family is None:
            raise ConfigError(
                f"handshake: the server's model is of family {shown(data['family'])}, known here: "
                f"{', '.join(families)}; name the same plugins at both parties"
            )
        architecture = family.architecture.from_public(data["architecture"], "handshake")
        ranges = ranges_from_public(data["ranges"])
        head = head_of(data["head"], architecture.hidden)
        return cls(family, architecture, ranges, head, tokens, batch)

    def __repr__(self) -> str:
        return f"<PublicModel {self.family.name}: {self.architecture.line()}>"


@dataclass(frozen=True)
class Model:
    """What the server loads before any client comes."""

    public: PublicModel
    weights: Weights
    origin: str
    """Where the weights come from, for the report."""
    head_weights: tuple[Affine, ...] = field(default=(), repr=False)
    """Of the linear maps of the head."""
    notes: tuple[str, ...] = ()
    """What of the folder is not used, or not said by it: a sentence each."""
    caution: str = ""
    """Of the samples that ranges were found on, where they are few."""
    texts: Mapping[str, str] = field(default_factory=dict)
    """Facts of its tokenizer, by which the client sees that texts mean the same to both."""

    def maps(self) -> dict[str, LinearMap]:
        """What every node that has weights multiplies with and adds, by node."""
        maps = self.public.family.fold(self.weights, self.public.architecture)
        return self.public.head.fold(maps, self.head_weights)

    def plain(
        self,
        token_ids: NDArray[np.int64],
        observe: Observer | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> FloatArray:
        """The plain model's answer to one text, as the head makes it, not finished."""
        public, see = self.public, observe or _unseen
        padded = np.zeros(public.tokens, np.int64)
        padded[: len(token_ids)] = public.ids(token_ids)
        mask = np.arange(public.tokens) < len(token_ids)
        rows = public.family.plain_rows(self.weights, public.architecture, padded, mask, see, dtype)
        return public.head.plain(rows, torch.from_numpy(mask), see, self.head_weights)

    def checked(self, token_ids: NDArray[np.int64]) -> tuple[FloatArray, RangeCheck]:
        """As `plain`, and whether the ranges hold for this text."""
        answers: list[FloatArray] = []
        seen = seen_by(lambda see: answers.append(self.plain(token_ids, see)))
        return answers[0], check_ranges(self.public.used_ranges, seen)

    @property
    def line(self) -> str:
        """What the report says of the model."""
        return f"{self.origin}: {self.public.architecture.line()}; {self.public.head.line}"

    def __repr__(self) -> str:
        return f"<Model: {self.line}>"


def _unseen(_edge: str, _tensor: torch.Tensor) -> None:
    """Nobody looks."""
