"""Correlations made ahead of need, divided among the passes that take them.

A replay of the stock: pieces in the order in which they were made, each kind leaving oldest first.
A piece is shared by its kinds as making them costs bytes, and a kind by how many each pass takes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from hybrid.operators.slot_triples import triples_cost
from hybrid.planning.ahead import AHEAD, making, still_to_make
from hybrid.planning.generation import GenerationPlan
from hybrid.planning.plan import Plan
from hybrid.runtime.generation_records import GenerationRecord, SharedRecord
from mpc_nonlinear.cost import Cost, Demand, Kind
from transport.traffic import Traffic


@dataclass
class _Kept:
    """Some of one kind that are left of a piece."""

    piece: int
    count: int
    part: float
    """Of the piece, one instance."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """What a pass took of the stock, and what it made itself."""

    needed: Cost
    """Its correlations that were not there."""
    parts: dict[int, float]
    """Of pieces, by their place among what passes share, 0 to 1."""


@dataclass
class StockReplay:
    """The stock of a session, pass by pass."""

    plan: GenerationPlan
    _kinds: dict[Kind, deque[_Kept]] = field(default_factory=dict)

    def passes(self, record: GenerationRecord, plans: Sequence[Plan]) -> list[Drawn]:
        """Of every pass, in order; plans: theirs."""
        pieces = deque((place, one) for place, one in enumerate(record.shared) if one.kind == AHEAD)
        found = []
        for index, plan in enumerate(plans):
            while pieces and pieces[0][1].passes <= index:
                self._add(*pieces.popleft())
            needed = still_to_make(plan.cost, self._stock())
            found.append(Drawn(needed, self._take(plan.cost.demand)))
        return found

    def _stock(self) -> Demand:
        counts = ((kind, sum(k.count for k in kept)) for kind, kept in self._kinds.items())
        return Demand(tuple((kind, count) for kind, count in counts if count))

    def _add(self, place: int, piece: SharedRecord) -> None:
        weights = _weights(self.plan, piece.made)
        for kind, count in piece.made.counts:
            kept = _Kept(place, count, weights[kind] / count)
            self._kinds.setdefault(kind, deque()).append(kept)

    def _take(self, demand: Demand) -> dict[int, float]:
        parts: dict[int, float] = {}
        for kind, count in demand.counts:
            kept, left = self._kinds.get(kind, deque()), count
            while left and kept:
                taken = min(left, kept[0].count)
                parts[kept[0].piece] = parts.get(kept[0].piece, 0.0) + taken * kept[0].part
                kept[0].count -= taken
                left -= taken
                if not kept[0].count:
                    kept.popleft()
        return parts


def _weights(plan: GenerationPlan, made: Demand) -> dict[Kind, float]:
    """Of every kind of a piece, together one."""
    ots = made.ots
    by_ot = plan.source.production_traffic(ots).sent_bytes / max(1, ots.total)
    cost = {
        kind: triples_cost(Demand.of(kind, count)).traffic.sent_bytes
        + kind.ots.total * count * by_ot
        for kind, count in made.counts
    }
    whole = sum(cost.values())
    return {kind: own / whole if whole else 1 / len(cost) for kind, own in cost.items()}


def making_traffic(plan: GenerationPlan, drawn: Drawn) -> Traffic:
    """Of what a pass made itself."""
    return making(plan.source, drawn.needed).traffic
