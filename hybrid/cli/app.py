"""The command line: run, serve, query, plan, compare, calibrate, doctor, keygen."""

from __future__ import annotations

# Before numpy is imported anywhere: one thread a party unless the user chose otherwise.
from hybrid.machine.environment import keep_memory, limit_threads

limit_threads()
keep_memory()

import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated  # noqa: E402

import typer  # noqa: E402

from hybrid.cli import commands  # noqa: E402
from hybrid.reports.comparison.configs import Options  # noqa: E402
from transport.errors import HybridError  # noqa: E402

app = typer.Typer(
    name="hybrid",
    help="Two-party private inference of transformers, measured.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ConfigPath = Annotated[Path, typer.Argument(help="YAML file that describes the run.")]
Texts = Annotated[list[str] | None, typer.Option("--text", help="Text to embed; repeatable.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for report.json and report.md.")]
Truncate = Annotated[bool, typer.Option("--truncate", help="Shorten texts that are too long.")]


@app.command()
def run(
    config: ConfigPath, text: Texts = None, out: Out = None, truncate: Truncate = False
) -> None:
    """Both parties as processes of this machine; prints tables, accuracy, where the report lies."""
    commands.run(config, text or [], out, truncate)


@app.command()
def serve(
    config: ConfigPath,
    listen: Annotated[str, typer.Option(help="tcp://HOST:PORT to listen on.")],
    out: Out = None,
    keep: Annotated[bool, typer.Option("--keep", help="Serve sessions until interrupted.")] = False,
) -> None:
    """The server: owns the weights, never sees a text. Serves one session, or many with --keep."""
    commands.serve(config, listen, out, keep)


@app.command()
def query(
    config: ConfigPath,
    connect: Annotated[str, typer.Option(help="tcp://HOST:PORT of the server.")],
    text: Texts = None,
    out: Out = None,
    truncate: Truncate = False,
) -> None:
    """The client: owns the text, never opens the weights."""
    commands.query(config, connect, text or [], out, truncate)


@app.command()
def plan(
    config: ConfigPath,
    link: Annotated[
        str | None, typer.Option("--link", help="Over this link instead of the config's.")
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(min=1, max=512, help="Instead of model.tokens.")
    ] = None,
) -> None:
    """Print every step with engine, protocol, shapes, bounds and traffic; runs nothing."""
    commands.plan(config, link, tokens)


@app.command()
def compare(
    configs: Annotated[list[Path], typer.Argument(help="YAML files; the first is the reference.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html, .md and .json.")],
    link: Annotated[
        list[str] | None,
        typer.Option("--link", help="Run over this link instead of the config's; repeatable."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, max=512, help="Instead of model.tokens; configs' texts are cut."),
    ] = None,
    repetitions: Annotated[
        int, typer.Option(min=1, max=1000, help="Measured requests of each session.")
    ] = 3,
    warm_up: Annotated[
        bool, typer.Option("--warm-up/--no-warm-up", help="Whether one more request goes first.")
    ] = True,
    text: Annotated[
        str | None, typer.Option("--text", help="Instead of the first line of the config's texts.")
    ] = None,
    truncate: Truncate = False,
) -> None:
    """Run configs one by one and write one report with figures; exit code 1 if a run fails."""
    options = Options(out, tokens, tuple(link or ()), repetitions, warm_up, text, truncate)
    if not commands.compare(configs, options):
        raise typer.Exit(1)


@app.command()
def doctor() -> None:
    """Versions, CPU features, threads, interchange with SEAL and a short self test."""
    commands.doctor()


@app.command()
def calibrate() -> None:
    """Measure this machine, under a minute; predicted seconds and schedules use its prices."""
    commands.calibrate()


@app.command()
def keygen(directory: Annotated[Path, typer.Argument(help="New folder for the keys.")]) -> None:
    """Make CurveZMQ keys for a server and a client on different machines."""
    commands.keygen(directory)


def main() -> None:
    """Entry point: user mistakes end as one line on standard error and exit code 2."""
    try:
        app()
    except HybridError as error:
        print(f"hybrid: {error}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


if __name__ == "__main__":
    main()
