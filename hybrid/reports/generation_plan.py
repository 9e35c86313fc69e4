"""The plan of a session that answers prompts, before anything runs: tables and plain data."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import log2
from typing import Any

from rich.console import Console

from hybrid.machine.predict import Predictor, nothing_predicted
from hybrid.operators.base import Operator
from hybrid.planning.ahead import AheadPlan, making
from hybrid.planning.generation import GenerationPlan
from hybrid.planning.generation_candidates import usual_prompt
from hybrid.planning.plan import CORRELATIONS_STEP, OFFLINE, ONLINE, Plan, offline_name, traffic_row
from hybrid.planning.risk import MAX_DISTANCE, MAX_FAILURE_PROBABILITY
from hybrid.planning.schedule import Schedule
from hybrid.reports.amounts import Amount, total
from hybrid.reports.generation_costs import correlations_traffic
from hybrid.reports.run_report import rounds_text
from hybrid.reports.terminal import NO_SECONDS, plain, plan_table
from mpc_nonlinear.cost import Cost, Demand, total_without_work
from transport.traffic import NO_TRAFFIC, Traffic

Json = dict[str, Any]
Seconds = Mapping[str, float] | None
"""By row; None without prices."""

_OUTLIERS = 3


def generation_plan_to_dict(
    plan: GenerationPlan,
    prompt_rows: int | None = None,
    predict: Predictor = nothing_predicted,
) -> Json:
    """All that `hybrid plan --json` prints of a decoder; predict: for seconds, None without it."""
    rows = plan.model.settings.padded(prompt_rows or usual_prompt(plan.model))
    middle = plan.model.capacity // 2
    prefill, token = plan.of_pass(rows, 0), plan.middle
    settings = plan.model.settings
    return {
        "conversation": {
            "positions": plan.model.capacity,
            "rows": shared_rows(plan, plan.conversation),
            **_shared_total(plan, plan.conversation, predict),
        },
        "batch": {
            "rows_of_a_batch": plan.batch_rows,
            "rows": shared_rows(plan, plan.batch),
            **_shared_total(plan, plan.batch, predict),
        },
        "prefill": {"prompt_rows": rows, "past": 0, **_pass(prefill, plan, predict)},
        "token": {
            "past": middle,
            **_pass(token, plan, predict),
            "with_shares": token_totals(plan, token, predict),
        },
        "first_batch": {
            "rows_of_a_batch": plan.first_rows,
            **_shared_total(plan, plan.first_batch, predict),
        },
        "ahead": _ahead(plan),
        "model_batch": plan.model.batch,
        "cache_bytes": plan.cache_bytes(),
        "schedule": plan.schedule.to_file(),
        "why": dict(plan.schedule.why),
        "announced": {
            "positions": plan.model.capacity,
            "max_new_tokens": settings.max_new_tokens,
            "failure_probability": plan.announced_risk().failure_probability,
            "limit": MAX_FAILURE_PROBABILITY,
            "hint_distance": plan.announced_risk().distance,
            "hint_distance_limit": MAX_DISTANCE,
        },
        "encoded_bytes": sum(plan.one.encoded_bytes().values()),
        "plan_hash": plan.digest(),
    }


def shared_rows(plan: GenerationPlan, pieces: Sequence[tuple[Operator, Cost]]) -> list[Json]:
    """What passes share, in the form of a plan's rows; shapes are those of one row."""
    known = {row["name"]: row for row in plan.one.rows() if row["phase"] == ONLINE}
    found = []
    needed = total_without_work(cost for _, cost in pieces)
    if needed.demand.counts:
        shape = [needed.ots.client_sends, needed.ots.server_sends]
        traffic = traffic_row(correlations_traffic(plan, needed))
        found.append({**plan.one.rows()[0], "shape": shape, "predicted": traffic})
    for operator, cost in pieces:
        found.append(
            {
                **known[operator.node.name],
                "name": offline_name(operator.node.name),
                "phase": OFFLINE,
                "predicted": traffic_row(cost.traffic),
                "correlations": cost.ots.total,
                "failure_probability": cost.failure_probability,
            }
        )
    return found


def _shared_traffic(plan: GenerationPlan, pieces: Sequence[tuple[Operator, Cost]]) -> Traffic:
    needed = total_without_work(cost for _, cost in pieces)
    return needed.traffic + correlations_traffic(plan, needed)


def _shared_total(
    plan: GenerationPlan, pieces: Sequence[tuple[Operator, Cost]], predict: Predictor
) -> Json:
    needed, seconds = total_without_work(cost for _, cost in pieces), _shared(plan, pieces, predict)
    return {
        "total": traffic_row(_shared_traffic(plan, pieces)) | _seconds(seconds, seconds),
        "failure_probability": needed.failure_probability,
        "predicted_seconds": seconds,
    }


def _ahead(plan: GenerationPlan) -> Json:
    """Correlations made while nobody asks, from none, in a new session.

    cache: those of the next conversation's cache.
    """
    ahead = AheadPlan(plan)
    made = [cost.traffic for cost in ahead.making()]
    cache = total_without_work(piece.cost for piece in ahead.cache_pieces)
    return {
        "cache": {
            "pieces": len(ahead.cache_pieces),
            "total": traffic_row(cache.traffic),
            "failure_probability": cache.failure_probability,
            "bytes": plan.masks_bytes() if ahead.cache_pieces else 0,
        },
        "tokens": ahead.tokens,
        "pieces": len(made),
        "total": traffic_row(sum(made, NO_TRAFFIC)),
    }


def _shared(
    plan: GenerationPlan, pieces: Sequence[tuple[Operator, Cost]], predict: Predictor
) -> Seconds:
    return predict(plan.shared_works(pieces))


def _pass(one: Plan, plan: GenerationPlan, predict: Predictor) -> Json:
    seconds = predict(one.works())
    before, after = _before(one), _online(one)
    return {
        "rows": one.rows(),
        "offline": traffic_row(plan.offline_traffic(one)) | _seconds(seconds, before),
        "online": traffic_row(one.cost.traffic) | _seconds(seconds, after),
        "failure_probability": plan.pass_risk(one).failure_probability,
        "predicted_seconds": seconds,
    }


def _before(one: Plan) -> list[str]:
    """Rows of a pass before its tokens are known."""
    return [CORRELATIONS_STEP, *(s.offline_name for s in one.steps if s.prepares)]


def _online(one: Plan) -> list[str]:
    return [step.node.name for step in one.steps]


def _seconds(seconds: Seconds, names: Iterable[str] | None) -> Json:
    """Of these rows together, where they are predicted."""
    if seconds is None or names is None:
        return {}
    return {"predicted_seconds": _sum(seconds, names)}


def _sum(seconds: Seconds, names: Iterable[str] | None) -> float:
    """Zero where nothing is predicted."""
    return sum(seconds[name] for name in names or ()) if seconds else 0.0


def _at_once(plan: GenerationPlan, token: Plan) -> Amount:
    """A token's share of making its correlations, with those of the next ones."""
    past = plan.model.capacity // 2
    made = AheadPlan(plan).at_once(1, past, Demand())
    if not made.counts:
        return Amount.of(token.offline_traffic)
    count = min(plan.model.settings.tokens_at_once, plan.model.capacity - past)
    return Amount.of(making(plan.source, Cost(ots=made.ots, demand=made)).traffic) * (1 / count)


def token_totals(plan: GenerationPlan, token: Plan, predict: Predictor = nothing_predicted) -> Json:
    """Of a pass of a token: its own, rows of a batch, a position of a conversation, all together.

    `each`: of a token, where conversations share the pass.
    """
    seconds = predict(token.works())
    batch, conversation = (_shared(plan, p, predict) for p in (plan.batch, plan.conversation))
    own = Amount.of(token.prepared_traffic, _sum(seconds, _before(token))) + _at_once(plan, token)
    row = Amount.of(_shared_traffic(plan, plan.batch), _sum(batch, batch))
    row *= plan.model.batch / plan.batch_rows
    place = Amount.of(_shared_traffic(plan, plan.conversation), _sum(conversation, conversation))
    place *= 1 / plan.model.capacity
    online = Amount.of(token.cost.traffic, _sum(seconds, _online(token)))
    is_predicted = None not in (seconds, batch, conversation)
    parts = {
        "own_offline": own,
        "batch_share": row,
        "conversation_share": place,
        "offline": own + row + place,
        "online": online,
        "total": total([own, row, place, online]),
    }
    if plan.model.batch > 1:
        parts["each"] = parts["total"] * (1 / plan.model.batch)
    return {
        name: amount.counts() | ({"predicted_seconds": amount.seconds} if is_predicted else {})
        for name, amount in parts.items()
    }


def print_generation_plan(
    console: Console,
    plan: GenerationPlan,
    outliers: Sequence[str] = (),
    predict: Predictor = nothing_predicted,
) -> None:
    """What a conversation and a batch prepare, the pass of a prompt, that of a token.

    outliers: edges that position 0 reaches far beyond, a line each; predict: for seconds.
    """
    found = generation_plan_to_dict(plan, predict=predict)
    prompt, past = found["prefill"]["prompt_rows"], found["token"]["past"]
    batch = plan.model.batch
    what = "a conversation" if batch == 1 else f"{batch} conversations that share passes, each"
    each = "" if batch == 1 else f" of each of {batch} conversations"
    titles = {
        "conversation": f"{what} of {plan.model.capacity} private positions: what is prepared",
        "batch": f"a batch of {plan.batch_rows} rows (shapes: one row{each})",
        "prefill": f"a prompt of {prompt} rows{each}, read in one pass",
        "token": f"one token{each} behind {past} private positions",
    }
    for key, title in titles.items():
        part = found[key]
        console.rule(title)
        if not part["rows"]:
            console.print("nothing")
            continue
        rows, seconds = part["rows"], part["predicted_seconds"]
        if key in ("conversation", "batch"):
            rows, seconds = _alike(rows, seconds)
        console.print(plan_table(rows, seconds))
        for name in ("offline", "online", "total"):
            if name in part:
                console.print(f"{name}: {_said(part[name])}")
    for line in _lines(plan, found):
        console.print(plain(line))
    if found["token"]["predicted_seconds"] is None:
        console.print(NO_SECONDS)
    if outliers:
        _print_outliers(console, outliers, len(plan.model.prefix))


def _alike(rows: Sequence[Json], seconds: Seconds) -> tuple[list[Json], Seconds]:
    """One row for all layers' that differ in their names alone, with how many they are.

    Its seconds are the first one's.
    """
    groups: dict[str, list[Json]] = {}
    for row in rows:
        part = str(row["name"]).partition(".")[2] or row["name"]
        other = {key: value for key, value in row.items() if key not in ("name", "layer")}
        groups.setdefault(json.dumps([part, other], sort_keys=True), []).append(row)
    found, named = [], None if seconds is None else dict(seconds)
    for first, *others in groups.values():
        name = f"{first['name']} and {len(others)} alike" if others else first["name"]
        found.append({**first, "name": name})
        if named is not None:
            named[name] = named[first["name"]]
    return found, named


def _lines(plan: GenerationPlan, found: Json) -> list[str]:
    shares, announced = found["token"]["with_shares"], found["announced"]
    probability = announced["failure_probability"]
    exponent = f" (2^{log2(probability):.1f})" if probability else ""
    weights, batch = len(plan.one.encoded_bytes()), plan.model.batch
    rows = "a row" if batch == 1 else f"{batch} rows"
    each = [] if batch == 1 else [f"  of which a token is one of {batch}: {_said(shares['each'])}"]
    what = "a conversation" if batch == 1 else f"{batch} conversations that share passes, each"
    return [
        f"{'a token' if batch == 1 else 'a pass'}, with its shares: {_said(shares['total'])}",
        *each,
        f"  offline: {_said(shares['offline'])}",
        f"    its own: {_said(shares['own_offline'])}",
        f"    {rows} of {plan.batch_rows} of a batch: {_said(shares['batch_share'])}",
        f"    a position of {plan.model.capacity} of a conversation: "
        f"{_said(shares['conversation_share'])}",
        f"  online: {_said(shares['online'])}",
        f"while nobody asks: rows and correlations of the next {found['ahead']['tokens']} tokens, "
        f"the latter in {found['ahead']['pieces']} pieces: {_said(found['ahead']['total'])}",
        _cache_ahead(found["ahead"]["cache"]),
        *_apart(plan.schedule),
        *_reasons(found["why"]),
        f"failure probability of {what} of {announced['positions']} positions, answers of "
        f"up to {announced['max_new_tokens']} tokens: {probability:.2e}{exponent}; limit "
        f"2^{log2(announced['limit']):.0f}",
        *_distance(announced),
        f"encoded weights: {found['encoded_bytes'] / 1e6:.1f} MB at the server, {weights} layers",
        f"caches: {found['cache_bytes'] / 1e6:.1f} MB at each party, of {what}",
        f"plan hash: {found['plan_hash']}",
    ]


def _apart(schedule: Schedule) -> list[str]:
    """What passes of several rows take otherwise than those of a single row."""
    labels = {name: choice.label for name, choice in schedule.prompt.items()}
    return [f"passes of several rows take otherwise: {line}" for line in _reasons(labels)]


def _distance(announced: Json) -> list[str]:
    """Nothing where no hints are sent."""
    if not announced["hint_distance"]:
        return []
    return [
        "  hints of its ciphertexts in slots: within "
        f"2^{log2(announced['hint_distance']):.1f} of simulated ones; limit of a session "
        f"2^{log2(announced['hint_distance_limit']):.0f}"
    ]


def _cache_ahead(cache: Json) -> str:
    """Of the conversation after the one that is open, or of the first."""
    if not cache["pieces"]:
        return "  and nothing of the next conversation's cache, which is made when that begins"
    return (
        f"  and correlations of the next conversation's cache, {cache['bytes'] / 1e6:.1f} MB at "
        f"each party, in {cache['pieces']} pieces: {_said(cache['total'])}"
    )


def _reasons(why: Mapping[str, str]) -> list[str]:
    """Of layers with the same choice for the same reason one, with how many they are."""
    alike: dict[tuple[str, str], list[str]] = {}
    for name, line in why.items():
        alike.setdefault((name.partition(".")[2] or name, line), []).append(name)
    return [
        f"{first} and {len(others)} alike: {line}" if others else f"{first}: {line}"
        for (_, line), (first, *others) in alike.items()
    ]


def _said(row: Json) -> str:
    return (
        f"client sends {row['client_sent_bytes'] / 1e6:.3f} MB, server "
        f"{row['server_sent_bytes'] / 1e6:.3f} MB, {rounds_text(row['rounds'])} rounds"
        + (f", predicted {row['predicted_seconds']:.3f} s" if "predicted_seconds" in row else "")
    )


def _print_outliers(console: Console, outliers: Sequence[str], prefix: int) -> None:
    """Why a public prefix matters: what position 0 would need that private positions do not."""
    where = "is public, and computed in the clear" if prefix else "is private: every bound holds it"
    console.print(f"position 0 {where}; {len(outliers)} edges reach far beyond others there:")
    for line in outliers[:_OUTLIERS]:
        console.print(plain(f"  {line}"))
