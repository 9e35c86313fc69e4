"""Both parties, and the dealer where the plan needs one, as processes of this machine.

An experimenter's tool: it knows both sides, so it can compare answers with the plain model's and
both ends' counters with each other. Neither party's process sees more than on two machines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.machine.prices import schedule_prices
from hybrid.models.folding import FloatArray
from hybrid.models.loading import load_model, text_encoder
from hybrid.models.model import Model
from hybrid.planning.plan import Plan
from hybrid.planning.planner import make_plan
from hybrid.runtime.generation_words import RefusedError
from hybrid.runtime.opened import OpenedHere
from hybrid.runtime.processes import Processes
from hybrid.runtime.records import SessionRecord
from hybrid.runtime.runner import Progress
from hybrid.runtime.serving import batches
from hybrid.runtime.session_checks import checked_texts
from hybrid.runtime.text_checks import checked_ids, encoded, warn_of_folder


@dataclass(frozen=True, slots=True)
class RunResult:
    """What both parties measured."""

    client: SessionRecord
    server: SessionRecord
    loopback_sent_bytes: int | None
    """The loopback device's own count over the whole session; None where it has none."""


class LocalSession(OpenedHere):
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
        if on_progress is not None:
            self.on_progress = on_progress
        self._encoder = text_encoder(config)
        warn_of_folder(self._encoder)

    def encode(self, text: str, *, truncate: bool = False) -> NDArray[np.int64]:
        """Token ids of a text; `ConfigError` when it is too long."""
        return encoded(self._encoder, text, truncate=truncate)

    @property
    def prompt(self) -> str | None:
        """Name of what stands before every text, if something does."""
        return self._encoder.prompt.name

    def embed(self, texts: Sequence[str], *, truncate: bool = False) -> FloatArray:
        """Private answers to texts, (texts, width), as the client gets them."""
        return self.ask([self.encode(t, truncate=truncate) for t in checked_texts(texts)])

    def ask(self, token_ids: Sequence[NDArray[np.int64]]) -> FloatArray:
        """As `embed`, from token ids."""
        processes, model = self._children(), self.model.public
        vocabulary, pairs = model.architecture.vocabulary, self.config.run.model.pairs
        ids = checked_ids(token_ids, model.tokens, vocabulary, pairs=pairs)
        try:
            processes.ask(ids)
            answers: FloatArray | str = processes.answer("answers")
        except BaseException:
            self._fail()
            raise
        if isinstance(answers, str):
            raise RefusedError(answers)
        self.asked += batches(ids, self.config.run.model.batch)
        return answers

    def _finish(self, processes: Processes) -> None:
        mine = processes.answer("record")
        self.result = RunResult(mine, processes.server_record(), self._moved())

    def __repr__(self) -> str:
        state = self._state(self._processes is not None)
        return f"<LocalSession {self.config.run.name}: {state}, {sum(map(len, self.asked))} texts>"
