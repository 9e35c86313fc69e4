"""Both parties, and the dealer where the plan needs one, as processes of this machine.

An experimenter's tool: it knows both sides, so it can compare answers with the plain model's and
both ends' counters with each other. Neither party's process sees more than on two machines.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.machine.environment import party_cores
from hybrid.machine.prices import schedule_prices
from hybrid.models.folding import FloatArray
from hybrid.models.loading import load_model, text_encoder
from hybrid.models.model import Model
from hybrid.planning.plan import Plan
from hybrid.planning.planner import make_plan
from hybrid.runtime.child import Task
from hybrid.runtime.records import SessionRecord
from hybrid.runtime.runner import Progress
from hybrid.runtime.serving import batches
from hybrid.runtime.session_checks import checked_texts, not_open
from transport.errors import HybridError, UsageError
from transport.zmq_channel import loopback_bytes

_EXIT_GRACE_S = 5.0


class ChildError(HybridError):
    """A party of a local session failed; the message is the party's own."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What both parties measured."""

    client: SessionRecord
    server: SessionRecord
    loopback_sent_bytes: int | None
    """The loopback device's own count over the whole session; None where it has none."""


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    mailbox: list[tuple[str, Any]] = field(default_factory=list)
    is_open: bool = True
    reported: bool = False


def _ignore(_step: str, _layer: int) -> None:
    """No progress display."""


class LocalSession:
    """One session of two processes; a context manager.

    `embed` and `ask` may be called again and again inside; after it `result` holds what both
    parties measured.
    """

    def __init__(self, config: Config, on_progress: Progress | None = None) -> None:
        """Load and plan, so that a config that cannot work says so before anything starts."""
        self.config = config
        self.model: Model = load_model(config)
        self.plan: Plan = make_plan(config, self.model.public, schedule_prices(config.run))
        self.result: RunResult | None = None
        self.asked: list[Sequence[NDArray[np.int64]]] = []
        """Token ids of the texts of every request that was answered."""
        self.on_progress: Progress = on_progress or _ignore
        self._encoder = text_encoder(config)
        self._children: dict[Connection, _Child] = {}
        self._client: Connection | None = None
        self._has_failed = False

    def encode(self, text: str, *, truncate: bool = False) -> NDArray[np.int64]:
        """Token ids of a text; `ConfigError` when it is too long."""
        return self._encoder.encode(text, truncate=truncate)

    def embed(self, texts: Sequence[str], *, truncate: bool = False) -> FloatArray:
        """Private answers to texts, (texts, width), as the client gets them."""
        return self.ask([self.encode(t, truncate=truncate) for t in checked_texts(texts)])

    def ask(self, token_ids: Sequence[NDArray[np.int64]]) -> FloatArray:
        """As `embed`, from token ids."""
        client = self._client
        if client is None:
            raise UsageError(not_open(has_failed=self._has_failed))
        try:
            # One that has failed meanwhile takes nothing; what it said is in the pipe.
            with suppress(OSError):
                client.send(list(token_ids))
            answers: FloatArray = self._await(client, "answers")
        except BaseException:
            # Also where only the wait was interrupted: its answers would be taken for the next.
            self._client, self._has_failed = None, True
            raise
        self.asked += batches(token_ids, self.config.run.model.batch)
        return answers

    def __enter__(self) -> Self:
        if self._children or self.result is not None:
            raise UsageError("session: was opened before; make a new one")
        self._loopback_before = loopback_bytes()
        try:
            self._start_parties()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        client, self._client = self._client, None
        try:
            if kind is None and client is not None:
                # One that has failed meanwhile takes nothing; what it said is in the pipe.
                with suppress(OSError):
                    client.send(None)
                mine = self._await(client, "record")
                self.result = RunResult(mine, self._await(self._server, "record"), self._moved())
        finally:
            self._end()

    def __repr__(self) -> str:
        state = "open" if self._client else "closed" if self._children else "new"
        return f"<LocalSession {self.config.run.name}: {state}, {sum(map(len, self.asked))} texts>"

    def _moved(self) -> int | None:
        after = loopback_bytes()
        before = self._loopback_before
        return None if before is None or after is None else after - before

    # -- processes ------------------------------------------------------------------------------

    def _start_parties(self) -> None:
        cores = party_cores() if self.config.run.runtime.pin_cores else [None, None]
        dealers: list[str | None] = [None, None]
        if self.plan.needs_dealer:
            pipe = self._start("dealer", Task(self.config))
            dealers = [self._await(pipe, "endpoint") for _ in range(2)]
        schedule = self.plan.schedule
        server = Task(self.config, cores[1], dealers[1], schedule=schedule)
        self._server = self._start("server", server)
        endpoint = self._await(self._server, "endpoint")
        client = self._start("client", Task(self.config, cores[0], dealers[0], endpoint))
        self._await(client, "ready")
        self._client = client

    def _start(self, name: str, task: Task) -> Connection:
        """A fresh interpreter, so that a caller's script needs no guard of its own."""
        ours, theirs = Pipe()
        descriptor = theirs.fileno()
        path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "hybrid.runtime.child", name, str(descriptor)],
            pass_fds=[descriptor],
            env=os.environ | {"PYTHONPATH": path},
        )
        theirs.close()
        self._children[ours] = _Child(name, process)
        ours.send(task)
        return ours

    def _await(self, wanted: Connection, kind: str) -> Any:
        """The value of the next `kind` message from one child, while all are watched."""
        mailbox = self._children[wanted].mailbox
        while not any(got == kind for got, _ in mailbox):
            self._pump(None)
        index = next(i for i, (got, _) in enumerate(mailbox) if got == kind)
        self._children[wanted].reported |= kind == "record"
        return mailbox.pop(index)[1]

    def _pump(self, timeout_s: float | None) -> None:
        """Take every message that is waiting; raise the first failure."""
        for pipe in wait([p for p, c in self._children.items() if c.is_open], timeout_s):
            assert isinstance(pipe, Connection)
            child = self._children[pipe]
            try:
                kind, value = pipe.recv()
            except (EOFError, ConnectionError):
                child.is_open = False
                self._check_exit(child)
                continue
            if kind == "progress":
                self.on_progress(*value)
            elif kind == "error":
                child.is_open = False
                self._fail(child.name, *value)
            else:
                child.mailbox.append((kind, value))

    def _check_exit(self, child: _Child) -> None:
        if any(kind == "record" for kind, _ in child.mailbox) or child.reported:
            return
        code = _wait(child.process, _EXIT_GRACE_S)
        raise ChildError(
            f"the {child.name} process ended without a report (exit code {code}); it was killed "
            "or ran out of memory"
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
        for pipe, child in self._children.items():
            done = bool(child.mailbox) or child.reported
            if _wait(child.process, _EXIT_GRACE_S if done else 0) is None:
                child.process.terminate()
            if _wait(child.process, _EXIT_GRACE_S) is None:
                child.process.kill()
                child.process.wait()
            pipe.close()


def _wait(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Exit code; None where it still runs."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
