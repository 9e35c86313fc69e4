"""From a config and a model to its plan: who chooses, then what follows from the choice."""

from __future__ import annotations

from hybrid.config.loading import Config
from hybrid.machine.prices import MachinePrices
from hybrid.models.model import PublicModel
from hybrid.planning.catalog import Catalog, load_catalog
from hybrid.planning.plan import Plan, build_plan
from hybrid.planning.schedule import Schedule, named_schedule
from hybrid.planning.search import ScheduleSearch


def make_plan(config: Config, model: PublicModel, prices: MachinePrices | None) -> Plan:
    """The plan of one request; runs nothing. prices: for the policy `fastest`."""
    catalog = load_catalog(config.run.plugins)
    schedule = make_schedule(config, model, catalog, prices)
    return build_plan(config.run, model.graph, catalog, schedule)


def make_schedule(
    config: Config, model: PublicModel, catalog: Catalog, prices: MachinePrices | None
) -> Schedule:
    """What the policy chooses, or what the config names."""
    if config.run.scheduler.policy == "fixed":
        return named_schedule(config, model.graph.nodes, catalog)
    return ScheduleSearch(config.run, model.graph, catalog, prices).solve()
