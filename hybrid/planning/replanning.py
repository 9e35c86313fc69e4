"""The same model planned again under a changed config, to try what a refused plan would need."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hybrid.config.loading import Config
from hybrid.config.schema import RunConfig
from hybrid.machine.prices import MachinePrices
from hybrid.models.model import PublicModel
from hybrid.models.ranges import SMALLEST, Bound, Ranges
from hybrid.planning.catalog import Catalog
from hybrid.planning.choosing import make_schedule
from hybrid.planning.plan import bind_plan
from hybrid.planning.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Replanning:
    """How likely this model's plan fails under a changed config: its sizes, its margin."""

    config: Config
    model: PublicModel
    catalog: Catalog
    prices: MachinePrices | None

    def __call__(self, run: RunConfig, schedule: Schedule | None) -> float:
        """Failure probability; schedule: None for what the changed config chooses."""
        wider = run.ranges.margin / self.config.run.ranges.margin
        size, ranges = run.model, _rescaled(self.model.ranges, wider)
        changed = replace(self.model, tokens=size.tokens, batch=size.batch, ranges=ranges)
        other = self.config.with_run(run)
        chosen = schedule or make_schedule(other, changed.graph, self.catalog, self.prices)
        return bind_plan(run, changed.graph, self.catalog, chosen).cost.failure_probability


def _rescaled(ranges: Ranges, factor: float) -> Ranges:
    """Ranges under another margin: exact for powers of two.

    Root mean squares have no margin; a lower bound at the limit may lie beyond it and stays.
    """

    def moved(bound: Bound) -> Bound:
        low = bound.low if bound.low == SMALLEST else bound.low / factor
        return Bound(low, bound.rms, bound.max_abs * factor)

    return ranges if factor == 1 else {edge: moved(bound) for edge, bound in ranges.items()}
