"""Texts of a run: they lie in a file of their own, which only the client opens."""

from __future__ import annotations

from hybrid.config.loading import Config
from transport.errors import ConfigError


def read_texts(config: Config) -> list[str]:
    """One text a line from the file that the config names."""
    if config.run.texts is None:
        option = "--text" if config.run.generation is None else "--prompt"
        raise ConfigError(f"{config.path}: texts: no file is named; add one or pass {option}")
    path = config.resolve(config.run.texts)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"{config.path}: texts: {path} cannot be read; name a UTF-8 file, one text a line"
        ) from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ConfigError(f"{config.path}: texts: {path} is empty; write one text a line")
    return texts
