"""Texts of a run: they lie in a file of their own, which only the client opens."""

from __future__ import annotations

from hybrid.config.schema import LoadedConfig
from transport.errors import ConfigError


def read_texts(loaded: LoadedConfig) -> list[str]:
    """One text a line from the file that the config names."""
    if loaded.run.texts is None:
        raise ConfigError(f"{loaded.path}: texts: no file is named; add one or pass --text")
    path = loaded.resolve(loaded.run.texts)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ConfigError(
            f"{loaded.path}: texts: {path} cannot be read; name a UTF-8 file, one text a line"
        ) from None
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise ConfigError(f"{loaded.path}: texts: {path} is empty; write one text a line")
    return texts
