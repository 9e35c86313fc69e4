"""The server's decoder with its ranges, which are kept in the cache folder once they are found.

Ranges come from the plain model on public sample prompts and the start of its greedy answers: a
minute of one core for SmolLM2.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hybrid.config.loading import Config
from hybrid.config.places import cache_folder
from hybrid.models.decoder_ranges import (
    largest_by_position,
    outlier_lines,
    outliers,
    private_ranges,
    with_answer,
)
from hybrid.models.decoder_tokenizing import Prompt
from hybrid.models.generator import Generator, load_bare, load_prompts, with_ranges
from hybrid.models.prompts import Prompts
from hybrid.models.random_weights import random_samples
from hybrid.models.range_check import few_samples
from hybrid.models.ranges import (
    Ranges,
    default_lines,
    ranges_from_public,
    ranges_to_public,
    read_sentences,
    weight_bound,
)
from transport.errors import ConfigError

_ANSWER_TOKENS = 16
"""Of every sample's greedy answer that ranges are found on."""
_OUTLIER_SAMPLES = 2
"""Enough: the prefix is the same in all of them."""
_VERSION = 3
"""Of what ranges are; a change here makes kept ones stale."""


def load_generator(config: Config) -> Generator:
    """Weights, prefix and ranges; `ConfigError` where the model cannot run."""
    prompts = load_prompts(config)
    bare = load_bare(config, prompts)
    samples = list(_samples(config, bare, prompts))
    key = _key(config, bare, samples)
    found = _kept(key)
    if found is None:
        found = _found(config, bare, prompts, samples)
        _keep(key, found)
    caution = ""
    if config.run.ranges.sentences is not None:
        caution = few_samples([sample.private for sample in samples])
    return replace(with_ranges(bare, found.ranges, found.outliers), caution=caution)


@dataclass(frozen=True, slots=True)
class _Found:
    ranges: Ranges
    outliers: tuple[str, ...]
    """A line for each edge that position 0 reaches far beyond, for a reader at the server."""


def _found(config: Config, bare: Generator, prompts: Prompts, samples: list[Prompt]) -> _Found:
    ends = prompts.tokenizer.end_ids
    if config.run.model.shape is None:
        samples = [with_answer(bare.model, s, _answer_tokens(bare, s), ends) for s in samples]
    ranges = private_ranges(bare.model, samples, config.run.ranges.margin)
    weights = {f"{name}.weight": weight_bound(linear.weight) for name, linear in bare.maps()}
    beyond = outliers(largest_by_position(bare.model, samples[:_OUTLIER_SAMPLES]))
    return _Found({**ranges, **weights}, tuple(outlier_lines(beyond)))


def _answer_tokens(bare: Generator, sample: Prompt) -> int:
    return max(0, min(_ANSWER_TOKENS, bare.public.architecture.positions - len(sample.ids)))


def _samples(config: Config, bare: Generator, prompts: Prompts) -> Iterable[Prompt]:
    """Public prompts, cut to the positions that the model has."""
    given, public = config.run.ranges.sentences, bare.public
    if config.run.model.shape is not None and given is None:
        for ids in random_samples(public.architecture.vocabulary, public.capacity):
            yield Prompt(public.prefix, ids)
        return
    room = public.architecture.positions - len(public.prefix)
    name = "prompts.txt" if prompts.settings.chat else "sentences.txt"
    lines = default_lines(name) if given is None else read_sentences(config.resolve(given))
    for line in lines:
        found = prompts.first(line)
        yield Prompt(found.prefix, found.private[:room])


# -- what was found before ------------------------------------------------------------------


def _key(config: Config, bare: Generator, samples: list[Prompt]) -> str:
    """Of everything that ranges depend on."""
    digest = hashlib.sha256()
    parts: list[Any] = [_VERSION, bare.public.family.name, config.run.ranges.margin]
    parts += [bare.public.architecture.to_public(), _model_digest(config)]
    parts += [[ids.tolist() for ids in (s.prefix, s.private)] for s in samples]
    digest.update(json.dumps(parts, sort_keys=True).encode())
    return digest.hexdigest()


def _model_digest(config: Config) -> str:
    if config.run.model.shape is not None:
        return "random"
    place, digest = config.decoder_place, hashlib.sha256()
    files = [place] if place.is_file() else sorted(p for p in place.iterdir() if p.is_file())
    for file in files:
        if file.suffix in (".gguf", ".safetensors", ".bin", ".json"):
            # What cannot be read was not read for the model either.
            with suppress(OSError), file.open("rb") as source:
                digest.update(hashlib.file_digest(source, "sha256").digest())
    return digest.hexdigest()


def _path(key: str) -> Path:
    return cache_folder() / f"ranges-{key}.json"


def _kept(key: str) -> _Found | None:
    try:
        data = json.loads(_path(key).read_text(encoding="utf-8"))
        return _Found(ranges_from_public(data["ranges"]), tuple(map(str, data["outliers"])))
    except (OSError, ValueError, KeyError, TypeError, ConfigError):
        return None


def _keep(key: str, found: _Found) -> None:
    """A folder that cannot be written only costs the next search."""
    path = _path(key)
    data = {"ranges": ranges_to_public(found.ranges), "outliers": list(found.outliers)}
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Several processes may find the same ranges at once.
        partial = path.with_suffix(f".{os.getpid()}.part")
        partial.write_text(json.dumps(data), encoding="utf-8")
        partial.replace(path)
