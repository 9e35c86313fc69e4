"""Why a plan is too likely to fail, in one message: which block, and only remedies that help.

Every remedy is tried by planning again. Under a policy that searches, a changed size is tried with
the present choices first, which is quick, and named only if the search agrees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hybrid.config.schema import PinConfig, RunConfig
from hybrid.operators.base import Choice, Operator
from hybrid.planning.schedule import Schedule
from mpc_nonlinear.cost import NO_COST, Cost
from transport.errors import HybridError

Again = Callable[[RunConfig, Schedule | None], float]
"""Failure probability of the same model's plan under a changed config; with a schedule given, of
that one, else of what the config chooses. `HybridError` where there is no such plan."""
_UNNAMED = "block that cost() does not name"


@dataclass(frozen=True, slots=True)
class Remedy:
    """A change that a user could make."""

    label: str
    """As it would stand in the config."""
    config: RunConfig
    quick: Schedule | None = None
    """Of the changed config but for the search."""
    is_whole: bool = False
    """Whether `quick` is all of it: the schedule itself is what changes."""


def refusal(
    config: RunConfig,
    schedule: Schedule,
    steps: Sequence[tuple[Operator, Cost]],
    limit: float,
    again: Again | None,
) -> str:
    """The message; without `again` it names no remedies."""
    total = sum((cost for _, cost in steps), NO_COST)
    worst, cost = max(steps, key=lambda step: step[1].failure_probability)
    block = max(_by_block(cost), key=lambda entry: entry[1])[0]
    everywhere = dict(_by_block(total))[block]
    sum_, part = total.failure_probability, cost.failure_probability
    engine = f", products by {worst.multiply}" if worst.multiply else ""
    text = (
        f"plan: failure probability {sum_:.1e} exceeds {limit:.1e}; the largest part, "
        f"{part / sum_:.0%}, is in {worst.node.name} ({worst.protocol}{engine}), where it is the "
        f"{block} that fails; in all steps together that block makes {everywhere / sum_:.0%}"
    )
    if again is None:
        return text
    groups = [*_sizes(config, schedule), *_engines(config, schedule, steps)]
    return f"{text}; {_advice(groups, limit, again)}"


def _by_block(cost: Cost) -> list[tuple[str, float]]:
    """Chances by block; what nobody named is one of them."""
    rest = cost.failure_probability - sum(p for _, p in cost.failures)
    # Sums in another order differ in their last digits.
    named = rest <= 1e-9 * cost.failure_probability
    return list(cost.failures) if named else [*cost.failures, (_UNNAMED, rest)]


def _advice(groups: Sequence[Sequence[Remedy]], limit: float, again: Again) -> str:
    enough: list[tuple[float, str]] = []
    short: list[tuple[float, str]] = []
    for group in groups:
        reached = None
        for remedy in group:
            value = _tried(remedy, limit, again)
            if value is not None:
                reached = value, remedy.label
                if value <= limit:
                    break
        if reached is not None:
            (enough if reached[0] <= limit else short).append(reached)
    if enough:
        said = ", or ".join(f"{label} ({value:.1e})" for value, label in enough)
        return f"enough would be: {said}"
    if not short:
        return "no change of the config that was tried leads to a plan; use a smaller model"
    value, label = min(short)
    labels = ", ".join(label for _, label in short)
    return (
        f"of {labels} none is enough by itself, the best, {label}, reaches {value:.1e}: combine "
        "them or use a smaller model"
    )


def _tried(remedy: Remedy, limit: float, again: Again) -> float | None:
    """What a remedy reaches; None where it leads to no plan."""
    try:
        if remedy.quick is not None:
            value = again(remedy.config, remedy.quick)
            if value > limit or remedy.is_whole:
                return value
    except HybridError:
        if remedy.is_whole:
            return None
    try:
        return again(remedy.config, None)
    except HybridError:
        return None


# -- what could be changed ------------------------------------------------------------------


def _with(config: RunConfig, room: str, **changes: Any) -> RunConfig:
    """A config with other values of one table."""
    table = getattr(config, room).model_copy(update=changes)
    return config.model_copy(update={room: table})


def _sizes(config: RunConfig, schedule: Schedule) -> Iterator[list[Remedy]]:
    """Exact lifts, fewer texts, narrower ranges, fewer tokens; each from the mildest on."""
    # Under a fixed policy planning again is quick enough as it is.
    quick = None if config.scheduler.policy == "fixed" else schedule
    model, margin = config.model, config.ranges.margin
    if not config.ckks.exact:
        yield [_exact(config)]
    if model.batch > 1:
        yield [Remedy("model.batch: 1", _with(config, "model", batch=1), quick)]
    yield [
        Remedy(f"ranges.margin: {m:g}", _with(config, "ranges", margin=m), quick)
        for m in _halves(margin, 1.0)
    ]
    yield [
        Remedy(f"model.tokens: {int(t)}", _with(config, "model", tokens=int(t)), quick)
        for t in _halves(model.tokens, 4.0)
    ]


def _exact(config: RunConfig) -> Remedy:
    exact = _with(config, "ckks", exact=True)
    if config.ckks.linear_phase != "offline":
        return Remedy("ckks.exact: true", exact)
    # Linear layers prepared offline have no lift that could be made exact.
    online = _with(exact, "ckks", linear_phase="online")
    return Remedy("ckks.exact: true with ckks.linear_phase: online", online)


def _halves(value: float, least: float) -> Iterator[float]:
    """Margins are rounded up to powers of two, so that only whole ones make a difference."""
    while (value := value / 2) >= least:
        yield value


def _engines(
    config: RunConfig, schedule: Schedule, steps: Sequence[tuple[Operator, Cost]]
) -> Iterator[list[Remedy]]:
    """Other engines of products where most of the failures of multiplying steps are."""
    sums: dict[tuple[str, str], float] = {}
    for operator, cost in steps:
        if operator.multiply:
            place = operator.node.op, operator.protocol
            sums[place] = sums.get(place, 0.0) + cost.failure_probability
    if not sums:
        return
    op, protocol = max(sums, key=lambda place: sums[place])
    present = {operator.multiply for operator, _ in steps if operator.node.op == op}
    for name in steps[0][0].context.products:
        if present != {name}:
            yield [_engine(config, schedule, op, protocol, name, steps)]


def _engine(  # noqa: PLR0913
    config: RunConfig,
    schedule: Schedule,
    op: str,
    protocol: str,
    name: str,
    steps: Sequence[tuple[Operator, Cost]],
) -> Remedy:
    """One engine instead, as the config's policy lets a user ask for it."""
    if config.protocols is not None:
        changed = {"protocols": {**config.protocols, "multiply": name}}
        return Remedy(f"protocols.multiply: {name}", config.model_copy(update=changed))
    nodes = [operator.node.name for operator, _ in steps if operator.node.op == op]
    choices: dict[str, Choice] = dict(schedule.choices)
    for node in nodes:
        choices[node] = replace(choices[node], multiply=name)
    moved = replace(schedule, choices=choices)
    if config.scheduler.policy == "fixed":
        label = f"multiply: {name} in the schedule's {op} steps"
        return Remedy(label, config, moved, is_whole=True)
    pin = {**config.scheduler.pin, op: PinConfig(protocol=protocol, multiply=name)}
    label = f"scheduler.pin.{op}: {{protocol: {protocol}, multiply: {name}}}"
    return Remedy(label, _with(config, "scheduler", pin=pin), moved)
