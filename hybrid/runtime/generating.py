"""The two parties of a session that answers prompts: set-up, then pass by pass.

Set-up is that of `parties`, with the public prefix among what must agree. Then the client says what
comes next, in words of constant size that are all the server learns: a conversation begins, a pass
of so many rows, a piece of preparation ahead of need, the end.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from hybrid.config.loading import Config
from hybrid.models.decoder_graph import EMBEDDING, LOGITS, MASK, NEXT_TOKEN, ONE_HOT
from hybrid.models.folding import FloatArray
from hybrid.models.generator import (
    ClientRows,
    Generator,
    PublicGenerator,
    client_rows,
    side_by_side,
)
from hybrid.models.prompts import Prompts
from hybrid.models.public_table import receive_table, send_table
from hybrid.models.token_table import TokenTable
from hybrid.operators.base import EncodedLinear, Operator, RunState, WeightedOperator
from hybrid.planning.ahead import still_to_make
from hybrid.planning.candidates import check_limits, checked_policy
from hybrid.planning.catalog import Catalog
from hybrid.planning.generation import CONVERSATION, GenerationPlan, plan_generation
from hybrid.planning.risk import Risk
from hybrid.planning.schedule import Schedule
from hybrid.runtime.ahead import Piece, PreparesAhead
from hybrid.runtime.generation_records import PassRecord, SharedRecord
from hybrid.runtime.generation_words import (
    WORD,
    NextToken,
    Ready,
    RefusedError,
    Word,
    packed_idle,
    parsed_idle,
)
from hybrid.runtime.key_exchange import (
    receive_keys,
    receive_slot_keys,
    send_keys,
    send_slot_keys,
)
from hybrid.runtime.runner import Progress, run_request
from hybrid.runtime.session_checks import check_ids, check_rows, checked_description
from hybrid.runtime.session_parts import run_state
from mpc_nonlinear.cost import NO_COST
from mpc_nonlinear.fixed_point import RingArray
from transport.channel import Channel
from transport.errors import ConfigError, FrameError, UsageError
from transport.handshake import handshake, recv_public, send_public
from transport.randomness import SecureRandom

_DESCRIPTION_BYTES = 1 << 22
_DESCRIPTION_KEYS = {"model", "embedding", "schedule"}


class GenerationSession(PreparesAhead):
    """What both parties do alike: every word of the client changes both states in the same way."""

    def __init__(
        self,
        config: Config,
        catalog: Catalog,
        channel: Channel,
        progress: Progress | None = None,
        *,
        keep_shares: bool = False,
    ) -> None:
        """keep_shares: of logits, in records, for an experimenter who has both sides."""
        super().__init__(config, catalog, channel, progress)
        self._keep_shares = keep_shares
        self.past = 0
        """Rows of the conversation so far, those of its first prompt's padding among them."""
        self.shared: list[SharedRecord] = []
        """What was prepared for more than one pass."""
        self.risk = Risk()
        """Of this session so far: passes and what was prepared, used or not."""
        self._passes = 0
        self._is_open = False
        """Whether a conversation has begun."""
        self._cache_made = 0
        """Pieces of the next one's cache, the same at both parties."""

    def _agree(self, model: PublicGenerator, made: Callable[[], GenerationPlan]) -> GenerationPlan:
        facts = {"public prefix": model.prefix_digest, "tokenizer": model.tokenizer_digest}
        handshake(self.channel, {name: f"sha256 {digest}" for name, digest in facts.items()})
        plan = made()
        handshake(self.channel, {"plan": f"sha256 {plan.digest()}"})
        return plan

    def stock(self) -> int:
        """Prepared rows that every layer has left."""
        nodes = [operator.node.name for operator, _ in self.plan.batch]
        return min((len(self._state.rows.get(name, ())) for name in nodes), default=1 << 30)

    @property
    def failure_probability(self) -> float:
        """Bound on the chance, 0 to 1, that anything went wrong in this session so far."""
        return self.risk.failure_probability

    def _afford(self, more: Risk) -> None:
        """Refuse what would make the session fail too often, or hints tell too much."""
        if not (self.risk + more).is_allowed:
            raise RefusedError(self.risk.refusal(more))

    def _spend(self, more: Risk) -> None:
        self._afford(more)
        self.risk += more

    def _begin(self) -> None:
        """Correlations of a new conversation's cache, as far as it lacks some; the prefix in it."""
        made, state = self._cache_made, self._state
        self._spend(Risk.of((self.plan.conversation_cost(made),)))
        self._is_open, self._cache_made = False, 0
        state.caches.clear()
        try:
            left = self.plan.conversation_after(made)
            self._prepare(CONVERSATION, left, _for_conversation, 1)
        finally:
            # Whatever happens: they were this conversation's alone.
            state.to_come.clear()
        self.shared[-1] = replace(self.shared[-1], pieces=made)
        self.past, self._is_open = 0, True

    def _run(self, rows: int, own: dict[str, RingArray]) -> PassRecord:
        """One pass; rows that are missing are prepared first."""
        if not self._is_open:
            raise UsageError("generation: no conversation has begun; begin one first")
        plan = self.plan.of_pass(rows, self.past)
        self._fill(plan, is_prompt=rows > 1)
        self._restock(rows)
        stock = self._prepared()
        self._spend(self.plan.pass_risk(plan, stock))
        needed = still_to_make(plan.cost, stock)
        start = time.perf_counter()
        result = run_request(plan, self._state, self._passes, own, self.progress, needed=needed)
        seconds = time.perf_counter() - start
        outputs = dict(result.outputs)
        if not self._keep_shares:
            del outputs[LOGITS]
        record = PassRecord(rows, self.past, result.steps, seconds, outputs)
        self.past += rows
        self._passes += 1
        return record


def _for_conversation(operator: Operator, state: RunState) -> None:
    operator.prepare_conversation(state)


class GenerationClient(GenerationSession):
    """The client's side: holds prompts and the secret key, never opens the weights."""

    def setup(self, prompts: Prompts, dealer: Channel | None = None) -> GenerationPlan:
        """Everything up to the first conversation."""
        self.agree_on_config()
        data = recv_public(self.channel, _DESCRIPTION_BYTES)
        model, digest, chosen = self._parsed(data, prompts)
        self.plan = plan = self._agree(model, lambda: plan_generation(self.config, model, chosen))
        self._table: TokenTable | None = None
        if not model.private_embedding:
            table = receive_table(self.channel, model, digest)
            assert isinstance(table, TokenTable)
            self._table = table
        self.progress("keys", -1)
        randomness = SecureRandom(domain="ckks client")
        homomorphic, rings = send_keys(plan.every, self.channel, randomness)
        slots = None
        if plan.slot_steps is not None:
            slots = send_slot_keys(plan.slot_steps, self.channel, randomness)
        source = self.start_correlations(plan.one, dealer)
        self.progress("waiting for encoded weights", -1)
        state = run_state(self.channel, plan.one, homomorphic, source)
        self._state = replace(state, ring=rings, slots=slots)
        for step in plan.one.steps:
            step.operator.setup(self._state.session, None)
        self.channel.recv(1)
        return plan

    def _parsed(
        self, data: object, prompts: Prompts
    ) -> tuple[PublicGenerator, str, Schedule | None]:
        """The server's public description, from untrusted plain data."""
        parts = checked_description(data, _DESCRIPTION_KEYS)
        digest = parts["embedding"]
        # It names a file in the client's cache: nothing but hexadecimal digits.
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}|", digest):
            raise FrameError("handshake: the embedding digest is malformed; same version?")
        model = PublicGenerator.from_public(parts["model"], self.config, prompts)
        # Checked before any prompt is looked at, so that no failure depends on one.
        if prompts.tokenizer.vocabulary > model.architecture.vocabulary:
            raise ConfigError(
                f"tokenizer: ids reach {prompts.tokenizer.vocabulary - 1}, the server's model has "
                f"{model.architecture.vocabulary} rows for them; use the files that belong to it"
            )
        chosen = None if parts["schedule"] is None else Schedule.from_public(parts["schedule"])
        checked_policy(chosen, self.config.run, self.catalog)
        if chosen is not None:
            longest = model.graph(1, model.capacity - 1).nodes
            check_limits(chosen, longest, self.catalog, self.config.run)
        return model, digest, chosen

    def ready(self, asked: Sequence[Sequence[int] | NDArray[np.int64]], *, fresh: bool) -> Ready:
        """The next ids of each conversation, or the first of new ones, checked.

        `RefusedError` where positions, ranges or the bound on failures do not allow them. Nothing
        is sent: what the server sees of a refusal is that nothing more is asked.
        """
        model = self.plan.model
        if not fresh and not self._is_open:
            raise RefusedError("generation: no conversation has begun; begin one first")
        past = 0 if fresh else self.past
        fillers, idle = self._state.fillers, self._state.idle
        if fresh:
            fillers, idle = model.padding([len(ids) for ids in asked])
        before = [own + more for own, more in zip(fillers, idle, strict=True)]
        for ids, padding in zip(asked, before, strict=True):
            check_ids(model, ids, 0 if past else padding, past)
        count = len(asked[0]) + (0 if past else before[0])
        self._afford(self._risk_ahead(count, past, fresh=fresh))
        pairs = zip(asked, before, strict=True)
        rows = side_by_side([client_rows(model, ids, past, padding) for ids, padding in pairs])
        return Ready(count, fillers, idle, self._inputs(rows))

    def _risk_ahead(self, rows: int, past: int, *, fresh: bool) -> Risk:
        """Of a pass and what has to be prepared for it."""
        plan = self.plan
        missing = max(0, rows * plan.model.batch - self.stock()) if plan.batch else 0
        batches = -(-missing // plan.batch_rows)
        stock = self._prepared()
        more = Piece(correlations=self._to_come.at_once(rows, past, stock))
        begins = plan.conversation_cost(self._cache_made) if fresh else NO_COST
        shared = Risk.of((more.cost(plan), plan.batch_cost() * batches, begins))
        return shared + plan.pass_risk(plan.of_pass(rows, past), stock)

    def begin(self, ready: Ready) -> None:
        """New conversations, with what fills their first pass: caches empty but for the prefix."""
        self._state = replace(self._state, fillers=ready.fillers, idle=ready.idle)
        self._say(Word.CONVERSATION)
        if self.plan.model.batch > 1:
            self.channel.send(packed_idle(ready.idle))
        self._begin()

    def ahead(self) -> bool:
        """One piece of preparation, unless all is there or it may not fail; whether there was."""
        piece = self._next_piece()
        if piece is None:
            return False
        if not (self.risk + Risk.of((piece.cost(self.plan),))).is_allowed:
            return False
        self._say(Word.AHEAD)
        self._ahead(piece)
        return True

    def next_token(self, ready: Ready) -> NextToken:
        """The tokens after a pass."""
        self._say(Word.PASS, ready.rows)
        record = self._run(ready.rows, ready.own)
        return NextToken(tuple(int(token) for token in record.outputs[NEXT_TOKEN]), record)

    def _inputs(self, rows: ClientRows) -> dict[str, RingArray]:
        model = self.plan.model
        own = {MASK: rows.visible} if model.may_hide else {}
        if self._table is None:
            return own | {ONE_HOT: rows.one_hot(model)}
        embedded = self._table.embed(rows.ids, rows.positions)
        check_rows(embedded, EMBEDDING, self.plan.model.ranges[EMBEDDING], "prompt")
        return own | {EMBEDDING: self._state.encode(embedded)}

    def finish(self) -> None:
        """Tell the server that nothing follows."""
        self._say(Word.END)

    def _say(self, word: Word, number: int = 0) -> None:
        self.channel.send(WORD.pack(word, number))


class GenerationServer(GenerationSession):
    """The server's side: holds the weights, sees no token."""

    def setup(
        self, model: Generator, plan: GenerationPlan, dealer: Channel | None = None
    ) -> GenerationPlan:
        """Everything up to the first conversation; plan: made before any client came."""
        self.agree_on_config()
        table, public = model.model.weights.embedding, model.public
        is_chosen = self.config.run.scheduler.policy != "fixed"
        description = {
            "model": public.to_public(),
            "embedding": "" if public.private_embedding else table.digest(),
            "schedule": plan.schedule.to_public() if is_chosen else None,
        }
        send_public(self.channel, description)
        self.plan = self._agree(public, lambda: plan)
        if not public.private_embedding:
            assert isinstance(table, TokenTable)
            send_table(self.channel, table)
        self.progress("encoding weights", -1)
        encoded = self._encoded(model, plan)
        randomness, threads = SecureRandom(domain="ckks server"), self.config.run.runtime.threads
        homomorphic, rings = receive_keys(plan.every, self.channel, randomness, threads)
        slots = None
        if plan.slot_steps is not None:
            slots = receive_slot_keys(plan.slot_steps, self.channel, randomness, threads)
        source = self.start_correlations(plan.one, dealer)
        state = run_state(self.channel, plan.one, homomorphic, source)
        prefix: dict[str, FloatArray] = model.prefix_rows()
        self._state = replace(state, ring=rings, slots=slots, encoded=encoded, prefix=prefix)
        for step in plan.one.steps:
            own = encoded.get(step.node.name)
            step.operator.setup(self._state.session, own)
        self.channel.send(b"\x00")
        return plan

    @staticmethod
    def _encoded(model: Generator, plan: GenerationPlan) -> dict[str, EncodedLinear]:
        """Map by map, so that no two of them are in memory as real numbers."""
        operators = {step.node.name: step.operator for step in plan.one.steps}
        found = {}
        for name, linear in model.maps():
            operator = operators.get(name)
            if isinstance(operator, WeightedOperator):
                found[name] = operator.encode(linear)
        return found

    def serve(self) -> list[PassRecord]:
        """Words until the client ends the session; every pass's record."""
        records: list[PassRecord] = []
        while (word := self._next_word())[0] != Word.END:
            kind, number = word
            if kind == Word.CONVERSATION:
                self._hear_idle()
                self._begin()
            elif kind == Word.AHEAD and (piece := self._next_piece()) is not None:
                self._ahead(piece)
            elif kind == Word.PASS and self._may_follow(number):
                records.append(self._run(number, self._zeros(number)))
            else:
                raise FrameError("setup: the client asks for what cannot be; same version?")
        return records

    def _hear_idle(self) -> None:
        """Of conversations that share passes, how much shorter than the longest each prompt is."""
        model = self.plan.model
        if model.batch > 1:
            idle = parsed_idle(self.channel.recv(2 * model.batch), model)
            self._state = replace(self._state, idle=idle)

    def _may_follow(self, rows: int) -> bool:
        model = self.plan.model
        # Whole buckets only, so that a client that does not pad cannot go unnoticed.
        is_padded = self.past or (
            rows % model.settings.prompt_bucket == 0 and max(self._state.idle, default=0) < rows
        )
        return bool(is_padded) and 1 <= rows <= model.capacity - self.past

    def _zeros(self, rows: int) -> dict[str, RingArray]:
        """Inputs are the client's alone: the server's share of them is zero."""
        graph = self.plan.of_pass(rows, self.past).graph
        return {edge.name: np.zeros(edge.shape, np.uint64) for edge in graph.inputs}

    def _next_word(self) -> tuple[int, int]:
        with self.channel.patience(self.config.run.runtime.idle_s):
            kind, number = WORD.unpack(self.channel.recv(WORD.size))
        return kind, number
