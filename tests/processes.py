"""The command line in processes of its own, and a relay that shows how far two of them are."""

from __future__ import annotations

import io
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, chdir, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from hybrid.cli.app import main
from tests.forked import Forked, forked_cli
from tests.waiting import GUARD_S

ROOT = Path(__file__).resolve().parent.parent
KEYS = ("client_sent_bytes", "server_sent_bytes", "rounds")
ANY_PORT = "tcp://127.0.0.1:*"


def hybrid(*arguments: object, cwd: Path) -> subprocess.Popen[str] | Forked:
    """A command in a process of its own; one that is a party itself is forked."""
    if arguments[0] in ("serve", "query"):
        return forked_cli(*arguments, cwd=cwd)
    command = [sys.executable, "-m", "hybrid.cli", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=cwd, env=environment, text=True, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


@contextmanager
def ended(process: subprocess.Popen[str] | Forked) -> Iterator[None]:
    """Kill it with all its children at the end, where it still runs, and collect it."""
    try:
        yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def lines_of(process: subprocess.Popen[str] | Forked) -> Iterator[str]:
    """What it prints, as it comes."""
    assert process.stdout is not None
    return iter(process.stdout.readline, "")


def finish(process: subprocess.Popen[str] | Forked) -> tuple[int, str]:
    with ended(process):
        output, _ = process.communicate(timeout=GUARD_S)
    assert "Traceback" not in output, output
    return process.returncode, output


@contextmanager
def caught_output() -> Iterator[list[str]]:
    """What this process and its children write, whole once the context has ended."""
    said: list[str] = []
    with tempfile.TemporaryFile() as file, ExitStack() as stack:
        for number in (1, 2):
            before = os.dup(number)
            stack.callback(os.close, before)
            stack.callback(os.dup2, before, number)
            os.dup2(file.fileno(), number)
        with io.TextIOWrapper(file, write_through=True) as text:
            try:
                with redirect_stdout(text), redirect_stderr(text):
                    yield said
            finally:
                file.seek(0)
                said.append(file.read().decode())


def run(*arguments: object, cwd: Path, waits: bool | None = None) -> tuple[int, str]:
    """Exit code and output of a command whose parsing and launching happen in this process.

    Its parties are processes all the same; only what Python takes to start is saved. What
    could wait for a peer for ever gets a process of its own.
    """
    if waits is None:
        waits = arguments[0] in ("serve", "query")
    if waits:
        return finish(hybrid(*arguments, cwd=cwd))
    code = 0
    with caught_output() as said, chdir(cwd), pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["hybrid", *map(str, arguments)])
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    assert "Traceback" not in said[0], said[0]
    return code, said[0]


def serving(
    config: Path, *arguments: object, listen: str = ANY_PORT
) -> tuple[subprocess.Popen[str] | Forked, str]:
    """A server that has come up, and the address where it listens."""
    process = hybrid("serve", config, "--listen", listen, *arguments, cwd=config.parent)
    said = ""
    assert process.stdout is not None
    # A server that ends instead of coming up ends its output, too.
    for line in process.stdout:
        said += line
        if found := re.match(r"listening on (\S+)", line):
            return process, found[1]
    with ended(process):
        raise AssertionError(said)


class Relay:
    """TCP to `target` that stops once the server has sent `hold_after` bytes, until released."""

    def __init__(self, target: str, hold_after: int) -> None:
        host, _, port = target.removeprefix("tcp://").rpartition(":")
        self._target = host, int(port)
        self._left = hold_after
        self.held = threading.Event()
        self.released = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept)]
        self._sockets = [self._listener]

    def start(self) -> None:
        self._threads[0].start()

    def _accept(self) -> None:
        try:
            client, _address = self._listener.accept()
        except OSError:
            return
        server = socket.create_connection(self._target)
        self._sockets += [client, server]
        ways = ((client, server, False), (server, client, True))
        pumps = [threading.Thread(target=self._pump, args=way) for way in ways]
        self._threads += pumps
        for pump in pumps:
            pump.start()

    def _pump(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                self._left -= len(data) if counts else 0
                if self._left <= 0:
                    self.held.set()
                    self.released.wait(GUARD_S)
                sink.sendall(data)
        except OSError:
            pass
        finally:
            hang_up(source)
            hang_up(sink)

    def stop(self) -> None:
        self.released.set()
        for each in self._sockets:
            hang_up(each)
        # Grows while the first thread runs, which is the first to be joined.
        for thread in self._threads:
            thread.join(GUARD_S)
        for each in self._sockets:
            each.close()


def hang_up(connection: socket.socket) -> None:
    """End both directions, and with them every call that waits for this socket."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return


@contextmanager
def relay(target: str, hold_after: int) -> Iterator[Relay]:
    between = Relay(target, hold_after)
    between.start()
    try:
        yield between
    finally:
        between.stop()
