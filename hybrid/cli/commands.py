"""What each command does, once its arguments are parsed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console

from hybrid import api
from hybrid.calibration.calibrate import calibrate as measure_machine
from hybrid.cli.progress import ProgressDisplay, make_console
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
from hybrid.reports.generation_text import write_generation_markdown
from hybrid.reports.range_report import is_wrong
from hybrid.reports.run_report import write_json, write_markdown
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
    writable(out)
    with displayed(console, session, len(batches(texts, config.run.model.batch))):
        reports = measured_reports(session, ids)
    for index, (report, title) in enumerate(zip(reports, _titles(config, texts), strict=True)):
        folder = _request_folder(out, index)
        write(report, folder)
        print_report(console, report, title, folder)
    cosines = ", ".join(f"{r['accuracy']['cosine']:.6f}" for r in reports)
    console.print(f"cosine to the plain float32 model: {cosines}")
    if wrong := sum(is_wrong(r["ranges"]) for r in reports):
        said = f"RANGES EXCEEDED in {wrong} of {len(reports)} requests: results may be wrong"
        console.print(said, style="bold red", highlight=False)
    lies = f"report: {out / 'report.md'} and {out / 'report.json'}"
    console.print(lies, highlight=False, markup=False)


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
        console.print(sentence, highlight=False, markup=False)
    reports = f"report: {options.out / 'report.html'}, report.md and report.json"
    console.print(reports, highlight=False, markup=False)
    return not failures(made)


def measured_comparison(paths: Sequence[Path], options: Options, console: Console) -> Json:
    """Run configs one by one with progress on the console; report.json's content."""
    writable(options.out)

    def prepare(config: Config) -> LocalSession:
        calibrated(config, console)
        return LocalSession(config)

    hooks = Hooks(
        prepare,
        lambda session, requests: displayed(console, session, requests),
        lambda text: console.print(text, highlight=False, markup=False),
    )
    return run_comparison(paths, options, hooks)


def serve(config: Config, endpoint: str, out: Path | None, keep: bool) -> None:
    """`hybrid serve`."""
    console = make_console()
    if out:
        writable(out)
    calibrated(config, console)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    def write_all(reports: list[Json]) -> None:
        kind = "text" if config.run.generation is None else "prompt"
        for index, report in enumerate(reports if out else ()):
            assert out is not None
            write(report, _request_folder(out, index, kind))

    api.serve(config, endpoint, keep=keep, say=say, on_session=write_all)


def query(
    config: Config, endpoint: str, texts: list[str], out: Path | None, truncate: bool
) -> None:
    """`hybrid query`."""
    console = make_console()
    texts = texts or read_texts(config)
    session = RemoteSession(config, endpoint)
    ids = [session.encode(text, truncate=truncate) for text in texts]
    if out:
        writable(out)
    with session:
        session.ask(ids)
    assert session.plan is not None
    assert session.record is not None
    reports = party_reports(config, session.plan, session.record, session.prompt)
    for index, (report, title) in enumerate(zip(reports, _titles(config, texts), strict=True)):
        folder = None if out is None else _request_folder(out, index)
        if folder:
            write(report, folder)
        print_report(console, report, title, folder)
        for output in outputs_of(report):
            values = " ".join(f"{value:+.4f}" for value in output[:8])
            what = "logits" if "labels" in report else f"embedding of {len(output)} values"
            more = " ..." if len(output) > 8 else ""
            console.print(f"{what}: {values}{more}", highlight=False)


def _titles(config: Config, texts: list[str]) -> list[str]:
    """Of every request's report."""
    titles, start = [], 1
    for group in batches(texts, config.run.model.batch):
        end = start + len(group) - 1
        which = f"text {start}" if start == end else f"texts {start} to {end}"
        titles.append(f"{which} of {len(texts)}: {' | '.join(group)}")
        start = end + 1
    return titles


def _request_folder(out: Path, index: int, kind: str = "text") -> Path:
    """The first request's report lies in the folder itself, the others below it."""
    return out if index == 0 else out / f"{kind}{index + 1}"


def plan(config: Config, save: Path | None, as_json: bool) -> None:
    """`hybrid plan`."""
    console = Console(stderr=True) if as_json else make_console()
    calibrated(config, console)
    made = api.plan(config)
    if save is not None:
        made.save(save)
    if as_json:
        try:
            sys.stdout.write(json.dumps(made.to_dict(), indent=1) + "\n")
            sys.stdout.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise ConfigError(f"--json: cannot be written ({error.strerror})") from None
        return
    made.print_to(console)
    if save is not None:
        said = f"schedule written to {save}; a config runs it with schedule: {save}"
        console.print(said, highlight=False, markup=False)


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
        console.print(line, highlight=False, markup=False)
    console.print(f"kept in {cache_file()}", highlight=False, markup=False)


def keygen(directory: Path) -> None:
    """`hybrid keygen`."""
    generate_keys(directory)
    make_console().print(
        f"keys written to {directory}; set runtime.curve_keys to it. Give the server "
        "server.key and client.pub, the client client.key and server.pub",
        markup=False,
    )


def write(report: Json, folder: Path) -> None:
    """report.json and report.md."""
    writable(folder)
    write_json(report, folder / "report.json")
    markdown = write_generation_markdown if "generation" in report else write_markdown
    markdown(report, folder / "report.md")


def writable(folder: Path) -> None:
    """Make the folder; `ConfigError` when that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".write-test"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ConfigError(
            f"--out {folder}: cannot be written ({error.strerror}); name another folder"
        ) from None
