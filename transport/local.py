"""Both parties of a protocol inside one process, for tests and small experiments."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import TypeVar

from transport.channel import Channel
from transport.errors import PeerLostError, ReceiveTimeoutError
from transport.frame import Frame, parse_frame
from transport.link import LinkModel
from transport.traffic import Party

Result = TypeVar("Result")
Wire = SimpleQueue[tuple[bytes, bytes] | None]


class MemoryChannel(Channel):
    """One end of an in-process pair; frames pass through their wire form."""

    def __init__(
        self,
        party: Party,
        inbox: Wire,
        outbox: Wire,
        *,
        timeout_s: float = 120.0,
        link: LinkModel | None = None,
    ) -> None:
        super().__init__(party, link, timeout_s)
        self._inbox = inbox
        self._outbox = outbox

    def _put(self, frame: Frame) -> None:
        self._outbox.put((frame.header(), bytes(frame.payload)))

    def _get(self) -> Frame:
        try:
            parts = self._inbox.get(timeout=self._timeout_s)
        except Empty:
            raise ReceiveTimeoutError(
                f"{self._place()}: nothing from {self._peer_name()} for {self._timeout_s:g} s"
            ) from None
        if parts is None:
            raise PeerLostError(f"{self._place()}: {self._peer_name()} closed the channel")
        return parse_frame(*parts)

    def close(self) -> None:
        """Wake a peer that is blocked in `recv`."""
        self._outbox.put(None)


def memory_pair(
    *, timeout_s: float = 120.0, link: LinkModel | None = None
) -> tuple[MemoryChannel, MemoryChannel]:
    """Two connected in-process channels, client end first."""
    to_client: Wire = SimpleQueue()
    to_server: Wire = SimpleQueue()
    return (
        MemoryChannel(Party.CLIENT, to_client, to_server, timeout_s=timeout_s, link=link),
        MemoryChannel(Party.SERVER, to_server, to_client, timeout_s=timeout_s, link=link),
    )


def run_both(
    role: Callable[[Channel], Result], *, timeout_s: float = 120.0, link: LinkModel | None = None
) -> tuple[Result, Result, MemoryChannel]:
    """Run `role` once per party; return client result, server result and the client's channel.

    The channel holds the counted traffic of both directions. If one party fails, the other
    is woken and the first failure is raised.
    """
    pair = memory_pair(timeout_s=timeout_s, link=link)

    def guarded(channel: Channel) -> Result:
        try:
            return role(channel)
        finally:
            channel.close()

    with ThreadPoolExecutor(max_workers=2) as pool:
        futures = [pool.submit(guarded, channel) for channel in pair]
    failures = [error for error in (f.exception() for f in futures) if error is not None]
    causes = [e for e in failures if not isinstance(e, PeerLostError)] or failures
    if causes:
        raise causes[0]
    assert pair[0].total == pair[1].total
    return futures[0].result(), futures[1].result(), pair[0]
