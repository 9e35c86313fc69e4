"""Sources of correlations that a search may take."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from hybrid.config.schema import RunConfig, SchedulerConfig
from hybrid.machine.prices import MachinePrices
from hybrid.planning.catalog import Catalog
from hybrid.planning.pins import Pins
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.correlations.dealer import TrustedDealer
from mpc_nonlinear.cost import OtCount
from transport.errors import ConfigError
from transport.foreign import shown

MANY_OTS = OtCount(1 << 22, 1 << 22)
"""Of which one more takes what one takes in bulk."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Of a catalog, within the rules of a config."""

    rules: SchedulerConfig
    pins: Pins
    catalog: Catalog
    prices: MachinePrices | None

    def fitting(self) -> Iterator[type[CorrelationSource]]:
        """All that trust and pins allow and, for the policy `fastest`, that have prices."""
        for name in self.pins.sources(self.catalog.names("correlations")):
            source: type[CorrelationSource] = self.catalog["correlations", name]
            if self.rules.trust == "no_dealer" and issubclass(source, TrustedDealer):
                continue
            units = source.production_units(MANY_OTS)
            if self.rules.policy != "fastest" or (self.prices and self.prices.knows(units)):
                yield source

    def none_fits(self) -> ConfigError:
        """Says so."""
        names = ", ".join(self.pins.sources(self.catalog.names("correlations")))
        return ConfigError(
            f"scheduler.pin.correlations: {shown(names)} does not fit scheduler.trust: "
            f"{self.rules.trust}, or has no prices; pin another source or remove the pin"
        )


def prices_over(config: RunConfig, prices: MachinePrices | None) -> MachinePrices | None:
    """A machine's prices over the network that schedules are for.

    `ConfigError` where a policy needs prices and there are none.
    """
    if config.scheduler.policy == "fastest" and prices is None:
        raise ConfigError(
            "scheduler.policy: 'fastest' needs this machine's prices; run `hybrid calibrate` "
            "first, or choose least_traffic or fewest_rounds"
        )
    return None if prices is None else prices.over(config.scheduled_link())
