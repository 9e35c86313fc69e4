"""What each command does, once its arguments are parsed."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from hybrid.calibration.calibrate import calibrate as measure_machine
from hybrid.calibration.calibrate import needs_prices
from hybrid.cli import doctor as doctor_
from hybrid.config.schema import LoadedConfig, load_config
from hybrid.config.texts import read_texts
from hybrid.machine.predict import predicted_seconds
from hybrid.machine.prices import MachinePrices, cache_file, prices_for_reports
from hybrid.models.loading import model_line, text_encoder
from hybrid.models.reference import PlainEncoder
from hybrid.reports.comparison.configs import Options, overridden
from hybrid.reports.comparison.run import run_comparison
from hybrid.reports.comparison.summary import failures
from hybrid.reports.comparison.words import summary_sentences
from hybrid.reports.run_report import compare as distance
from hybrid.reports.run_report import worst, write_json, write_markdown
from hybrid.reports.terminal import print_plan, print_report
from hybrid.runtime.launch import (
    Client,
    Server,
    batches,
    finish_embedding,
    load_server_model,
    make_plan,
    open_client,
    open_server,
    outputs_of,
)
from hybrid.runtime.processes import Launcher, RunResult
from mpc_nonlinear.correlations.dealer import TrustedDealer
from transport.curve import generate_keys
from transport.errors import ConfigError, HybridError

Json = dict[str, Any]


_FILE_WIDTH = 170
"""Columns of tables that go to a file or pipe."""


def make_console() -> Console:
    """The terminal, or a width that keeps tables readable where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def run(config_path: Path, texts: list[str], out: Path | None, truncate: bool) -> None:
    """`hybrid run`."""
    console = make_console()
    loaded = load_config(config_path)
    texts = texts or read_texts(loaded)
    calibrated(loaded, console)
    session = PreparedSession(loaded, texts, truncate)
    out = out or Path("runs") / loaded.run.name
    writable(out)
    reports = session.run(console)
    for index, (report, title) in enumerate(zip(reports, _titles(loaded, texts), strict=True)):
        folder = _request_folder(out, index)
        write(report, folder)
        print_report(console, report, title, folder)
    cosines = ", ".join(f"{r['accuracy']['cosine']:.6f}" for r in reports)
    console.print(f"cosine to the plain float32 model: {cosines}")
    console.print(f"report: {out / 'report.md'} and {out / 'report.json'}")


class PreparedSession:
    """A session of `hybrid run`, checked and planned before any process starts."""

    def __init__(self, loaded: LoadedConfig, texts: list[str], truncate: bool) -> None:
        self._loaded = loaded
        self._texts = texts
        self._truncate = truncate
        encoder = text_encoder(loaded)
        self._ids = [encoder.encode(text, truncate=truncate) for text in texts]
        self._plan = make_plan(loaded)

    def run(self, console: Console) -> list[Json]:
        """Both parties as processes; the report of each text."""
        runtime = self._loaded.run.runtime
        requests = len(batches(self._texts, self._loaded.run.model.batch))
        with ProgressDisplay(console, len(self._plan.steps) + 1, requests) as display:
            launcher = Launcher(
                self._loaded.path,
                pin_cores=runtime.pin_cores,
                on_progress=display.step,
                timeout_s=runtime.timeout_s,
            )
            needs_dealer = self._plan.source is TrustedDealer
            result = launcher.run(self._texts, truncate=self._truncate, needs_dealer=needs_dealer)
        return joined_reports(self._loaded, result, self._ids)


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

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False)

    def prepare(loaded: LoadedConfig, texts: list[str], title: str) -> Callable[[], list[Json]]:
        calibrated(loaded, console)
        session = PreparedSession(loaded, texts, options.shortens)

        def started() -> list[Json]:
            say(title)
            return session.run(console)

        return started

    return run_comparison(paths, options, prepare, say)


def joined_reports(
    loaded: LoadedConfig, result: RunResult, ids: list[np.ndarray[Any, np.dtype[np.int64]]]
) -> list[Json]:
    """The client's report of each request, with accuracy and both ends' counters."""
    model = load_server_model(loaded)
    plain = PlainEncoder(model.weights, model.architecture)
    reports = []
    requests = batches(ids, loaded.run.model.batch)
    pairs = zip(result.client["requests"], result.server["requests"], requests, strict=True)
    for client, server, texts in pairs:
        tokens = loaded.run.model.tokens
        expected = [finish_embedding(plain.embed(i, tokens), loaded) for i in texts]
        accuracy = worst(map(distance, map(np.array, outputs_of(client)), expected))
        environment = dict(client["environment"])
        environment["peak_memory_bytes_client"] = environment.pop("peak_memory_bytes")
        environment["peak_memory_bytes_server"] = server["environment"]["peak_memory_bytes"]
        reports.append(
            {
                **client,
                "environment": environment,
                "model": model_line(loaded, model.architecture),
                "accuracy": asdict(accuracy),
                "counted": {
                    "session_at_client": result.client["counted"],
                    "session_at_server": result.server["counted"],
                    "dealer_bytes": result.client["dealer_bytes"] + result.server["dealer_bytes"],
                    "loopback_device_bytes": result.loopback_sent_bytes,
                    "requests_in_session": len(requests),
                },
                "server_seconds": {s["name"]: s["measured"]["seconds"] for s in server["steps"]},
            }
        )
    return reports


def serve(config_path: Path, endpoint: str, out: Path | None, keep: bool) -> None:
    """`hybrid serve`."""
    console = make_console()
    loaded = load_config(config_path)
    _refuse_dealer(loaded)
    if out:
        writable(out)
    calibrated(loaded, console)
    server = Server(loaded)
    while True:
        channel = open_server(loaded, endpoint)
        console.print(f"listening on {channel.endpoint}")
        try:
            report = server.serve_session(channel)
        except HybridError as error:
            if not keep:
                raise
            console.print(f"session ended: {error}")
            continue
        except Exception as error:  # One client must not end the service of the next.
            if not keep:
                raise
            console.print(f"session ended: internal error: {type(error).__name__}")
            continue
        finally:
            channel.close()
        console.print(f"served {len(report['requests'])} requests")
        for index, request in enumerate(report["requests"] if out else ()):
            assert out is not None
            write(request, _request_folder(out, index))
        if not keep:
            return


def query(
    config_path: Path, endpoint: str, texts: list[str], out: Path | None, truncate: bool
) -> None:
    """`hybrid query`."""
    console = make_console()
    loaded = load_config(config_path)
    _refuse_dealer(loaded)
    texts = texts or read_texts(loaded)
    client = Client(loaded)
    ids = [client.encode(text, truncate=truncate) for text in texts]
    if out:
        writable(out)
    channel = open_client(loaded, endpoint)
    try:
        result = client.ask(channel, ids)
    finally:
        channel.close()
    titles = _titles(loaded, texts)
    for index, (report, title) in enumerate(zip(result["requests"], titles, strict=True)):
        folder = None if out is None else _request_folder(out, index)
        if folder:
            write(report, folder)
        print_report(console, report, title, folder)
        for output in outputs_of(report):
            values = " ".join(f"{value:+.4f}" for value in output[:8])
            console.print(f"embedding of {len(output)} values: {values} ...")


def _titles(loaded: LoadedConfig, texts: list[str]) -> list[str]:
    """Of every request's report."""
    titles, start = [], 1
    for group in batches(texts, loaded.run.model.batch):
        end = start + len(group) - 1
        which = f"text {start}" if start == end else f"texts {start} to {end}"
        titles.append(f"{which} of {len(texts)}: {' | '.join(group)}")
        start = end + 1
    return titles


def _request_folder(out: Path, index: int) -> Path:
    """The first request's report lies in the folder itself, the others below it."""
    return out if index == 0 else out / f"text{index + 1}"


def _refuse_dealer(loaded: LoadedConfig) -> None:
    if loaded.run.mpc.correlations == TrustedDealer.name:
        raise ConfigError(
            f"{loaded.path}: mpc.correlations: 'dealer' needs a third process and works with "
            "`hybrid run` only; choose another source for serve and query"
        )


def plan(config_path: Path, link: str | None, tokens: int | None) -> None:
    """`hybrid plan`."""
    console, loaded = make_console(), overridden(load_config(config_path), link, tokens)
    calibrated(loaded, console)
    made = make_plan(loaded)
    seconds = predicted_seconds(made, prices_for_reports(), loaded.run.scheduled_link())
    print_plan(console, made, loaded.run.weights_memory_gb(), seconds)


def calibrated(loaded: LoadedConfig, console: Console) -> None:
    """Measure this machine if a schedule needs its prices and there are none."""
    if not needs_prices(loaded.run):
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
    console.print(f"kept in {cache_file()}", highlight=False)


def doctor() -> None:
    """`hybrid doctor`."""
    doctor_.report(make_console())


def keygen(directory: Path) -> None:
    """`hybrid keygen`."""
    generate_keys(directory)
    make_console().print(
        f"keys written to {directory}; set runtime.curve_keys to it. Give the server "
        "server.key and client.pub, the client client.key and server.pub"
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


class ProgressDisplay:
    """One bar per request that names the step under way; plain lines where there is no terminal."""

    def __init__(self, console: Console, steps: int, requests: int) -> None:
        self._steps = steps
        self._requests = requests
        self._console = console
        self._bar = Progress(
            TextColumn("{task.description:<34}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        )
        self._done = 0
        self._layer: int | None = None
        self._start = time.monotonic()

    def __enter__(self) -> ProgressDisplay:
        self._task = self._bar.add_task("starting both parties", total=self._steps * self._requests)
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def step(self, name: str, layer: int) -> None:
        """A step begins."""
        is_setup = name in ("keys", "waiting for encoded weights")
        self._bar.update(self._task, description=name, completed=self._done)
        self._done += not is_setup
        if not self._console.is_terminal and (layer != self._layer or is_setup):
            elapsed = time.monotonic() - self._start
            label = f"layer {layer}" if layer >= 0 else name
            self._console.print(f"[{elapsed:6.1f} s] {label}", highlight=False, markup=False)
        self._layer = layer
