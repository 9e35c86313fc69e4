"""A decoder that answers privately: what both parties know of it, and what the server loads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.config.schema import GenerationConfig, ShapeConfig
from hybrid.models.architecture import Architecture
from hybrid.models.causal import Cache
from hybrid.models.decoder import AnyDecoder
from hybrid.models.decoder_graph import Decoding, Pass
from hybrid.models.decoder_tokenizing import Ids
from hybrid.models.decoders import DECODERS, DecoderModel, read_decoder, read_tokenizer
from hybrid.models.folding import FloatArray, LinearMap
from hybrid.models.graph import Graph
from hybrid.models.loading import shape_architecture, shape_family
from hybrid.models.prompts import Prompts, ShapeTokenizer
from hybrid.models.range_check import RangeCheck, check_ranges, used_ranges
from hybrid.models.ranges import (
    Bound,
    Observer,
    Ranges,
    ranges_from_public,
    ranges_to_public,
    seen_by,
)
from transport.errors import ConfigError
from transport.foreign import shown


@dataclass(frozen=True)
class PublicGenerator:
    """What both parties know: family, sizes, ranges, the prefix, how answers are made."""

    family: AnyDecoder
    architecture: Architecture
    ranges: Ranges
    prefix: Ids
    settings: GenerationConfig
    private_embedding: bool
    tokenizer_digest: str
    """By which parties see that an id means one token to both."""
    batch: int = 1
    """Conversations that share passes."""

    @property
    def capacity(self) -> int:
        """Private positions of a conversation."""
        return self.settings.positions

    def graph(self, rows: int, past: int) -> Graph:
        """The operations of a pass over `rows` rows behind `past` private positions."""
        found: Graph = self.family.graph(self.architecture, self.ranges, self._pass(rows, past))
        return found

    def _pass(self, rows: int, past: int) -> Pass:
        s = self.settings
        decoding = Decoding(s.temperature, s.top_k)
        place = len(self.prefix), past, self.capacity
        return Pass(rows, *place, self.private_embedding, decoding, s.prompt_bucket, self.batch)

    @cached_property
    def used_ranges(self) -> dict[str, Bound]:
        """Of the edges whose bounds passes depend on."""
        what = self._pass(self.settings.prompt_bucket, 0)
        return used_ranges(self.ranges, lambda r: self.family.graph(self.architecture, r, what))

    @property
    def keeps_distance(self) -> bool:
        """Whether it matters how many rows stand between the prefix and the first token."""
        return self.family.turns_keys and bool(len(self.prefix))

    @property
    def turns(self) -> int:
        """How many ways the client has to turn the prefix's keys."""
        return self.settings.prompt_bucket if self.keeps_distance else 1

    @property
    def may_hide(self) -> bool:
        """Whether a conversation may have rows that are no tokens."""
        return self._pass(1, 0).may_hide

    def padding(self, prompts: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Rows before first prompts of so many tokens that share a pass: fillers, and idle ones.

        Together they make every prompt as long as the longest, which is padded. Only the client
        knows fillers, fewer than a bucket where distances to the prefix matter; both know idle
        rows, which are none where they do not.
        """
        bucketed = [self.settings.padded(tokens) for tokens in prompts]
        longest = max(bucketed)
        idle = tuple(longest - rows if self.keeps_distance else 0 for rows in bucketed)
        return tuple(longest - i - n for i, n in zip(idle, prompts, strict=True)), idle

    @property
    def prefix_digest(self) -> str:
        """By which parties see that they share it."""
        return hashlib.sha256(self.prefix.astype("<i8").tobytes()).hexdigest()

    def check_positions(self, place: str) -> None:
        """`ConfigError` where the model has fewer positions than are announced."""
        wanted = len(self.prefix) + self.capacity
        if wanted > self.architecture.positions:
            raise ConfigError(
                f"{place}: generation.positions: {self.capacity} and {len(self.prefix)} of the "
                f"public prefix exceed the model's {self.architecture.positions} positions; lower "
                "it"
            )

    def to_public(self) -> dict[str, Any]:
        """Plain data for the client, but for what its own config and tokenizer say."""
        return {
            "family": self.family.name,
            "architecture": self.architecture.to_public(),
            "ranges": ranges_to_public(self.ranges),
        }

    @classmethod
    def from_public(cls, data: object, config: Config, prompts: Prompts) -> PublicGenerator:
        """From untrusted plain data, the own config and the own tokenizer."""
        keys = {"family", "architecture", "ranges"}
        if not isinstance(data, dict) or set(data) != keys or not isinstance(data["family"], str):
            raise ConfigError("handshake: not a decoder; are both parties one version?")
        families = {family.name: family for family in DECODERS}
        family = families.get(data["family"])
        if family is None:
            raise ConfigError(
                f"handshake: the server's decoder is of family {shown(data['family'])}, known "
                f"here: {', '.join(families)}; update the older party"
            )
        architecture = family.architecture.from_public(data["architecture"], "handshake")
        ranges = ranges_from_public(data["ranges"])
        settings, private = settings_of(config), config.run.model.embedding == "private"
        made = prompts.prefix, settings, private, prompts.tokenizer.digest()
        found = cls(family, architecture, ranges, *made, config.run.model.batch)
        found.check_positions("handshake")
        return found

    def __repr__(self) -> str:
        return f"<PublicGenerator {self.family.name}: {self.architecture.line()}>"


@dataclass(frozen=True)
class Generator:
    """What the server loads before any client comes."""

    public: PublicGenerator
    model: DecoderModel
    outliers: tuple[str, ...] = ()
    """Edges on which position 0 reaches far beyond private positions, a line each."""
    caution: str = ""
    """Of the samples that ranges were found on, where they are few."""

    def maps(self) -> Iterator[tuple[str, LinearMap]]:
        """What every node that has weights multiplies with and adds, one after the other."""
        maps: Iterator[tuple[str, LinearMap]] = self.public.family.fold(
            self.model.weights, self.public.architecture
        )
        return maps

    @cached_property
    def prefix_cache(self) -> Cache:
        """Keys and values of the public prefix, computed in the clear."""
        cache = Cache()
        if len(self.public.prefix):
            self.model.logits(self.public.prefix, cache)
        return cache

    def prefix_rows(self) -> dict[str, FloatArray]:
        """The same, (kv_heads, positions, size), by layer: `layer0.keys`, `layer0.values`.

        Keys (turns, ...) where there are several ways to turn them: by 0, 1, ... positions.
        """
        found, public = {}, self.public
        for layer, pair in enumerate(self.prefix_cache.layers):
            keys, values = (rows.double().numpy() for rows in pair)
            if public.turns > 1:
                turn = public.family.turned
                ways = [turn(public.architecture, keys, by) for by in range(public.turns)]
                keys = np.stack(ways)
            found[f"layer{layer}.keys"], found[f"layer{layer}.values"] = keys, values
        return found

    def plain_logits(self, private: Ids) -> FloatArray:
        """Logits (positions, vocabulary) of the plain model at private ids behind the prefix."""
        return self.model.logits(private, self.prefix_cache.copy())

    def checked_logits(self, private: Ids) -> tuple[FloatArray, RangeCheck]:
        """As `plain_logits`, and whether the ranges hold for these ids.

        Rows that fill a first prompt's bucket are not among them: each is its first token once
        more.
        """
        found: list[FloatArray] = []

        def run(see: Observer) -> None:
            found.append(self.model.logits(private, self.prefix_cache.copy(), see))

        seen = seen_by(run)
        return found[0], check_ranges(self.public.used_ranges, seen)

    @property
    def line(self) -> str:
        """What the report says of the model."""
        return f"{self.model.origin}: {self.public.architecture.line()}"

    def __repr__(self) -> str:
        return f"<Generator: {self.line}>"


def settings_of(config: Config) -> GenerationConfig:
    """The config's table `generation`; `ConfigError` where it describes an encoder."""
    if config.run.generation is None:
        raise ConfigError(
            f"{config.path}: generation: missing, so this is no run that answers prompts; see "
            "configs/smollm2.yaml"
        )
    return config.run.generation


def load_prompts(config: Config) -> Prompts:
    """The client's: the model's tokenizer and chat template; it opens no weights."""
    settings, shape = settings_of(config), config.run.model.shape
    if shape is None:
        return Prompts(read_tokenizer(config.decoder_place), settings)
    architecture = _shape(config)[1]
    return Prompts(ShapeTokenizer(architecture.vocabulary), settings)


def load_bare(config: Config, prompts: Prompts) -> Generator:
    """Weights and prefix; no ranges."""
    if config.run.model.shape is None:
        model = read_decoder(config.decoder_place)
    else:
        family, architecture = _shape(config)
        weights = family.random_weights(architecture)
        model = DecoderModel(family, architecture, weights, f"RANDOM weights, {family.name}")
    private = config.run.model.embedding == "private"
    settings, architecture = settings_of(config), model.architecture
    known = prompts.prefix, settings, private, prompts.tokenizer.digest()
    public = PublicGenerator(model.family, architecture, {}, *known, config.run.model.batch)
    public.check_positions(str(config.path))
    if prompts.tokenizer.vocabulary > architecture.vocabulary:
        raise ConfigError(
            f"{config.path}: the tokenizer's ids reach {prompts.tokenizer.vocabulary - 1}, the "
            f"model has {architecture.vocabulary} rows for them; use files that belong together"
        )
    return Generator(public, model)


def with_ranges(generator: Generator, ranges: Ranges, outliers: tuple[str, ...]) -> Generator:
    """The same, able to build graphs."""
    public = replace(generator.public, ranges=ranges)
    return replace(generator, public=public, outliers=outliers)


def _shape(config: Config) -> tuple[AnyDecoder, Architecture]:
    shape = config.run.model.shape
    given = ShapeConfig(like=shape) if isinstance(shape, str) else shape
    assert given is not None
    families: Mapping[str, AnyDecoder] = {family.name: family for family in DECODERS}
    family: AnyDecoder = shape_family(config, given, families, "llama")
    return family, shape_architecture(config, given, family)


@dataclass(frozen=True, slots=True)
class ClientRows:
    """What the client puts into a pass: fillers, then tokens.

    Every filler is the first token once more, at its position where positions are learned: a row
    like those that ranges were measured on. That is no proof that bounds hold for it in every
    model; measured for SmolLM2, fillers reach at most 0.63 of any bound.
    """

    ids: Ids
    positions: Ids
    visible: NDArray[np.uint64]
    """(conversations, keys): one for every position so far that is the prefix's or a token's."""

    def one_hot(self, public: PublicGenerator) -> NDArray[np.uint64]:
        """Rows of zeros and ones, all of them the client's share."""
        found: NDArray[np.uint64] = public.family.one_hot(
            public.architecture, self.ids, self.positions
        )
        return found


def client_rows(
    public: PublicGenerator, ids: Sequence[int] | Ids, past: int, fillers: int
) -> ClientRows:
    """Of tokens after `past` rows of a conversation that began with so many fillers."""
    tokens, before, prefix = np.asarray(ids, np.int64), fillers * (not past), len(public.prefix)
    first = prefix + (past - fillers if past else 0)
    positions = np.arange(first, first + len(tokens))
    visible = np.ones((1, prefix + past + before + len(tokens)), np.uint64)
    visible[:, prefix : prefix + fillers] = 0

    def filled(x: Ids) -> Ids:
        return np.concatenate([x[:1].repeat(before), x])

    return ClientRows(filled(tokens), filled(positions), visible)


def side_by_side(every: Sequence[ClientRows]) -> ClientRows:
    """Of conversations that share a pass, one behind the other."""
    parts = ((rows.ids, rows.positions, rows.visible) for rows in every)
    return ClientRows(*(np.concatenate(part) for part in zip(*parts, strict=True)))
