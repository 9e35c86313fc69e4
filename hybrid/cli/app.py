"""The command line.

Commands: init, fetch, run, generate, serve, query, plan, compare, check, calibrate, doctor, keygen.
"""

from __future__ import annotations

# Before numpy is imported anywhere: one thread a party unless the user chose otherwise.
from hybrid.machine.environment import keep_memory, limit_threads

limit_threads()
keep_memory()

import sys  # noqa: E402
import warnings  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Annotated, Any  # noqa: E402

import typer  # noqa: E402

from hybrid.cli import chat as chatting  # noqa: E402
from hybrid.cli import check as check_  # noqa: E402
from hybrid.cli import commands  # noqa: E402
from hybrid.cli import doctor as doctor_  # noqa: E402
from hybrid.cli import generate as generating  # noqa: E402
from hybrid.cli.doctor_model import report_model  # noqa: E402
from hybrid.cli.fetch import fetch  # noqa: E402
from hybrid.cli.init import init  # noqa: E402
from hybrid.cli.progress import make_console, speakable  # noqa: E402
from hybrid.reports.comparison.configs import Options  # noqa: E402
from hybrid.runtime.text_checks import TextWarning  # noqa: E402
from transport.errors import ConfigError, HybridError  # noqa: E402
from transport.foreign import cut  # noqa: E402

_MESSAGE = 4000
"""Characters of a message; what it quotes is cut where it is quoted."""

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


Prompts = Annotated[
    list[str] | None, typer.Option("--prompt", help="Prompt to answer; repeatable.")
]
NewTokens = Annotated[
    int | None,
    typer.Option("--max-new-tokens", help="At most the config's generation.max_new_tokens."),
]
Talk = Annotated[
    bool, typer.Option("--conversation", help="Each prompt goes on with the one before.")
]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Instead of the config's; repeatable."),
]
Tokens = Annotated[int | None, typer.Option("--tokens", help="Instead of model.tokens.")]
Link = Annotated[str | None, typer.Option("--link", help="Over this link instead of the config's.")]


@app.command()
def run(
    config: ConfigPath,
    text: Texts = None,
    out: Out = None,
    truncate: Truncate = False,
    tokens: Tokens = None,
    link: Link = None,
    set_: Sets = None,
) -> None:
    """Both parties as processes of this machine; prints tables, accuracy, where the report lies."""
    loaded = commands.configured(config, set_ or (), tokens, link)
    commands.run(loaded, text or [], out, truncate)


@app.command()
def generate(  # noqa: PLR0913
    config: ConfigPath,
    prompt: Prompts = None,
    max_new_tokens: NewTokens = None,
    conversation: Talk = False,
    out: Out = None,
    link: Link = None,
    set_: Sets = None,
) -> None:
    """A decoder answers prompts, token by token; both parties as processes of this machine."""
    loaded = commands.configured(config, set_ or (), None, link)
    generating.generate(
        loaded,
        prompt or [],
        max_new_tokens,
        out,
        is_conversation=conversation,
    )


@app.command()
def chat(
    config: ConfigPath,
    connect: Annotated[
        str | None, typer.Option(help="tcp://HOST:PORT of the server; none: on this machine.")
    ] = None,
    max_new_tokens: NewTokens = None,
    set_: Sets = None,
) -> None:
    """A conversation from the console; while one types, the next answer is prepared."""
    chatting.chat(commands.configured(config, set_ or ()), connect, max_new_tokens)


@app.command()
def serve(
    config: ConfigPath,
    listen: Annotated[str, typer.Option(help="tcp://HOST:PORT to listen on.")],
    out: Out = None,
    keep: Annotated[bool, typer.Option("--keep", help="Serve sessions until interrupted.")] = False,
    set_: Sets = None,
) -> None:
    """The server: owns the weights, never sees a text. Serves one session, or many with --keep."""
    commands.serve(commands.configured(config, set_ or ()), listen, out, keep)


@app.command()
def query(  # noqa: PLR0913
    config: ConfigPath,
    connect: Annotated[str, typer.Option(help="tcp://HOST:PORT of the server.")],
    text: Texts = None,
    prompt: Prompts = None,
    max_new_tokens: NewTokens = None,
    conversation: Talk = False,
    out: Out = None,
    truncate: Truncate = False,
    set_: Sets = None,
) -> None:
    """The client: owns the text or prompt, never opens the weights."""
    loaded = commands.configured(config, set_ or ())
    answers = loaded.run.generation is not None
    wrong = {
        "--text": answers and text,
        "--truncate": answers and truncate,
        "--prompt": not answers and prompt,
        "--max-new-tokens": not answers and max_new_tokens is not None,
        "--conversation": not answers and conversation,
    }
    for option, is_wrong in wrong.items():
        if is_wrong:
            kind = "decoder, which takes --prompt" if answers else "encoder, which takes --text"
            raise ConfigError(f"{option} would be ignored: {config} is of a {kind}")
    if not answers:
        commands.query(loaded, connect, text or [], out, truncate)
        return
    generating.ask(
        loaded,
        connect,
        prompt or [],
        max_new_tokens,
        out,
        is_conversation=conversation,
    )


@app.command()
def plan(
    config: ConfigPath,
    link: Link = None,
    tokens: Tokens = None,
    set_: Sets = None,
    save: Annotated[
        Path | None, typer.Option("--save", help="Write the schedule, for `schedule:` of a config.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="The whole plan as JSON.")] = False,
) -> None:
    """Print every step with engine, protocol, shapes, bounds and traffic; runs nothing."""
    commands.plan(commands.configured(config, set_ or (), tokens, link), save, json)


@app.command()
def compare(  # noqa: PLR0913
    configs: Annotated[list[Path], typer.Argument(help="YAML files; the first is the reference.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for report.html, .md and .json.")],
    link: Annotated[
        list[str] | None,
        typer.Option("--link", help="Run over this link instead of the config's; repeatable."),
    ] = None,
    tokens: Annotated[
        int | None, typer.Option(help="Instead of model.tokens; configs' texts are cut.")
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
    set_: Sets = None,
) -> None:
    """Run configs one by one and write one report with figures; exit code 1 if a run fails."""
    options = Options(
        out, tokens, tuple(link or ()), repetitions, warm_up, text, truncate, tuple(set_ or ())
    )
    if not commands.compare(configs, options):
        raise typer.Exit(1)


@app.command()
def check(
    module: Annotated[str, typer.Argument(help="A plugin, importable from here too.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="A run whose model says bounds and shapes.")
    ] = None,
) -> None:
    """Hold what a plugin registers to its contracts; exit code 1 if one is broken."""
    if not check_.check(module, config):
        raise typer.Exit(1)


@app.command()
def doctor(
    model: Annotated[
        Path | None,
        typer.Option("--model", help="A model's folder or GGUF file, instead of this machine."),
    ] = None,
) -> None:
    """Versions, CPU features, self tests; with --model, what of a model is used and what not."""
    if model is not None:
        if not report_model(make_console(), model):
            raise typer.Exit(2)
        return
    doctor_.report(make_console())


@app.command()
def calibrate() -> None:
    """Measure this machine, a minute or two; predicted seconds and schedules use its prices."""
    commands.calibrate()


@app.command()
def keygen(directory: Annotated[Path, typer.Argument(help="New folder for the keys.")]) -> None:
    """Make CurveZMQ keys for a server and a client on different machines."""
    commands.keygen(directory)


app.command()(init)
app.command()(fetch)


def main() -> None:
    """Entry point: user mistakes end as one line on standard error and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        speakable(stream)
    warnings.showwarning = _show_warning
    try:
        app()
    except HybridError as error:
        print(f"hybrid: {_one_line(str(error))}", file=sys.stderr)  # noqa: T201
        sys.exit(2)


def _one_line(text: str) -> str:
    """Words from files and peers, without what could steer a terminal."""
    return cut(" ".join(text.split()), _MESSAGE)


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """One line, for what a user can change."""
    if issubclass(category, FutureWarning | TextWarning):
        print(f"hybrid: {_one_line(str(message))}", file=sys.stderr)  # noqa: T201


if __name__ == "__main__":
    main()
