"""Processes that tests start, forked from one that has imported the project.

They are processes all the same, with what a fresh interpreter would be given: arguments,
environment, folder, output. Only what Python takes to start is saved, more than a small session
takes. Tests of how processes start, and of which one is whose, take fresh ones.
"""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver, get_context, reduction
from pathlib import Path
from threading import Timer
from types import ModuleType, SimpleNamespace
from typing import IO, Any

import pytest

from tests.waiting import GUARD_S

_CONTEXT = get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.forked_imports"])


class _Descriptor:
    """A file descriptor that travels to the new process."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _taken, (reduction.DupFd(self._number),)


def _taken(travelled: Any) -> int:
    number: int = travelled.detach()
    return number


class Forked:
    """What `subprocess.Popen` is to those who start a process."""

    def __init__(
        self,
        body: Callable[..., None],
        *arguments: object,
        output: Sequence[int] = (1, 2),
        env: Mapping[str, str] = os.environ,
        cwd: Path | None = None,
        own_group: bool = False,
    ) -> None:
        """output: descriptors of its standard output and error."""
        server = forkserver._forkserver
        server.ensure_running()
        streams = tuple(map(_Descriptor, output))
        given = server._forkserver_address, dict(env), str(cwd or Path.cwd()), own_group
        self._process = _CONTEXT.Process(target=_begin, args=(body, arguments, streams, *given))
        with pytest.MonkeyPatch.context() as patch:
            # No script of the caller's is run again.
            patch.setitem(sys.modules, "__main__", ModuleType("__main__"))
            self._process.start()
        self.pid = self._process.pid
        self.terminate, self.kill = self._process.terminate, self._process.kill
        self.stdout: IO[str] | None = None

    def poll(self) -> int | None:
        return self._process.exitcode

    @property
    def returncode(self) -> int | None:
        return self.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative where a signal ended it."""
        self._process.join(timeout)
        if (code := self.poll()) is None:
            raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        return code

    def communicate(self, timeout: float = GUARD_S) -> tuple[str, None]:
        """What is left of its output, once it has ended."""
        if self.stdout is None or self.stdout.closed:
            return "", None
        guard = Timer(timeout, self.kill)
        guard.start()
        with self.stdout:
            said = self.stdout.read()
        self.wait()
        guard.cancel()
        guard.join()
        return said, None


def _begin(body, arguments, streams, address, environment, folder, own_group) -> None:
    from hybrid.runtime import processes

    if own_group:
        os.setsid()
    for number, source in zip((1, 2), streams, strict=True):
        os.dup2(source, number)
    for source in set(streams):
        os.close(source)
    sys.stdout, sys.stderr = (open(number, "w", closefd=False) for number in (1, 2))  # noqa: SIM115
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    # Sessions of this process have their parties forked by the same server.
    forkserver._forkserver._forkserver_address = address
    forkserver._forkserver.ensure_running = lambda: None
    processes.subprocess = FORKING
    body(*arguments)


def _party(role: str, pipe: int) -> None:
    from hybrid.runtime import child

    child.main([role, str(pipe)])


def _started_party(
    command: Sequence[str], *, pass_fds: Sequence[int], env: Mapping[str, str]
) -> Forked:
    *start, role, pipe = command
    assert start[1:] == ["-P", "-m", "hybrid.runtime.child"], start
    assert list(pass_fds) == [int(pipe)]
    return Forked(_party, role, _Descriptor(int(pipe)), env=env)


FORKING = SimpleNamespace(Popen=_started_party, TimeoutExpired=subprocess.TimeoutExpired)
"""In place of the module `subprocess` where parties are started."""


def _cli(*arguments: str) -> None:
    from hybrid.cli.app import main

    sys.argv = ["hybrid", *arguments]
    main()


def forked_cli(*arguments: object, cwd: Path) -> Forked:
    """The command line as `python -m hybrid.cli`, with both outputs in one pipe."""
    reading, writing = os.pipe()
    started = Forked(_cli, *map(str, arguments), output=(writing, writing), cwd=cwd, own_group=True)
    os.close(writing)
    started.stdout = os.fdopen(reading, encoding="utf-8")
    return started


def _script(path: tuple[str, ...], script: str, *arguments: str) -> None:
    warnings.simplefilter("error")
    sys.argv = [script, *arguments]
    sys.path[:0] = [str(Path(script).parent), *path]
    runpy.run_path(script, run_name="__main__")


def forked_script(
    script: Path, *arguments: object, cwd: Path, path: Sequence[Path] = ()
) -> subprocess.CompletedProcess[str]:
    """A script as `PYTHONPATH=path python -W error script ...` runs it."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        streams = out.fileno(), err.fileno()
        places = tuple(map(str, path))
        given = (places, str(script), *map(str, arguments))
        started = Forked(_script, *given, output=streams, cwd=cwd)
        try:
            code = started.wait(GUARD_S)
        finally:
            with suppress(ProcessLookupError):
                started.kill()
        for stream in (out, err):
            stream.seek(0)
        return subprocess.CompletedProcess(str(script), code, out.read(), err.read())
