"""Messages that travel with those of another block, and take no frame and no round of their own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import Cost, Demand
from transport.channel import Channel
from transport.computing import Units
from transport.errors import FrameError, UsageError
from transport.frame import Frame
from transport.traffic import Traffic


def riding_cost(size: int, demand: Demand, counts: Units = ()) -> Cost:
    """Of a message of this size each way that rides; further units of work."""
    return Cost.of(Traffic(size, size), demand, counts)


class Riding(Channel):
    """A channel whose first frame each way carries one message more, of one length both ways.

    For messages that are known before a block starts and read after it. The block must send and
    receive a frame at least. It counts as before, by its own channel.
    """

    def __init__(self, channel: Channel, message: bytes) -> None:
        self.party = channel.party
        self._channel, self._own, self._size = channel, message, len(message)
        self._is_sent = False
        self._theirs: bytes | None = None

    @property
    def theirs(self) -> bytes:
        """The peer's message."""
        if self._theirs is None or not self._is_sent:
            raise UsageError("riding: the block sent or received nothing; send the message alone")
        return self._theirs

    def send(self, payload: bytes | memoryview) -> None:
        """As the channel's; the message goes in front of the first payload."""
        if not self._is_sent:
            payload, self._is_sent = self._own + bytes(payload), True
        self._channel.send(payload)

    def recv(self, expected_bytes: int | None = None) -> bytes:
        """As the channel's, of the first frame what follows the peer's message."""
        if self._theirs is not None:
            return self._channel.recv(expected_bytes)
        whole = self._channel.recv(None if expected_bytes is None else expected_bytes + self._size)
        if len(whole) < self._size:
            raise FrameError("riding: a frame is shorter than the message in front of it")
        self._theirs = whole[: self._size]
        return whole[self._size :]

    @property
    def is_branch(self) -> bool:
        """As the channel's."""
        return self._channel.is_branch

    @property
    def label(self) -> str:
        """As the channel's."""
        return self._channel.label

    @property
    def current_round(self) -> int:
        """As the channel's."""
        return self._channel.current_round

    @property
    def flows(self) -> bool:
        """As the channel's."""
        return self._channel.flows

    @property
    def round_is_open(self) -> bool:
        """As the channel's."""
        return self._channel.round_is_open

    @contextmanager
    def flow(self) -> Iterator[None]:
        """As the channel's."""
        with self._channel.flow():
            yield

    def next_round(self) -> None:
        """As the channel's."""
        self._channel.next_round()

    def close(self) -> None:
        """As the channel's."""
        self._channel.close()

    def _put(self, frame: Frame) -> None:
        self._channel._put(frame)

    def _get(self) -> Frame:
        return self._channel._get()


def riding(session: Session, message: bytes) -> tuple[Session, Riding]:
    """The same session for one block that the message rides on, and where to read the peer's."""
    channel = Riding(session.channel, message)
    return replace(session, channel=channel, stock=session.prepared), channel
