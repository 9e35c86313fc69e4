"""Prices of this machine, measured as `hybrid calibrate` does, every whole step only twice."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest

from hybrid.calibration import calibrate, steps
from hybrid.machine.prices import MachinePrices
from tests.forked import Forked
from tests.waiting import GUARD_S


def _with_fewer_runs(target: Callable[..., None], *arguments: Any) -> None:
    steps._RUNS = 1
    target(*arguments)


class _Process:
    """What is used of `multiprocessing.Process`."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...], daemon: bool) -> None:
        assert daemon
        self._parts = target, *args

    def start(self) -> None:
        self._started = Forked(_with_fewer_runs, *self._parts)

    def join(self) -> None:
        assert self._started.wait(GUARD_S) == 0


def quickly_calibrated(progress: Callable[[str], None]) -> MachinePrices:
    """The prices, kept as the command keeps them."""
    with pytest.MonkeyPatch.context() as patch:
        context = SimpleNamespace(Pipe=Pipe, Process=_Process)
        patch.setattr("hybrid.calibration.interactive.get_context", lambda _method: context)
        return calibrate.calibrate(progress)
