"""Check every config, run them one after the other, keep what is known after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.reports.comparison.configs import Options, PlannedRun, plan_runs
from hybrid.reports.comparison.markdown import write_comparison
from hybrid.reports.comparison.summary import document, failed_row, run_row
from hybrid.reports.run_report import write_json, write_markdown
from hybrid.reports.session_report import measured_reports
from hybrid.runtime.local import LocalSession
from transport.errors import ConfigError, HybridError

Json = dict[str, Any]


Prepare = Callable[[Config], LocalSession]
"""From a config to a session that has not started; `ConfigError` where it cannot run."""
Display = Callable[[LocalSession, int], AbstractContextManager[None]]
"""Shows the progress of a session of so many requests."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a comparison asks of who started it."""

    prepare: Prepare
    display: Display
    say: Callable[[str], None]
    measure: Callable[[LocalSession, Sequence[NDArray[np.int64]]], list[Json]] = measured_reports
    """Runs a session over texts' token ids; the report of each request."""


def run_comparison(paths: Sequence[Path], options: Options, hooks: Hooks) -> Json:
    """report.json's content; a run that fails is told in it and does not end the others."""
    if not paths:
        raise ConfigError("compare: no config named; name at least one YAML file")
    runs = plan_runs(paths, options)
    sessions = []
    for run in runs:
        session = hooks.prepare(run.config)
        text = session.encode(run.text(options.text), truncate=options.shortens)
        sessions.append((session, [text] * (options.requests * run.config.run.model.batch)))
    rows: list[Json] = []
    made = document(rows, runs, options)
    for index, (run, (session, ids)) in enumerate(zip(runs, sessions, strict=True)):
        hooks.say(f"run {index + 1} of {len(runs)}: {run.name}, link {run.link}")
        rows.append(_measured(run, session, ids, options, hooks))
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
    run: PlannedRun,
    session: LocalSession,
    ids: Sequence[NDArray[np.int64]],
    options: Options,
    hooks: Hooks,
) -> Json:
    """One row of the report."""
    try:
        with hooks.display(session, options.requests):
            reports = hooks.measure(session, ids)
    except HybridError as error:
        hooks.say(f"{run.name}, link {run.link}: failed: {error}")
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
    hooks.say(
        f"{run.name}, link {run.link}: {row['total']['seconds']:.2f} s "
        f"({row['offline']['seconds']:.2f} offline, {row['online']['seconds']:.2f} online)"
    )
    return row
