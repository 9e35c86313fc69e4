"""What each command does, once its arguments are parsed."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from hybrid import api
from hybrid.calibration.calibrate import calibrate as measure_machine
from hybrid.cli.progress import ProgressDisplay, make_console, say
from hybrid.cli.writing import checked_folder, hand_over, write_reports
from hybrid.config.loading import Config, load_config
from hybrid.config.overrides import overrides_of
from hybrid.config.texts import read_texts
from hybrid.machine.prices import (
    MachinePrices,
    cache_file,
    needs_prices,
)
from hybrid.reports.comparison.configs import Options, slug
from hybrid.reports.comparison.run import Hooks, run_comparison
from hybrid.reports.comparison.summary import failures
from hybrid.reports.comparison.words import summary_sentences
from hybrid.reports.files import ReportFolder, json_text, request_name
from hybrid.reports.range_report import is_wrong
from hybrid.reports.session_report import measured_reports, outputs_of, party_reports
from hybrid.reports.terminal import print_report
from hybrid.runtime.local import LocalSession
from hybrid.runtime.remote import RemoteSession
from hybrid.runtime.serving import batches
from transport.curve import generate_keys
from transport.errors import ConfigError

Json = dict[str, Any]


def run(config: Config, texts: list[str], out: Path | None, truncate: bool) -> None:
    """`hybrid run`."""
    if config.run.generation is not None:
        raise ConfigError(
            f"{config.path}: a decoder answers prompts; use hybrid generate {config.path}"
        )
    console = make_console()
    texts = texts or read_texts(config)
    calibrated(config, console)
    session = LocalSession(config)
    ids = [session.encode(text, truncate=truncate) for text in texts]
    out = out or Path("runs") / slug(config.run.name)
    folder = checked_folder(out, len(batches(texts, config.run.model.batch)), "text")
    with displayed(console, session, len(batches(texts, config.run.model.batch))):
        reports = measured_reports(session, ids)
    titles = _titles(config, texts)

    def show(index: int, report: Json) -> None:
        print_report(console, report, titles[index], out / request_name(index, "text"))

    hand_over(console, folder, reports, "text", show)
    cosines = ", ".join(f"{r['accuracy']['cosine']:.6f}" for r in reports)
    console.print(f"cosine to the plain float32 model: {cosines}")
    if wrong := sum(is_wrong(r["ranges"]) for r in reports):
        said = f"RANGES EXCEEDED in {wrong} of {len(reports)} requests: results may be wrong"
        console.print(said, style="bold red", highlight=False)
    lies = f"report: {out / 'report.md'} and {out / 'report.json'}"
    say(console, lies)


@contextmanager
def displayed(console: Console, session: LocalSession, requests: int) -> Iterator[None]:
    """Progress of a session on the console."""
    with ProgressDisplay(console, len(session.plan.steps) + 1, requests) as display:
        session.on_progress = display.step
        yield


def compare(paths: list[Path], options: Options) -> bool:
    """`hybrid compare`; whether every run succeeded."""
    console = make_console()
    made = measured_comparison(paths, options, console)
    for sentence in summary_sentences(made):
        say(console, sentence)
    reports = f"report: {options.out / 'report.html'}, report.md and report.json"
    say(console, reports)
    return not failures(made)


def measured_comparison(paths: Sequence[Path], options: Options, console: Console) -> Json:
    """Run configs one by one with progress on the console; report.json's content."""

    def prepare(config: Config) -> LocalSession:
        calibrated(config, console)
        return LocalSession(config)

    hooks = Hooks(
        prepare,
        lambda session, requests: displayed(console, session, requests),
        lambda text: say(console, text),
    )
    return run_comparison(paths, options, hooks)


def serve(config: Config, endpoint: str, out: Path | None, keep: bool) -> None:
    """`hybrid serve`."""
    console = make_console()
    kind = "text" if config.run.generation is None else "prompt"
    if out:
        checked_folder(out, 1, kind)
    calibrated(config, console)

    def write_all(reports: list[Json]) -> None:
        if out is not None:
            for line in write_reports(ReportFolder(out), reports, kind):
                say(console, line)

    def told(line: str) -> None:
        say(console, line)

    api.serve(config, endpoint, keep=keep, say=told, on_session=write_all)


def query(
    config: Config, endpoint: str, texts: list[str], out: Path | None, truncate: bool
) -> None:
    """`hybrid query`."""
    console = make_console()
    texts = texts or read_texts(config)
    session = RemoteSession(config, endpoint)
    ids = [session.encode(text, truncate=truncate) for text in texts]
    folder = None
    if out:
        folder = checked_folder(out, len(batches(texts, config.run.model.batch)), "text")
    with session:
        session.ask(ids)
    assert session.plan is not None
    assert session.record is not None
    reports = party_reports(config, session.plan, session.record, session.prompt)
    titles = _titles(config, texts)

    def show(index: int, report: Json) -> None:
        place = None if out is None else out / request_name(index, "text")
        print_report(console, report, titles[index], place)
        for output in outputs_of(report):
            values = " ".join(f"{value:+.4f}" for value in output[:8])
            what = "logits" if "labels" in report else f"embedding of {len(output)} values"
            more = " ..." if len(output) > 8 else ""
            console.print(f"{what}: {values}{more}", highlight=False)

    hand_over(console, folder, reports, "text", show)


def _titles(config: Config, texts: list[str]) -> list[str]:
    """Of every request's report."""
    titles, start = [], 1
    for group in batches(texts, config.run.model.batch):
        end = start + len(group) - 1
        which = f"text {start}" if start == end else f"texts {start} to {end}"
        titles.append(f"{which} of {len(texts)}: {' | '.join(group)}")
        start = end + 1
    return titles


def plan(config: Config, save: Path | None, as_json: bool) -> None:
    """`hybrid plan`."""
    console = Console(stderr=True) if as_json else make_console()
    calibrated(config, console)
    made = api.plan(config)
    if save is not None:
        made.save(save)
    if as_json:
        try:
            sys.stdout.write(json_text(made.to_dict()))
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ConfigError(f"--json: cannot be written ({error.strerror})") from None
        return
    made.print_to(console)
    if save is not None:
        said = f"schedule written to {save}; a config runs it with schedule: {save}"
        say(console, said)


def configured(
    path: Path, sets: Sequence[str], tokens: int | None = None, link: str | None = None
) -> Config:
    """A config file with what the command line says instead."""
    return load_config(path, overrides_of(sets, tokens, link))


def calibrated(config: Config, console: Console) -> None:
    """Measure this machine if a schedule needs its prices and there are none."""
    if not needs_prices(config.run):
        return
    console.print("no prices of this machine yet; measuring it once, about a minute")
    measure(console)


def measure(console: Console) -> MachinePrices:
    """Calibrate, showing what is under way."""
    with console.status("calibrating") as status:
        return measure_machine(lambda what: status.update(f"calibrating: {what}"))


def calibrate() -> None:
    """`hybrid calibrate`."""
    console = make_console()
    prices = measure(console)
    for line in prices.lines():
        say(console, line)
    say(console, f"kept in {cache_file()}")


def keygen(directory: Path) -> None:
    """`hybrid keygen`."""
    generate_keys(directory)
    say(
        make_console(),
        f"keys written to {directory}; set runtime.curve_keys to it. Give the server "
        "server.key and client.pub, the client client.key and server.pub",
    )
