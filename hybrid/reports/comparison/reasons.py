"""Why one config is faster than another, from what was measured.

Per link and config: the difference to the reference in seconds, the operators behind it, what was
chosen differently, memory of encoded weights, and trust.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybrid.reports.comparison.groups import GROUPS, by_group

Json = dict[str, Any]
Row = Mapping[str, Any]
_WEAKER = "WEAKER TRUST"
_SHOWN_GROUPS = 3
_WORTH_TELLING = 0.05
"""Parts of the difference in seconds that a group must make up."""
_LABELS = {group.key: group.label for group in GROUPS}


def reasons(rows: Sequence[Row], reference: str) -> list[Json]:
    """One entry for each link that the reference was run over."""
    found = []
    for link in dict.fromkeys(row["link"] for row in rows):
        here = [row for row in rows if row["link"] == link]
        base = next((row for row in here if row["name"] == reference), None)
        if base is not None:
            others = [compared(base, row) for row in here if row is not base]
            others.sort(key=lambda entry: entry["difference_s"])
            found.append({"link": link, "reference": reference, "others": others, **_leaders(here)})
    return found


def compared(base: Row, other: Row) -> Json:
    """The other config beside the reference; negative seconds: the other is faster."""
    first, second = (by_group(row["steps"], "seconds") for row in (base, other))
    groups = {key: second.get(key, 0.0) - first.get(key, 0.0) for key in {**first, **second}}
    return {
        "name": other["name"],
        "difference_s": other["total"]["seconds"] - base["total"]["seconds"],
        "offline_s": other["offline"]["seconds"] - base["offline"]["seconds"],
        "online_s": other["online"]["seconds"] - base["online"]["seconds"],
        "ratio": other["total"]["seconds"] / base["total"]["seconds"],
        "groups": dict(sorted(groups.items(), key=lambda item: -abs(item[1]))),
        "alike_s": _alike(base, other),
        "choices": _different_choices(base, other),
        "encoded_bytes": [base.get("encoded_bytes"), other.get("encoded_bytes")],
        "weaker_trust": relies_on_dealer(other) and not relies_on_dealer(base),
        "stronger_trust": relies_on_dealer(base) and not relies_on_dealer(other),
    }


def relies_on_dealer(row: Row) -> bool:
    """Whether a third party is trusted."""
    return any(line.startswith(_WEAKER) for line in row["trust_model"])


def _alike(base: Row, other: Row) -> float:
    """Part of the difference from steps that both carry in the same way, byte for byte."""
    ours = {step["name"]: step for step in base["steps"]}
    pairs = [(ours[step["name"]], step) for step in other["steps"] if step["name"] in ours]
    differences = (
        second["measured"]["seconds"] - first["measured"]["seconds"]
        for first, second in pairs
        if _carried(first) == _carried(second)
    )
    return float(sum(differences))


def _carried(step: Row) -> list[Any]:
    measured = {key: value for key, value in step["measured"].items() if key != "seconds"}
    return [*(step[key] for key in ("op", "phase", "protocol", "multiply")), measured]


def _different_choices(base: Row, other: Row) -> list[Json]:
    """Operations that the two carry differently."""
    ours, theirs = _choices(base), _choices(other)
    return [
        {"op": op, "reference": " and ".join(ours[op]), "other": " and ".join(theirs[op])}
        for op in ours
        if op in theirs and ours[op] != theirs[op]
    ]


def _choices(row: Row) -> dict[str, list[str]]:
    """By operation, every implementation that occurs."""
    prepared = {
        step["name"].removeprefix("prepare ") for step in row["steps"]
        if step["op"] == "linear" and step["phase"] == "offline"
    }  # fmt: skip
    found: dict[str, list[str]] = {}
    for step in row["steps"]:
        if step["op"] == "linear" and step["phase"] == "offline":
            continue
        extra = "prepared" if step["name"] in prepared else step["multiply"]
        label = f"{step['protocol']} ({extra})" if extra else step["protocol"]
        labels = found.setdefault(step["op"], [])
        if label not in labels:
            labels.append(label)
    return {op: sorted(labels) for op, labels in found.items()}


def _leaders(here: Sequence[Row]) -> Json:
    """Who is fastest online, and in all without a dealer."""
    without = [row for row in here if not relies_on_dealer(row)]

    def least(rows: Sequence[Row], phase: str) -> Json | None:
        if not rows:
            return None
        row = min(rows, key=lambda r: r[phase]["seconds"])
        return {"name": row["name"], "seconds": row[phase]["seconds"]}

    return {
        "fastest_online": least(here, "online"),
        "fastest_without_dealer": least(without, "total"),
        "fastest_online_without_dealer": least(without, "online"),
        "mixed_trust": 0 < len(without) < len(here),
    }


def sentences(entry: Row, seconds: Any) -> list[str]:
    """An entry of `reasons` for a reader; `seconds` writes a number."""
    lines = [_leader_line(entry, seconds)]
    for other in entry["others"]:
        faster = other["difference_s"] < 0
        lines.append(
            _faster(entry["reference"], other, seconds)
            if faster
            else _slower(entry["reference"], other, seconds)
        )
    return lines


def _leader_line(entry: Row, seconds: Any) -> str:
    online = entry["fastest_online"]
    line = f"Fastest online: {online['name']}, {seconds(online['seconds'])} s."
    if entry["mixed_trust"]:
        total, same = entry["fastest_without_dealer"], entry["fastest_online_without_dealer"]
        line += (
            f" Of those that trust nobody else, {total['name']} is fastest in all, "
            f"{seconds(total['seconds'])} s, and {same['name']} online, "
            f"{seconds(same['seconds'])} s."
        )
    return line


def _signed(number: float, seconds: Any) -> str:
    return f"{'-' if number < 0 else '+'}{seconds(abs(number))} s"


def _groups(other: Row, seconds: Any) -> str:
    """The largest parts of the difference."""
    least = _WORTH_TELLING * abs(other["difference_s"])
    parts = [
        f"{_LABELS[key]} {_signed(value, seconds)}"
        for key, value in other["groups"].items()
        if abs(value) >= least and value
    ]
    line = ", ".join(parts[:_SHOWN_GROUPS]) + "."
    if abs(other["alike_s"]) >= least and other["alike_s"]:
        line += (
            f" Of this {_signed(other['alike_s'], seconds)} in steps that both carry alike: "
            "the machine, not the schedule."
        )
    return line


def _faster(reference: str, other: Row, seconds: Any) -> str:
    name = other["name"]
    line = (
        f"{name} is faster than {reference} by {seconds(-other['difference_s'])} s "
        f"({other['ratio']:.2f} times as long; offline {_signed(other['offline_s'], seconds)}, "
        f"online {_signed(other['online_s'], seconds)}): {_groups(other, seconds)}"
    )
    if other["choices"]:
        chosen = "; ".join(
            f"{c['op']} by {c['other']} instead of {c['reference']}" for c in other["choices"]
        )
        line += f" It carries {chosen}."
    ours, theirs = other["encoded_bytes"]
    if ours is not None and theirs is not None and ours != theirs:
        line += (
            f" Its encoded weights take {theirs / 1e9:.2f} GB, those of {reference} "
            f"{ours / 1e9:.2f} GB."
        )
    if other["weaker_trust"]:
        line += (
            " It trusts a third party, which could unmask everything and whose work costs the "
            f"two nothing online; {reference} trusts nobody else."
        )
    return line


def _slower(reference: str, other: Row, seconds: Any) -> str:
    line = (
        f"{other['name']} takes {seconds(other['difference_s'])} s more than {reference} "
        f"({other['ratio']:.2f} times as long): {_groups(other, seconds)}"
    )
    if other["stronger_trust"]:
        line += f" It trusts nobody else, {reference} trusts a third party."
    return line
