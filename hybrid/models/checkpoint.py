"""Tensors of a Hugging Face folder by a family's names for them, each checked as it is taken."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from hybrid.models.foreign_weights import refuse_foreign_tensors, refuse_left_over
from hybrid.models.model_files import cut
from hybrid.models.tensor_files import TensorSource, tensor_files
from hybrid.models.weights import Affine, Array
from transport.errors import ConfigError

_READ = ("float32", "float16", "bfloat16", "float64")
_OLD_ENDS = {"gamma": "weight", "beta": "bias"}
"""How TensorFlow calls gain and bias of a normalisation, and what came of it once."""


@dataclass(frozen=True, slots=True)
class Layout:
    """How a family's tensors are told from what lies beside them; names are without a prefix."""

    marker: str
    """The table of word embeddings: what stands before its name stands before all others."""
    second: str
    """A tensor that tells as much where the table was left out, because a head has it too."""
    tied: tuple[str, ...]
    """Heads that have the table's rows where config.json ties both."""
    ignored: str = "$^"
    """A pattern of tensors that hold nothing but what follows from the sizes."""
    heads: tuple[str, ...] = ()
    """First parts of names that may be left, since they compute on the last rows.

    With any of them, whatever stands outside the prefix may be left too; without, nothing may.
    """


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor is and what it is called there."""

    source: TensorSource
    stored: str

    def __str__(self) -> str:
        return f"{self.source.path}: {cut(self.stored)}"


class Checkpoint:
    """Tensors by name; `ConfigError` names what is not as `config.json` says.

    A name means the tensor below the family's prefix (`bert.`, `module.roberta.`, `0.auto_model.`,
    none, ...), which is found and not given; where the prefix has nothing of the kind, as of a
    head, the one beside it. Values come as float32: of float16 and bfloat16 exactly, of float64
    rounded.
    """

    def __init__(self, folder: Path, layout: Layout, *, tied: bool = True) -> None:
        """tied: whether config.json says that a head has the rows of the word embeddings."""
        self._folder = folder
        self._layout = layout
        self._places: dict[str, _Place] = {}
        self._aliases: dict[str, str] = {}
        for source in tensor_files(folder):
            for name in source.names:
                self._add(_Place(source, name))
            pairs = source.aliases.items()
            self._aliases |= {_present(gone): _present(kept) for gone, kept in pairs}
        refuse_foreign_tensors(folder, self._places)
        self._tied = layout.tied if tied else ()
        self.prefix = self._find_prefix()
        """Of every tensor of the model without its heads."""
        self._outer = self._find_outer()
        self._left = {
            name
            for name in self._places
            if not any(re.fullmatch(layout.ignored, short) for short in self._short(name))
        }

    def _add(self, place: _Place) -> None:
        name = _present(place.stored)
        if name in self._places:
            raise ConfigError(
                f"{place} is there twice, also as {cut(self._places[name].stored)}; fetch the "
                "folder again"
            )
        self._places[name] = place

    # -- names ----------------------------------------------------------------------------------

    def _find_prefix(self) -> str:
        marker, names = self._layout.marker, self._places
        for end in (marker, self._layout.second):
            found = sorted({n.removesuffix(end) for n in names if f".{n}".endswith(f".{end}")})
            if len(found) > 1:
                raise ConfigError(
                    f"{self._folder}: holds {len(found)} models, as of names that start with "
                    f"{cut(repr(found[0]))} and with {cut(repr(found[1]))}; save the one that "
                    "you mean by itself"
                )
            if found:
                return found[0]
        some = ", ".join(cut(repr(name)) for name in sorted(names)[:2])
        some = f"there are {some} and others" if some else "there are no tensors"
        raise ConfigError(
            f"{self._folder}: no tensor {marker!r} under whatever prefix ({some}); is "
            "this a model of that family?"
        )

    def _find_outer(self) -> str:
        """The part of the prefix that stands before every name, of heads too."""
        parts = self.prefix.split(".")[:-1]
        for count in range(len(parts), 0, -1):
            outer = ".".join(parts[:count]) + "."
            if all(name.startswith(outer) for name in self._places):
                return outer
        return ""

    def _short(self, name: str) -> tuple[str, str]:
        """A name below the prefix, and beside it."""
        return name.removeprefix(self.prefix), name.removeprefix(self._outer)

    def _spellings(self, name: str) -> Iterator[str]:
        """Names that a tensor may have here, the best first."""
        own, beside = f"{self.prefix}{name}", f"{self._outer}{name}"
        root = f"{self.prefix}{name.partition('.')[0]}."
        # Of two halves of models none is whole: what the prefix has parts of is there or nowhere.
        is_own = any(held.startswith(root) for held in self._places)
        names = (own,) if is_own else (own, beside)
        yield from names
        yield from (self._aliases[n] for n in names if n in self._aliases)
        if name == self._layout.marker:
            yield from (f"{self._outer}{head}" for head in self._tied)
            yield from (f"{self.prefix}{head}" for head in self._tied)

    def _find(self, name: str) -> str | None:
        return next((n for n in self._spellings(name) if n in self._places), None)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    # -- tensors --------------------------------------------------------------------------------

    def take(self, name: str, shape: Iterable[int]) -> Array:
        """A tensor as float32."""
        wanted, found = tuple(shape), self._find(name)
        if found is None:
            below = f" below {cut(repr(self.prefix))}" if self.prefix else ""
            raise ConfigError(
                f"{self._folder}: no tensor {name!r}{below}; is this a model of that family?"
            )
        place = self._places[found]
        self._left.discard(found)
        kind, size = place.source.form(place.stored)
        if size != wanted:
            raise ConfigError(
                f"{place} has shape {cut(str(size))}, config.json implies {wanted}; use the "
                "config.json that belongs to these weights"
            )
        if kind not in _READ:
            raise ConfigError(
                f"{place} is {kind}; expected {', '.join(_READ[:-1])} or {_READ[-1]}: take the "
                "model before it was quantised"
            )
        # A copy: what is not converted would stay part of the file, also when that changes.
        tensor = place.source.read(place.stored).to(torch.float32, copy=True)
        values: Array = tensor.numpy()
        if not np.isfinite(values).all():
            raise ConfigError(
                f"{place} holds values that are not finite numbers of float32; fetch it again"
            )
        return values

    def matrix(self, name: str, d_in: int, d_out: int) -> Array:
        """A linear map without bias, (in, out); Hugging Face stores (out, in)."""
        return np.ascontiguousarray(self.take(f"{name}.weight", (d_out, d_in)).T)

    def linear(self, name: str, d_in: int, d_out: int) -> Affine:
        """A linear map, (in, out); Hugging Face stores (out, in)."""
        return Affine(self.matrix(name, d_in, d_out), self.take(f"{name}.bias", (d_out,)))

    def norm(self, name: str, width: int) -> Affine:
        """Gain and bias of a normalisation."""
        return self.affine(name, width)

    def affine(self, name: str, *shape: int) -> Affine:
        """Weight as it is stored, and bias of its last axis."""
        return Affine(self.take(f"{name}.weight", shape), self.take(f"{name}.bias", shape[-1:]))

    # -- what is left ---------------------------------------------------------------------------

    @property
    def left(self) -> tuple[str, ...]:
        """Names, as they are stored, of what was not taken and is not ignored, sorted."""
        return tuple(sorted(self._places[name].stored for name in self._left))

    @property
    def beside(self) -> tuple[str, ...]:
        """Names, as they are stored, of heads' tensors, sorted."""
        return tuple(sorted(self._places[n].stored for n in self._left if self._is_head(n)))

    def refuse_layer(self, prefix: str, layers: int) -> None:
        """`ConfigError` where there is a layer more than there should be."""
        start = f"{self.prefix}{prefix}.{layers}."
        if any(name.startswith(start) for name in self._places):
            raise ConfigError(
                f"{self._folder}: holds layer {layers}, but config.json says {layers} layers; use "
                "the config.json that belongs to these weights"
            )

    def finish(self) -> None:
        """`ConfigError` where a tensor was not taken that answers depend on; heads are no such."""
        names = (name for name in self._left if not self._is_head(name))
        refuse_left_over(self._folder, (self._places[name].stored for name in names))

    def _is_head(self, name: str) -> bool:
        heads = self._layout.heads
        first_parts = {short.partition(".")[0] for short in self._short(name)}
        return bool(heads) and (
            not name.startswith(self.prefix) or not first_parts.isdisjoint(heads)
        )

    def __repr__(self) -> str:
        return f"<Checkpoint {self._folder.name}: {len(self._places)} tensors>"


def _present(name: str) -> str:
    """A name as PyTorch gives it today."""
    start, dot, end = name.rpartition(".")
    return f"{start}{dot}{_OLD_ENDS.get(end, end)}"
