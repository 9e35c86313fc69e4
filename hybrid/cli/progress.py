"""What moves on a terminal while a session runs."""

from __future__ import annotations

import io
import sys
import time
from types import TracebackType
from typing import Self, TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from hybrid.reports.terminal import plain
from transport.foreign import printable

_FILE_WIDTH = 170
"""Columns of tables that go to a file or pipe."""
_SETUP = ("keys", "waiting for encoded weights")


def make_console() -> Console:
    """The terminal, or a width that keeps tables readable where there is none."""
    speakable(sys.stdout)
    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def speakable(stream: TextIO) -> None:
    """Have it write by its number what its encoding lacks, instead of raising."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")


def say(console: Console, line: str) -> None:
    """Words that may come from outside, in one line where there is no terminal."""
    console.print(plain(line), soft_wrap=True)


class _Display:
    """A bar that moves on a terminal; what does not move is printed."""

    def __init__(self, console: Console, total: int | None, *columns: ProgressColumn) -> None:
        self._console = console
        self._bar = Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        self._task = self._bar.add_task("starting both parties", total=total)
        self._start = time.monotonic()

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def _line(self, text: str) -> None:
        say(self._console, text)


class ProgressDisplay(_Display):
    """One bar per request that names the step under way; plain lines where there is no terminal."""

    def __init__(self, console: Console, steps: int, requests: int) -> None:
        name = TextColumn("{task.description:<34}", markup=False)
        count = TextColumn("{task.completed}/{task.total}")
        super().__init__(console, steps * requests, name, BarColumn(), count)
        self._done = 0
        self._layer: int | None = None

    def step(self, name: str, layer: int) -> None:
        """A step begins."""
        is_setup = name in _SETUP
        self._bar.update(self._task, description=name, completed=self._done)
        self._done += not is_setup
        if not self._console.is_terminal and (layer != self._layer or is_setup):
            elapsed = time.monotonic() - self._start
            label = f"layer {layer}" if layer >= 0 else name
            self._line(f"[{elapsed:6.1f} s] {label}")
        self._layer = layer


class GenerationDisplay(_Display):
    """Tokens as they come, each with its seconds; below them on a terminal the step under way."""

    def __init__(self, console: Console) -> None:
        super().__init__(console, None, TextColumn("{task.description:<44}", markup=False))
        self._phase = ""

    def step(self, name: str, layer: int) -> None:
        """A step begins."""
        phase = _phase(name)
        self._bar.update(self._task, description=f"{phase}: {name}" if phase != name else name)
        if phase != self._phase and not self._console.is_terminal and phase != _COMPUTING:
            self._line(f"[{time.monotonic() - self._start:6.1f} s] {phase}")
        self._phase = phase
        del layer

    def prompt(self, text: str) -> None:
        """A prompt is asked."""
        self._line(f"prompt: {_shown(text)}")

    def token(self, text: str, seconds: float) -> None:
        """A token has come."""
        self._line(f"{seconds:8.2f} s  {_shown(text)}")

    def answered(self, text: str) -> None:
        """The whole answer."""
        self._line(f"answer: {_shown(text)}")


_COMPUTING = "computing"


def _phase(name: str) -> str:
    if name in _SETUP:
        return name
    return "preparing" if name.startswith("prepare ") else _COMPUTING


def _shown(text: str) -> str:
    """A model's words in one line."""
    return printable(text, keep="\n").replace("\n", "\u21b5")
