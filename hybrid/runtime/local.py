"""Both parties, and the dealer where the plan needs one, as processes of this machine.

An experimenter's tool: it knows both sides, so it can compare answers with the plain model's and
both ends' counters with each other. Neither party's process sees more than on two machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.machine.prices import schedule_prices
from hybrid.models.folding import FloatArray
from hybrid.models.loading import load_model, text_encoder
from hybrid.models.model import Model
from hybrid.planning.plan import Plan
from hybrid.planning.planner import make_plan
from hybrid.runtime.processes import Processes
from hybrid.runtime.records import SessionRecord
from hybrid.runtime.runner import Progress
from hybrid.runtime.serving import batches
from hybrid.runtime.session_checks import checked_texts, not_open
from transport.errors import UsageError
from transport.zmq_channel import loopback_bytes


@dataclass(frozen=True, slots=True)
class RunResult:
    """What both parties measured."""

    client: SessionRecord
    server: SessionRecord
    loopback_sent_bytes: int | None
    """The loopback device's own count over the whole session; None where it has none."""


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
        self._processes: Processes | None = None
        self._is_open = self._has_failed = False

    def encode(self, text: str, *, truncate: bool = False) -> NDArray[np.int64]:
        """Token ids of a text; `ConfigError` when it is too long."""
        return self._encoder.encode(text, truncate=truncate)

    def embed(self, texts: Sequence[str], *, truncate: bool = False) -> FloatArray:
        """Private answers to texts, (texts, width), as the client gets them."""
        return self.ask([self.encode(t, truncate=truncate) for t in checked_texts(texts)])

    def ask(self, token_ids: Sequence[NDArray[np.int64]]) -> FloatArray:
        """As `embed`, from token ids."""
        if self._processes is None or not self._is_open:
            raise UsageError(not_open(has_failed=self._has_failed))
        try:
            self._processes.ask(list(token_ids))
            answers: FloatArray = self._processes.answer("answers")
        except BaseException:
            # Also where only the wait was interrupted: its answers would be taken for the next.
            self._is_open, self._has_failed = False, True
            raise
        self.asked += batches(token_ids, self.config.run.model.batch)
        return answers

    def __enter__(self) -> Self:
        if self._processes is not None:
            raise UsageError("session: was opened before; make a new one")
        self._loopback_before = loopback_bytes()
        self._processes = Processes(self.config, lambda *step: self.on_progress(*step))
        try:
            self._processes.start(self.plan.schedule, needs_dealer=self.plan.needs_dealer)
        except BaseException:
            self._processes.end()
            raise
        self._is_open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        was_open, self._is_open = self._is_open, False
        processes = self._processes
        assert processes is not None
        try:
            if kind is None and was_open:
                processes.ask(None)
                mine = processes.answer("record")
                self.result = RunResult(mine, processes.server_record(), self._moved())
        finally:
            processes.end()

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed" if self._processes else "new"
        return f"<LocalSession {self.config.run.name}: {state}, {sum(map(len, self.asked))} texts>"

    def _moved(self) -> int | None:
        after = loopback_bytes()
        before = self._loopback_before
        return None if before is None or after is None else after - before
