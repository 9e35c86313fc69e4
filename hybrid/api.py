"""What `import hybrid` offers: a config, its plan, sessions on one machine or between two.

Importing this asks for one thread of BLAS and numba a process, as measurements assume, unless the
environment says otherwise.
"""

from __future__ import annotations

# Before numpy is imported anywhere.
from hybrid.machine.environment import limit_threads

limit_threads()

import io  # noqa: E402
from abc import ABC, abstractmethod  # noqa: E402
from collections.abc import Callable, Iterator, Mapping, Sequence  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any, Generic, Self, TypeVar  # noqa: E402

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from rich.console import Console  # noqa: E402

from hybrid.config.loading import Config, checked, load_config, parse_yaml  # noqa: E402
from hybrid.config.overrides import overrides_of  # noqa: E402
from hybrid.config.yaml_text import dumped  # noqa: E402
from hybrid.machine.predict import predictor  # noqa: E402
from hybrid.machine.prices import schedule_prices  # noqa: E402
from hybrid.models.generator_loading import load_generator  # noqa: E402
from hybrid.models.loading import load_model  # noqa: E402
from hybrid.planning import plan as planning  # noqa: E402
from hybrid.planning.generation import GenerationPlan, plan_generation  # noqa: E402
from hybrid.planning.planner import make_plan  # noqa: E402
from hybrid.reports.files import handed_over, strict  # noqa: E402
from hybrid.reports.generation_plan import (  # noqa: E402
    generation_plan_to_dict,
    print_generation_plan,
)
from hybrid.reports.generation_report import (  # noqa: E402
    client_generation_reports,
    generation_reports,
    server_generation_reports,
)
from hybrid.reports.session_report import joined_reports, party_reports  # noqa: E402
from hybrid.reports.terminal import print_plan  # noqa: E402
from hybrid.runtime import local as runtime_local  # noqa: E402
from hybrid.runtime import remote as runtime_remote  # noqa: E402
from hybrid.runtime.answers import Answers, Token  # noqa: E402
from hybrid.runtime.generation_local import LocalGeneration  # noqa: E402
from hybrid.runtime.generation_remote import RemoteGeneration, serve_answers  # noqa: E402
from transport.errors import (  # noqa: E402
    ConfigError,
    FrameError,
    HandshakeError,
    HybridError,
    ParameterError,
    PeerLostError,
    ReceiveTimeoutError,
    TransportError,
    UsageError,
)
from transport.foreign import printable, shown  # noqa: E402

__all__ = [
    "Config",
    "ConfigError",
    "FrameError",
    "HandshakeError",
    "HybridError",
    "LocalSession",
    "ParameterError",
    "PeerLostError",
    "Plan",
    "ReceiveTimeoutError",
    "RemoteSession",
    "TransportError",
    "UsageError",
    "connect",
    "load",
    "local",
    "plan",
    "serve",
]

Json = dict[str, Any]
Source = str | Path | Mapping[str, Any]
"""A YAML file, YAML text, or what such a file holds."""
_TABLE_WIDTH = 170
_NO_REPORT = "reports: none; they come once the with statement has ended without an error"


def load(
    source: Source,
    *,
    set: Sequence[str] = (),  # noqa: A002
    tokens: int | None = None,
    link: str | None = None,
) -> Config:
    """Read and check a config; `ConfigError` says in one sentence what is wrong with it.

    source: path of a YAML file; YAML text, which has a newline; or a dict. Relative paths in a file
    start at its folder, in text and dict at the current folder. set: changes as `--set` takes them,
    `["model.tokens=16"]`; tokens and link: shorter words for two of them.
    """
    overrides = overrides_of(set, tokens, link)
    if isinstance(source, Mapping):
        where = Path("<dict>")
        wrong = next((key for key in source if not isinstance(key, str)), None)
        if wrong is not None:
            raise ConfigError(f"{where}: key {shown(wrong)} is not a string; give names of keys")
        return checked(source, where, overrides)
    if isinstance(source, str) and "\n" in source:
        where = Path("<text>")
        return checked(parse_yaml(source, where), where, overrides)
    if isinstance(source, str | Path):
        return load_config(Path(source), overrides)
    raise UsageError(f"load: {type(source).__name__}; give a path, YAML text or a dict")


def _config(source: Config | Source) -> Config:
    return source if isinstance(source, Config) else load(source)


class Plan:
    """What both parties will do in one request, step by step, before anything runs."""

    def __init__(
        self,
        config: Config,
        planned: planning.Plan | GenerationPlan,
        outliers: Sequence[str] = (),
        notes: Sequence[str] = (),
        caution: str = "",
    ) -> None:
        """Made by `hybrid.plan`; planned: the same as both parties derive it.

        outliers, notes, caution: as the model has them, for a reader.
        """
        self._outliers, self._notes, self._caution = outliers, notes, caution
        self._config = config
        self._planned = planned
        self._predict = predictor(config.run.scheduled_link())

    @property
    def needs_dealer(self) -> bool:
        """Whether it relies on a trusted third process, which only `hybrid.local` starts."""
        return self._planned.needs_dealer

    @property
    def seconds(self) -> dict[str, float] | None:
        """Predicted seconds of every step; None where this machine is not calibrated.

        Of a decoder: of a token in the middle of its cache, what passes share apart.
        """
        planned = self._planned
        one = planned.middle if isinstance(planned, GenerationPlan) else planned
        return self._predict(one.works())

    def to_dict(self) -> Json:
        """The whole plan as plain data, as `hybrid plan --json` prints it."""
        if isinstance(self._planned, GenerationPlan):
            found = generation_plan_to_dict(self._planned, predict=self._predict)
        else:
            found = self._planned.to_dict() | {"predicted_seconds": self.seconds}
        return found | {"caution": self._caution}

    def table(self) -> str:
        """Every step with engine, protocol, shapes, bounds and traffic, as `hybrid plan` prints."""
        text = io.StringIO()
        self.print_to(Console(file=text, width=_TABLE_WIDTH, color_system=None))
        return text.getvalue()

    def print_to(self, console: Console) -> None:
        """The table on a console of `rich`."""
        if isinstance(self._planned, GenerationPlan):
            print_generation_plan(console, self._planned, self._outliers, self._predict)
        else:
            memory_gb = self._config.run.weights_memory_gb()
            print_plan(console, self._planned, memory_gb, self.seconds, self._notes)
        if self._caution:
            console.print(self._caution, style="bold red", highlight=False, markup=False)

    def save(self, path: str | Path) -> None:
        """Write the schedule, which the key `schedule` of a config runs."""
        where, name = Path(path), printable(self._config.run.name)
        head = f"# Schedule of {name}, as `hybrid plan --save` writes it; edit names freely.\n"
        content = dumped(self._planned.schedule.to_file())
        try:
            where.parent.mkdir(parents=True, exist_ok=True)
            where.write_text(head + content, encoding="utf-8")
        except OSError as error:
            raise ConfigError(
                f"--save {where}: cannot be written ({error.strerror}); name another file"
            ) from None

    def __repr__(self) -> str:
        return repr(self._planned)


def plan(config: Config | Source) -> Plan:
    """What a config becomes; runs nothing. It reads the weights, for the bounds of every step.

    The policy `fastest` needs prices of this machine, which `hybrid calibrate` measures once.
    """
    given = _config(config)
    if given.run.generation is not None:
        generator = load_generator(given)
        made = plan_generation(given, generator.public, prices=schedule_prices(given.run))
        return Plan(given, made, generator.outliers, caution=generator.caution)
    model = load_model(given)
    planned = make_plan(given, model.public, schedule_prices(given.run))
    return Plan(given, planned, notes=model.notes, caution=model.caution)


S = TypeVar(
    "S",
    bound=runtime_local.LocalSession
    | LocalGeneration
    | runtime_remote.RemoteSession
    | RemoteGeneration,
)


class _Session(ABC, Generic[S]):
    """What sessions on one machine and with another have in common."""

    def __init__(self, session: S) -> None:
        self._session: S = session

    @property
    def config(self) -> Config:
        """What it runs."""
        return self._session.config

    def embed(self, texts: Sequence[str], *, truncate: bool = False) -> NDArray[np.float64]:
        """Private answers to texts, one row a text; may be called again and again. Encoders.

        A text of more than `model.tokens` tokens is a `ConfigError` before anything is sent, unless
        truncate cuts it. After any error of the run itself only a new session helps.
        """
        if isinstance(self._session, Answers):
            raise UsageError("embed: this config's decoder answers prompts; use generate")
        return self._session.embed(texts, truncate=truncate)

    def generate(
        self, prompt: str, max_new_tokens: int | None = None, *, goes_on: bool = False
    ) -> Iterator[Token]:
        """Tokens of a private answer as they come; `str(token)` is what it adds. Decoders.

        max_new_tokens: at most the config's, which it is if not given. goes_on: the prompt is the
        next turn of the conversation, whose cache is kept; else a new conversation begins.
        """
        if not isinstance(self._session, Answers):
            raise UsageError("generate: this config's encoder has vectors for texts; use embed")
        return self._session.generate(prompt, max_new_tokens, goes_on=goes_on)

    def generate_batch(
        self, prompts: Sequence[str], max_new_tokens: int | None = None
    ) -> Iterator[list[Token | None]]:
        """Tokens of private answers to 1 to `model.batch` prompts, those of a pass at a time.

        Each begins a conversation; None stands for one whose answer has ended. Decoders.
        """
        if not isinstance(self._session, Answers):
            raise UsageError("generate_batch: this config's encoder has vectors for texts")
        return self._session.generate_batch(prompts, max_new_tokens)

    @abstractmethod
    def reports(self) -> list[Json]:
        """One report a request or prompt, once the with statement has ended."""

    def __enter__(self) -> Self:
        self._session.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._session.__exit__(kind, *error)

    def __repr__(self) -> str:
        return repr(self._session)


class LocalSession(_Session[runtime_local.LocalSession | LocalGeneration]):
    """Both parties as processes of this machine; a context manager made by `hybrid.local`."""

    @property
    def plan(self) -> Plan:
        """What it runs, step by step."""
        return Plan(self._session.config, self._session.plan, caution=self._session.model.caution)

    def reports(self) -> list[Json]:
        """What `hybrid run` and `hybrid generate` write as report.json, one a request or prompt.

        They are there once the with statement has ended. `ranges` says whether the bounds that
        the server found on its samples held for these very texts.
        """
        if self._session.result is None:
            raise UsageError(_NO_REPORT)
        if isinstance(self._session, LocalGeneration):
            return [strict(one) for one in generation_reports(self._session)]
        return [strict(one) for one in joined_reports(self._session)]


class RemoteSession(_Session[runtime_remote.RemoteSession | RemoteGeneration]):
    """The client of a server elsewhere; a context manager made by `hybrid.connect`."""

    @property
    def plan(self) -> Plan:
        """What both parties have agreed on, once the with statement has begun."""
        if self._session.plan is None:
            raise UsageError("session: the plan comes from the server; open the session first")
        return Plan(self._session.config, self._session.plan)

    def prepare(self) -> None:
        """Decoders: make what later prompts need, before there is one, until all of it is there.

        Piece by piece that happens by itself while nobody asks.
        """
        if not isinstance(self._session, RemoteGeneration):
            raise UsageError("prepare: this config's encoder prepares with each request")
        while self._session.ahead():
            pass

    def reports(self) -> list[Json]:
        """What the client alone knows of every request; neither accuracy nor `ranges` is in it.

        A client refuses a text whose embedding the server's ranges do not hold, before anything is
        sent; it cannot see the edges inside the model, on which other words may exceed them.
        They are there once the with statement has ended.
        """
        session = self._session
        if session.plan is None or session.record is None:
            raise UsageError(_NO_REPORT)
        if isinstance(session, RemoteGeneration):
            decode = session.prompts.tokenizer.decode
            reports = client_generation_reports(
                session.config, session.plan, session.record, session.answers, decode
            )
        else:
            reports = party_reports(session.config, session.plan, session.record, session.prompt)
        return [strict(report) for report in reports]


def local(config: Config | Source) -> LocalSession:
    """Both parties, and a dealer where the plan needs one, as processes of this machine.

        with hybrid.local("minilm.yaml") as session:
            vectors = session.embed(["A text."])

        with hybrid.local("smollm2.yaml") as session:
            for token in session.generate("What is the capital of France?"):
                print(token, end="", flush=True)

    It works in a script without a `__main__` guard, in a notebook and with `python -c`.
    """
    given = _config(config)
    if given.run.generation is not None:
        return LocalSession(LocalGeneration(given))
    return LocalSession(runtime_local.LocalSession(given))


def serve(
    config: Config | Source,
    endpoint: str,
    *,
    keep: bool = False,
    say: Callable[[str], None] = lambda _line: None,
    on_session: Callable[[list[Json]], None] = lambda _reports: None,
) -> list[Json]:
    """Be the server at `tcp://HOST:PORT` until a client's session ends; the reports of it.

    keep: serve one session after the other, until interrupted. say: is told when it listens and how
    sessions end. on_session: is given the reports of every session.
    """
    given, reports = _config(config), list[Json]()
    if given.run.generation is not None:
        for plan, answered in serve_answers(given, endpoint, keep=keep, say=say):
            reports = server_generation_reports(given, plan, answered)
            handed_over(reports, on_session, keep=keep, say=say)
        return reports
    for planned, record in runtime_remote.serve_sessions(given, endpoint, keep=keep, say=say):
        reports = party_reports(given, planned, record)
        handed_over(reports, on_session, keep=keep, say=say)
    return reports


def connect(config: Config | Source, endpoint: str) -> RemoteSession:
    """Be the client of the server at `tcp://HOST:PORT`, which runs the same config.

    with hybrid.connect("minilm.yaml", "tcp://host:5555") as session:
        vectors = session.embed(["A text."])
    """
    given = _config(config)
    if given.run.generation is not None:
        return RemoteSession(RemoteGeneration(given, endpoint))
    return RemoteSession(runtime_remote.RemoteSession(given, endpoint))
