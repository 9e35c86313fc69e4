"""report.md of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hybrid.reports.comparison.groups import GROUPS, by_group, value
from hybrid.reports.comparison.summary import PHASE_NAMES, failures, finished
from hybrid.reports.comparison.words import (
    ANSWER_HEAD,
    accuracy_cells,
    answer_rows,
    how_measured,
    label,
    models,
    phase_cells,
    predictions,
    reason_lists,
    seconds,
    summary_sentences,
    trust_lines,
    unit,
)
from hybrid.reports.markdown import plain_cell, table_lines
from hybrid.reports.run_report import Table

Made = Mapping[str, Any]


def comparison_markdown(made: Made) -> str:
    """The comparison for a reader without a browser."""
    lines = ["# Comparison of protocols", "", plain_cell(" ".join(summary_sentences(made))), ""]
    lines += [plain_cell(how_measured(made)), "", plain_cell(models(made)), ""]
    title = "Totals" if unit(made) == "request" else "Totals of a token"
    lines += [f"## {title}", "", *table_lines(*_totals(made)), ""]
    lines += _answers(made)
    for place, said in reason_lists(made):
        lines += _lists(f"{plain_cell(place)}: what is faster, and why", said)
    for what, title in (("seconds", "Seconds"), ("megabytes", "MB"), ("rounds", "Rounds")):
        lines += [f"## {title} by operator", "", *table_lines(*_by_operator(made, what)), ""]
    lines += _lists("Prediction of seconds", [f"{n}: {s}" for n, s in predictions(made)])
    lines += ["## Accuracy", "", *table_lines(*_accuracy(made)), ""]
    shared, own = trust_lines(made)
    lines += _lists("Trust model and declared leakage", shared)
    for name, said in own:
        lines += [f"Only {plain_cell(name)}:", "", *(f"- {line}" for line in said), ""]
    lines += _lists("Failed", [f"{r['name']}, {r['link']}: {r['error']}" for r in failures(made)])
    lines += _others(made)
    lines += _lists("Environment", [f"{k}: {v}" for k, v in made["environment"].items()])
    files = [
        f"{label(r, made)}: {', '.join([r['config_file'], *r['reports']])}" for r in finished(made)
    ]
    lines += _lists("Files", files)
    return "\n".join(lines)


def _others(made: Made) -> list[str]:
    if not made["published"]:
        return []
    title = "## Published figures of other systems, on other machines"
    relative = (f"- {line}" for line in made["published_relative"])
    return [title, "", *table_lines(*_published(made)), "", *relative, ""]


def _answers(made: Made) -> list[str]:
    """Prompts and answers of decoders; their text has no meaning here."""
    rows = [[plain_cell(cell) for cell in cells] for cells in answer_rows(made)]
    return ["## Prompt and answer", "", *table_lines(list(ANSWER_HEAD), rows), ""] if rows else []


def _lists(title: str, items: list[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {plain_cell(item)}" for item in items), ""] if items else []


def _label(row: Made, made: Made) -> str:
    return plain_cell(label(row, made))


def _totals(made: Made) -> Table:
    head = ["run", "phase", "seconds", "range", "client sent MB", "server sent MB", "rounds"]
    rows = [
        [_label(row, made), phase, *phase_cells(row[phase])]
        for row in finished(made)
        for phase in PHASE_NAMES
    ]
    return head, rows


def _by_operator(made: Made, what: str) -> Table:
    sums = [(row, by_group(row["steps"], what)) for row in finished(made)]
    shown = [group for group in GROUPS if any(group.key in found for _, found in sums)]
    rows = []
    for row, found in sums:
        cells = [_cell(found.get(group.key), what) for group in shown]
        rows.append([_label(row, made), *cells, _cell(value(row["total"], what), what)])
    return ["run", *(group.label for group in shown), "total"], rows


def _cell(number: float | None, what: str) -> str:
    if number is None:
        return ""
    return f"{number:,.0f}" if what == "rounds" else seconds(number)


def _accuracy(made: Made) -> Table:
    head = ["run", "cosine to the plain model", "largest difference", "failure probability"]
    rows = [
        [_label(row, made), *accuracy_cells(row), f"{row['failure_probability']:.1e}"]
        for row in finished(made)
    ]
    return head, rows


def _published(made: Made) -> Table:
    head = ["system", "shape", "seconds", "GB", "machine", "source"]
    rows = [
        [
            row["system"],
            row["shape"],
            "" if row["seconds"] is None else f"{row['seconds']:g}",
            "" if row["gigabytes"] is None else f"{row['gigabytes']:g}",
            row["machine"],
            row["source"],
        ]
        for row in made["published"]
    ]
    return head, rows
