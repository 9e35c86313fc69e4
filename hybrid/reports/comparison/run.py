"""Check every config, run them one after the other, keep what is known after each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.reports.comparison.answering import (
    answer_of,
    as_request,
    check_prompt,
    measured_answers,
)
from hybrid.reports.comparison.configs import Options, PlannedRun, plan_runs
from hybrid.reports.comparison.markdown import comparison_markdown
from hybrid.reports.comparison.summary import document, failed_row, run_row
from hybrid.reports.files import ReportFolder, check_numbers, json_text, strict
from hybrid.reports.generation_text import generation_markdown
from hybrid.reports.run_report import markdown
from hybrid.reports.session_report import measured_reports
from hybrid.runtime.generation_local import LocalGeneration
from hybrid.runtime.local import LocalSession
from transport.errors import ConfigError, HybridError

Json = dict[str, Any]


Prepare = Callable[[Config], LocalSession]
"""From a config to a session that has not started; `ConfigError` where it cannot run."""
Display = Callable[[LocalSession, int], AbstractContextManager[None]]
"""Shows the progress of a session of so many requests."""
AnswerDisplay = Callable[[LocalGeneration, int], AbstractContextManager[None]]
"""The same of a session of so many prompts."""


def _unseen(_session: LocalGeneration, _prompts: int) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a comparison asks of who started it."""

    prepare: Prepare
    display: Display
    say: Callable[[str], None]
    measure: Callable[[LocalSession, Sequence[NDArray[np.int64]]], list[Json]] = measured_reports
    """Runs a session over texts' token ids; the report of each request."""
    prepare_answers: Callable[[Config], LocalGeneration] = LocalGeneration
    display_answers: AnswerDisplay = _unseen
    measure_answers: Callable[[LocalGeneration, str, int], list[Json]] = measured_answers
    """Asks a decoder's session one prompt so many times; the report of each."""


Measure = Callable[[], list[Json]]


def run_comparison(paths: Sequence[Path], options: Options, hooks: Hooks) -> Json:
    """report.json's content; a run that fails is told in it and does not end the others."""
    if not paths:
        raise ConfigError("compare: no config named; name at least one YAML file")
    folder = ReportFolder(options.out)
    runs = plan_runs(paths, options, folder)
    ready = [(_answering if run.answers else _asking)(run, options, hooks) for run in runs]
    rows: list[Json] = []
    made = document(rows, runs, options)
    for index, (run, measure) in enumerate(zip(runs, ready, strict=True)):
        hooks.say(f"run {index + 1} of {len(runs)}: {run.name}, link {run.link}")
        rows.append(_measured(run, measure, options, hooks, folder))
        made = document(rows, runs, options)
        folder.write("report.json", json_text(made))
        folder.write("report.md", comparison_markdown(made))
    # Drawing takes seconds of a core, so figures come after the last measurement; and every
    # process of every command imports this module, but only this line needs what draws.
    from hybrid.reports.comparison.html import page_of

    page, made = page_of(made)
    folder.write("report.html", page)
    folder.write("report.json", json_text(made))
    for line in folder.finish():
        hooks.say(line)
    return made


def _asking(run: PlannedRun, options: Options, hooks: Hooks) -> Measure:
    """All repetitions of an encoder, checked and not yet started."""
    session = hooks.prepare(run.config)
    text = session.encode(run.text(options.text), truncate=options.shortens)
    ids = [text] * (options.requests * run.config.run.model.batch)

    def measure() -> list[Json]:
        with hooks.display(session, options.requests):
            return hooks.measure(session, ids)

    return measure


def _answering(run: PlannedRun, options: Options, hooks: Hooks) -> Measure:
    """All repetitions of a decoder, checked and not yet started."""
    prompt = run.text(options.text)
    check_prompt(hooks.prepare_answers(run.config), prompt, options.requests)

    def measure() -> list[Json]:
        # Loaded again when its turn comes: memory may hold one language model, but not several.
        session = hooks.prepare_answers(run.config)
        with hooks.display_answers(session, options.requests):
            return hooks.measure_answers(session, prompt, options.requests)

    return measure


def _measured(
    run: PlannedRun, measure: Measure, options: Options, hooks: Hooks, folder: ReportFolder
) -> Json:
    """One row of the report."""
    try:
        reports = measure()
        paths = _written(run, reports, options, folder)
        for report in reports:
            check_numbers(strict(report))
        row = _row(run, reports[options.warm_up :], paths[options.warm_up :])
    except HybridError as error:
        hooks.say(f"{run.name}, link {run.link}: failed: {error}")
        return failed_row(run, str(error))
    each = " a token" if run.answers else ""
    hooks.say(
        f"{run.name}, link {run.link}: {row['total']['seconds']:.2f} s{each} "
        f"({row['offline']['seconds']:.2f} offline, {row['online']['seconds']:.2f} online)"
    )
    return row


def _written(
    run: PlannedRun, reports: Sequence[Json], options: Options, folder: ReportFolder
) -> list[str]:
    """Every repetition's own report; where they lie."""
    paths = []
    for index, report in enumerate(reports):
        number = index + 1 - options.warm_up
        place = f"runs/{run.slug}/" + (f"repetition{number}" if number else "warm-up")
        folder.write(f"{place}/report.json", json_text(report))
        page = generation_markdown if run.answers else markdown
        folder.write(f"{place}/report.md", page(report))
        paths.append(f"{place}/report.json")
    return paths


def _row(run: PlannedRun, reports: Sequence[Json], paths: Sequence[str]) -> Json:
    if not run.answers:
        return run_row(run, reports, paths)
    row = run_row(run, [as_request(report) for report in reports], paths)
    return {**row, "answer": answer_of(reports)}
