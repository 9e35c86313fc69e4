"""One server and one client of sessions that answer prompts, each with its own files."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

from hybrid.config.loading import Config
from hybrid.machine.environment import describe, peak_memory_bytes
from hybrid.machine.prices import schedule_prices
from hybrid.models.decoder_graph import LOGITS
from hybrid.models.decoder_tokenizing import Ids
from hybrid.models.generator import load_prompts
from hybrid.models.generator_loading import load_generator
from hybrid.planning.catalog import load_catalog
from hybrid.planning.generation import GenerationPlan, plan_generation
from hybrid.planning.schedule import Schedule
from hybrid.runtime.generating import (
    GenerationClient,
    GenerationServer,
    GenerationSession,
)
from hybrid.runtime.generation_records import GenerationRecord, PassRecord
from hybrid.runtime.generation_words import NextToken, RefusedError
from hybrid.runtime.runner import Progress
from hybrid.runtime.serving import reporting_failure
from mpc_nonlinear.fixed_point import RingArray
from transport.channel import SETUP, Channel


class AnsweringServer:
    """The server's process: loads, then serves one session after the other."""

    def __init__(self, config: Config, schedule: Schedule | None = None) -> None:
        """schedule: where it has been chosen before."""
        self._config = config
        self._catalog = load_catalog(config.run.plugins)
        self.generator = load_generator(config)
        # Made once before any client comes, so that a config that cannot work says so here.
        self.plan: GenerationPlan = plan_generation(
            config,
            self.generator.public,
            schedule,
            None if schedule is not None else schedule_prices(config.run),
        )

    def serve_session(
        self, channel: Channel, dealer: Channel | None = None, *, keep_shares: bool = False
    ) -> tuple[GenerationRecord, list[RingArray]]:
        """One client's session: what was measured, and shares of logits if they are kept.

        keep_shares: for an experimenter who has both sides.
        """
        session = GenerationServer(self._config, self._catalog, channel, keep_shares=keep_shares)
        with reporting_failure(channel):
            start = time.perf_counter()
            session.setup(self.generator, self.plan, dealer)
            setup_s = time.perf_counter() - start
            passes = session.serve()
        shares = [one.outputs[LOGITS].reshape(-1) for one in passes if keep_shares]
        return record_of(session, passes, setup_s, channel, dealer), shares


class AskingClient:
    """The client's process: turns prompts into tokens, connects, asks."""

    def __init__(
        self, config: Config, progress: Progress | None = None, *, keep_shares: bool = False
    ) -> None:
        """keep_shares: of logits, for an experimenter who has both sides."""
        self._config = config
        self._progress = progress
        self._keep_shares = keep_shares
        self.prompts = load_prompts(config)
        self._passes: list[PassRecord] = []

    def open(self, channel: Channel, dealer: Channel | None = None) -> GenerationPlan:
        """Set a session up; the plan that both parties agree on."""
        self._channel, self._dealer = channel, dealer
        catalog = load_catalog(self._config.run.plugins)
        self._session = GenerationClient(
            self._config, catalog, channel, self._progress, keep_shares=self._keep_shares
        )
        self._passes = []
        with reporting_failure(channel):
            start = time.perf_counter()
            plan = self._session.setup(self.prompts, dealer)
            self._setup_s = time.perf_counter() - start
        return plan

    def answer(
        self,
        ids: Ids,
        tokens: int,
        *,
        fresh: bool,
        forced: Sequence[int] = (),
        beside: Sequence[Ids] = (),
    ) -> Iterator[NextToken]:
        """The tokens of an answer, one by one; the end token is the last where it stops early.

        fresh: begin a new conversation; forced: read instead of the tokens chosen. beside: prompts
        that are answered in the same passes, until all have ended; where they are fewer than
        `model.batch` has room for, the first is answered more than once and its copies are left.
        """
        ends = self.prompts.tokenizer.end_ids if self.prompts.settings.stop_early else frozenset()
        rows = self._shared(ids, beside, goes_on=not fresh, forced=bool(forced))
        ended = [False] * (1 + len(beside))
        for index in range(tokens):
            begins = fresh and not index
            # What is refused here is no failure, and the server is told nothing; neither is it
            # one that a caller has had enough, which ends a generator at its yield.
            ready = self._session.ready(rows, fresh=begins)
            with reporting_failure(self._channel):
                if begins:
                    self._session.begin(ready)
                found = self._session.next_token(ready)
            self._passes.append(replace(found.record, outputs={}))
            for token in found.tokens:
                self._check_token(token)
            yield found
            ended = [was or t in ends for was, t in zip(ended, found.tokens, strict=False)]
            if index + 1 == tokens or (all(ended) and not forced):
                return
            # One that has ended goes on for itself as long as others do.
            rows = [[forced[index]]] if forced else [[token] for token in found.tokens]

    def _shared(
        self, ids: Ids, beside: Sequence[Ids], *, goes_on: bool, forced: bool
    ) -> Sequence[Sequence[int] | Ids]:
        """Prompts of all conversations of a pass."""
        batch = self._config.run.model.batch
        if len(beside) >= batch:
            raise RefusedError(
                f"generation: {1 + len(beside)} prompts at once; raise model.batch, {batch}, at "
                "both parties"
            )
        if batch > 1 and (goes_on or forced):
            raise RefusedError(
                "generation: conversations that share passes begin and end together, so none goes "
                "on and none is read from given ids; set model.batch: 1 at both parties"
            )
        return [ids, *beside, *[ids] * (batch - 1 - len(beside))]

    def _check_token(self, token: int) -> None:
        """Refuse what is no token; the server is not told, and sees an answer that ends here."""
        vocabulary = self._session.plan.model.architecture.vocabulary
        if token >= vocabulary:
            raise RefusedError(
                f"next_token: {token} was opened, the vocabulary has {vocabulary}: a result on the "
                "way was wrong, as the declared failure probability allows; begin a new answer"
            )

    def ahead(self) -> bool:
        """One piece of what later prompts need; whether there was one."""
        with reporting_failure(self._channel):
            return self._session.ahead()

    def close(self) -> GenerationRecord:
        """End the session; what was measured of it."""
        with reporting_failure(self._channel):
            self._session.finish()
        return record_of(self._session, self._passes, self._setup_s, self._channel, self._dealer)


def record_of(
    session: GenerationSession,
    passes: list[PassRecord],
    setup_s: float,
    channel: Channel,
    dealer: Channel | None,
) -> GenerationRecord:
    """As counted at a session's end."""
    return GenerationRecord(
        tuple(replace(one, outputs={}) for one in passes),
        tuple(session.shared),
        setup_s,
        channel.traffic(SETUP),
        channel.total,
        0 if dealer is None else dealer.total.sent_bytes,
        session.failure_probability,
        session.risk.distance,
        describe() | {"peak_memory_bytes": str(peak_memory_bytes())},
    )
