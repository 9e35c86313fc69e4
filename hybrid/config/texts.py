"""Texts of a run: they lie in a file of their own, which only the client opens."""

from __future__ import annotations

from hybrid.config.files import read_lines
from hybrid.config.loading import Config
from transport.errors import ConfigError


def read_texts(config: Config) -> list[str]:
    """One text a line from the file that the config names."""
    if config.run.texts is None:
        option = "--text" if config.run.generation is None else "--prompt"
        raise ConfigError(f"{config.path}: texts: no file is named; add one or pass {option}")
    path = config.resolve(config.run.texts)
    return read_lines(path, f"{config.path}: texts", "name a UTF-8 file, one text a line")
