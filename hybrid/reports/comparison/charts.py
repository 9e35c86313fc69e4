"""The figures of a comparison."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from hybrid.reports.comparison.drawing import (
    WIDTH_IN,
    Bar,
    Drawn,
    grid,
    legend,
    log_axis,
    look,
    stacked_bars,
    to_svg,
)
from hybrid.reports.comparison.groups import GROUPS, PHASES, Group, by_group, group_of, sent, value
from hybrid.reports.comparison.summary import finished, links_of
from hybrid.reports.comparison.words import how_measured, label, link_title, one_unit, seconds
from transport.foreign import printable

Json = Mapping[str, Any]
Parts = dict[str, float]
Show = Callable[[float], str]
_SAME = 1e-3
_HEADROOM = 1.08
_UNITS = {"seconds": "seconds", "megabytes": "MB (10⁶ bytes), both directions", "rounds": "rounds"}
_CLOSE = 0.25
_PERFECT = 1e-12
"""Where a distance of zero is drawn on a logarithmic axis."""


def draw_all(made: Json) -> list[Drawn]:
    """Every figure for which there are figures, in the order of the page."""
    if not finished(made):
        return []
    with look():
        drawn = _totals(made)
        drawn += [_by_operator(made, what) for what in _UNITS]
        drawn.append(_layers(made))
        if any(row.get("prediction") for row in finished(made)):
            drawn.append(_prediction(made))
        if _compared(made):
            drawn.append(_accuracy(made))
    return drawn


def _bars(made: Json, parts: Callable[[Json], Parts], total: Callable[[Json], str]) -> list[Bar]:
    """A bar for every run; one for every config where links make no difference."""
    found = [(row, parts(row)) for row in finished(made)]
    first: dict[str, tuple[Json, Parts]] = {}
    for row, sizes in found:
        first.setdefault(row["name"], (row, sizes))
    several = len(links_of(made)) > 1
    if several and all(_alike(sizes, first[row["name"]][1]) for row, sizes in found):
        return [
            Bar(printable(n), "every link", sizes, total(row)) for n, (row, sizes) in first.items()
        ]
    return [
        Bar(printable(row["name"]), link_title(row["link"]) if several else "", sizes, total(row))
        for row, sizes in found
    ]


def _alike(one: Parts, other: Parts) -> bool:
    """Equal but for what a few words of the handshake weigh."""
    return one.keys() == other.keys() and all(
        abs(size - other[key]) <= _SAME * max(size, other[key]) for key, size in one.items()
    )


def _drawn(figure: Figure, key: str, title: str, caption: str) -> Drawn:
    return Drawn(key, title, caption, to_svg(figure, key, title))


def _phases(made: Json, measure: Callable[[Json], float], unit: str, show: Show) -> Figure:
    def parts(row: Json) -> Parts:
        return {phase.key: measure(row[phase.key]) for phase in PHASES}

    def total(row: Json) -> str:
        return f"{show(measure(row['total']))} + {show(measure(row['setup']))}"

    return stacked_bars(_bars(made, parts, total), PHASES, unit, show)


def _totals(made: Json) -> list[Drawn]:
    """Seconds, bytes and rounds by phase."""
    time = _phases(made, lambda row: float(row["seconds"]), "seconds", seconds)
    size = _phases(made, lambda row: sent(row) / 1e6, _UNITS["megabytes"], seconds)
    turns = _phases(made, lambda row: float(row["rounds"]), "rounds", _whole)
    end = f"At the end of a bar: {one_unit(made)} (offline and online) + set-up of a session."
    return [
        _drawn(time, "fig-total-seconds", "Seconds by phase", f"{end} {how_measured(made)}"),
        _drawn(
            size, "fig-total-bytes", "Bytes by phase",
            f"MB (10⁶ bytes) between the two parties, frame headers included. {end}",
        ),
        _drawn(
            turns, "fig-total-rounds", "Rounds by phase",
            "A round opens when a party sends after it has received; an exchange is one round. "
            + end,
        ),
    ]  # fmt: skip


_SAID = {
    "seconds": ("Seconds by operator", "Offline and online of {one}, without set-up."),
    "megabytes": ("Bytes by operator", "Offline and online of {one}, both directions."),
    "rounds": ("Rounds by operator", "Offline and online of {one}."),
}


def _by_operator(made: Json, what: str) -> Drawn:
    title, caption = _SAID[what]
    show = _whole if what == "rounds" else seconds
    bars = _bars(
        made,
        lambda row: by_group(row["steps"], what),
        lambda row: show(value(row["total"], what)),
    )
    figure = stacked_bars(bars, GROUPS, _UNITS[what], show)
    said = caption.format(one=one_unit(made))
    return _drawn(figure, f"fig-operator-{what}", title, said)


def _whole(number: float) -> str:
    return f"{number:,.0f}"


def _layers(made: Json) -> Drawn:
    """One row of panels a run: seconds at the left, MB at the right, on the same scales."""
    runs = finished(made)
    figure = Figure((WIDTH_IN, 0.6 + 1.75 * len(runs)), layout="constrained")
    axes = figure.subplots(len(runs), 2, squeeze=False, sharey="col")
    for row, (left, right) in zip(runs, axes, strict=True):
        _layer_panel(left, row["steps"], "seconds")
        _layer_panel(right, row["steps"], "megabytes")
        left.set_title(f"{label(row, made)}: seconds", loc="left", size=9.5)
        right.set_title(f"{label(row, made)}: MB", loc="left", size=9.5)
    for last in axes[-1]:
        last.set_xlabel("layer")
    used = {group_of(step) for row in runs for step in row["steps"]}
    legend(figure, [group for group in GROUPS if group.key in used])
    return _drawn(
        figure, "fig-layers", "Layer by layer",
        "Seconds and MB (10⁶ bytes, both directions) of every layer, offline and online, "
        f"{one_unit(made)}. “all” is what belongs to no single layer: correlations, and what comes "
        "before the first layer or after the last.",
    )  # fmt: skip


def _layer_panel(axes: Axes, steps: Sequence[Json], what: str) -> None:
    layers = sorted({step["layer"] for step in steps if step["layer"] >= 0})
    outside = [step for step in steps if step["layer"] < 0]
    columns = [by_group([s for s in steps if s["layer"] == layer], what) for layer in layers]
    columns.append(by_group(outside, what))
    base = [0.0] * len(columns)
    for group in GROUPS:
        sizes = [column.get(group.key, 0.0) for column in columns]
        if any(sizes):
            axes.bar(
                range(len(sizes)), sizes, bottom=base, width=0.78, color=group.colour,
                ec="white", lw=0.5,
            )  # fmt: skip
            base = [low + size for low, size in zip(base, sizes, strict=True)]
    axes.set_xticks(range(len(columns)), [*(str(layer) for layer in layers), "all"])
    axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
    axes.grid(axis="y")
    axes.set_xlim(-0.6, max(len(columns), 4) - 0.4)
    # Panels of a column share this axis, which only ever grows.
    axes.set_ylim(0, max(axes.get_ylim()[1], _HEADROOM * max(base)))


def _prediction(made: Json) -> Drawn:
    runs = [row for row in finished(made) if row.get("prediction")]
    columns = 2 if len(runs) in (1, 2, 4) else 3
    figure, panels = grid(len(runs), columns, (WIDTH_IN / columns, 9.3 / columns))
    for axes, row in zip(panels, runs, strict=True):
        _prediction_panel(axes, row["steps"])
        axes.set_title(label(row, made), loc="left", size=9.5)
        axes.set_xlabel("predicted seconds")
        axes.set_ylabel("measured seconds")
    used = {group_of(step) for row in runs for step in row["steps"]}
    legend(figure, [group for group in GROUPS if group.key in used])
    return _drawn(
        figure, "fig-prediction", "Predicted and measured seconds",
        "One dot a step, logarithmic axes; inside the band a step is within 25 % of its "
        "measured seconds.",
    )  # fmt: skip


def _prediction_panel(axes: Axes, steps: Sequence[Json]) -> None:
    pairs = [
        (step["predicted_seconds"], step["measured"]["seconds"], group_of(step))
        for step in steps
        if step.get("predicted_seconds", 0) > 0 and step["measured"]["seconds"] > 0
    ]
    if not pairs:
        return
    numbers = [number for pair in pairs for number in pair[:2]]
    ends = [min(numbers) / 1.6, max(numbers) * 1.6]
    low = [end / (1 + _CLOSE) for end in ends]
    high = [end / (1 - _CLOSE) for end in ends]
    axes.fill_between(ends, low, high, color="#E5E7EB", lw=0)
    axes.plot(ends, ends, color="#9CA3AF", lw=0.9)
    for group in GROUPS:
        xs, ys = _points(pairs, group)
        axes.scatter(xs, ys, s=20, color=group.colour, ec="white", lw=0.4, zorder=3)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    log_axis(axes.xaxis)
    log_axis(axes.yaxis)
    axes.set_box_aspect(1)
    axes.grid(True)


def _points(
    pairs: Sequence[tuple[float, float, str]], group: Group
) -> tuple[list[float], list[float]]:
    inside = [pair for pair in pairs if pair[2] == group.key]
    return [pair[0] for pair in inside], [pair[1] for pair in inside]


def _compared(made: Json) -> list[Json]:
    """Runs that have a cosine."""
    runs = [row for row in finished(made) if row["accuracy"]]
    return [row for row in runs if math.isfinite(row["accuracy"]["cosine"])]


def _accuracy(made: Json) -> Drawn:
    runs = _compared(made)
    figure = Figure((WIDTH_IN, 0.75 + 0.36 * len(runs)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(runs):
        found = row["accuracy"]
        distance = max(1 - found["cosine"], _PERFECT)
        axes.scatter(distance, y, s=46, color="#0072B2", zorder=3)
        axes.annotate(
            f"largest difference {found['max_abs_error']:.1e}", (distance, y), (9, 0),
            textcoords="offset points", va="center", size=8.5, color="#4B5563",
        )  # fmt: skip
    axes.set_yticks(range(len(runs)), [label(row, made) for row in runs])
    axes.set_ylim(len(runs) - 0.4, -0.6)
    axes.set_xscale("log")
    distances = [max(1 - row["accuracy"]["cosine"], _PERFECT) for row in runs]
    axes.set_xlim(min(distances) / 12, max(distances) * 40)
    log_axis(axes.xaxis)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    axes.set_xlabel("1 − cosine to the plain model (smaller is closer)")
    return _drawn(
        figure, "fig-accuracy", "Accuracy",
        "Distance of the private output from the plain float32 model's, logarithmic; the worst "
        "of all repetitions.",
    )  # fmt: skip
