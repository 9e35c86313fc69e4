"""The next piece of what is made ahead of need: the same at both parties, by what both count."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hybrid.operators.base import Operator, RunState
from hybrid.planning.ahead import AHEAD, AheadPlan, making, still_to_make
from hybrid.planning.generation import GenerationPlan
from hybrid.planning.plan import Plan
from hybrid.runtime.generation_records import SharedRecord
from hybrid.runtime.runner import run_ahead
from hybrid.runtime.session_parts import SessionParts
from mpc_nonlinear.cost import Cost, Demand, total_without_work


@dataclass(frozen=True, slots=True)
class Piece:
    """One layer's next rows, or correlations for about one row of all layers."""

    operators: tuple[tuple[Operator, Cost], ...] = ()
    """Whose rows, with what a batch costs."""
    correlations: Demand = Demand()

    @property
    def needed(self) -> Cost:
        """Correlations to make."""
        return Cost(ots=self.correlations.ots, demand=self.correlations)

    def cost(self, plan: GenerationPlan) -> Cost:
        """What it sends, and its chance of failure."""
        rows = total_without_work(cost for _, cost in self.operators)
        return rows + making(plan.source, self.needed)


def next_piece(ahead: AheadPlan, rows: Sequence[int], past: int, stock: Demand) -> Piece | None:
    """What comes next; None: all is there that the next passes can use.

    Rows for as many tokens as correlations are made for, then those correlations, then rows up to
    a batch. rows: prepared ones that each layer of a batch has; stock: of correlations.
    """
    plan = ahead.plan
    # Of a token every layer takes as many.
    layer, each = (int(np.argmin(rows)), plan.batch[0][0].node.shape[0]) if rows else (-1, 0)
    if rows and rows[layer] < ahead.tokens * each:
        return Piece((plan.batch[layer],))
    if (part := ahead.piece(past, stock)).counts:
        return Piece(correlations=part)
    if rows and rows[layer] < min(plan.batch_rows, plan.model.capacity * each):
        return Piece((plan.batch[layer],))
    return None


class PreparesAhead(SessionParts):
    """A session's stock of correlations, and what is made while nobody asks."""

    plan: GenerationPlan
    past: int
    shared: list[SharedRecord]
    _state: RunState
    _is_open: bool
    _passes: int

    @abstractmethod
    def _make(self, pieces: list[tuple[Operator, Cost]]) -> None:
        """Batches of rows."""

    @abstractmethod
    def _spend(self, more: float) -> None:
        """Count a chance of failure; refuse too much of it."""

    def _prepared(self) -> Demand:
        """Correlations in stock: the same counts at both parties."""
        return self._state.session.prepared.stock()

    def _pass_failure(self, plan: Plan) -> float:
        """Of a pass, with the making of what is not in stock."""
        made = making(self.plan.source, still_to_make(plan.cost, self._prepared()))
        return plan.cost.failure_probability + made.failure_probability

    @cached_property
    def _to_come(self) -> AheadPlan:
        return AheadPlan(self.plan)

    def _next_piece(self) -> Piece | None:
        """Both parties find the same."""
        rows = [len(self._state.rows.get(o.node.name, ())) for o, _ in self.plan.batch]
        return next_piece(self._to_come, rows, self.past if self._is_open else 0, self._prepared())

    def _ahead(self, piece: Piece) -> None:
        if piece.operators:
            self._make(list(piece.operators))
            self.shared[-1] = replace(self.shared[-1], is_ahead=True)
            return
        cost, label = piece.cost(self.plan), f"{AHEAD}{len(self.shared)}"
        self._spend(cost.failure_probability)
        step = run_ahead(piece.needed, self._state, label, self.progress)
        made, place = piece.correlations, (1, (cost.traffic,), self._passes, True)
        self.shared.append(SharedRecord(AHEAD, (step,), step.seconds, *place, made))
