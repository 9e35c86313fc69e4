"""Where this program keeps what can be made again."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """`HYBRID_CACHE`, else the user's cache folder."""
    configured = os.environ.get("HYBRID_CACHE")
    if configured:
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "hybrid-private-inference"


def models_folder() -> Path:
    """Where `hybrid fetch` puts models, and where configs find them that have none beside them."""
    return cache_folder() / "models"
