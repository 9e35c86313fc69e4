"""From the command's arguments to complete configs, one for every run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybrid.config.loading import Config, load_config
from hybrid.config.overrides import overrides_of
from hybrid.config.schema import CustomLink
from hybrid.config.texts import read_texts
from hybrid.config.yaml_text import dumped
from hybrid.reports.files import ReportFolder
from transport.errors import ConfigError
from transport.foreign import printable

_PATHS = (
    ("model", "path"),
    ("texts",),
    ("schedule",),
    ("ranges", "sentences"),
    ("runtime", "curve_keys"),
)
_OF_ENCODERS = (("model", "tokens"), ("model", "pooling"), ("model", "normalize"),
                ("mpc", "output_bits"), ("ckks", "linear_phase"))  # fmt: skip
"""Refused beside generation, even at their defaults."""
_NAME_LENGTH = 64
_ANY_TEXT = "Nothing about this text changes what is measured."
"""Asked where neither the command nor the config names a text: seconds do not depend on it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line adds to the configs."""

    out: Path
    tokens: int | None = None
    links: tuple[str, ...] = ()
    """None: every config's own link."""
    repetitions: int = 3
    warm_up: bool = True
    """Whether a session's first request is left out of the figures."""
    text: str | None = None
    truncate: bool = False
    sets: tuple[str, ...] = ()
    """KEY=VALUE, for every config."""

    @property
    def shortens(self) -> bool:
        """Whether texts that are too long are cut: on demand, and a config's own for --tokens."""
        return self.truncate or (self.tokens is not None and self.text is None)

    @property
    def requests(self) -> int:
        """Requests of one session."""
        return self.repetitions + self.warm_up


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One session to come: a config over a link."""

    name: str
    """Unique among the compared configs."""
    link: str
    """Label of the link."""
    config: Config
    """The complete config as it lies in the report's folder."""

    @property
    def slug(self) -> str:
        """Name of its files."""
        return self.config.path.stem

    @property
    def answers(self) -> bool:
        """Whether a decoder answers; else an encoder is asked."""
        return self.config.run.generation is not None

    def text(self, given: str | None) -> str:
        """What is asked: the option, else the config's first line, else any sentence."""
        if given is not None:
            return given
        return _ANY_TEXT if self.config.run.texts is None else read_texts(self.config)[0]


def plan_runs(
    paths: Sequence[Path], options: Options, folder: ReportFolder | None = None
) -> list[PlannedRun]:
    """Write DIR/configs/*.yaml, every config over every link, links outermost.

    folder: keeps count of what is written; one of its own for options.out, if not given.
    """
    links: tuple[str | None, ...] = tuple(dict.fromkeys(options.links)) or (None,)
    # All are read before anything is written, so that a mistake in one leaves nothing behind.
    sources = [
        [load_config(path, overrides_of(options.sets, options.tokens, over)) for path in paths]
        for over in links
    ]
    _check_one_kind(sources[0])
    names = unique_names([(s.run.name, s.path.stem) for s in sources[0]])
    folder = folder or ReportFolder(options.out)
    folder.check(f"report.{form}" for form in ("json", "md", "html"))
    runs: list[PlannedRun] = []
    for over, configs in zip(links, sources, strict=True):
        for name, source in zip(names, configs, strict=True):
            stem = _unused(slug(f"{name}.{over}" if over else name), {r.slug for r in runs})
            path = folder.write(f"configs/{stem}.yaml", dumped(resolved(source, name)))
            config = load_config(path)
            runs.append(PlannedRun(name, link_label(config), config))
    return runs


def _check_one_kind(configs: Sequence[Config]) -> None:
    """`ConfigError` where seconds of a request would stand beside seconds of a token."""
    decoders = [config for config in configs if config.run.generation is not None]
    encoders = [config for config in configs if config.run.generation is None]
    if decoders and encoders:
        raise ConfigError(
            f"compare: {decoders[0].path} answers prompts and {encoders[0].path} does not; compare "
            "decoders with decoders and encoders with encoders"
        )


def resolved(source: Config, name: str) -> dict[str, Any]:
    """The whole config as plain data: every default written out, paths absolute."""
    config = source.run.model_dump(mode="json", exclude_none=True)
    for *outer, last in _PATHS:
        part = config
        for key in outer:
            part = part.get(key, {})
        if isinstance(part.get(last), str):
            part[last] = str(source.resolve(part[last]))
    for table, key in _OF_ENCODERS if source.run.generation is not None else ():
        config.get(table, {}).pop(key, None)
    config["name"] = name
    return config


def link_label(config: Config) -> str:
    """A link as the report names it."""
    link = config.run.link
    if isinstance(link, CustomLink):
        return f"{link.bandwidth_mbps:g} Mbps, {link.latency_ms:g} ms"
    return link


def unique_names(candidates: Sequence[tuple[str, str]]) -> list[str]:
    """Each config's name; its file's where several share one; numbered where even those agree."""
    shared = Counter(name for name, _ in candidates)
    names: list[str] = []
    for name, stem in candidates:
        label = name if shared[name] == 1 else printable(stem)
        names.append(_unused(label[:_NAME_LENGTH], set(names)))
    return names


def slug(text: str) -> str:
    """A name as that of a file or folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "run"


def _unused(label: str, taken: set[str]) -> str:
    found, number = label, 2
    while found in taken:
        found = f"{label[: _NAME_LENGTH - 4]}-{number}"
        number += 1
    return found
