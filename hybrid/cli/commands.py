"""What each command does, once its arguments are parsed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from hybrid.calibration.calibrate import calibrate as measure_machine
from hybrid.cli.progress import ProgressDisplay, make_console
from hybrid.config.loading import Config, load_config
from hybrid.config.overrides import overrides_of
from hybrid.config.texts import read_texts
from hybrid.machine.predict import predicted_seconds
from hybrid.machine.prices import (
    MachinePrices,
    cache_file,
    needs_prices,
    prices_for_reports,
    schedule_prices,
)
from hybrid.models.loading import load_model
from hybrid.planning.plan import Plan
from hybrid.planning.planner import make_plan
from hybrid.reports.comparison.configs import Options
from hybrid.reports.comparison.run import Console as ComparisonConsole
from hybrid.reports.comparison.run import run_comparison
from hybrid.reports.comparison.summary import failures
from hybrid.reports.comparison.words import summary_sentences
from hybrid.reports.run_report import write_json, write_markdown
from hybrid.reports.session_report import measured_reports, outputs_of, party_reports
from hybrid.reports.terminal import print_plan, print_report
from hybrid.runtime.local import LocalSession
from hybrid.runtime.parties import no_dealer
from hybrid.runtime.serving import Client, Server, batches, open_client, open_server
from transport.curve import generate_keys
from transport.errors import ConfigError, HybridError

Json = dict[str, Any]


def run(config: Config, texts: list[str], out: Path | None, truncate: bool) -> None:
    """`hybrid run`."""
    console = make_console()
    texts = texts or read_texts(config)
    calibrated(config, console)
    session = LocalSession(config)
    ids = [session.encode(text, truncate=truncate) for text in texts]
    out = out or Path("runs") / config.run.name
    writable(out)
    with displayed(console, session, len(batches(texts, config.run.model.batch))):
        reports = measured_reports(session, ids)
    for index, (report, title) in enumerate(zip(reports, _titles(config, texts), strict=True)):
        folder = _request_folder(out, index)
        write(report, folder)
        print_report(console, report, title, folder)
    cosines = ", ".join(f"{r['accuracy']['cosine']:.6f}" for r in reports)
    console.print(f"cosine to the plain float32 model: {cosines}")
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

    whole = ComparisonConsole(
        prepare,
        lambda session, requests: displayed(console, session, requests),
        lambda text: console.print(text, highlight=False, markup=False),
    )
    return run_comparison(paths, options, whole)


def serve(config: Config, endpoint: str, out: Path | None, keep: bool) -> None:
    """`hybrid serve`."""
    console = make_console()
    if out:
        writable(out)
    calibrated(config, console)
    server = Server(config)
    if server.plan.needs_dealer:
        raise ConfigError(no_dealer(config))
    while True:
        channel = open_server(config, endpoint)
        console.print(f"listening on {channel.endpoint}", markup=False)
        try:
            record = server.serve_session(channel)
        except HybridError as error:
            if not keep:
                raise
            console.print(f"session ended: {error}", markup=False)
            continue
        except Exception as error:  # One client must not end the service of the next.
            if not keep:
                raise
            console.print(f"session ended: internal error: {type(error).__name__}", markup=False)
            continue
        finally:
            channel.close()
        console.print(f"served {len(record.requests)} requests")
        for index, report in enumerate(party_reports(config, server.plan, record) if out else ()):
            assert out is not None
            write(report, _request_folder(out, index))
        if not keep:
            return


def query(
    config: Config, endpoint: str, texts: list[str], out: Path | None, truncate: bool
) -> None:
    """`hybrid query`."""
    console = make_console()
    texts = texts or read_texts(config)
    client = Client(config)
    ids = [client.encode(text, truncate=truncate) for text in texts]
    if out:
        writable(out)
    channel = open_client(config, endpoint)
    try:
        plan = client.open(channel)
        client.ask(ids)
        record = client.close()
    finally:
        channel.close()
    reports = party_reports(config, plan, record)
    for index, (report, title) in enumerate(zip(reports, _titles(config, texts), strict=True)):
        folder = None if out is None else _request_folder(out, index)
        if folder:
            write(report, folder)
        print_report(console, report, title, folder)
        for output in outputs_of(report):
            values = " ".join(f"{value:+.4f}" for value in output[:8])
            console.print(f"embedding of {len(output)} values: {values} ...")


def _titles(config: Config, texts: list[str]) -> list[str]:
    """Of every request's report."""
    titles, start = [], 1
    for group in batches(texts, config.run.model.batch):
        end = start + len(group) - 1
        which = f"text {start}" if start == end else f"texts {start} to {end}"
        titles.append(f"{which} of {len(texts)}: {' | '.join(group)}")
        start = end + 1
    return titles


def _request_folder(out: Path, index: int) -> Path:
    """The first request's report lies in the folder itself, the others below it."""
    return out if index == 0 else out / f"text{index + 1}"


def plan(config: Config, save: Path | None, as_json: bool) -> None:
    """`hybrid plan`."""
    console = Console(stderr=True) if as_json else make_console()
    calibrated(config, console)
    made = make_plan(config, load_model(config).public, schedule_prices(config.run))
    seconds = predicted_seconds(made.works(), prices_for_reports(), config.run.scheduled_link())
    if save is not None:
        _save_schedule(made, config, save)
    if as_json:
        data = made.to_dict() | {"predicted_seconds": seconds}
        sys.stdout.write(json.dumps(data, indent=1) + "\n")
        return
    print_plan(console, made, config.run.weights_memory_gb(), seconds)
    if save is not None:
        said = f"schedule written to {save}; a config runs it with schedule: {save}"
        console.print(said, highlight=False, markup=False)


def _save_schedule(made: Plan, config: Config, path: Path) -> None:
    head = (
        f"# Schedule of {config.run.name}, as `hybrid plan --save` wrote it; edit names freely.\n"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        content = yaml.safe_dump(made.schedule.to_file(), sort_keys=False)
        path.write_text(head + content, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--save {path}: cannot be written ({error.strerror}); name another file"
        ) from None


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
        console.print(line, highlight=False)
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
    write_markdown(report, folder / "report.md")


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
