"""The next piece of what is made ahead of need: the same at both parties, by what both count."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hybrid.operators.base import Operator, RunState
from hybrid.planning.ahead import AHEAD, AheadPlan, making
from hybrid.planning.generation import BATCH, CACHE, CachePiece, GenerationPlan
from hybrid.planning.plan import Plan
from hybrid.planning.risk import Risk
from hybrid.runtime.generation_records import SharedRecord
from hybrid.runtime.runner import Progress, run_ahead, run_shared
from hybrid.runtime.session_parts import SessionParts
from mpc_nonlinear.cost import NO_COST, Cost, Demand, total_without_work


@dataclass(frozen=True, slots=True)
class Piece:
    """One layer's next rows, correlations for about one row of all layers, or of the next cache."""

    operators: tuple[tuple[Operator, Cost], ...] = ()
    """Whose rows, with what a batch costs."""
    correlations: Demand = Demand()
    cache: tuple[int, CachePiece] | None = None
    """With its place among the pieces of a conversation to come."""

    @property
    def needed(self) -> Cost:
        """Correlations to make."""
        return Cost(ots=self.correlations.ots, demand=self.correlations)

    def cost(self, plan: GenerationPlan) -> Cost:
        """What it sends, and its chance of failure."""
        rows = total_without_work(cost for _, cost in self.operators)
        cache = NO_COST if self.cache is None else self.cache[1].cost
        return rows + cache + making(plan.source, self.needed)


@dataclass(frozen=True, slots=True)
class Stock:
    """What both parties have of a session: the same counts at both."""

    rows: Sequence[int]
    """Prepared ones that each layer of a batch has."""
    correlations: Demand
    cache: int
    """Pieces of the next conversation's cache."""


def next_piece(ahead: AheadPlan, stock: Stock, past: int, *, goes_on: bool) -> Piece | None:
    """What comes next; None: all is there that the next passes can use.

    Rows for as many tokens as correlations are made for, then those correlations, then rows up to
    a batch. The cache of a next conversation comes before all of it or, where the one that is open
    may go on, before rows up to a batch. past: rows of that one.
    """
    plan, rows = ahead.plan, stock.rows
    cache = None
    if stock.cache < len(ahead.cache_pieces):
        cache = Piece(cache=(stock.cache, ahead.cache_pieces[stock.cache]))
    if cache and not goes_on:
        return cache
    # Of a token every layer takes as many.
    layer, each = (int(np.argmin(rows)), plan.batch[0][0].node.shape[0]) if rows else (-1, 0)
    if rows and rows[layer] < ahead.tokens * each:
        return Piece((plan.batch[layer],))
    if (part := ahead.piece(past, stock.correlations)).counts:
        return Piece(correlations=part)
    if cache:
        return cache
    if rows and rows[layer] < min(plan.batch_rows, plan.model.capacity * each):
        return Piece((plan.batch[layer],))
    return None


class PreparesAhead(SessionParts):
    """A session's stock of rows and correlations, and what is made while nobody asks."""

    plan: GenerationPlan
    past: int
    shared: list[SharedRecord]
    _state: RunState
    _is_open: bool
    _passes: int
    _cache_made: int
    progress: Progress

    @abstractmethod
    def _spend(self, more: Risk) -> None:
        """Count it; refuse too much of it."""

    def _fill(self, plan: Plan, *, is_prompt: bool) -> None:
        """Batches until every layer has the rows that a pass takes: small ones for a prompt."""
        needs = {step.node.name: step.node.shape[0] for step in plan.steps}
        while lacks := {name: n for name, n in self._lacks(needs).items() if n > 0}:
            is_few = is_prompt and max(lacks.values()) <= self.plan.first_rows
            batch = self.plan.first_batch if is_few else self.plan.batch
            short = [each for each in batch if each[0].node.name in lacks]
            if is_few:
                self._spend(Risk.of(cost for _, cost in short))
                self._prepare(BATCH, short, _for_first_rows, self.plan.first_rows)
            else:
                self._make(short)

    def _lacks(self, needs: dict[str, int]) -> dict[str, int]:
        """Rows that the layers of a batch do not have."""
        names = [operator.node.name for operator, _ in self.plan.batch]
        return {name: needs[name] - len(self._state.rows.get(name, ())) for name in names}

    def _make(self, pieces: list[tuple[Operator, Cost]]) -> None:
        self._spend(Risk.of(cost for _, cost in pieces))
        self._prepare(BATCH, pieces, _for_rows, self.plan.batch_rows)

    def _prepare(
        self,
        kind: str,
        operators: Sequence[tuple[Operator, Cost]],
        prepare: Callable[[Operator, RunState], None],
        rows: int,
    ) -> None:
        start, label = time.perf_counter(), f"{kind}{len(self.shared)}"
        # Rows of one layer need nothing of another's.
        apart = kind == BATCH and not any(cost.demand.counts for _, cost in operators)
        steps = run_shared(operators, self._state, label, prepare, self.progress, independent=apart)
        seconds = time.perf_counter() - start
        declared = tuple(cost.traffic for _, cost in operators)
        record = SharedRecord(kind, tuple(steps), seconds, rows, declared, self._passes)
        self.shared.append(record)

    def _prepared(self) -> Demand:
        """Correlations in stock: the same counts at both parties."""
        return self._state.session.prepared.stock()

    @cached_property
    def _to_come(self) -> AheadPlan:
        return AheadPlan(self.plan)

    def _next_piece(self) -> Piece | None:
        """Both parties find the same."""
        rows = [len(self._state.rows.get(o.node.name, ())) for o, _ in self.plan.batch]
        stock = Stock(rows, self._prepared(), self._cache_made)
        past, goes_on = self.past if self._is_open else 0, self._to_come.may_go_on
        return next_piece(self._to_come, stock, past, goes_on=self._is_open and goes_on)

    def _restock(self, rows: int) -> None:
        """Correlations of the next tokens, where the first of them lacks some."""
        if (part := self._to_come.at_once(rows, self.past, self._prepared())).counts:
            self._ahead(Piece(correlations=part), is_ahead=False)

    def _ahead(self, piece: Piece, *, is_ahead: bool = True) -> None:
        if piece.operators:
            self._make(list(piece.operators))
            self.shared[-1] = replace(self.shared[-1], is_ahead=True)
            return
        if piece.cache is not None:
            self._make_cache(*piece.cache)
            return
        cost, label = piece.cost(self.plan), f"{AHEAD}{len(self.shared)}"
        self._spend(Risk.of((cost,)))
        step = run_ahead(piece.needed, self._state, label, self.progress)
        made, place = piece.correlations, (1, (cost.traffic,), self._passes, is_ahead)
        self.shared.append(SharedRecord(AHEAD, (step,), step.seconds, *place, made))

    def _make_cache(self, place: int, piece: CachePiece) -> None:
        """Correlations that the next conversation takes, and no other."""

        def prepare(operator: Operator, state: RunState) -> None:
            operator.prepare_piece(piece.piece, state)

        self._spend(Risk.of((piece.cost,)))
        self._prepare(CACHE, [(piece.operator, piece.cost)], prepare, 1)
        self.shared[-1] = replace(self.shared[-1], is_ahead=True, pieces=place)
        self._cache_made += 1


def _for_rows(operator: Operator, state: RunState) -> None:
    operator.prepare_batch(state)


def _for_first_rows(operator: Operator, state: RunState) -> None:
    operator.prepare_first_batch(state)
