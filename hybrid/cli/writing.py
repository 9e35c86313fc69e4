"""Reports of a session: on disk first, then on the console."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hybrid.cli.progress import say
from hybrid.reports.files import ReportFolder, check_numbers, json_text, request_name, strict
from hybrid.reports.generation_text import generation_markdown
from hybrid.reports.run_report import markdown
from transport.errors import ConfigError

Json = dict[str, Any]
Show = Callable[[int, Json], None]
"""Prints the report of a request, counted from 0."""


def checked_folder(out: Path, requests: int, kind: str) -> ReportFolder:
    """Before anything runs, so that no report is lost after it; kind: text or prompt."""
    folder = ReportFolder(out)
    places = [request_name(index, kind) for index in range(requests)]
    folder.check(f"{place}report.{form}" for place in places for form in ("json", "md"))
    return folder


def write_reports(folder: ReportFolder, reports: Sequence[Json], kind: str) -> list[str]:
    """report.json and report.md of every request; sentences about what stays beside them."""
    if not reports:
        # A client that asks nothing takes nobody's reports away.
        return []
    places = [request_name(index, kind) for index in range(len(reports))]
    for place, report in zip(places, reports, strict=True):
        folder.write(f"{place}report.json", json_text(report))
    for place, report in zip(places, reports, strict=True):
        page = generation_markdown if "generation" in report else markdown
        folder.write(f"{place}report.md", page(report))
    return folder.finish()


def hand_over(
    console: Console, folder: ReportFolder | None, reports: Sequence[Json], kind: str, show: Show
) -> None:
    """Write, then print; what cannot be written or cannot be true ends the command after that."""
    failure, beside = None, list[str]()
    try:
        if folder is not None:
            beside = write_reports(folder, reports, kind)
    except ConfigError as error:
        failure = error
    for index, report in enumerate(reports):
        show(index, report)
    for line in beside:
        say(console, line)
    if failure is not None:
        raise failure
    for report in reports:
        check_numbers(strict(report))
