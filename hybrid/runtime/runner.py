"""One party executes the plan for one request."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from hybrid.operators.base import Operator, RunState
from hybrid.operators.slot_triples import make_triples, stored_part
from hybrid.planning.plan import CORRELATIONS_STEP, OFFLINE, ONLINE, Plan, offline_name
from mpc_nonlinear.cost import Cost, total_without_work
from mpc_nonlinear.fixed_point import RingArray
from transport.channel import Channel
from transport.errors import UsageError
from transport.overlap import MAX_BRANCHES, overlapped
from transport.traffic import Traffic

Progress = Callable[[str, int], None]
"""Called with (step name, layer) when a step begins."""
Preparing = Callable[[Operator, RunState], None]


@dataclass(frozen=True, slots=True)
class Measured:
    """What one step took at this party."""

    name: str
    seconds: float
    traffic: Traffic
    phase: str


@dataclass(frozen=True, slots=True)
class RequestResult:
    """Measurements of one request and, at the client, the opened outputs."""

    steps: tuple[Measured, ...]
    outputs: Mapping[str, RingArray]
    """By name of the graph's outputs."""


def step_label(request: int, name: str) -> str:
    """Label under which the channel counts a step of a request."""
    return f"request{request}/{name}"


def run_request(
    plan: Plan,
    state: RunState,
    request: int,
    own_inputs: Mapping[str, RingArray],
    progress: Progress,
    ahead: list[Measured] | None = None,
    needed: Cost | None = None,
) -> RequestResult:
    """Offline step, then every online step. `own_inputs`: this party's share of each input.

    ahead: of the offline steps, where `run_offline` has run them before. needed: of correlations,
    where some are in stock; none given: all of the plan's.
    """
    channel = state.session.channel
    measured = run_offline(plan, state, request, progress, needed) if ahead is None else [*ahead]
    edges = {edge.name: own_inputs[edge.name] for edge in plan.graph.inputs}
    uses = _uses(plan)
    for step in plan.steps:
        progress(step.node.name, step.node.layer)
        start = time.perf_counter()
        with channel.step(step_label(request, step.node.name)):
            outputs = step.operator.run([edges[e] for e in step.node.inputs], state)
        edges.update(zip(step.node.outputs, outputs, strict=True))
        _release(edges, uses, step.node.inputs)
        measured.append(_measure(channel, request, step.node.name, start))
    return RequestResult(tuple(measured), {name: edges[name] for name in plan.graph.outputs})


def run_offline(
    plan: Plan, state: RunState, request: int, progress: Progress, needed: Cost | None = None
) -> list[Measured]:
    """What a request consumes and what does not depend on its input; needed: see `run_request`."""
    channel = state.session.channel
    progress(CORRELATIONS_STEP, -1)
    start = time.perf_counter()
    with channel.step(step_label(request, CORRELATIONS_STEP)):
        make_correlations(plan.cost if needed is None else needed, state)
    measured = [_measure(channel, request, CORRELATIONS_STEP, start, OFFLINE)]
    for step in plan.steps:
        if step.prepares:
            progress(step.offline_name, step.node.layer)
            start = time.perf_counter()
            with channel.step(step_label(request, step.offline_name)):
                step.operator.prepare(state)
            measured.append(_measure(channel, request, step.offline_name, start, OFFLINE))
    return measured


def make_correlations(cost: Cost, state: RunState) -> None:
    """Raw OTs, triples from slots where a party has keys for them, and what OTs are made into."""
    session = state.session
    session.correlations.produce(cost.ots, session.channel)
    if stored_part(cost.demand).counts:
        if state.slots is None:
            raise UsageError("triples from slots: this session has no keys for them")
        make_triples(cost.demand, state.slots, session.channel, session.prepared)
    session.prepared.prepare(cost.demand)


def run_shared(
    operators: Sequence[tuple[Operator, Cost]],
    state: RunState,
    label: str,
    prepare: Preparing,
    progress: Progress,
    *,
    independent: bool = False,
) -> list[Measured]:
    """What several passes share, operator by operator; `label` names this round of it.

    independent: none needs what another prepares, or correlations; then several run at once.
    """
    channel, found = state.session.channel, []
    needed = total_without_work(cost for _, cost in operators)
    if needed.demand.counts:
        if independent:
            # Which comes first differs between the parties, and so would what each takes.
            raise UsageError("operators that take correlations are no independent ones")
        start = time.perf_counter()
        with channel.step(f"{label}/{CORRELATIONS_STEP}"):
            make_correlations(needed, state)
        found.append(_named(channel, label, CORRELATIONS_STEP, start))
    for start in range(0, len(operators), MAX_BRANCHES):
        some = [operator for operator, _ in operators[start : start + MAX_BRANCHES]]
        if independent:
            found += _shared_at_once(some, state, label, prepare, progress)
        else:
            found += [_shared_step(operator, state, label, prepare, progress) for operator in some]
    return found


def _shared_step(
    operator: Operator, state: RunState, label: str, prepare: Preparing, progress: Progress
) -> Measured:
    channel, node = state.session.channel, operator.node
    name = offline_name(node.name)
    progress(name, node.layer)
    start = time.perf_counter()
    with channel.step(f"{label}/{name}"):
        prepare(operator, state)
    return _named(channel, label, name, start)


def _shared_at_once(
    operators: Sequence[Operator],
    state: RunState,
    label: str,
    prepare: Preparing,
    progress: Progress,
) -> list[Measured]:
    """The server answers one while the client reads another.

    Rounds count as if one came after the other, an upper bound; an operator's seconds are those
    since the one before it ended.
    """
    session = state.session

    def one(operator: Operator, channel: Channel) -> tuple[Traffic, float]:
        progress(offline_name(operator.node.name), operator.node.layer)
        own = replace(session, channel=channel, stock=session.prepared)
        prepare(operator, replace(state, session=own))
        return channel.total, time.perf_counter()

    start = time.perf_counter()
    with session.channel.step(f"{label}/{offline_name(operators[0].node.name)}"):
        tasks = [partial(one, operator) for operator in operators]
        done = overlapped(session.channel, tasks, counts_each=True)
    found = {}
    for operator, (traffic, end) in sorted(
        zip(operators, done, strict=True), key=lambda each: each[1][1]
    ):
        name = offline_name(operator.node.name)
        found[name] = Measured(name, end - start, traffic, OFFLINE)
        start = end
    return [found[offline_name(operator.node.name)] for operator in operators]


def run_ahead(needed: Cost, state: RunState, label: str, progress: Progress) -> Measured:
    """Correlations for the stock; `label` names this piece of it."""
    channel, start = state.session.channel, time.perf_counter()
    progress(CORRELATIONS_STEP, -1)
    with channel.step(f"{label}/{CORRELATIONS_STEP}"):
        make_correlations(needed, state)
    return _named(channel, label, CORRELATIONS_STEP, start)


def _named(channel: Channel, label: str, name: str, start: float) -> Measured:
    seconds = time.perf_counter() - start
    return Measured(name, seconds, channel.traffic(f"{label}/{name}"), OFFLINE)


def _measure(
    channel: Channel, request: int, name: str, start: float, phase: str = ONLINE
) -> Measured:
    traffic = channel.traffic(step_label(request, name))
    return Measured(name, time.perf_counter() - start, traffic, phase)


def _uses(plan: Plan) -> dict[str, int]:
    """How often every edge is still read; the graph's outputs once more than by nodes."""
    uses = dict.fromkeys(plan.graph.outputs, 1)
    for step in plan.steps:
        for edge in step.node.inputs:
            uses[edge] = uses.get(edge, 0) + 1
    return uses


def _release(edges: dict[str, RingArray], uses: dict[str, int], read: tuple[str, ...]) -> None:
    """Forget edges that no later step reads."""
    for edge in read:
        uses[edge] -= 1
        if not uses[edge]:
            edges.pop(edge, None)
