"""Sessions as context managers: what those of encoders and of decoders have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Any, Generic, Protocol, Self, TypeVar

from hybrid.config.loading import Config
from hybrid.planning.schedule import Schedule
from hybrid.runtime.processes import Processes
from hybrid.runtime.runner import Progress
from hybrid.runtime.serving import open_client
from hybrid.runtime.session_checks import not_open
from transport.channel import Channel
from transport.errors import HybridError, UsageError
from transport.zmq_channel import ZmqChannel, loopback_bytes

P = TypeVar("P")
R = TypeVar("R")
PlanOf = TypeVar("PlanOf", covariant=True)
RecordOf = TypeVar("RecordOf", covariant=True)


class Opening(Protocol[PlanOf, RecordOf]):
    """A client that can be connected."""

    def open(self, channel: Channel) -> PlanOf:
        """Set a session up."""

    def close(self) -> RecordOf:
        """End it."""


class Planned(Protocol):
    """What starting processes takes of a plan."""

    @property
    def schedule(self) -> Schedule:
        """What the server is told to run."""

    @property
    def needs_dealer(self) -> bool:
        """Whether a dealer is started too."""


def _ignore(_step: str, _layer: int) -> None:
    """No progress display."""


class _Opened(ABC):
    """Open once; after a failure only a new one helps."""

    config: Config
    _is_open = False
    _has_failed = False
    _untold: HybridError | None = None
    """A failure that could not be raised where it came up."""

    def _require_open(self) -> None:
        self._raise_untold()
        if not self._is_open:
            raise UsageError(not_open(has_failed=self._has_failed))

    def _raise_untold(self) -> None:
        error, self._untold = self._untold, None
        if error is not None:
            raise error

    def _fail(self, untold: HybridError | None = None) -> None:
        """Also where only a wait was interrupted: its answers would be taken for the next.

        untold: what went wrong, where it cannot be raised there and then.
        """
        self._is_open, self._has_failed, self._untold = False, True, untold

    def _state(self, was_started: bool) -> str:
        return "open" if self._is_open else "closed" if was_started else "new"


class OpenedHere(_Opened):
    """Both parties as processes of this machine."""

    plan: Planned
    on_progress: Progress = staticmethod(_ignore)
    """Is told every step that the client enters."""
    _processes: Processes | None = None

    @abstractmethod
    def _finish(self, processes: Processes) -> None:
        """Take both parties' records, the client's first; the client has been told to end."""

    def _children(self) -> Processes:
        """Those of an open session."""
        self._require_open()
        assert self._processes is not None
        return self._processes

    def _moved(self) -> int | None:
        """Bytes that the loopback device has counted since the session began."""
        after, before = loopback_bytes(), self._loopback_before
        return None if before is None or after is None else after - before

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
        assert self._processes is not None
        try:
            if kind is None:
                self._raise_untold()
            if kind is None and was_open:
                self._processes.ask(None)
                self._finish(self._processes)
        finally:
            self._processes.end()


class OpenedElsewhere(_Opened, Generic[P, R]):
    """The client's end of a session with a server elsewhere."""

    endpoint: str
    plan: P | None = None
    """What both parties have agreed on, once it is open."""
    record: R | None = None
    """What the client measured, once it is closed."""
    _client: Opening[Any, Any]
    _channel: ZmqChannel | None = None

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
