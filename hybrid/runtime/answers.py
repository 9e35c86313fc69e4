"""Answers of a session, wherever the server is: prompts in, tokens out, and what was asked."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections import abc
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from hybrid.config.loading import Config
from hybrid.models.decoder_tokenizing import Ids
from hybrid.models.prompts import Conversation, Prompts, Streamed
from hybrid.runtime.generation_records import PassRecord
from transport.errors import ConfigError, UsageError

Tokens = tuple[int, ...]
"""Of all conversations that share a pass."""
Passes = abc.Generator[tuple[Tokens, PassRecord], None, None]
"""Tokens and records of passes as they come; whoever has had enough closes it."""
STOP = "stop"
"""In place of a question: nobody waits for the rest of the answer."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What the client's process is asked for."""

    ids: Ids = field(repr=False)
    tokens: int
    fresh: bool
    """Whether a new conversation begins."""
    forced: tuple[int, ...] = field(default=(), repr=False)
    """Read instead of the tokens chosen."""
    beside: tuple[Ids, ...] = field(default=(), repr=False)
    """Prompts that are answered in the same passes."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer as it comes."""

    id: int
    text: str
    """What it adds to the answer; may be empty where a character is not complete."""
    seconds: float
    """Since the token before, or since the question."""

    def __str__(self) -> str:
        return self.text


@dataclass
class Answer:
    """One prompt and what came of it."""

    prompt: str = field(repr=False)
    read: Ids = field(repr=False)
    """All private ids of the conversation before the answer."""
    new: int
    """How many of them this prompt added."""
    first_pass: int
    """Its place among the passes of the session."""
    tokens: list[int] = field(default_factory=list, repr=False)
    """Those chosen; the token that ends it is the last where it ended by itself."""
    seconds: list[float] = field(default_factory=list)
    text: str = field(default="", repr=False)
    place: int = 0
    """Its conversation's place among those that share its passes."""
    together: int = 1
    """Prompts that were answered in its passes, this one among them."""


@dataclass(frozen=True, slots=True)
class _Turn:
    """A prompt in its conversation."""

    base: Conversation | None
    """What it goes on from."""
    talk: Conversation
    """The same, with this prompt."""
    fillers: int
    """Rows of the cache that hold nothing."""


@dataclass
class _Growing:
    """An answer under way."""

    turn: _Turn
    answer: Answer
    stream: Streamed
    ends: frozenset[int]
    stops_early: bool
    shown: list[int] = field(default_factory=list)
    over: bool = False

    def push(self, token: int, seconds: float) -> Token | None:
        """One more; nothing is to be shown behind the end, nor kept where the answer stops there.

        Conversations beside it may go on.
        """
        if self.over and self.stops_early:
            return None
        self.answer.seconds.append(seconds)
        self.answer.tokens.append(token)
        self.over = self.over or token in self.ends
        if self.over:
            return None
        self.shown.append(token)
        return Token(token, self.stream.push(token), seconds)

    def rest(self) -> Token | None:
        """What was kept back of the text."""
        found = self.stream.close()
        return Token(self.shown[-1], found, 0.0) if found else None

    def settle(self) -> None:
        """Keep what was answered in the conversation."""
        ended = bool(self.answer.tokens) and self.answer.tokens[-1] in self.ends
        unread = [] if ended else self.answer.tokens[-1:]
        self.answer.text = self.turn.talk.answered(self.shown, unread)


class Answers(ABC):
    """A session that takes prompts."""

    def __init__(self, config: Config, prompts: Prompts) -> None:
        self.config = config
        self.prompts = prompts
        self.answers: list[Answer] = []
        """In the order of their prompts."""
        self._conversation: Conversation | None = None
        self._read: list[int] = []
        """Private ids that the conversation's cache holds."""
        self._fillers = 0
        """Rows of the cache before the first of them."""
        self._count = 0
        self._answering = Lock()
        """Held while an answer is under way: two at once would read each other's rows."""

    def generate(
        self, prompt: str, max_new_tokens: int | None = None, *, goes_on: bool = False
    ) -> Iterator[Token]:
        """Tokens of a private answer as they come.

        goes_on: the prompt continues the conversation, whose cache is kept; else a new one begins.
        A prompt or an answer that the announced positions do not hold is a `ConfigError` before
        anything is sent.
        """
        if not isinstance(prompt, str):
            raise UsageError(f"generate: {type(prompt).__name__}; give a text")
        if not goes_on and self._batch > 1:
            return _first_of(self.generate_batch([prompt], max_new_tokens))
        if goes_on:
            self._require_turns()
        if goes_on and self._conversation is None:
            raise UsageError(
                "generate: there is no conversation to go on with; begin with a prompt"
            )
        base = self._conversation if goes_on else None
        talk = Conversation(self.prompts) if base is None else base.copy()
        ids = talk.ask(prompt)
        read = [] if not goes_on else list(self._read)
        fillers = self._fillers if goes_on else self.prompts.settings.padded(len(ids)) - len(ids)
        wanted = self._checked(len(read), len(ids), fillers, max_new_tokens)
        asked = Asked(ids, wanted, not goes_on)
        answer = Answer(prompt, np.array([*read, *ids], np.int64), len(ids), self._count)
        turn = _Turn(base, talk, fillers)
        return _first_of(self._answered([self._growing(turn, answer)], asked))

    def generate_batch(
        self, prompts: Sequence[str], max_new_tokens: int | None = None
    ) -> Iterator[list[Token | None]]:
        """Tokens of private answers that share passes, those of a pass at a time.

        prompts: 1 to `model.batch`; each begins a conversation. None: an answer has ended, and
        others go on. Refused as by `generate` before anything is sent.
        """
        if isinstance(prompts, str) or not all(isinstance(one, str) for one in prompts):
            raise UsageError("generate_batch: give a list of texts")
        if not 1 <= len(prompts) <= self._batch:
            raise UsageError(
                f"generate_batch: {len(prompts)} prompts; give 1 to model.batch, {self._batch}"
            )
        talks = [Conversation(self.prompts) for _ in prompts]
        ids = [talk.ask(prompt) for talk, prompt in zip(talks, prompts, strict=True)]
        longest, wanted = self.prompts.settings.padded(max(map(len, ids))), 0
        growing = []
        for place, (prompt, talk, own) in enumerate(zip(prompts, talks, ids, strict=True)):
            fillers = longest - len(own)
            wanted = self._checked(0, len(own), fillers, max_new_tokens)
            answer = Answer(prompt, own, len(own), self._count)
            answer.place, answer.together = place, len(prompts)
            growing.append(self._growing(_Turn(None, talk, fillers), answer))
        asked = Asked(ids[0], wanted, True, beside=tuple(ids[1:]))
        return self._answered(growing, asked)

    def _growing(self, turn: _Turn, answer: Answer) -> _Growing:
        tokenizer, stops = self.prompts.tokenizer, self.prompts.settings.stop_early
        return _Growing(turn, answer, tokenizer.stream(), tokenizer.end_ids, stops)

    @property
    def _batch(self) -> int:
        """Conversations that share passes."""
        return self.config.run.model.batch

    def check(
        self,
        prompts: Sequence[str],
        max_new_tokens: int | None = None,
        *,
        is_conversation: bool = False,
    ) -> None:
        """`ConfigError` where one of these prompts could not be answered, whatever came before it.

        Before a session is opened, so that nothing runs for a list that holds a mistake. In a
        conversation a later prompt may still find too little room behind earlier answers.
        """
        if is_conversation and len(prompts) > 1:
            self._require_turns()
        for prompt in prompts:
            new = len(Conversation(self.prompts).ask(prompt))
            self._checked(0, new, self.prompts.settings.padded(new) - new, max_new_tokens)

    def _require_turns(self) -> None:
        """Refuse conversations where an answer says nothing by its length, or is one of several."""
        if self._batch > 1:
            raise ConfigError(
                f"model.batch: {self._batch}: conversations that share passes begin and end "
                "together, so none goes on; set it to 1 at both parties, or begin anew with each "
                "prompt"
            )
        if not self.prompts.settings.stop_early:
            raise ConfigError(
                "generation.stop_early: false: every answer is read to its full length, so no "
                "conversation goes on behind it; set it to true at both parties, or begin anew "
                "with each prompt"
            )

    def force(self, ids: Sequence[int]) -> None:
        """Read ids one by one whatever tokens are chosen: for a measurement of every position.

        A conversation of its own, which `generate` cannot go on with. Appends one `Answer`, once
        all ids are read: `read` is the first id, `tokens` the tokens chosen after each id, not the
        ids, `seconds` those of each pass without its preparation in batches; its text is empty.
        """
        if self._batch > 1:
            raise ConfigError(
                f"model.batch: {self._batch}: ids are read in a conversation of its own alone; set "
                "it to 1 at both parties"
            )
        first, *others = (int(i) for i in ids)
        answer = Answer("", np.array([first], np.int64), 1, self._count)
        asked = Asked(answer.read, len(ids), True, tuple(others))
        self._conversation = None
        for (token,), record in self._passes(asked):
            self._count += 1
            answer.tokens.append(token)
            answer.seconds.append(record.seconds)
        self.answers.append(answer)

    def _start(self, turn: _Turn, asked: Asked) -> None:
        """Refuse what the session has moved on from since it was asked for."""
        if not self._answering.acquire(blocking=False):
            raise UsageError(
                "generate: another answer is under way; take all of its tokens or close it first"
            )
        if not asked.fresh and self._conversation is not turn.base:
            self._answering.release()
            raise UsageError("generate: the conversation has moved on since; ask again")
        self._fillers = turn.fillers

    def _answered(self, growing: Sequence[_Growing], asked: Asked) -> Iterator[list[Token | None]]:
        self._start(growing[0].turn, asked)
        start, is_whole = time.perf_counter(), False
        for each in growing:
            each.answer.first_pass = self._count
            self.answers.append(each.answer)
        passes = self._passes(asked)
        try:
            for tokens, _record in passes:
                self._count += 1
                now = time.perf_counter()
                # Conversations beyond these repeat the first, and nobody waits for them.
                shown = [one.push(t, now - start) for one, t in zip(growing, tokens, strict=False)]
                if any(shown):
                    yield shown
                start = now
            is_whole = True
            rests = [one.rest() for one in growing]
            if any(rests):
                yield rests
        finally:
            self._answering.release()
            # Now, and not when its last reference goes: what it says may be an error.
            passes.close()
            for one in growing:
                one.settle()
            first = growing[0]
            self._read = [int(i) for i in (*first.answer.read, *first.answer.tokens[:-1])]
            # What was read behind what the caller saw cannot be unread.
            is_usable = is_whole and first.stops_early and self._batch == 1
            self._conversation = first.turn.talk if is_usable else None

    def _checked(self, read: int, new: int, fillers: int, tokens: int | None) -> int:
        """How many tokens are asked for, once prompt and answer fit behind what was read."""
        settings = self.prompts.settings
        wanted = settings.max_new_tokens if tokens is None else tokens
        if type(wanted) is not int:
            raise UsageError(f"max_new_tokens: {type(wanted).__name__}; give a whole number")
        if not 1 <= wanted <= settings.max_new_tokens:
            raise ConfigError(
                f"max_new_tokens: {wanted}; the config announces 1 to {settings.max_new_tokens}: "
                "raise generation.max_new_tokens at both parties"
            )
        # Fillers of a conversation that goes on are in its cache already.
        padding, held = (0, read + fillers) if read else (fillers, 0)
        room, needed = settings.positions - held, padding + new + wanted - 1
        if needed > room:
            filled = f", {padding} rows to fill generation.prompt_bucket" if padding else ""
            raise ConfigError(
                f"prompt: {new} private tokens{filled} and {wanted} new ones need {needed} "
                f"positions, {room} of the announced {settings.positions} are left; shorten the "
                "prompt, ask for fewer tokens or raise generation.positions at both parties"
            )
        return wanted

    @abstractmethod
    def _passes(self, asked: Asked) -> Passes:
        """Tokens and records of every pass."""


def _first_of(passes: Iterator[list[Token | None]]) -> Iterator[Token]:
    """Of the only prompt; what is closed closes what it takes from."""
    with closing(passes):  # type: ignore[type-var]
        for (token,) in passes:
            if token is not None:
                yield token
