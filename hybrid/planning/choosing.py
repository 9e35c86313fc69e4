"""Who chooses the schedule: the config itself, a file it names, or the search of its policy."""

from __future__ import annotations

from hybrid.config.loading import Config
from hybrid.machine.prices import MachinePrices
from hybrid.models.graph import Graph
from hybrid.planning.catalog import Catalog
from hybrid.planning.schedule import Schedule, named_schedule
from hybrid.planning.search import ScheduleSearch


def make_schedule(
    config: Config, graph: Graph, catalog: Catalog, prices: MachinePrices | None
) -> Schedule:
    """What the policy chooses, or what the config names."""
    if config.run.scheduler.policy == "fixed":
        return named_schedule(config, graph.nodes, catalog)
    return ScheduleSearch(config.run, graph, catalog, prices).solve()
