"""Answers to prompts with the other party on another machine: the server's loop, the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

from hybrid.config.loading import Config
from hybrid.planning.generation import GenerationPlan
from hybrid.runtime.answers import Answers, Asked, Passes
from hybrid.runtime.generation_records import GenerationRecord
from hybrid.runtime.generation_serving import AnsweringServer, AskingClient
from hybrid.runtime.generation_words import RefusedError
from hybrid.runtime.idle import WhileIdle
from hybrid.runtime.opened import OpenedElsewhere
from hybrid.runtime.remote import cautious, refuse_dealer, require_no_dealer, served
from hybrid.runtime.runner import Progress


def serve_answers(
    config: Config, endpoint: str, *, keep: bool, say: Callable[[str], None]
) -> Iterator[tuple[GenerationPlan, GenerationRecord]]:
    """Serve one session, or with `keep` one after the other without end; what each measured."""
    server = AnsweringServer(config)
    require_no_dealer(config, server.plan)
    told = cautious(say, server.generator.caution)
    for record, _ in served(config, endpoint, server.serve_session, keep=keep, say=told):
        say(f"served {len(record.passes)} passes")
        yield server.plan, record


class RemoteGeneration(Answers, OpenedElsewhere[GenerationPlan, GenerationRecord]):
    """The client's session with a server elsewhere; a context manager.

    `generate` may be called again and again inside; after it `record` holds what the client
    measured. While nobody asks, a thread of its own prepares what later prompts need; a prompt
    waits for the piece under way.
    """

    _client: AskingClient

    def __init__(self, config: Config, endpoint: str, on_progress: Progress | None = None) -> None:
        """Load the tokenizer; nothing is sent before the with statement."""
        refuse_dealer(config)
        self._client = AskingClient(config, on_progress)
        super().__init__(config, self._client.prompts)
        self.endpoint = endpoint
        self._idle = WhileIdle(self._client.ahead, self._fail)

    def ahead(self) -> bool:
        """Prepare one piece of what later prompts need; whether there was one to prepare."""
        self._idle.stop()
        self._require_open()
        try:
            return self._client.ahead()
        except BaseException:
            self._fail()
            raise

    def __enter__(self) -> Self:
        super().__enter__()
        self._idle.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._idle.stop()
        try:
            if kind is None:
                self._raise_untold()
        finally:
            super().__exit__(kind, *error)

    def _passes(self, asked: Asked) -> Passes:
        self._idle.stop()
        self._require_open()
        try:
            found = self._client.answer(
                asked.ids,
                asked.tokens,
                fresh=asked.fresh,
                forced=asked.forced,
                beside=asked.beside,
            )
            for each in found:
                yield each.tokens, each.record
        except (GeneratorExit, RefusedError):
            # The caller has had enough, or the client has: nothing is wrong with the session.
            raise
        except BaseException:
            self._fail()
            raise
        finally:
            if self._is_open:
                self._idle.start()

    def __repr__(self) -> str:
        state = self._state(self._channel is not None)
        return f"<RemoteGeneration {self.config.run.name} at {self.endpoint}: {state}>"
