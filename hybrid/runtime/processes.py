"""`hybrid run`: both parties (and the dealer, where the config names one) as OS processes."""

from __future__ import annotations

import multiprocessing as mp
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from hybrid.config.schema import load_config
from hybrid.machine.environment import party_cores, settle
from hybrid.runtime.launch import Client, Server, open_client, open_server
from mpc_nonlinear.correlations.dealer import run_dealer
from transport.channel import Channel
from transport.errors import HybridError, PeerLostError
from transport.traffic import Party
from transport.zmq_channel import connect, listen, loopback_bytes

LOOPBACK = "tcp://127.0.0.1:*"
Json = dict[str, Any]
_EXIT_GRACE_S = 5.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a child process is told."""

    config_path: Path
    core: int | None
    dealer_endpoint: str | None


class ChildError(HybridError):
    """A party of `hybrid run` failed; the message is the party's own."""


@contextmanager
def _reporting(pipe: Connection) -> Iterator[None]:
    """Send whatever ends this child to the launcher, as one line."""
    try:
        yield
    except HybridError as error:
        pipe.send(("error", (isinstance(error, PeerLostError), str(error))))
    except KeyboardInterrupt:
        pipe.send(("error", (True, "interrupted")))
    except Exception as error:
        pipe.send(("error", (False, f"internal error: {type(error).__name__}: {error}")))
        raise
    finally:
        pipe.close()


def _progress(pipe: Connection) -> Callable[[str, int], None]:
    return lambda step, layer: pipe.send(("progress", (step, layer)))


def server_process(task: Task, pipe: Connection) -> None:
    """Child: load, announce the endpoint, serve one session."""
    settle(task.core)
    with _reporting(pipe):
        loaded = load_config(task.config_path)
        server = Server(loaded)
        channel = open_server(loaded, LOOPBACK)
        pipe.send(("endpoint", channel.endpoint))
        with _dealer_channel(task, Party.SERVER) as dealer:
            pipe.send(("report", server.serve_session(channel, dealer)))
        channel.close()


def client_process(
    task: Task, endpoint: str, texts: list[str], truncate: bool, pipe: Connection
) -> None:
    """Child: tokenise, connect, ask."""
    settle(task.core)
    with _reporting(pipe):
        loaded = load_config(task.config_path)
        client = Client(loaded, _progress(pipe))
        ids = [client.encode(text, truncate=truncate) for text in texts]
        channel = open_client(loaded, endpoint)
        with _dealer_channel(task, Party.CLIENT) as dealer:
            pipe.send(("report", client.ask(channel, ids, dealer)))
        channel.close()


def dealer_process(pipe: Connection, timeout_s: float) -> None:
    """Child: the trusted dealer, with one channel to each party."""
    with _reporting(pipe):
        channels = []
        for party in (Party.CLIENT, Party.SERVER):
            channel = listen(LOOPBACK, party.peer, timeout_s=timeout_s)
            pipe.send(("endpoint", channel.endpoint))
            channels.append(channel)
        run_dealer(channels[0], channels[1])
        pipe.send(("report", {}))


@contextmanager
def _dealer_channel(task: Task, party: Party) -> Iterator[Channel | None]:
    if task.dealer_endpoint is None:
        yield None
        return
    channel = connect(task.dealer_endpoint, party, timeout_s=120.0, connect_timeout_s=30.0)
    try:
        yield channel
    finally:
        channel.close()


@dataclass(frozen=True, slots=True)
class RunResult:
    """What both parties reported."""

    client: Json
    server: Json
    loopback_sent_bytes: int | None
    """The loopback device's own count over the whole session; None where it has none."""


class Launcher:
    """Starts, watches and ends the processes of one run."""

    def __init__(
        self,
        config_path: Path,
        *,
        pin_cores: bool,
        on_progress: Callable[[str, int], None],
        timeout_s: float,
    ) -> None:
        self._config_path = config_path
        self._cores = party_cores() if pin_cores else [None, None]
        self._on_progress = on_progress
        self._timeout_s = timeout_s
        self._context = mp.get_context("spawn")
        self._children: dict[Connection, _Child] = {}

    def run(self, texts: list[str], *, truncate: bool, needs_dealer: bool) -> RunResult:
        """One session; `ChildError` with the message of the party that failed first."""
        before = loopback_bytes()
        try:
            dealers = self._start_dealer() if needs_dealer else (None, None)
            server = Task(self._config_path, self._cores[1], dealers[1])
            server_pipe = self._start("server", server_process, server)
            endpoint = self._await(server_pipe, "endpoint")
            client = Task(self._config_path, self._cores[0], dealers[0])
            client_pipe = self._start("client", client_process, client, endpoint, texts, truncate)
            client_report = self._await(client_pipe, "report")
            server_report = self._await(server_pipe, "report")
        finally:
            self._end()
        after = loopback_bytes()
        moved = None if before is None or after is None else after - before
        return RunResult(client_report, server_report, moved)

    def _start_dealer(self) -> tuple[str, str]:
        pipe = self._start("dealer", dealer_process, last=(self._timeout_s,))
        return self._await(pipe, "endpoint"), self._await(pipe, "endpoint")

    def _start(
        self, name: str, target: Callable[..., None], *arguments: Any, last: tuple[Any, ...] = ()
    ) -> Connection:
        ours, theirs = self._context.Pipe(duplex=False)
        process = self._context.Process(
            target=target, args=(*arguments, theirs, *last), name=name, daemon=True
        )
        process.start()
        theirs.close()
        self._children[ours] = _Child(name, process)
        return ours

    def _await(self, wanted: Connection, kind: str) -> Any:
        """The value of the next `kind` message from one child, while all are watched."""
        mailbox = self._children[wanted].mailbox
        while not any(got == kind for got, _ in mailbox):
            self._pump(None)
        index = next(i for i, (got, _) in enumerate(mailbox) if got == kind)
        self._children[wanted].reported |= kind == "report"
        return mailbox.pop(index)[1]

    def _pump(self, timeout_s: float | None) -> None:
        """Take every message that is waiting; raise the first failure."""
        for pipe in wait([p for p, c in self._children.items() if c.is_open], timeout_s):
            assert isinstance(pipe, Connection)
            child = self._children[pipe]
            try:
                kind, value = pipe.recv()
            except EOFError:
                child.is_open = False
                self._check_exit(child)
                continue
            if kind == "progress":
                self._on_progress(*value)
            elif kind == "error":
                child.is_open = False
                self._fail(child.name, *value)
            else:
                child.mailbox.append((kind, value))

    def _check_exit(self, child: _Child) -> None:
        if any(kind == "report" for kind, _ in child.mailbox) or child.reported:
            return
        child.process.join(_EXIT_GRACE_S)
        raise ChildError(
            f"the {child.name} process ended without a report (exit code "
            f"{child.process.exitcode}); it was killed or ran out of memory"
        )

    def _fail(self, name: str, lost_peer: bool, message: str) -> None:
        """Raise a child's failure; one that only lost its peer lets the peer speak first."""
        deadline = time.monotonic() + _EXIT_GRACE_S
        while lost_peer and time.monotonic() < deadline and self._any_open():
            self._pump(deadline - time.monotonic())
        raise ChildError(f"{name}: {message}")

    def _any_open(self) -> bool:
        return any(child.is_open for child in self._children.values())

    def _end(self) -> None:
        """Leave no process behind."""
        for child in self._children.values():
            child.process.join(_EXIT_GRACE_S if child.mailbox or child.reported else 0)
            if child.process.is_alive():
                child.process.terminate()
                child.process.join(_EXIT_GRACE_S)
            if child.process.is_alive():
                child.process.kill()


@dataclass
class _Child:
    name: str
    process: SpawnProcess
    mailbox: list[tuple[str, Any]] = field(default_factory=list)
    is_open: bool = True
    reported: bool = False
