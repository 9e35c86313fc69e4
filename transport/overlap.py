"""Several protocols at once over one channel: independent messages share rounds."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from transport.channel import Channel
from transport.errors import FrameError, TransportError
from transport.frame import Frame
from transport.traffic import NO_TRAFFIC

MAX_BRANCHES = 8


class _StoppedError(TransportError):
    """Another branch has failed."""


class Branch(Channel):
    """What one of several protocols sees of a channel: rounds of its own, frames of its own."""

    def __init__(self, parent: Channel, index: int, start_round: int) -> None:
        super().__init__(parent.party, None, 0.0)
        self.index = index
        self._round = start_round
        self._flows = parent.flows
        self._round_is_open = parent.flows and parent.round_is_open
        self._label = parent.label
        self._go, self._rest = threading.Semaphore(0), threading.Semaphore(0)
        self.outbox: list[Frame] = []
        self._inbox: deque[Frame] = deque()
        self.is_done = self.is_stopped = False
        self.result: Any = None
        self.error: BaseException | None = None

    def start(self, task: Callable[[Channel], Any]) -> threading.Thread:
        """A thread that waits for its turn."""

        def run() -> None:
            self._go.acquire()
            try:
                if not self.is_stopped:
                    self.result = task(self)
            except BaseException as error:
                self.error = error
            self.is_done = True
            self._rest.release()

        thread = threading.Thread(target=run, name=f"branch {self.index}", daemon=True)
        thread.start()
        return thread

    def resume(self) -> None:
        """Let the protocol run until it waits for a frame, or ends."""
        self._go.release()
        self._rest.acquire()

    def deliver(self, frame: Frame) -> None:
        """The next of its frames."""
        self._inbox.append(frame)

    @property
    def is_branch(self) -> bool:
        """It is."""
        return True

    def _put(self, frame: Frame) -> None:
        self.outbox.append(replace(frame, branch=self.index))

    def _get(self) -> Frame:
        while not self._inbox:
            # Before it waits: a protocol that was stopped may ask again on its way out.
            if not self.is_stopped:
                self._rest.release()
                self._go.acquire()
            if self.is_stopped:
                raise _StoppedError("another protocol of the same step has failed")
        # Of the parent's frames it has every other one: what was due is due here.
        frame = self._inbox.popleft()
        return replace(frame, branch=0, sequence=self._received_frames)

    def close(self) -> None:
        """The parent is closed by whoever runs the branches."""


def overlapped(
    channel: Channel, tasks: Sequence[Callable[[Channel], Any]], *, counts_each: bool = False
) -> list[Any]:
    """Results of independent protocols that run at once, each over a channel of its own.

    Messages of one do not wait for the others: together they take as many rounds as the longest.
    Only one computes at a time, so nothing that they share is used by two at once; but which comes
    first may differ between the parties, so correlations must be divided before. The peer calls it
    with the same protocols in the same order.

    counts_each: count rounds as if one protocol came after the other, an upper bound; for those
    that are declared one by one.
    """
    if not 1 <= len(tasks) <= MAX_BRANCHES:
        raise FrameError(f"overlapped: {len(tasks)} protocols; run 1 to {MAX_BRANCHES} at once")
    if counts_each and channel.flows:
        raise FrameError("overlapped: rounds in a flow are counted as they go, not one by one")
    start = channel.current_round
    branches = [Branch(channel, index, start) for index in range(1, len(tasks) + 1)]
    threads: list[threading.Thread] = []
    try:
        for branch, task in zip(branches, tasks, strict=True):
            threads.append(branch.start(task))
        for branch in branches:
            _turn(branch, channel)
        while any(not branch.is_done for branch in branches):
            frame = channel.next_frame()
            if not 1 <= frame.branch <= len(branches) or branches[frame.branch - 1].is_done:
                raise FrameError(
                    f"overlapped: a frame of protocol {frame.branch}, {len(branches)} run at once; "
                    "are both parties the same version?"
                )
            branch = branches[frame.branch - 1]
            branch.deliver(frame)
            _turn(branch, channel)
    finally:
        _stop(branches, threads)
    last = max(branch.current_round for branch in branches)
    moved = sum((branch.total for branch in branches), NO_TRAFFIC)
    # In a flow what comes next waits for what this party has received, whatever it has sent.
    is_open = channel.flows and all(
        branch.round_is_open for branch in branches if branch.current_round == last
    )
    channel.absorb(moved if counts_each else replace(moved, rounds=last - start), is_open)
    return [branch.result for branch in branches]


def _turn(branch: Branch, channel: Channel) -> None:
    branch.resume()
    made, branch.outbox = branch.outbox, []
    if branch.error is not None:
        raise branch.error
    channel.put_frames(made)


def _stop(branches: Sequence[Branch], threads: Sequence[threading.Thread]) -> None:
    """End what still waits, so that no thread is left."""
    # Of those that were started: the last may not have been.
    for branch, thread in zip(branches, threads, strict=False):
        if not branch.is_done:
            branch.is_stopped = True
            branch.resume()
        thread.join()
