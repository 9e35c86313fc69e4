"""From the command's arguments to complete configs, one for every run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hybrid.config.schema import LINK_PROFILES, CustomLink, LoadedConfig, RunConfig, load_config
from hybrid.config.texts import read_texts
from transport.errors import ConfigError

LINK_NAMES = ("none", *LINK_PROFILES)
_PATHS = (("model", "path"), ("texts",), ("calibration", "sentences"), ("runtime", "curve_keys"))
_NAME_LENGTH = 64
_ANY_TEXT = "Nothing about this text changes what is measured."
"""Asked where neither the command nor the config names a text: seconds do not depend on it."""


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line adds to the configs."""

    out: Path
    tokens: int | None = None
    links: tuple[str, ...] = ()
    """None: every config's own."""
    repetitions: int = 3
    warm_up: bool = True
    """Whether a session's first request is left out of the figures."""
    text: str | None = None
    truncate: bool = False

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
    loaded: LoadedConfig
    """The complete config as it lies in the report's folder."""

    @property
    def slug(self) -> str:
        """Name of its files."""
        return self.loaded.path.stem

    def text(self, given: str | None) -> str:
        """What is asked: the option, else the config's first line, else any sentence."""
        if given is not None:
            return given
        return _ANY_TEXT if self.loaded.run.texts is None else read_texts(self.loaded)[0]


def plan_runs(paths: Sequence[Path], options: Options) -> list[PlannedRun]:
    """Write DIR/configs/*.yaml, every config over every link, links outermost."""
    for link in options.links:
        _check_link(link)
    sources = [load_config(path) for path in paths]
    names = unique_names([(s.run.name, s.path.stem) for s in sources])
    links: tuple[str | None, ...] = tuple(dict.fromkeys(options.links)) or (None,)
    runs: list[PlannedRun] = []
    for over in links:
        for name, source in zip(names, sources, strict=True):
            config = resolved(source, name, over, options.tokens)
            slug = _unused(_slug(f"{name}.{over}" if over else name), {r.slug for r in runs})
            path = options.out / "configs" / f"{slug}.yaml"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
            loaded = load_config(path)
            runs.append(PlannedRun(name, link_label(loaded), loaded))
    return runs


def overridden(source: LoadedConfig, link: str | None, tokens: int | None) -> LoadedConfig:
    """The config with what the command line says instead."""
    if link is not None:
        _check_link(link)
    config = resolved(source, source.run.name, link, tokens)
    return LoadedConfig(RunConfig.model_validate(config), source.path)


def _check_link(link: str) -> None:
    if link not in LINK_NAMES:
        raise ConfigError(f"--link {link}: no such link; choose among {', '.join(LINK_NAMES)}")


def resolved(
    source: LoadedConfig, name: str, link: str | None, tokens: int | None
) -> dict[str, Any]:
    """The whole config as plain data: every default written out, paths absolute, overrides made."""
    config = source.run.model_dump(mode="json", exclude_none=True)
    for *outer, last in _PATHS:
        part = config
        for key in outer:
            part = part.get(key, {})
        if isinstance(part.get(last), str):
            part[last] = str(source.resolve(part[last]))
    config["name"] = name
    if link is not None:
        config["link"] = link
    if tokens is not None:
        config["model"]["tokens"] = tokens
    return config


def link_label(loaded: LoadedConfig) -> str:
    """A link as the report names it."""
    link = loaded.run.link
    if isinstance(link, CustomLink):
        return f"{link.bandwidth_mbps:g} Mbps, {link.latency_ms:g} ms"
    return link


def unique_names(candidates: Sequence[tuple[str, str]]) -> list[str]:
    """Each config's name; its file's where several share one; numbered where even those agree."""
    shared = Counter(name for name, _ in candidates)
    names: list[str] = []
    for name, stem in candidates:
        label = name if shared[name] == 1 else stem
        names.append(_unused(label[:_NAME_LENGTH], set(names)))
    return names


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-") or "run"


def _unused(label: str, taken: set[str]) -> str:
    found, number = label, 2
    while found in taken:
        found = f"{label[: _NAME_LENGTH - 4]}-{number}"
        number += 1
    return found
