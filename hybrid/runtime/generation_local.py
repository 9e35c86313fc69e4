"""Both parties of a session that answers prompts as processes of this machine.

An experimenter's tool, as `local`: it knows both sides, so it can compare tokens and logits with
the plain model's and both ends' counters with each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.machine.prices import schedule_prices
from hybrid.models.decoder_graph import LOGITS
from hybrid.models.decoder_tokenizing import Ids
from hybrid.models.generator import Generator, load_prompts
from hybrid.models.generator_loading import load_generator
from hybrid.models.prompts import Prompts
from hybrid.planning.generation import GenerationPlan, plan_generation
from hybrid.runtime.answers import STOP, Answers, Asked, Passes, Tokens
from hybrid.runtime.generation_records import GenerationRecord, PassRecord
from hybrid.runtime.generation_words import RefusedError
from hybrid.runtime.opened import OpenedHere
from hybrid.runtime.processes import Processes
from hybrid.runtime.runner import Progress
from mpc_nonlinear.fixed_point import RingArray
from transport.errors import HybridError


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What both parties measured."""

    client: GenerationRecord
    server: GenerationRecord
    client_logits: tuple[RingArray, ...]
    """The client's shares of every pass's logits (conversations * vocabulary,)."""
    server_logits: tuple[RingArray, ...]
    loopback_sent_bytes: int | None
    """The loopback device's own count over the whole session; None where it has none."""
    batch: int = 1
    """Conversations that share passes."""

    def logits(self, fraction_bits: int, place: int = 0) -> list[NDArray[np.float64]]:
        """Of every pass (vocabulary,), opened by who has both sides; place: of the conversation."""
        pairs = zip(self.client_logits, self.server_logits, strict=True)
        opened = ((a + b).reshape(self.batch, -1)[place] for a, b in pairs)
        return [x.view(np.int64).astype(np.float64) * 2.0**-fraction_bits for x in opened]


class LocalGeneration(Answers, OpenedHere):
    """One session of two processes; a context manager.

    `generate` may be called again and again inside; after it `result` holds what both parties
    measured.
    """

    def __init__(self, config: Config, on_progress: Progress | None = None) -> None:
        """Load and plan, so that a config that cannot work says so before anything starts."""
        self.model: Generator = load_generator(config)
        self.plan: GenerationPlan = plan_generation(
            config, self.model.public, prices=schedule_prices(config.run)
        )
        super().__init__(config, load_prompts(config))
        self.result: GenerationResult | None = None
        if on_progress is not None:
            self.on_progress = on_progress
        self._logits: list[RingArray] = []

    def _passes(self, asked: Asked) -> Passes:
        processes = self._children()
        try:
            processes.ask(asked)
            while (found := processes.answer("token")) is not None:
                try:
                    yield self._taken(found)
                except GeneratorExit:
                    self._stop(processes)
                    raise
        except (GeneratorExit, RefusedError):
            raise
        except BaseException:
            self._fail()
            raise

    def _stop(self, processes: Processes) -> None:
        """The caller has had enough; a pass under way still belongs to this answer."""
        try:
            processes.ask(STOP)
            while (found := processes.answer("token")) is not None:
                self._taken(found)
                self._count += 1
        except RefusedError:
            # A token that nobody waits for; nothing is wrong with the session.
            return
        except HybridError as error:
            # Nobody hears what a generator raises that goes out of use; the session's next use
            # and its end do.
            self._fail(error)

    def _taken(self, found: tuple[Tokens, PassRecord] | str) -> tuple[Tokens, PassRecord]:
        """Tokens of the client's; a refusal in words."""
        if isinstance(found, str):
            raise RefusedError(found)
        tokens, record = found
        self._logits.append(record.outputs[LOGITS].reshape(-1))
        return tokens, replace(record, outputs={})

    def _finish(self, processes: Processes) -> None:
        client = processes.answer("record")
        server, shares = processes.server_record()
        mine, theirs = tuple(self._logits), tuple(shares)
        batch = self.config.run.model.batch
        self.result = GenerationResult(client, server, mine, theirs, self._moved(), batch)

    def __repr__(self) -> str:
        state = self._state(self._processes is not None)
        return f"<LocalGeneration {self.config.run.name}: {state}, {len(self.answers)} answers>"


def plain_answer(
    model: Generator, prompts: Prompts, history: Ids, tokens: int
) -> tuple[list[int], list[NDArray[np.float64]]]:
    """The plain model's greedy answer to private ids, and the logits that it was chosen by."""
    cache, ids = model.prefix_cache.copy(), history
    found: list[int] = []
    ends = prompts.tokenizer.end_ids if prompts.settings.stop_early else frozenset()
    logits: list[NDArray[np.float64]] = []
    while len(found) < tokens:
        logits.append(model.model.logits(ids, cache)[-1])
        found.append(int(np.argmax(logits[-1])))
        if found[-1] in ends:
            break
        ids = np.array(found[-1:], np.int64)
    return found, logits
