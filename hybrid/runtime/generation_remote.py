"""Answers to prompts with the other party on another machine: the server's loop, the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Self

from hybrid.config.loading import Config
from hybrid.planning.generation import GenerationPlan
from hybrid.runtime.answers import Answers, Asked
from hybrid.runtime.generation_records import GenerationRecord, PassRecord
from hybrid.runtime.generation_serving import AnsweringServer, AskingClient
from hybrid.runtime.remote import refuse_dealer
from hybrid.runtime.runner import Progress
from hybrid.runtime.serving import open_client, open_server
from hybrid.runtime.session_checks import not_open
from hybrid.runtime.session_parts import no_dealer
from transport.errors import ConfigError, HybridError, UsageError
from transport.zmq_channel import ZmqChannel


def serve_answers(
    config: Config, endpoint: str, *, keep: bool, say: Callable[[str], None]
) -> Iterator[tuple[GenerationPlan, GenerationRecord]]:
    """Serve one session, or with `keep` one after the other without end; what each measured."""
    server = AnsweringServer(config)
    if server.plan.needs_dealer:
        raise ConfigError(no_dealer(config))
    while True:
        channel = open_server(config, endpoint)
        try:
            say(f"listening on {channel.endpoint}")
            record, _ = server.serve_session(channel)
        except Exception as error:  # One client must not end the service of the next.
            if not keep:
                raise
            ours = isinstance(error, HybridError)
            say(f"session ended: {error if ours else f'internal error: {type(error).__name__}'}")
            continue
        finally:
            channel.close()
        say(f"served {len(record.passes)} passes")
        yield server.plan, record
        if not keep:
            return


class RemoteGeneration(Answers):
    """The client's session with a server elsewhere; a context manager.

    `generate` may be called again and again inside; after it `record` holds what the client
    measured.
    """

    def __init__(self, config: Config, endpoint: str, on_progress: Progress | None = None) -> None:
        """Load the tokenizer; nothing is sent before the with statement."""
        refuse_dealer(config)
        self._client = AskingClient(config, on_progress)
        super().__init__(config, self._client.prompts)
        self.endpoint = endpoint
        self.plan: GenerationPlan | None = None
        """What both parties have agreed on, once it is open."""
        self.record: GenerationRecord | None = None
        self._channel: ZmqChannel | None = None
        self._is_open = self._has_failed = False

    def ahead(self) -> bool:
        """Prepare one piece of what later prompts need; whether there was one to prepare."""
        if not self._is_open:
            raise UsageError(not_open(has_failed=self._has_failed))
        return self._client.ahead()

    def _passes(self, asked: Asked) -> Iterator[tuple[int, PassRecord]]:
        if not self._is_open:
            raise UsageError(not_open(has_failed=self._has_failed))
        try:
            found = self._client.answer(
                asked.ids, asked.tokens, fresh=asked.fresh, forced=asked.forced
            )
            for each in found:
                yield each.token, each.record
        except GeneratorExit:
            raise
        except BaseException:
            self._is_open, self._has_failed = False, True
            raise

    def __enter__(self) -> Self:
        if self._channel is not None:
            raise UsageError("session: was opened before; make a new one")
        self._channel = open_client(self.config, self.endpoint)
        try:
            self.plan = self._client.open(self._channel)
        except BaseException:
            self._channel.close()
            raise
        self._is_open = True
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        assert self._channel is not None
        was_open, self._is_open = self._is_open, False
        try:
            if was_open and kind is None:
                self.record = self._client.close()
            elif was_open:
                # The caller's own trouble: the server is told, whatever comes of it.
                with suppress(HybridError):
                    self._client.close()
        finally:
            self._channel.close()

    def __repr__(self) -> str:
        state = "open" if self._is_open else "closed" if self._channel else "new"
        return f"<RemoteGeneration {self.config.run.name} at {self.endpoint}: {state}>"
