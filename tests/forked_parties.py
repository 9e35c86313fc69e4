"""Parties of sessions that tests start, forked from one process that has imported them.

They are processes all the same, with what a fresh one would be given: environment, folder,
output, pipe. Only what Python takes to start is saved, more than a small session takes.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from multiprocessing import get_context, reduction
from types import SimpleNamespace
from typing import Any

_CONTEXT = get_context("forkserver")
# Imported once in the process that parties are forked from, before any.
_CONTEXT.set_forkserver_preload(["tests.forked_parties_imports"])


class _Descriptor:
    """A file descriptor that travels to the new process."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _taken, (reduction.DupFd(self._number),)


def _taken(travelled: Any) -> int:
    number: int = travelled.detach()
    return number


def _party(
    role: str, descriptors: tuple[int, int, int], environment: Mapping[str, str], folder: str
) -> None:
    from hybrid.runtime import child

    pipe, *output = descriptors
    for number, source in zip((1, 2), output, strict=True):
        os.dup2(source, number)
        os.close(source)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    child.main([role, str(pipe)])


class ForkedParty:
    """What `subprocess.Popen` is to those who start a party: pid, wait, terminate, kill."""

    def __init__(
        self, command: Sequence[str], *, pass_fds: Sequence[int], env: Mapping[str, str]
    ) -> None:
        *start, role, pipe = command
        assert start[1:] == ["-P", "-m", "hybrid.runtime.child"], start
        assert list(pass_fds) == [int(pipe)]
        descriptors = tuple(map(_Descriptor, (int(pipe), 1, 2)))
        arguments = (role, descriptors, dict(env), os.getcwd())
        self._process = _CONTEXT.Process(target=_party, args=arguments)
        self._process.start()
        self.pid = self._process.pid
        self.terminate, self.kill = self._process.terminate, self._process.kill

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code, negative where a signal ended it."""
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("a party", timeout or 0.0)
        return code


FORKING = SimpleNamespace(Popen=ForkedParty, TimeoutExpired=subprocess.TimeoutExpired)
"""In place of the module `subprocess` where parties are started."""
