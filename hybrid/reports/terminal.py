"""Plans and reports as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log2
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from hybrid.planning.plan import Plan
from hybrid.reports.range_report import range_lines
from hybrid.reports.run_report import (
    class_lines,
    group_table,
    measured_cells,
    prediction_line,
)


def print_report(
    console: Console, report: Mapping[str, Any], title: str, folder: Path | None
) -> None:
    """Tables per layer and engine and per operation, totals, accuracy."""
    console.rule(escape(title[:100]))
    for by in ("layer", "op"):
        console.print(rich_table(*group_table(report["steps"], by)))
    phases = [[p, *measured_cells(report[p])] for p in ("setup", "offline", "online", "total")]
    head = ["phase", "seconds", "client sent MB", "server sent MB", "rounds"]
    console.print(rich_table(head, phases))
    console.print(f"failure probability: at most {report['failure_probability']:.1e}")
    if "prompt" in report:
        console.print(f"prompt before every text: {outside(report['prompt'])}", highlight=False)
    if report.get("prediction"):
        console.print(prediction_line(report["prediction"]), highlight=False)
    accuracy = report.get("accuracy")
    if accuracy:
        console.print(
            f"cosine {accuracy['cosine']:.6f}, largest difference {accuracy['max_abs_error']:.2e} "
            f"(against the {accuracy['reference']})"
        )
    for line in class_lines(report):
        console.print(outside(line), highlight=False)
    for note in report.get("notes", ()):
        console.print(outside(f"note: {note}"), highlight=False)
    print_ranges(console, report)
    if folder:
        console.print(f"report: {escape(str(folder / 'report.md'))}")


def print_ranges(console: Console, report: Mapping[str, Any]) -> None:
    """Whether ranges held, where the report knows."""
    alarms, said = range_lines(report)
    for line in alarms:
        console.print(line, style="bold red", highlight=False, markup=False)
    for line in said:
        console.print(line, highlight=False, markup=False)


def print_plan(
    console: Console,
    plan: Plan,
    memory_gb: float,
    seconds: Mapping[str, float] | None = None,
    notes: Iterable[str] = (),
) -> None:
    """Every step of a plan; seconds: predicted, where the machine is calibrated.

    notes: of the model, a sentence each.
    """
    console.print(plan_table(plan.rows(), seconds))
    for name, traffic in (
        ("offline", plan.offline_traffic + plan.prepared_traffic),
        ("online", plan.cost.traffic),
    ):
        console.print(
            f"{name}: client sends {traffic.client_sent_bytes / 1e6:.1f} MB, server "
            f"{traffic.server_sent_bytes / 1e6:.1f} MB, {traffic.rounds} rounds"
        )
    total = plan.cost.traffic + plan.offline_traffic + plan.prepared_traffic
    console.print(
        f"predicted for one request: client sends {total.client_sent_bytes / 1e6:.1f} MB, server "
        f"{total.server_sent_bytes / 1e6:.1f} MB, {total.rounds} rounds, "
        f"{plan.correlations.total} oblivious transfers"
    )
    if seconds is None:
        console.print(
            "predicted seconds: none; `hybrid calibrate` measures this machine (plugins may count "
            "units that it does not know)"
        )
    else:
        console.print(f"predicted seconds: {sum(seconds.values()):.2f}, offline and online")
    for name, line in plan.schedule.why.items():
        console.print(escape(f"{name}: {line}"), highlight=False)
    failure = plan.cost.failure_probability
    console.print(f"sum of failure probabilities: {failure:.2e} (2^{log2(failure):.1f})")
    sizes = plan.encoded_bytes()
    console.print(
        f"encoded weights: {sum(sizes.values()) / 1e9:.2f} GB at the server; "
        f"{len(plan.kept_weights(memory_gb))} of {len(sizes)} layers kept within "
        f"{memory_gb:g} GB, the others encoded at every use"
    )
    console.print(f"plan hash: {plan.digest()}")
    for note in notes:
        console.print(outside(f"note: {note}"), highlight=False)


def plan_table(
    rows: Iterable[Mapping[str, Any]], seconds: Mapping[str, float] | None = None
) -> Table:
    """Rows of a plan."""
    head = ["step", "phase", "engine", "protocol", "shape", "bounds", "client MB", "server MB"]
    head += ["rounds", "OTs", "log2 failure", "seconds"]
    cells = []
    for row in rows:
        predicted, failure = row["predicted"], row["failure_probability"]
        cells.append(
            [
                row["name"],
                row["phase"],
                row["engine"],
                row["protocol"],
                "x".join(str(n) for n in row["shape"]),
                ", ".join(f"{k}={_number(v)}" for k, v in row["parameters"].items()),
                f"{predicted['client_sent_bytes'] / 1e6:.3f}",
                f"{predicted['server_sent_bytes'] / 1e6:.3f}",
                str(predicted["rounds"]),
                str(row["correlations"]),
                f"{log2(failure):.1f}" if failure else "",
                "" if seconds is None else f"{seconds[row['name']]:.4f}",
            ]
        )
    return rich_table(head, cells)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def printable(text: str) -> str:
    """Control codes by their numbers, but for ends of lines."""
    return "".join(c if c.isprintable() or c == "\n" else f"\\x{ord(c):02x}" for c in text)


def outside(text: str) -> str:
    """Text from outside: neither markup nor control codes."""
    return escape(printable(text))


def rich_table(head: list[str], rows: Iterable[list[str]]) -> Table:
    """Cells are text and nothing else."""
    table = Table()
    for index, title in enumerate(head):
        table.add_column(title, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(outside(cell) for cell in row))
    return table
