"""`hybrid generate`, and prompts in `hybrid query`: answers on the console, token by token."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from hybrid.cli.progress import GenerationDisplay, make_console, say
from hybrid.cli.writing import checked_folder, hand_over
from hybrid.config.loading import Config
from hybrid.config.texts import read_texts
from hybrid.reports.comparison.configs import slug
from hybrid.reports.files import ReportFolder, request_name
from hybrid.reports.generation_report import client_generation_reports, generation_reports
from hybrid.reports.generation_text import print_generation_report
from hybrid.runtime.answers import Answers
from hybrid.runtime.generation_local import LocalGeneration
from hybrid.runtime.generation_remote import RemoteGeneration
from hybrid.runtime.generation_words import RefusedError
from hybrid.runtime.serving import batches
from transport.errors import HybridError

Json = dict[str, Any]


def generate(
    config: Config,
    prompts: list[str],
    tokens: int | None,
    out: Path | None,
    *,
    is_conversation: bool,
) -> None:
    """Both parties as processes of this machine."""
    console = make_console()
    prompts = prompts or read_texts(config)
    say(console, "loading the model and planning")
    session = LocalGeneration(config)
    session.check(prompts, tokens, is_conversation=is_conversation)
    out = out or Path("runs") / slug(config.run.name)
    folder = checked_folder(out, len(prompts), "prompt")
    with GenerationDisplay(console) as display:
        session.on_progress = display.step
        with session:
            refused = answer_all(session, prompts, tokens, display, is_conversation=is_conversation)
    with console.status("comparing with the plain model"):
        reports = generation_reports(session)
    _hand_over(console, folder, reports)
    if refused is not None:
        raise refused


def ask(
    config: Config,
    endpoint: str,
    prompts: list[str],
    tokens: int | None,
    out: Path | None,
    *,
    is_conversation: bool,
) -> None:
    """The client of a server elsewhere."""
    console = make_console()
    prompts = prompts or read_texts(config)
    folder = checked_folder(out, len(prompts), "prompt") if out else None
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
    _hand_over(console, folder, reports)
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

    As many at once as `model.batch` says. Where the client refuses to go on, why: what was answered
    before has its reports all the same.
    """
    batch = session.config.run.model.batch
    if batch > 1:
        return _answer_together(session, batches(prompts, batch), tokens, display)
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


def _answer_together(
    session: Answers,
    groups: Sequence[Sequence[str]],
    tokens: int | None,
    display: GenerationDisplay,
) -> RefusedError | None:
    """The prompts of each group in the same passes."""
    answered = 0
    for prompts in groups:
        for prompt in prompts:
            display.prompt(prompt)
        passes = 0
        try:
            for found in session.generate_batch(prompts, tokens):
                passes += 1
                texts = ["" if token is None else token.text for token in found]
                seconds = max(token.seconds for token in found if token is not None)
                display.token(" | ".join(texts), seconds)
        except HybridError as error:
            which = f"answers {answered + 1} to {answered + len(prompts)}"
            told = f"{passes} tokens of each of {which} came before this: {error}"
            if isinstance(error, RefusedError):
                return RefusedError(told)
            if not passes:
                raise
            raise type(error)(told) from error
        for answer in session.answers[-len(prompts) :]:
            display.answered(answer.text)
        answered += len(prompts)
    return None


def _hand_over(console: Console, folder: ReportFolder | None, reports: list[Json]) -> None:
    def show(index: int, report: Json) -> None:
        place = None if folder is None else folder.out / request_name(index, "prompt")
        print_generation_report(console, report, f"answer {index + 1} of {len(reports)}", place)

    hand_over(console, folder, reports, "prompt", show)
