"""Modules outside the package that a config names."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from types import ModuleType

from transport.errors import ConfigError
from transport.foreign import cut, shown

TUPLES = ("PROTOCOLS", "PACKINGS", "MODELS")
"""What a plugin may have: at least one of them."""


def import_plugins(names: Iterable[str]) -> list[ModuleType]:
    """Each module; `ConfigError` where one cannot be imported or has nothing to register."""
    modules = []
    for name in names:
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"plugins: module {shown(name)} cannot be imported ({cut(str(error))}); "
                "put its folder on PYTHONPATH"
            ) from None
        except (Exception, SystemExit) as error:  # Whatever a module of somebody else's does.
            raise ConfigError(
                f"plugins: module {shown(name)} fails on import ({type(error).__name__}: "
                f"{cut(str(error))}); mend it"
            ) from error
        for kind in TUPLES:
            if not isinstance(getattr(module, kind, ()), tuple | list):
                raise ConfigError(f"plugins: module {shown(name)}: {kind} is no tuple; make it one")
        if not any(getattr(module, kind, ()) for kind in TUPLES):
            raise ConfigError(f"plugins: module {shown(name)} has no {', '.join(TUPLES)} tuple")
        modules.append(module)
    return modules
