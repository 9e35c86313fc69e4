"""Which version of the project this is."""

from __future__ import annotations

from importlib import metadata

_DISTRIBUTION = "hybrid-private-inference"


def _version() -> str:
    try:
        return metadata.version(_DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "0+not.installed"


__version__ = _version()
"""Of the installed package; `0+not.installed` where the sources are used without installing."""
