"""Check every config, run them one after the other, keep what is known after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hybrid.config.schema import LoadedConfig
from hybrid.reports.comparison.configs import Options, PlannedRun, plan_runs
from hybrid.reports.comparison.markdown import write_comparison
from hybrid.reports.comparison.summary import document, failed_row, run_row
from hybrid.reports.run_report import write_json, write_markdown
from transport.errors import ConfigError, HybridError

Json = dict[str, Any]


Session = Callable[[], list[Json]]
"""Runs it; the report of every request, accuracy included."""
Prepare = Callable[[LoadedConfig, list[str], str], Session]
"""From a config, texts and a title to a session; `ConfigError` where it cannot run."""


def run_comparison(
    paths: Sequence[Path],
    options: Options,
    prepare: Prepare,
    say: Callable[[str], None],
) -> Json:
    """report.json's content; a run that fails is told in it and does not end the others."""
    if not paths:
        raise ConfigError("compare: no config named; name at least one YAML file")
    runs = plan_runs(paths, options)
    sessions = []
    for index, run in enumerate(runs):
        title = f"run {index + 1} of {len(runs)}: {run.name}, link {run.link}"
        texts = [run.text(options.text)] * (options.requests * run.loaded.run.model.batch)
        sessions.append(prepare(run.loaded, texts, title))
    rows: list[Json] = []
    made = document(rows, runs, options)
    for run, session in zip(runs, sessions, strict=True):
        rows.append(_measured(run, session, options, say))
        made = document(rows, runs, options)
        write_json(made, options.out / "report.json")
        write_comparison(made, options.out / "report.md")
    # Drawing takes seconds of a core, so figures come after the last measurement; and every
    # process of every command imports this module, but only this line needs what draws.
    from hybrid.reports.comparison.html import write_page

    made = write_page(made, options.out / "report.html")
    write_json(made, options.out / "report.json")
    return made


def _measured(
    run: PlannedRun, session: Session, options: Options, say: Callable[[str], None]
) -> Json:
    """One row of the report."""
    try:
        reports = session()
    except HybridError as error:
        say(f"{run.name}, link {run.link}: failed: {error}")
        return failed_row(run, str(error))
    paths = []
    for index, report in enumerate(reports):
        number = index + 1 - options.warm_up
        folder = options.out / "runs" / run.slug / (f"repetition{number}" if number else "warm-up")
        folder.mkdir(parents=True, exist_ok=True)
        write_json(report, folder / "report.json")
        write_markdown(report, folder / "report.md")
        paths.append(str((folder / "report.json").relative_to(options.out)))
    row = run_row(run, reports[options.warm_up :], paths[options.warm_up :])
    say(
        f"{run.name}, link {run.link}: {row['total']['seconds']:.2f} s "
        f"({row['offline']['seconds']:.2f} offline, {row['online']['seconds']:.2f} online)"
    )
    return row
