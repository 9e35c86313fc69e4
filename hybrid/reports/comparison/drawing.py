"""Matplotlib figures as inline SVG: one look for all, ids of their own."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from hybrid.reports.comparison.groups import Group

WIDTH_IN = 9.4
_INK, _GRID, _MUTED = "#1F2937", "#E5E7EB", "#4B5563"
_LOOK: dict[Any, Any] = {
    # Text stays text: it can be searched, copied and read aloud.
    "svg.fonttype": "none",
    # Ids that do not change from one report to the next.
    "svg.hashsalt": "hybrid",
    # A config may be called anything; its name is no formula.
    "text.parse_math": False,
    "font.size": 10.0,
    "text.color": _INK,
    "axes.labelcolor": _MUTED,
    "axes.edgecolor": "#9CA3AF",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.8,
    "xtick.color": _MUTED,
    "ytick.color": _INK,
    "legend.frameon": False,
    "legend.handlelength": 1.0,
    "legend.handleheight": 1.0,
    "legend.columnspacing": 1.2,
    "legend.handletextpad": 0.5,
}
_ID = re.compile(r'(\bid="|href="#|url\(#)')
_ROW_IN, _FRAME_IN, _HEAD_ROWS = 0.36, 1.05, 0.9
_SMALLEST_PLAIN = 1e-3
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_CHARACTER_SHARE = 0.013
_IN_BAR_SHARE = 0.06


@dataclass(frozen=True, slots=True)
class Drawn:
    """One figure of the report."""

    id: str
    title: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Bar:
    """One stacked bar: a part for every group that has one."""

    label: str
    heading: str
    """Bars of one heading stand together under it; may be empty."""
    parts: dict[str, float]
    total: str
    """What stands at its end."""


@contextmanager
def look() -> Iterator[None]:
    """The report's style, and nobody else's."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_LOOK)
        yield


def to_svg(figure: Figure, prefix: str, title: str) -> str:
    """The drawing for a page: no header, no metadata, every id begins with `prefix`."""
    buffer = io.StringIO()
    with warnings.catch_warnings():
        # Text stays text: whoever shows the page has fonts of his own.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = _ID.sub(rf"\g<1>{prefix}-", text)
    text = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1)


def stacked_bars(
    bars: Sequence[Bar], groups: Sequence[Group], unit: str, show: Callable[[float], str]
) -> Figure:
    """Horizontal bars; parts carry their size where it fits."""
    headings = list(dict.fromkeys(bar.heading for bar in bars))
    rows = len(bars) + _HEAD_ROWS * sum(bool(heading) for heading in headings)
    figure = Figure((WIDTH_IN, _FRAME_IN + _ROW_IN * rows), layout="constrained")
    axes = figure.subplots()
    largest = max((sum(bar.parts.values()) for bar in bars), default=0.0) or 1.0
    ticks: list[tuple[float, str]] = []
    y = 0.0
    for heading in headings:
        if heading:
            axes.text(0, y - 0.05, heading, ha="left", va="center", weight="bold", size=9.5)
            y += _HEAD_ROWS
        for bar in (bar for bar in bars if bar.heading == heading):
            _draw_bar(axes, bar, groups, y, largest, show)
            ticks.append((y, bar.label))
            y += 1
    axes.set_ylim(y - 0.45, -0.6)
    axes.set_xlim(0, largest * (1.02 + _CHARACTER_SHARE * max(len(bar.total) for bar in bars)))
    axes.set_yticks([at for at, _ in ticks], [text for _, text in ticks])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_xlabel(unit)
    legend(figure, [g for g in groups if any(bar.parts.get(g.key) for bar in bars)])
    return figure


def _draw_bar(
    axes: Axes,
    bar: Bar,
    groups: Sequence[Group],
    y: float,
    largest: float,
    show: Callable[[float], str],
) -> None:
    left = 0.0
    for group in groups:
        size = bar.parts.get(group.key, 0.0)
        if not size:
            continue
        axes.barh(y, size, left=left, height=0.72, color=group.colour, ec="white", lw=0.6)
        if size > largest * _IN_BAR_SHARE:
            colour = _INK if _is_light(group.colour) else "white"
            axes.text(
                left + size / 2, y + 0.02, show(size),
                ha="center", va="center", size=8, color=colour,
            )  # fmt: skip
        left += size
    at = left + largest * 0.008
    axes.text(at, y + 0.02, bar.total, ha="left", va="center", weight="bold", size=9)


def legend(figure: Figure, groups: Sequence[Group]) -> None:
    """Colours in their fixed order, above the axes."""
    handles = [Patch(facecolor=g.colour, edgecolor="white", label=g.label) for g in groups]
    figure.legend(handles=handles, loc="outside upper left", ncols=9, fontsize=8.5)


def log_axis(axis: Axis) -> None:
    """Powers of ten, named without a formula."""
    axis.set_major_locator(LogLocator(10, numticks=7))
    axis.set_major_formatter(FuncFormatter(_power_of_ten))
    axis.set_minor_locator(NullLocator())


def _power_of_ten(number: float, _position: object) -> str:
    if number >= _SMALLEST_PLAIN:
        return f"{number:g}"
    return "10" + str(round(math.log10(number))).translate(_RAISED)


def grid(count: int, columns: int, panel: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Panels in rows of `columns`; surplus ones are removed."""
    rows = -(-count // columns)
    size = (panel[0] * columns, panel[1] * rows + 0.5)
    figure = Figure(size, layout="constrained")
    found: Any = figure.subplots(rows, columns, squeeze=False)
    axes = list(found.flat)
    for spare in axes[count:]:
        spare.remove()
    return figure, axes[:count]


def _is_light(colour: str) -> bool:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
