"""Whether ranges held, in reports: as plain data, and in sentences for a reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hybrid.models.range_check import RangeCheck

Json = dict[str, Any]
_SHOWN = 5


def range_rows(checks: Sequence[RangeCheck], caution: str) -> Json:
    """What a report says under `ranges`, of the texts of a request in their order.

    exceeded: what texts reached beyond bounds, worst first; headroom: the bound that was nearest
    to being exceeded, None where one was; caution: of the samples, empty if there are enough.
    """
    exceeded = [
        {"text": index + 1, **one.row()}
        for index, check in enumerate(checks)
        for one in check.exceeded
    ]
    nearest = [
        {"text": index + 1, **check.nearest.row()}
        for index, check in enumerate(checks)
        if check.nearest is not None
    ]
    least = max(nearest, key=lambda row: row["times"], default=None)
    if least is not None:
        least = None if least["times"] > 1 else {**least, "times": 1 / max(least["times"], 1e-30)}
    return {
        "exceeded": sorted(exceeded, key=lambda row: -row["times"]),
        "headroom": least,
        "caution": caution,
    }


def is_wrong(ranges: Mapping[str, Any] | None) -> bool:
    """Whether a bound was exceeded that results depend on."""
    return bool(ranges) and any(row["of"] != "rms" for row in (ranges or {})["exceeded"])


def range_lines(report: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Sentences of a report's ranges: alarms, and the rest; nothing where they are not known."""
    ranges = report.get("ranges")
    if not ranges:
        return [], []
    alarms, said = [], []
    hard = [row for row in ranges["exceeded"] if row["of"] != "rms"]
    soft = [row for row in ranges["exceeded"] if row["of"] == "rms"]
    if hard:
        more = f" and {len(hard) - _SHOWN} more" if len(hard) > _SHOWN else ""
        alarms.append(
            f"RANGES EXCEEDED on {len({row['edge'] for row in hard})} edges: THE RESULT MAY BE "
            f"WRONG. {'; '.join(map(_sentence, hard[:_SHOWN]))}{more}. Have the server calibrate "
            "on samples like this text (ranges.sentences) or raise ranges.margin."
        )
    if soft:
        said.append(
            f"Root mean squares on {len({row['edge'] for row in soft})} edges are above those that "
            f"failures were counted with, at most {soft[0]['times']:.2f} times "
            f"({soft[0]['edge']}): failures are up to so many times as likely as declared."
        )
    if ranges["headroom"]:
        row = ranges["headroom"]
        said.append(
            f"Ranges held: every bound leaves room for at least {row['times']:.2f} times what was "
            f"reached (least on {row['edge']}, {row['of']} {row['seen']:.4g} of {row['bound']:g})."
        )
    if ranges["caution"]:
        said.append(ranges["caution"] + ".")
    return alarms, said


def range_section(report: Mapping[str, Any]) -> list[str]:
    """Of a report in Markdown."""
    alarms, said = range_lines(report)
    lines = [part for line in alarms for part in (f"**{line}**", "")]
    lines += [part for line in said for part in (line, "")]
    return ["## Ranges", "", *lines] if lines else []


def _sentence(row: Mapping[str, Any]) -> str:
    below = "falls to" if row["of"] == "low" else "reaches"
    which = "lower bound" if row["of"] == "low" else "bound"
    return (
        f"text {row['text']}: {row['edge']} {below} {row['seen']:.4g}, its {which} is "
        f"{row['bound']:g} ({row['times']:.2f} times)"
    )
