"""The metered channel between the two parties: the only place that counts bytes and rounds."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from transport.errors import FrameError, PeerLostError, TransportError
from transport.foreign import printable
from transport.frame import MAX_PAYLOAD_BYTES, Frame, FrameKind
from transport.link import LinkModel, LinkSchedule
from transport.traffic import NO_TRAFFIC, Party, Traffic

SETUP = "setup"
"""Label under which everything is counted before the first `step`."""
ABORT_REASON_BYTES = 200


class Channel(ABC):
    """Ordered, reliable byte channel to the peer that counts what it moves.

    Both parties enter the same `step` labels in the same order; each end counts both
    directions, so either can report the whole traffic of a step.

    Rounds: a party's frames carry a round number. Sending after having received (or at the
    start of a step) opens a new round; frames sent back to back share one; receiving lifts
    the party to the frame's round. A question and its answer are two rounds, an exchange one.
    """

    def __init__(self, party: Party, link: LinkModel | None, timeout_s: float) -> None:
        self.party = party
        self._timeout_s = timeout_s
        self._traffic: dict[str, Traffic] = {}
        self._label = SETUP
        self._round = 0
        self._round_is_open = False
        self._flows = False
        self._sent_frames = 0
        self._received_frames = 0
        self._link = LinkSchedule(link) if link else None

    # -- talking -----------------------------------------------------------------------

    def send(self, payload: bytes | memoryview) -> None:
        """Queue `payload` for the peer and return at once."""
        if isinstance(payload, memoryview):
            payload = payload.cast("B")
        if len(payload) > MAX_PAYLOAD_BYTES:
            raise FrameError(f"payload of {len(payload)} bytes exceeds {MAX_PAYLOAD_BYTES}")
        new_round = not self._round_is_open
        self._round += new_round
        self._round_is_open = True
        self._put(self._frame(FrameKind.DATA, payload))
        self._count(self.party, len(payload), int(new_round))

    def recv(self, expected_bytes: int | None = None) -> bytes:
        """Block until the peer's next payload; it must have `expected_bytes` if given."""
        frame = self.next_frame()
        if frame.branch:
            raise FrameError(
                f"{self._place()}: {self._peer_name()} runs several protocols at once where one is "
                "due; are both parties the same version?"
            )
        if expected_bytes is not None and len(frame.payload) != expected_bytes:
            raise FrameError(
                f"{self._place()}: {self._peer_name()} sent {len(frame.payload)} bytes where "
                f"{expected_bytes} were expected; are both parties the same version?"
            )
        if frame.round > self._round + 1 or frame.round < 1:
            raise FrameError(f"{self._place()}: round {frame.round} is out of order")
        rounds = max(0, frame.round - self._round)
        if frame.round >= self._round:
            # What we send next depends on a message of the current round.
            self._round = frame.round
            self._round_is_open = False
        self._count(self.party.peer, len(frame.payload), rounds)
        return bytes(frame.payload)

    def next_frame(self) -> Frame:
        """Block until the peer's next frame, of whatever branch; for `recv` and `overlapped`."""
        frame = self._get()
        if frame.kind is FrameKind.ABORT:
            self.close()
            raise self._stopped(frame)
        if frame.sequence != self._received_frames:
            raise FrameError(
                f"{self._place()}: frame {frame.sequence} from {self._peer_name()} arrived "
                f"where {self._received_frames} was due; restart both parties"
            )
        self._received_frames += 1
        if self._link:
            self._link.wait(frame)
        return frame

    def put_frames(self, frames: list[Frame]) -> None:
        """Send what branches have made, each frame in its own round; for `overlapped`."""
        for frame in frames:
            self._put(replace(frame, sequence=self._sent_frames))
            self._sent_frames += 1

    def absorb(self, moved: Traffic, is_open: bool = False) -> None:
        """Count what branches have moved; what is sent next opens a round, unless one is open."""
        self._round += moved.rounds
        self._round_is_open = is_open
        self._traffic[self._label] = self.traffic(self._label) + moved

    def exchange(self, payload: bytes | memoryview, expected_bytes: int | None = None) -> bytes:
        """Send `payload` and receive the peer's, in one round."""
        self.send(payload)
        return self.recv(expected_bytes)

    def send_array(self, array: NDArray[Any]) -> None:
        """Send an array's little-endian bytes; shape and dtype are the protocol's business."""
        self.send(np.ascontiguousarray(array).tobytes())

    def recv_array(self, shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
        """Receive an array of exactly this shape and dtype (read-only)."""
        kind = np.dtype(dtype)
        size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
        return np.frombuffer(self.recv(size), kind).reshape(shape)

    def exchange_array(self, array: NDArray[Any]) -> NDArray[Any]:
        """Send an array and receive the peer's of the same shape and dtype, in one round."""
        self.send_array(array)
        return self.recv_array(array.shape, array.dtype)

    @contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Wait this long for a connected but silent peer, where it may have nothing to say."""
        usual, self._timeout_s = self._timeout_s, seconds
        try:
            yield
        finally:
            self._timeout_s = usual

    def abort(self, reason: str) -> None:
        """Tell the peer, if it is still there, that this party gives up, and close.

        `reason` must hold nothing secret; the peer gets its first 200 bytes.
        """
        with suppress(TransportError):
            self._put(self._abort_frame(reason))
        self.close()

    # -- counting ----------------------------------------------------------------------

    @contextmanager
    def step(self, label: str) -> Iterator[None]:
        """Count everything inside under `label`; a send after this opens a new round."""
        outer, self._label = self._label, label
        self._round_is_open = False
        try:
            yield
        finally:
            self._label = outer
            self._round_is_open = False

    def next_round(self) -> None:
        """Sends from here on share no round with earlier ones.

        Every protocol calls it first, so that declared rounds add up exactly; where messages of
        neighbouring protocols overlap on the wire, the count is an upper bound, unless they flow.
        """
        if not self._flows:
            self._round_is_open = False

    @contextmanager
    def flow(self) -> Iterator[None]:
        """Count protocols inside as their messages go: what is sent back to back shares a round.

        Whoever declares them counts alike, message by message.
        """
        before, self._flows = self._flows, True
        self._round_is_open &= before
        try:
            yield
        finally:
            self._flows = before
            self._round_is_open &= before

    @property
    def flows(self) -> bool:
        """Whether it is inside `flow`."""
        return self._flows

    @property
    def round_is_open(self) -> bool:
        """Whether what is sent next goes in the current round."""
        return self._round_is_open

    @property
    def is_branch(self) -> bool:
        """Whether this is one of several protocols' view of a channel."""
        return False

    @property
    def label(self) -> str:
        """Of the step that runs."""
        return self._label

    @property
    def current_round(self) -> int:
        """Number of the last round that this party has sent or received in."""
        return self._round

    def traffic(self, label: str) -> Traffic:
        """What was counted under `label`, both directions."""
        return self._traffic.get(label, NO_TRAFFIC)

    @property
    def labels(self) -> tuple[str, ...]:
        """All labels that counted something, in order of first use."""
        return tuple(self._traffic)

    @property
    def total(self) -> Traffic:
        """Everything this channel moved."""
        return sum(self._traffic.values(), NO_TRAFFIC)

    def _count(self, sender: Party, payload_bytes: int, rounds: int) -> None:
        moved = replace(Traffic.message(sender, payload_bytes), rounds=rounds)
        self._traffic[self._label] = self.traffic(self._label) + moved

    # -- plumbing ----------------------------------------------------------------------

    def _frame(self, kind: FrameKind, payload: bytes | memoryview) -> Frame:
        frame = Frame(kind, self._sent_frames, self._round, time.monotonic_ns(), payload)
        self._sent_frames += 1
        return frame

    def _abort_frame(self, reason: str) -> Frame:
        # Words of a file or an argument may hold what UTF-8 has no bytes for.
        words = reason.encode(errors="backslashreplace")
        return self._frame(FrameKind.ABORT, words[:ABORT_REASON_BYTES])

    def _stopped(self, abort: Frame) -> PeerLostError:
        reason = _printable(abort.payload[:ABORT_REASON_BYTES])
        return PeerLostError(f"{self._place()}: {self._peer_name()} stopped: {reason}")

    def _place(self) -> str:
        return f"step {self._label}"

    def _peer_name(self) -> str:
        return f"the {self.party.peer.name.lower()}"

    @abstractmethod
    def _put(self, frame: Frame) -> None:
        """Hand one frame to the wire without blocking."""

    @abstractmethod
    def _get(self) -> Frame:
        """Next frame from the wire; raises `PeerLostError` or `ReceiveTimeoutError`."""

    @abstractmethod
    def close(self) -> None:
        """Release the wire; a peer blocked in `recv` gets `PeerLostError`."""


def _printable(text: bytes | memoryview) -> str:
    """The peer's words without anything that could steer a terminal."""
    return printable(bytes(text).decode("utf-8", "replace"))
