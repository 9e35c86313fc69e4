"""The stock of correlated OTs that every source keeps: first in, first out, single use."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque

import numpy as np

from mpc_nonlinear.correlations.base import BlockArray, CorrelationSource, OtReceiver, OtSender
from mpc_nonlinear.cost import OtCount
from mpc_nonlinear.fixed_point import BitArray
from transport.channel import Channel
from transport.errors import UsageError
from transport.traffic import Party

DIRECTION_SHIFT = 56
"""Hash indices of the two directions differ in bit 56; no session makes 2^56 OTs."""
_NO_CHOICES = np.zeros(0, np.uint8)


class Stock:
    """OTs of one direction in order; each leaves once, and its place is its hash index."""

    def __init__(self, sender: Party) -> None:
        self._base = int(sender) << DIRECTION_SHIFT
        self._segments: deque[tuple[BlockArray, BitArray]] = deque()
        self.produced = 0
        self.taken = 0

    @property
    def left(self) -> int:
        """How many are still here."""
        return self.produced - self.taken

    def add(self, blocks: BlockArray, choices: BitArray = _NO_CHOICES) -> None:
        """Append blocks (n, 2) and, on the receiver's side, their choice bits (n,)."""
        if len(blocks):
            self._segments.append((blocks, choices))
            self.produced += len(blocks)

    def take(self, count: int, name: str) -> tuple[BlockArray, BitArray, int]:
        """Remove `count` OTs: blocks, choices, hash index of the first."""
        if not 0 <= count <= self.left:
            raise UsageError(
                f"correlations {name}: {count} OTs asked for, {self.left} in stock; "
                "call produce() with the plan's count first"
            )
        first_index = self._base + self.taken
        self.taken += count
        blocks: list[BlockArray] = [np.zeros((0, 2), np.uint64)]
        choices: list[BitArray] = [_NO_CHOICES]
        while count:
            head, bits = self._segments.popleft()
            if len(head) > count:
                self._segments.appendleft((head[count:], bits[count:]))
                head, bits = head[:count], bits[:count]
            blocks.append(head)
            choices.append(bits)
            count -= len(head)
        if len(blocks) == 2:
            return blocks[1], choices[1], first_index
        return np.concatenate(blocks), np.concatenate(choices), first_index

    def burn(self) -> None:
        """Forget what is left."""
        self._segments.clear()
        self.taken = self.produced


class StockedSource(CorrelationSource):
    """Bookkeeping common to all sources: state, stocks, and what happens after a failure."""

    def __init__(self, party: Party) -> None:
        self._party = party
        self._delta: BlockArray | None = None
        self._closed = False
        self._sending = Stock(party)
        self._receiving = Stock(party.peer)

    def setup(self, channel: Channel) -> None:
        """Once per session, see the source's `setup_traffic`."""
        self._require_open()
        if self._delta is not None:
            raise UsageError(f"correlations {self.name}: setup() ran already; call it once")
        try:
            self._delta = self._setup(channel)
        except BaseException:
            self.close()
            raise

    def produce(self, count: OtCount, channel: Channel) -> None:
        """Add `count` to the stock; after a failure nothing of this source can be used."""
        self._require_open()
        if self._delta is None:
            raise UsageError(f"correlations {self.name}: produce() before setup(); call it first")
        mine, theirs = count.client_sends, count.server_sends
        if min(mine, theirs) < 0:
            raise UsageError(f"correlations {self.name}: {count} is negative; ask for zero or more")
        if not count.total:
            return
        if self._party is Party.SERVER:
            mine, theirs = theirs, mine
        try:
            self._produce(mine, theirs, channel)
        except BaseException:
            # The two parties' generators may stand at different places now.
            self.close()
            raise

    def take_sender(self, count: int) -> OtSender:
        """Consume `count` OTs in which this party sends."""
        self._require_open()
        blocks, _, first_index = self._sending.take(count, self.name)
        if self._delta is None:
            raise UsageError(f"correlations {self.name}: take_sender() before setup()")
        return OtSender(blocks, self._delta, first_index)

    def take_receiver(self, count: int) -> OtReceiver:
        """Consume `count` OTs in which this party receives."""
        self._require_open()
        blocks, choices, first_index = self._receiving.take(count, self.name)
        return OtReceiver(blocks, choices, first_index)

    def stock(self) -> OtCount:
        """What is left."""
        return self._by_party(self._sending.left, self._receiving.left)

    def produced(self) -> OtCount:
        """All that was made since set-up."""
        return self._by_party(self._sending.produced, self._receiving.produced)

    def close(self) -> None:
        """Burn stock and secrets; any later use raises `UsageError`."""
        self._closed = True
        self._delta = None
        self._sending.burn()
        self._receiving.burn()

    @property
    def party(self) -> Party:
        """Who we are."""
        return self._party

    @abstractmethod
    def _setup(self, channel: Channel) -> BlockArray:
        """Do the set-up and return this party's delta, shape (2,)."""

    @abstractmethod
    def _produce(self, sending: int, receiving: int, channel: Channel) -> None:
        """Add to the stocks; the counts are this party's and not both zero."""

    def _by_party(self, sending: int, receiving: int) -> OtCount:
        if self._party is Party.CLIENT:
            return OtCount(sending, receiving)
        return OtCount(receiving, sending)

    def _require_open(self) -> None:
        if self._closed:
            raise UsageError(
                f"correlations {self.name}: closed, or burnt by a failure; start a new session"
            )
