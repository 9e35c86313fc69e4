"""The model that a config names: a folder of weights, or a shape with random ones."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.config.plugins import import_plugins
from hybrid.config.schema import ShapeConfig
from hybrid.models import MODELS
from hybrid.models.architecture import Architecture, read_model_config
from hybrid.models.family import AnyFamily, Weights
from hybrid.models.head_choice import (
    ChosenHead,
    folder_head,
    folder_says_head,
    public_head,
    shape_head,
)
from hybrid.models.model import Model, PublicModel
from hybrid.models.random_weights import random_samples
from hybrid.models.range_check import few_samples
from hybrid.models.ranges import default_sentences, observed_ranges, read_sentences
from hybrid.models.sentence_folder import transformer_folder
from hybrid.models.tokenizing import FileTokenizer, TextEncoder, WordTokenizer
from transport.errors import ConfigError
from transport.foreign import shown

_DEFAULT_FAMILY = "bert"
_OTHER_PROMPT_SAMPLES = 4
"""Sentences that ranges are found on behind every prompt that is not the config's."""
_DEFAULT_SIZES = {"vocabulary": 1024, "positions": 512}


def known_families(plugins: Iterable[str] = ()) -> dict[str, AnyFamily]:
    """Families by name: the package's and those of plugins with a `MODELS` tuple."""
    found: dict[str, AnyFamily] = {}
    modules = import_plugins(plugins)
    for family in (*MODELS, *(f for module in modules for f in getattr(module, "MODELS", ()))):
        for other in found.values():
            shared = {family.name} & {other.name} or set(family.shapes) & set(other.shapes)
            if shared := shared or set(family.model_types) & set(other.model_types):
                raise ConfigError(f"plugins: two families claim {shown(min(shared))}; rename one's")
        found[family.name] = family
    return found


def load_model(config: Config) -> Model:
    """The server's: weights, and ranges from public samples."""
    source = _source(config)
    architecture, tokens = source.architecture(), config.run.model.tokens
    architecture.check_tokens(tokens)
    encoder = source.encoder()
    if encoder.vocabulary > architecture.vocabulary:
        raise ConfigError(
            f"{config.path}: model.path: the tokenizer's ids reach {encoder.vocabulary - 1}, the "
            f"model has {architecture.vocabulary} rows for them; use files that belong together"
        )
    chosen, batch = source.head(architecture), config.run.model.batch
    public = PublicModel(source.family, architecture, {}, chosen.head, tokens, batch)
    bare = Model(
        public,
        source.weights(architecture),
        source.origin,
        chosen.weights,
        chosen.notes,
        texts=encoder.facts(),
    )
    samples = source.samples(architecture, encoder)
    ranges = observed_ranges(bare.plain, samples, config.run.ranges.margin)
    caution = "" if config.run.ranges.sentences is None else few_samples(samples)
    return replace(bare, public=replace(public, ranges=ranges), caution=caution)


def public_model(config: Config, data: object) -> PublicModel:
    """The client's view of the server's model, from untrusted plain data."""
    families, model = known_families(config.run.plugins), config.run.model
    heads = partial(public_head, config)
    found = PublicModel.from_public(data, families, heads, model.tokens, model.batch)
    if model.shape is not None and found.architecture != _source(config).architecture():
        raise ConfigError(
            "handshake: the server's model is not of the shape that model.shape says; use the same "
            "config at both parties"
        )
    return found


def text_encoder(config: Config) -> TextEncoder:
    """The client's: the folder's tokenizer, or one word a token where there is only a shape."""
    return _source(config).encoder()


def says_head(config: Config) -> bool:
    """Whether the model's folder says how a text's rows become one."""
    source = _source(config)
    return isinstance(source, _Folder) and source.says_head


def unread_tensors(config: Config, model: Model) -> tuple[str, ...]:
    """Names in a folder's weights of what lies beside the encoder and is not part of the head."""
    source = _source(config)
    return source.unread_tensors(model) if isinstance(source, _Folder) else ()


def family_of(raw: Mapping[str, Any], families: Iterable[AnyFamily], place: str) -> AnyFamily:
    """The family that reads a config.json."""
    kind, known = raw.get("model_type"), list(families)
    for family in known:
        if kind in family.model_types:
            return family
    types = ", ".join(t for family in known for t in family.model_types)
    raise ConfigError(f"{place}: model_type is {shown(kind)}; supported are {types}")


@dataclass(frozen=True)
class _Folder:
    """Published weights."""

    config: Config
    path: Path

    @property
    def origin(self) -> str:
        return f"weights of {self.path.name}"

    @cached_property
    def _transformer(self) -> Path:
        return transformer_folder(self.path)

    @cached_property
    def _raw(self) -> Mapping[str, Any]:
        return read_model_config(self._transformer)

    @cached_property
    def family(self) -> AnyFamily:
        families = known_families(self.config.run.plugins).values()
        return family_of(self._raw, families, str(self._transformer / "config.json"))

    def architecture(self) -> Architecture:
        found: Architecture = self.family.read_architecture(
            self._raw, str(self._transformer / "config.json")
        )
        return found

    def weights(self, architecture: Architecture) -> Weights:
        found: Weights = self.family.read_weights(self._transformer, self._raw, architecture)
        return found

    def head(self, architecture: Architecture) -> ChosenHead:
        return folder_head(self.config, self.path, self._raw, self.family, architecture)

    @property
    def says_head(self) -> bool:
        return folder_says_head(self.path, self._raw)

    def unread_tensors(self, model: Model) -> tuple[str, ...]:
        labels = model.public.head.labels
        parts: Iterable[tuple[str, Any]] = ()
        if labels:
            place = str(self._transformer / "config.json")
            architecture = model.public.architecture
            parts = self.family.classifier(self._raw, architecture, len(labels), place)
        return self.family.unread(self._transformer, [name for name, _ in parts])

    def encoder(self) -> TextEncoder:
        model = self.config.run.model
        return FileTokenizer(self.path, model.tokens, model.prompt, pairs=model.pairs)

    def samples(self, _architecture: Architecture, encoder: TextEncoder) -> list[NDArray[np.int64]]:
        return _encoded_sentences(self.config, encoder)


@dataclass(frozen=True)
class _Shape:
    """Random weights."""

    config: Config
    shape: ShapeConfig

    @property
    def origin(self) -> str:
        like = self.shape.like
        return f"RANDOM weights of the shape{f' of {like}' if like else ''}"

    @cached_property
    def family(self) -> AnyFamily:
        families = known_families(self.config.run.plugins)
        found: AnyFamily = shape_family(self.config, self.shape, families, _DEFAULT_FAMILY)
        return found

    def architecture(self) -> Architecture:
        return shape_architecture(self.config, self.shape, self.family)

    def weights(self, architecture: Architecture) -> Weights:
        found: Weights = self.family.random_weights(architecture)
        return found

    def head(self, _architecture: Architecture) -> ChosenHead:
        return shape_head(self.config)

    def encoder(self) -> TextEncoder:
        if self.config.run.model.pairs:
            raise ConfigError(
                f"{self.config.path}: model.pairs would be ignored beside a shape; remove it"
            )
        return WordTokenizer(self.architecture().vocabulary, self.config.run.model.tokens)

    def samples(self, architecture: Architecture, encoder: TextEncoder) -> list[NDArray[np.int64]]:
        if self.config.run.ranges.sentences is None:
            return random_samples(architecture.vocabulary, self.config.run.model.tokens)
        return _encoded_sentences(self.config, encoder)


def shape_family(
    config: Config, shape: ShapeConfig, families: Mapping[str, Any], default: str
) -> Any:
    """The family that `model.shape` means; default: of a shape that is like no other."""
    if shape.like is not None and shape.family is not None:
        raise ConfigError(
            f"{config.path}: model.shape.family would be ignored beside like, which names one; "
            "remove it"
        )
    if shape.like is None:
        if (name := shape.family or default) in families:
            return families[name]
        raise ConfigError(
            f"{config.path}: model.shape.family: {shown(shape.family)}; known: "
            f"{', '.join(families)}"
        )
    for family in families.values():
        if shape.like in family.shapes:
            return family
    known = [name for family in families.values() for name in family.shapes]
    close = difflib.get_close_matches(shape.like, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    raise ConfigError(
        f"{config.path}: model.shape: no shape is called {shown(shape.like)}; {hint}known: "
        f"{', '.join(known)}"
    )


def shape_architecture(config: Config, shape: ShapeConfig, family: Any) -> Architecture:
    """Sizes that the family names, and those that are given instead."""
    place, given = "model.shape", shape.sizes()
    known = (*family.shape_sizes, *family.optional_sizes, *_DEFAULT_SIZES)
    for key in given:
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"
            raise ConfigError(f"{config.path}: {place}: unknown key {shown(key)}; {hint}")
    sizes = {**_DEFAULT_SIZES, **family.shapes.get(shape.like or "", {}), **given}
    missing = [n for n in family.shape_sizes if n not in sizes]
    if missing:
        raise ConfigError(
            f"{place}: {', '.join(missing)} missing; give all of "
            f"{', '.join(family.shape_sizes)}, or `like: {next(iter(family.shapes))}`"
        )
    found: Architecture = family.shape_architecture(sizes, place)
    return found


def _source(config: Config) -> _Folder | _Shape:
    shape = config.run.model.shape
    if shape is None:
        return _Folder(config, config.model_folder)
    return _Shape(config, ShapeConfig(like=shape) if isinstance(shape, str) else shape)


def _encoded_sentences(config: Config, encoder: TextEncoder) -> list[NDArray[np.int64]]:
    sentences = config.run.ranges.sentences
    texts = default_sentences() if sentences is None else read_sentences(config.resolve(sentences))
    if config.run.model.pairs and sentences is None:
        texts = [f"{first}\t{second}" for first, second in pairwise(texts)]
    try:
        return list(_behind_prompts(texts, encoder))
    except ConfigError as error:
        raise ConfigError(f"ranges.sentences: {error}") from None


def _behind_prompts(texts: Sequence[str], encoder: TextEncoder) -> Iterator[NDArray[np.int64]]:
    for text in texts:
        yield encoder.encode(text, truncate=True)
    # A client may choose another prompt of the folder: bounds have to hold for its texts too.
    for prompt in sorted({"", *encoder.prompts.values()} - {encoder.prompt.text}):
        for text in texts[:_OTHER_PROMPT_SAMPLES]:
            yield encoder.encode(text, truncate=True, prompt=prompt)
