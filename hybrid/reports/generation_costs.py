"""What every pass of a session took: its own steps and its shares of what passes have in common.

A batch of rows is shared by the rows that it serves, a conversation's correlations by its
positions. Prepared rows leave a layer's stock in the order in which they were made, so the place of
a row says which batch it is from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hybrid.machine.predict import Predictor, nothing_predicted
from hybrid.operators.base import Operator
from hybrid.operators.slot_triples import stored_part, triples_cost
from hybrid.planning.ahead import AHEAD
from hybrid.planning.generation import BATCH, CACHE, CONVERSATION, GenerationPlan
from hybrid.planning.plan import CORRELATIONS_STEP, OFFLINE, Plan, Step, offline_name, traffic_row
from hybrid.reports.amounts import NOTHING, Amount, total
from hybrid.reports.generation_stock import Drawn, StockReplay, making_traffic
from hybrid.reports.run_report import share_offline_cost
from hybrid.runtime.generation_records import GenerationRecord, SharedRecord
from mpc_nonlinear.cost import Cost, Demand, total_without_work
from transport.traffic import NO_TRAFFIC, Traffic

Json = dict[str, Any]
_STEP_DIGITS = 6
"""Of rounds in the rows of steps, so that their sums do not drift."""


@dataclass(frozen=True, slots=True)
class Line:
    """One step of a pass, or the pass's share of a step that several share."""

    about: Mapping[str, Any]
    """The plan's row, without what was predicted."""
    declared: Amount
    measured: Amount
    is_share: bool = False

    @property
    def is_offline(self) -> bool:
        """Whether it comes before the tokens are known."""
        return bool(self.about["phase"] == OFFLINE)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one operator prepared for several passes."""

    declared: Amount
    measured: Amount

    def __mul__(self, part: float) -> _Part:
        return _Part(self.declared * part, self.measured * part)

    def __add__(self, other: _Part) -> _Part:
        return _Part(self.declared + other.declared, self.measured + other.measured)


class Ledger:
    """One party's record, divided among its passes."""

    def __init__(
        self,
        plan: GenerationPlan,
        record: GenerationRecord,
        predict: Predictor = nothing_predicted,
    ) -> None:
        """predict: for declared seconds, which are zero without it."""
        self._plan = plan
        self._record = record
        self._predict = predict
        rest = [one for one in record.shared if one.kind != AHEAD]
        shared = [(one.kind, one.rows, _parts(plan, one, predict)) for one in rest]
        self.is_predicted = predict(plan.every.works()) is not None
        """Whether declared seconds are known."""
        self._conversations, self._to_come = _of_conversations(shared)
        self._stock: dict[str, list[tuple[int, _Part]]] = {}
        for kind, rows, parts in shared:
            for name, part in parts.items() if kind == BATCH else ():
                self._stock.setdefault(name, []).append((rows, part))

    def lines(self, index: int) -> list[Line]:
        """All of a pass, in the order of a report: what is prepared comes before what runs."""
        own, shares = self._own(index), self._shares(index)
        before = [line for line in own if line.is_offline]
        return [*before[:1], *shares, *before[1:], *(x for x in own if not x.is_offline)]

    def _own(self, index: int) -> list[Line]:
        done = self._record.passes[index]
        plan, found = self._plans[index], []
        made = _bytes_by_step(plan)
        seconds = self._predict(plan.works()) or {}
        for row, seen in zip(plan.rows(), done.steps, strict=True):
            assert row["name"] == seen.name
            about = {k: v for k, v in row.items() if k not in ("parameters", "predicted")}
            about["correlation_bytes"] = made.get(row["name"], 0)
            expected = seconds.get(row["name"], 0.0)
            declared = Amount(expected, *row["predicted"].values())
            measured = Amount.of(seen.traffic, seen.seconds)
            if row["name"] == CORRELATIONS_STEP:
                # What was made ahead is predicted as if it were made now.
                rest, share = self._made_before(index)
                declared = Amount(expected) + rest + share.declared
                measured = measured + share.measured
            found.append(Line(about, declared, measured))
        return found

    @cached_property
    def _drawn(self) -> list[Drawn]:
        return StockReplay(self._plan).passes(self._record, self._plans)

    def _made_before(self, index: int) -> tuple[Amount, _Part]:
        """Correlations that a pass was to make itself, and its share of those made ahead of it."""
        drawn, share = self._drawn[index], _Part(NOTHING, NOTHING)
        for place, part in drawn.parts.items():
            share += _ahead_part(self._record.shared[place]) * part
        return Amount.of(making_traffic(self._plan, drawn)), share

    @cached_property
    def _plans(self) -> list[Plan]:
        """Of every pass; made once, since a plan of a large model takes a tenth of a second."""
        return [self._plan.of_pass(done.rows, done.past) for done in self._record.passes]

    def _shares(self, index: int) -> list[Line]:
        return self._all_shares[index]

    @cached_property
    def _all_shares(self) -> list[list[Line]]:
        return [self._shares_of(index) for index in range(len(self._record.passes))]

    def _shares_of(self, index: int) -> list[Line]:
        done = self._record.passes[index]
        found: dict[str, _Part] = {}
        for name, (first, last) in self._consumed[index].items():
            for part in _taken(self._stock.get(name, []), first, last):
                found[name] = found[name] + part if name in found else part
        # Found by its beginning: the first pass of a conversation has nothing behind it.
        number = self._conversation_of[index]
        if number < len(self._conversations):
            taken = done.rows / self._plan.model.capacity
            for name, part in self._conversations[number].items():
                found[name] = found[name] + part * taken if name in found else part * taken
        steps = _steps(self._plans[index])
        return [self._share_line(steps[name], part) for name, part in found.items()]

    @staticmethod
    def _share_line(step: Step, part: _Part) -> Line:
        about = {
            "name": step.offline_name,
            "layer": step.node.layer,
            "op": step.node.op,
            "engine": step.operator.engine,
            "protocol": step.operator.protocol,
            "shape": list(step.node.shape),
            "phase": OFFLINE,
            "multiply": step.operator.multiply,
            "correlations": 0,
            "correlation_bytes": 0,
            "failure_probability": 0.0,
        }
        return Line(about, part.declared, part.measured, is_share=True)

    @cached_property
    def _consumed(self) -> list[dict[str, tuple[int, int]]]:
        """Which of a layer's prepared rows a pass consumed, counted from the first."""
        used = dict.fromkeys((operator.node.name for operator, _ in self._plan.batch), 0)
        found = []
        for plan in self._plans:
            steps = _steps(plan)
            taken = {}
            for name, first in used.items():
                # A layer that only the newest row enters consumes one row, however long the pass.
                last = first + steps[name].node.shape[0]
                taken[name] = first, last
                used[name] = last
            found.append(taken)
        return found

    @cached_property
    def _conversation_of(self) -> list[int]:
        number, found = -1, []
        for done in self._record.passes:
            number += done.past == 0
            found.append(number)
        return found

    def left(self) -> Amount:
        """Seconds, bytes and rounds of what was prepared and no pass has consumed.

        Parts of batches count by their rows, of a conversation by its positions.
        """
        prepared = [x for one in (*self._conversations, self._to_come) for x in one.values()]
        prepared += [part for stock in self._stock.values() for _, part in stock]
        passes = range(len(self._record.passes))
        consumed = [line.measured for index in passes for line in self._shares(index)]
        consumed += [self._made_before(index)[1].measured for index in passes]
        prepared += [_ahead_part(one) for one in self._record.shared if one.kind == AHEAD]
        return total(part.measured for part in prepared) - total(consumed)


def _steps(plan: Plan) -> dict[str, Step]:
    return {step.node.name: step for step in plan.steps}


def _of_conversations(
    shared: Sequence[tuple[str, int, dict[str, _Part]]],
) -> tuple[list[dict[str, _Part]], dict[str, _Part]]:
    """What each conversation took, made before it or as it began; and what is left for a next."""
    found: list[dict[str, _Part]] = []
    pending: dict[str, _Part] = {}
    for kind, _, parts in shared:
        if kind in (CACHE, CONVERSATION):
            for name, part in parts.items():
                pending[name] = pending[name] + part if name in pending else part
        if kind == CONVERSATION:
            found.append(pending)
            pending = {}
    return found, pending


def _taken(stock: Sequence[tuple[int, _Part]], first: int, last: int) -> Iterable[_Part]:
    """Parts of the batches that rows first to last are from."""
    start = 0
    for rows, part in stock:
        inside = min(last, start + rows) - max(first, start)
        if inside > 0:
            yield part * (inside / rows)
        start += rows
    assert last <= start, "a pass consumed rows that no batch of the record prepared"


def _parts(
    plan: GenerationPlan, shared: SharedRecord, predict: Predictor = nothing_predicted
) -> dict[str, _Part]:
    """By operator; correlations are spread over them by how many each was for."""
    pieces = _pieces(plan, shared)
    costs = [(operator.node.name, cost) for operator, cost in pieces]
    seconds = predict(plan.shared_works(pieces)) or {}
    steps = [step for step in shared.steps if step.name != CORRELATIONS_STEP]
    made = [step for step in shared.steps if step.name == CORRELATIONS_STEP]
    spread = total(Amount.of(step.traffic, step.seconds) for step in made)
    making = seconds.get(CORRELATIONS_STEP, 0.0)
    declared = Amount.of(_declared_correlations(plan, costs), making) if made else NOTHING
    counts = {name: cost.ots.total for name, cost in costs}
    # Dealt ones are no oblivious transfers, and all of one kind: alike for every operator.
    all_of = sum(counts.values())
    parts = {}
    for (name, _), step, own in zip(costs, steps, shared.declared, strict=True):
        weight = counts[name] / all_of if all_of else 1 / len(costs)
        seen = Amount.of(step.traffic, step.seconds) + spread * weight
        predicted = Amount.of(own, seconds.get(offline_name(name), 0.0))
        parts[name] = _Part(predicted + declared * weight, seen)
    return parts


def _ahead_part(piece: SharedRecord) -> _Part:
    """All of a piece of correlations."""
    (step,), (declared,) = piece.steps, piece.declared
    return _Part(Amount.of(declared), Amount.of(step.traffic, step.seconds))


def _pieces(plan: GenerationPlan, shared: SharedRecord) -> list[tuple[Operator, Cost]]:
    """Operators of a piece of preparation, in its order."""
    if shared.kind == CACHE:
        piece = plan.cache_pieces[shared.pieces]
        return [(piece.operator, piece.cost)]
    if shared.kind == CONVERSATION:
        pieces = plan.conversation_after(shared.pieces)
    else:
        pieces = plan.batch if shared.rows == plan.batch_rows else plan.first_batch
    ran = {step.name for step in shared.steps}
    return [piece for piece in pieces if offline_name(piece[0].node.name) in ran]


def _costs(plan: GenerationPlan, shared: SharedRecord) -> list[tuple[str, Cost]]:
    """The same by name."""
    return [(operator.node.name, cost) for operator, cost in _pieces(plan, shared)]


def _declared_correlations(plan: GenerationPlan, costs: Sequence[tuple[str, Cost]]) -> Traffic:
    return correlations_traffic(plan, total_without_work(cost for _, cost in costs))


def correlations_traffic(plan: GenerationPlan, needed: Cost) -> Traffic:
    """Of making what a cost consumes: oblivious transfers, triples from slots."""
    return plan.source.production_traffic(needed.ots) + triples_cost(needed.demand).traffic


def _bytes_by_step(plan: Plan) -> dict[str, int]:
    """What making each step's correlations sent, by how many it consumes of every kind."""
    needed = plan.cost
    by_ot = plan.source.production_traffic(needed.ots).sent_bytes / max(1, needed.ots.total)
    stored = {
        kind: triples_cost(Demand.of(kind, count)).traffic.sent_bytes / count
        for kind, count in stored_part(needed.demand).counts
    }
    return {
        step.node.name: round(
            step.cost.ots.total * by_ot
            + sum(stored[kind] * count for kind, count in stored_part(step.cost.demand).counts)
        )
        for step in plan.steps
    }


def declared_seconds(lines: Iterable[Line]) -> Json:
    """Predicted, offline and online."""
    every = list(lines)
    return {
        phase: sum(line.declared.seconds for line in every if line.is_offline is is_offline)
        for phase, is_offline in (("offline", True), ("online", False))
    }


def phases(lines: Iterable[Line]) -> tuple[Amount, Amount]:
    """Offline and online."""
    every = list(lines)
    before = total(line.measured for line in every if line.is_offline)
    return before, total(line.measured for line in every if not line.is_offline)


def mean_lines(passes: Sequence[Sequence[Line]]) -> list[Line]:
    """Step by step over passes that have the same steps."""
    part = 1 / max(1, len(passes))
    found = []
    for same in zip(*passes, strict=True):
        assert len({line.about["name"] for line in same}) == 1
        declared = total(line.declared for line in same) * part
        measured = total(line.measured for line in same) * part
        found.append(Line(same[-1].about, declared, measured, same[-1].is_share))
    return found


def line_rows(
    lines: Sequence[Line], why: Mapping[str, str], *, with_seconds: bool = False
) -> list[Json]:
    """As plain data: what was declared beside what was measured; seconds where known."""
    rows: list[Json] = [
        {
            **line.about,
            **({"predicted_seconds": line.declared.seconds} if with_seconds else {}),
            "predicted": line.declared.counts(_STEP_DIGITS),
            "measured": line.measured.row(_STEP_DIGITS),
            "share": line.is_share,
            "why": why.get(str(line.about["name"]), ""),
        }
        for line in lines
    ]
    if rows:
        share_offline_cost(rows)
    return rows


def differing_steps(plan: GenerationPlan, record: GenerationRecord, party: str) -> list[Json]:
    """Every step of the session that sent other than was declared; of which there is to be none."""
    pairs = []
    plans = [plan.of_pass(done.rows, done.past) for done in record.passes]
    drawn = StockReplay(plan).passes(record, plans)
    for index, done in enumerate(record.passes):
        declared = _declared(plans[index], making_traffic(plan, drawn[index]))
        pairs += [(f"pass {index}", d, s) for d, s in zip(declared, done.steps, strict=True)]
    for index, shared in enumerate(record.shared):
        place, expected = f"{shared.kind} {index}", list(shared.declared)
        if len(shared.steps) > len(expected):
            expected.insert(0, _declared_correlations(plan, _costs(plan, shared)))
        pairs += [(place, d, s) for d, s in zip(expected, shared.steps, strict=True)]
    return [
        {
            "party": party,
            "where": place,
            "step": seen.name,
            "declared": traffic_row(expected),
            "measured": traffic_row(seen.traffic),
        }
        for place, expected, seen in pairs
        if traffic_row(expected) != traffic_row(seen.traffic)
    ]


def _declared(plan: Plan, made: Traffic) -> list[Traffic]:
    """Of the steps of a pass in their order; made: of its correlations, by itself."""
    prepared = [step.offline.traffic for step in plan.steps if step.prepares]
    return [made, *prepared, *(step.cost.traffic for step in plan.steps)]


def whole_session(record: GenerationRecord) -> Traffic:
    """What all steps of a record sent, set-up apart."""
    steps = [step for done in record.passes for step in done.steps]
    steps += [step for shared in record.shared for step in shared.steps]
    return sum((step.traffic for step in steps), NO_TRAFFIC)
