"""From a config and a model to its plan: who chooses, then what follows from the choice."""

from __future__ import annotations

from dataclasses import replace

from hybrid.config.loading import Config
from hybrid.config.schema import RunConfig
from hybrid.machine.prices import MachinePrices
from hybrid.models.model import PublicModel
from hybrid.models.ranges import LARGEST, SMALLEST, Bound, Ranges
from hybrid.planning.catalog import Catalog, load_catalog
from hybrid.planning.plan import Plan, bind_plan, build_plan
from hybrid.planning.refusal import Again
from hybrid.planning.schedule import Schedule, named_schedule
from hybrid.planning.search import ScheduleSearch


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
    schedule = schedule or make_schedule(config, model, catalog, prices)
    again = replanning(config, model, catalog, prices)
    return build_plan(config.run, model.graph, catalog, schedule, again)


def make_schedule(
    config: Config, model: PublicModel, catalog: Catalog, prices: MachinePrices | None
) -> Schedule:
    """What the policy chooses, or what the config names."""
    if config.run.scheduler.policy == "fixed":
        return named_schedule(config, model.graph.nodes, catalog)
    return ScheduleSearch(config.run, model.graph, catalog, prices).solve()


def replanning(
    config: Config, model: PublicModel, catalog: Catalog, prices: MachinePrices | None
) -> Again:
    """How likely this model's plan fails under a changed config: its sizes, its margin."""

    def again(run: RunConfig, schedule: Schedule | None) -> float:
        wider = run.ranges.margin / config.run.ranges.margin
        size, ranges = run.model, _rescaled(model.ranges, wider)
        changed = replace(model, tokens=size.tokens, batch=size.batch, ranges=ranges)
        other = Config(run, config.path)
        chosen = schedule or make_schedule(other, changed, catalog, prices)
        return bind_plan(run, changed.graph, catalog, chosen).cost.failure_probability

    return again


def _rescaled(ranges: Ranges, factor: float) -> Ranges:
    """Ranges under another margin: exact for powers of two.

    Root mean squares have no margin; what lies at a limit may lie beyond it and stays.
    """

    def moved(bound: Bound) -> Bound:
        low = bound.low if bound.low == SMALLEST else bound.low / factor
        largest = bound.max_abs if bound.max_abs == LARGEST else bound.max_abs * factor
        return Bound(low, bound.rms, largest)

    return ranges if factor == 1 else {edge: moved(bound) for edge, bound in ranges.items()}
