"""Both parties, and the dealer where the plan needs one, as child processes of this one."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from hybrid.config.loading import Config
from hybrid.machine.environment import party_cores
from hybrid.planning.schedule import Schedule
from hybrid.runtime.child import Task
from transport.errors import HybridError

_EXIT_GRACE_S = 5.0
Told = Callable[[str, int], None]


class ChildError(HybridError):
    """A party of a local session failed; the message is the party's own."""


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    mailbox: list[tuple[str, Any]] = field(default_factory=list)
    is_open: bool = True
    reported: bool = False


class Processes:
    """The children of one session, watched together: what one says, and how one ends."""

    def __init__(self, config: Config, tell: Told) -> None:
        """tell: gets steps as the client enters them."""
        self._config = config
        self._tell = tell
        self._children: dict[Connection, _Child] = {}
        self._client: Connection
        self._server: Connection

    def start(self, schedule: Schedule, *, needs_dealer: bool) -> None:
        """Returns when the client has set its session up."""
        cores = party_cores() if self._config.run.runtime.pin_cores else [None, None]
        dealers: list[str | None] = [None, None]
        if needs_dealer:
            pipe = self._start("dealer", Task(self._config))
            dealers = [self._await(pipe, "endpoint") for _ in range(2)]
        server = Task(self._config, cores[1], dealers[1], schedule=schedule)
        self._server = self._start("server", server)
        endpoint = self._await(self._server, "endpoint")
        self._client = self._start("client", Task(self._config, cores[0], dealers[0], endpoint))
        self._await(self._client, "ready")

    def ask(self, question: Any) -> None:
        """For the client; one that has failed takes nothing, and what it said is in its pipe."""
        with suppress(OSError):
            self._client.send(question)

    def answer(self, kind: str) -> Any:
        """The client's next message of this kind; the first failure of any child is raised."""
        return self._await(self._client, kind)

    def server_record(self) -> Any:
        """What the server measured, at its end."""
        return self._await(self._server, "record")

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
        if not self._any_open():
            raise ChildError("both parties have ended; open a new session")
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
                self._tell(*value)
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

    def end(self) -> None:
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
