"""`hybrid check`: the contracts over everything that a plugin module registers."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console

from he_linear.packings.base import LinearPacking
from hybrid.cli.progress import make_console, say
from hybrid.config.loading import Config, load_config
from hybrid.config.plugins import import_plugins
from hybrid.models.ranges import Bound
from hybrid.planning.binding import operator_for
from hybrid.planning.catalog import load_catalog
from hybrid.testing.contracts import (
    ContractError,
    InsecureLocalParties,
    MisuseError,
    check_packing,
    checked_cases,
    nodes_of,
    remark_of,
)
from hybrid.testing.protocol_run import called
from mpc_nonlinear.protocols.base import NonlinearProtocol
from transport.errors import ConfigError, UsageError
from transport.foreign import shown

MULTIPLY = ("ot", "ckks")
"""A plan may give a protocol either engine of products."""
_SHAPES = ((1, 1, 1), (3, 5, 7), (33, 100, 1), (2, 300, 200))
"""(tokens, in, out) of packings, without a config."""
_WIDTH, _BOUNDS = 33, (8.0, 64.0)
_EPSILON = 1e-12


def check(module: str, config: Path | None) -> bool:
    """Print one line a case; False where a contract is broken, `ConfigError` for misuse.

    The module is looked for in the current folder too, as `python -m` does.
    """
    console = make_console()
    loaded = None if config is None else load_config(config)
    registered = _entries(module)
    names = dict.fromkeys((*MULTIPLY, *(name for e in registered for name in _engines(e))))
    all_parties = {name: InsecureLocalParties(name) for name in names}
    try:
        for entry in registered:
            for line in _lines(entry, loaded, all_parties):
                _say(console, line)
    except MisuseError as error:
        raise ConfigError(str(error)) from error
    except ContractError as error:
        _say(console, f"broken: {error}")
        return False
    _say(console, f"{module}: every contract is kept, as far as it was checked")
    return True


def _say(console: Console, line: str) -> None:
    # Names come from outside: they are no markup.
    say(console, line)


def _entries(module: str) -> list[Any]:
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    (found,) = import_plugins([module])
    # What a plan would refuse of them is refused here too: names, kinds.
    load_catalog([module])
    entries = [*getattr(found, "PROTOCOLS", ()), *getattr(found, "PACKINGS", ())]
    for entry in entries:
        if entry.op != "correlations":
            operator_for(entry)
    if not entries:
        raise ConfigError(
            f"check: module {shown(module)} has neither PROTOCOLS nor PACKINGS; families of models "
            "are checked by running one"
        )
    return entries


def _lines(
    entry: Any, config: Config | None, all_parties: Mapping[str, InsecureLocalParties]
) -> Iterator[str]:
    """Of one entry, as its cases pass."""
    if not isinstance(entry, type):
        raise MisuseError(
            f"check: {shown(entry)} is no class; PROTOCOLS and PACKINGS list classes, not instances"
        )
    if issubclass(entry, NonlinearProtocol):
        for name in _engines(entry) or MULTIPLY:
            yield from _protocol_lines(entry, config, name, all_parties[name])
        if remark := remark_of(entry.op):
            yield f"{_name(entry)}: {remark}"
    elif issubclass(entry, LinearPacking):
        yield from _packing_lines(entry, config, all_parties[MULTIPLY[0]])
    else:
        yield f"{_name(entry)}: skipped, there is no contract for its kind; see docs/extending.md"


def _engines(entry: Any) -> tuple[str, ...]:
    """Of products that an entry works with, where it names some."""
    return tuple(getattr(entry, "product_engines", ()))


def _name(entry: Any) -> str:
    return f"{getattr(entry, 'op', '?')}/{getattr(entry, 'name', entry.__name__)}"


def _protocol_lines(
    entry: type[NonlinearProtocol],
    config: Config | None,
    multiply: str,
    parties: InsecureLocalParties,
) -> Iterator[str]:
    if config is not None:
        checks = [checked_cases(entry, None, parties, config=config)]
    else:
        checks = [checked_cases(made, None, parties) for made in _samples(entry)]
    for passed in (case for each in checks for case in each):
        bound = getattr(passed.protocol, "bound", "not named")
        yield (
            f"{_name(entry)}, bound {bound}, products by {multiply}, {passed.case}, "
            f"shape {passed.shape}: "
            f"{passed.traffic.sent_bytes} bytes, {passed.traffic.rounds} rounds, error "
            f"{passed.error:.1e} + {passed.approximation_error:.1e}"
        )


def _samples(entry: type[NonlinearProtocol]) -> list[NonlinearProtocol]:
    """Instances for bounds that a model might have."""
    of_rows = Bound(2.0**-3, 2.0, 2.0**3)

    def sample(bound: float) -> NonlinearProtocol:
        bounds = {"input": Bound(2.0**-20, 2.0, bound), "variance": of_rows, "square": of_rows}
        return entry.for_operation(_WIDTH, bounds, {"epsilon": _EPSILON})

    what = f"{_name(entry)}: for_operation() without a config"
    return [called(partial(sample, bound), what) for bound in _BOUNDS]


def _packing_lines(
    entry: type[LinearPacking], config: Config | None, parties: InsecureLocalParties
) -> Iterator[str]:
    refused = 0
    wanted = list(dict.fromkeys(_shapes(config)))
    for shape, diagonal in wanted:
        place = f"{_name(entry)}, {shape[0]} rows, {shape[1]} to {shape[2]}"
        place += ", with the scaled input" if diagonal else ""
        try:
            passed = check_packing(entry, *shape, diagonal=diagonal, parties=parties)
        except UsageError as error:
            refused += 1
            yield f"{place}: refused by the packing: {error}"
            continue
        yield (
            f"{place}: {passed.traffic.sent_bytes} bytes, {passed.rotations} rotations, error rms "
            f"{passed.rms_error:.1e}"
        )
    if refused == len(wanted):
        raise ContractError(f"{_name(entry)}: the packing refuses every shape")


def _shapes(config: Config | None) -> Iterator[tuple[tuple[int, int, int], bool]]:
    """Shapes of linear layers, and whether the scaled input is asked for."""
    if config is None:
        yield from product(_SHAPES, (False, True))
        return
    for node in nodes_of(config):
        if node.key == "linear":
            rows, d_in, d_out = node.shape
            yield (rows, d_in, d_out), node.diagonal
