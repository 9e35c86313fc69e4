"""Seconds of every unit of work on one machine, and where they are kept."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from he_linear.ckks.parameters import PARAMETER_SETS
from he_linear.exact.ring_parameters import RING_SETS
from he_linear.exact.slot_parameters import SLOT_SETS
from hybrid.config.places import cache_folder
from hybrid.config.schema import RunConfig
from hybrid.machine.environment import describe
from transport.computing import Units
from transport.errors import ConfigError, UsageError
from transport.foreign import cut
from transport.link import LinkModel

SCHEMA = 2
"""Of the file; raised when units are added or change their meaning."""

_SETS: tuple[Mapping[str, Any], ...] = (PARAMETER_SETS, RING_SETS, SLOT_SETS)
"""Units are named after their sizes."""


@dataclass(frozen=True)
class MachinePrices:
    """Measured by `hybrid calibrate`; prices work between two local processes or over a link."""

    units: Mapping[str, float]
    """Seconds of one core, by unit."""
    latency_s: float
    """From a send to the receipt of a small frame."""
    bytes_per_s: float
    """Each direction."""
    machine: str
    """Fingerprint of CPU and versions."""
    date: str
    took_s: float
    fit_error: float
    """Median distance of whole steps from what their prices add up to, relative."""

    def seconds(self, part: Units) -> float:
        """Time of these units; `UsageError` names the first without a price."""
        try:
            return sum(self.units[name] * count for name, count in part)
        except KeyError as error:
            raise UsageError(
                f"calibration: no price for unit {error.args[0]!r}; run `hybrid calibrate` again, "
                "or declare the work of a plugin in units that it knows"
            ) from None

    def knows(self, part: Units) -> bool:
        """Whether every unit has a price."""
        return all(name in self.units for name, _ in part)

    def lines(self) -> list[str]:
        """A summary for a reader."""
        shown = {
            "rotation": ("rotation/8192x2", 1e3, "ms"),
            "encrypt": ("encrypt/8192x2", 1e3, "ms"),
            "mask": ("mask/8192x2", 1e3, "ms"),
            "modular multiply-add": ("multiply_add", 1e9, "ns"),
            "comparison leaf": ("use_leaf4", 1e9, "ns"),
            "OTs of a medium Ferret batch": ("ferret_medium_batch", 1e3, "ms"),
        }
        found = [
            f"{self.units[unit] * factor:.3g} {name} a {label}"
            for label, (unit, factor, name) in shown.items()
            if unit in self.units
        ]
        return [
            f"{'calibration':<20} {self.date}, took {self.took_s:g} s, {len(self.units)} units, "
            f"median error of whole steps {self.fit_error:.0%}",
            f"{'':<20} message {self.latency_s * 1e6:.0f} us, {self.bytes_per_s / 1e9:.2g} GB/s; "
            + ", ".join(found[:3]),
            f"{'':<20} " + ", ".join(found[3:]),
        ]

    def over(self, link: LinkModel | None) -> MachinePrices:
        """The same machine with messages over this link."""
        if link is None:
            return self
        # The link model holds every frame back in addition to the socket's own time.
        return replace(
            self,
            latency_s=self.latency_s + link.latency_s,
            bytes_per_s=1 / (1 / self.bytes_per_s + 8 / link.bandwidth_bps),
        )


def fingerprint() -> str:
    """Names the CPU, the versions and the sizes of parameters that prices depend on."""
    found = describe()
    kept = [found["machine"], found["cpu_features"], found["threads"]]
    kept += [found[f"version_{name}"] for name in ("numpy", "numba", "pyzmq", "cryptography")]
    sets = [sorted((n, p.poly_degree, p.prime_bits) for n, p in s.items()) for s in _SETS]
    return hashlib.sha256(json.dumps([SCHEMA, *kept, sets]).encode()).hexdigest()[:16]


def cache_file() -> Path:
    """Where prices are kept: in the cache folder."""
    return cache_folder() / "calibration.json"


def check_writable(path: Path) -> None:
    """`ConfigError` where prices could not be kept, before time is spent on them."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        writable = os.access(path.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise ConfigError(f"{path}: the folder cannot be written; set HYBRID_CACHE to one that can")


def save(prices: MachinePrices, path: Path) -> None:
    """Keep prices; the file is replaced whole."""
    check_writable(path)
    partial = path.with_suffix(".part")
    partial.write_text(
        json.dumps({"schema": SCHEMA, **asdict(prices)}, indent=1) + "\n", encoding="utf-8"
    )
    partial.replace(path)


def load(path: Path) -> MachinePrices | None:
    """What was kept, None where nothing was; `ConfigError` where it cannot be read."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: not a calibration ({cut(str(error))}); run `hybrid calibrate`"
        ) from None
    if not isinstance(raw, dict) or raw.pop("schema", None) != SCHEMA:
        raise ConfigError(f"{path}: a calibration of another version; run `hybrid calibrate`")
    try:
        prices = MachinePrices(**raw)
        checked = [*prices.units.values(), prices.latency_s, prices.bytes_per_s]
        if not all(isinstance(x, float) and 0 <= x < 1e12 for x in checked):
            raise TypeError("a price is not a number of seconds")
    except (TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path}: not a calibration ({cut(str(error))}); run `hybrid calibrate`"
        ) from None
    return prices


def schedule_prices(config: RunConfig) -> MachinePrices | None:
    """What its schedule goes by: nothing is read where no price decides."""
    return known_prices() if config.scheduler.policy == "fastest" else None


def needs_prices(config: RunConfig) -> bool:
    """Whether its schedule needs prices that this machine has not got."""
    return config.scheduler.policy == "fastest" and known_prices() is None


def prices_for_reports() -> MachinePrices | None:
    """As `known_prices`; None also where what was kept is broken: a report must not fail by it."""
    try:
        return known_prices()
    except ConfigError:
        return None


def known_prices() -> MachinePrices | None:
    """Kept prices, if they are of this machine and these versions."""
    prices = load(cache_file())
    return prices if prices is not None and prices.machine == fingerprint() else None
