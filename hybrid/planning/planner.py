"""From a config and a model to its plan: who chooses, then what follows from the choice."""

from __future__ import annotations

from hybrid.config.loading import Config
from hybrid.machine.prices import MachinePrices
from hybrid.models.model import PublicModel
from hybrid.planning.catalog import load_catalog
from hybrid.planning.choosing import make_schedule
from hybrid.planning.plan import Plan, build_plan
from hybrid.planning.replanning import Replanning
from hybrid.planning.schedule import Schedule


def make_plan(
    config: Config,
    model: PublicModel,
    prices: MachinePrices | None,
    schedule: Schedule | None = None,
) -> Plan:
    """The plan of one request; runs nothing.

    prices: for the policy `fastest`; schedule: where it has been chosen before.
    """
    catalog = load_catalog(config.run.plugins)
    schedule = schedule or make_schedule(config, model.graph, catalog, prices)
    again = Replanning(config, model, catalog, prices)
    return build_plan(config.run, model.graph, catalog, schedule, again)
