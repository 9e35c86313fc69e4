"""Plans and reports as tables on a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import log2
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hybrid.planning.plan import Plan
from hybrid.reports.range_report import range_lines
from hybrid.reports.run_report import (
    class_lines,
    group_table,
    measured_cells,
    prediction_line,
)
from transport.foreign import printable

NO_SECONDS = (
    "predicted seconds: none; `hybrid calibrate` measures this machine (plugins may count units "
    "that it does not know)"
)


def print_report(
    console: Console, report: Mapping[str, Any], title: str, folder: Path | None
) -> None:
    """Tables per layer and engine and per operation, totals, accuracy."""
    console.rule(plain(title[:100]))
    for by in ("layer", "op"):
        console.print(rich_table(*group_table(report["steps"], by)))
    phases = [[p, *measured_cells(report[p])] for p in ("setup", "offline", "online", "total")]
    head = ["phase", "seconds", "client sent MB", "server sent MB", "rounds"]
    console.print(rich_table(head, phases))
    console.print(f"failure probability: at most {report['failure_probability']:.1e}")
    if "prompt" in report:
        console.print(plain(f"prompt before every text: {report['prompt']}"))
    if report.get("prediction"):
        console.print(prediction_line(report["prediction"]), highlight=False)
    accuracy = report.get("accuracy")
    if accuracy:
        console.print(
            f"cosine {accuracy['cosine']:.6f}, largest difference {accuracy['max_abs_error']:.2e} "
            f"(against the {accuracy['reference']})"
        )
    for line in class_lines(report):
        console.print(plain(line))
    for note in report.get("notes", ()):
        console.print(plain(f"note: {note}"))
    print_ranges(console, report)
    if folder:
        console.print(plain(f"report: {folder / 'report.md'}"), soft_wrap=True)


def print_ranges(console: Console, report: Mapping[str, Any]) -> None:
    """Whether ranges held, where the report knows."""
    alarms, said = range_lines(report)
    for line in alarms:
        console.print(plain(line), style="bold red")
    for line in said:
        console.print(plain(line))


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
        console.print(NO_SECONDS)
    else:
        console.print(f"predicted seconds: {sum(seconds.values()):.2f}, offline and online")
    for name, line in plan.schedule.why.items():
        console.print(plain(f"{name}: {line}"))
    failure = plan.cost.failure_probability
    exponent = f" (2^{log2(failure):.1f})" if failure else ""
    console.print(f"sum of failure probabilities: {failure:.2e}{exponent}")
    sizes = plan.encoded_bytes()
    console.print(
        f"encoded weights: {sum(sizes.values()) / 1e9:.2f} GB at the server; "
        f"{len(plan.kept_weights(memory_gb))} of {len(sizes)} layers kept within "
        f"{memory_gb:g} GB, the others encoded at every use"
    )
    console.print(f"plan hash: {plan.digest()}")
    for note in notes:
        console.print(plain(f"note: {note}"))


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


def plain(text: str) -> Text:
    """Words from outside: no markup, no codes of emoji, no control codes but ends of lines."""
    return Text(printable(text, keep="\n"))


def rich_table(head: list[str], rows: Iterable[list[str]]) -> Table:
    """Cells are text and nothing else."""
    table = Table()
    for index, title in enumerate(head):
        table.add_column(title, justify="left" if index == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(plain(cell) for cell in row))
    return table
