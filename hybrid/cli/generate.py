"""`hybrid generate`, and prompts in `hybrid query`: answers on the console, token by token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hybrid.cli.progress import GenerationDisplay, make_console
from hybrid.config.loading import Config
from hybrid.config.texts import read_texts
from hybrid.reports.comparison.configs import slug
from hybrid.reports.generation_report import client_generation_reports, generation_reports
from hybrid.reports.generation_text import print_generation_report, write_generation_markdown
from hybrid.reports.run_report import write_json
from hybrid.runtime.answers import Answers
from hybrid.runtime.generation_local import LocalGeneration
from hybrid.runtime.generation_remote import RemoteGeneration
from hybrid.runtime.generation_words import RefusedError
from transport.errors import HybridError

Json = dict[str, Any]
Writable = Callable[[Path], None]


def generate(  # noqa: PLR0913
    config: Config,
    prompts: list[str],
    tokens: int | None,
    out: Path | None,
    writable: Writable,
    *,
    is_conversation: bool,
) -> None:
    """Both parties as processes of this machine."""
    console = make_console()
    prompts = prompts or read_texts(config)
    console.print("loading the model and planning", highlight=False)
    session = LocalGeneration(config)
    session.check(prompts, tokens, is_conversation=is_conversation)
    out = out or Path("runs") / slug(config.run.name)
    _check_folders(out, len(prompts), writable)
    with GenerationDisplay(console) as display:
        session.on_progress = display.step
        with session:
            refused = answer_all(session, prompts, tokens, display, is_conversation=is_conversation)
    console.print("comparing with the plain model", highlight=False)
    reports = generation_reports(session)
    _written(console, reports, out, writable)
    if refused is not None:
        raise refused


def ask(  # noqa: PLR0913
    config: Config,
    endpoint: str,
    prompts: list[str],
    tokens: int | None,
    out: Path | None,
    writable: Writable,
    *,
    is_conversation: bool,
) -> None:
    """The client of a server elsewhere."""
    console = make_console()
    prompts = prompts or read_texts(config)
    if out:
        _check_folders(out, len(prompts), writable)
    with GenerationDisplay(console) as display:
        session = RemoteGeneration(config, endpoint, display.step)
        session.check(prompts, tokens, is_conversation=is_conversation)
        with session:
            refused = answer_all(session, prompts, tokens, display, is_conversation=is_conversation)
    assert session.plan is not None
    assert session.record is not None
    decode = session.prompts.tokenizer.decode
    record, answers = session.record, session.answers
    reports = client_generation_reports(config, session.plan, record, answers, decode)
    _written(console, reports, out, writable)
    if refused is not None:
        raise refused


def answer_all(
    session: Answers,
    prompts: Sequence[str],
    tokens: int | None,
    display: GenerationDisplay,
    *,
    is_conversation: bool,
) -> RefusedError | None:
    """Ask prompt after prompt; what was answered before a failure stays on the console.

    Where the client refuses to go on, why: what was answered before has its reports all the same.
    """
    for index, prompt in enumerate(prompts):
        display.prompt(prompt)
        count, goes_on = 0, is_conversation and index > 0
        try:
            for token in session.generate(prompt, tokens, goes_on=goes_on):
                count += 1
                display.token(token.text, token.seconds)
        except HybridError as error:
            told = f"{count} tokens of answer {index + 1} came before this: {error}"
            if isinstance(error, RefusedError):
                return RefusedError(told)
            if not count:
                raise
            raise type(error)(told) from error
        display.answered(session.answers[-1].text)
    return None


def _written(console: Console, reports: list[Json], out: Path | None, writable: Writable) -> None:
    for index, report in enumerate(reports):
        folder = None if out is None else _folder(out, index)
        if folder is not None:
            writable(folder)
            write_json(report, folder / "report.json")
            write_generation_markdown(report, folder / "report.md")
        print_generation_report(console, report, f"answer {index + 1} of {len(reports)}", folder)


def _check_folders(out: Path, prompts: int, writable: Writable) -> None:
    """Before anything runs, so that no report is lost after it."""
    for index in range(prompts):
        writable(_folder(out, index))


def _folder(out: Path, index: int) -> Path:
    """The first report lies in the folder itself, the others below it."""
    return out if index == 0 else out / f"prompt{index + 1}"
