"""What a protocol computes, counted in units, and how its parts wait for each other.

A protocol declares `Work` beside its `Traffic`: parts in order, each with counts of named units
(transforms, key switches, oblivious transfers, ...). `Work.advance` plays the parts on two clocks,
one a party, given the seconds of a unit and a link: what one party does while the other works or
while a frame travels costs nothing extra.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from transport.traffic import Party

Units = tuple[tuple[str, float], ...]
"""Counts by name, sorted, none of them zero."""


def units(counts: Mapping[str, float] | None = None, **more: float) -> Units:
    """Counts as `Units`."""
    both = {**(counts or {}), **more}
    return tuple(sorted((name, float(n)) for name, n in both.items() if n))


def add_units(*parts: Units) -> Units:
    """All together."""
    total: dict[str, float] = {}
    for part in parts:
        for name, count in part:
            total[name] = total.get(name, 0.0) + count
    return units(total)


def scale_units(part: Units, times: float) -> Units:
    """`times` of each."""
    return units({name: count * times for name, count in part})


class Prices(Protocol):
    """Of one machine and one link."""

    @property
    def latency_s(self) -> float:
        """From a send to the receipt of a small frame, one way."""

    @property
    def bytes_per_s(self) -> float:
        """Each direction."""

    def seconds(self, part: Units) -> float:
        """Time of one core for these units."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Seconds at which each party is done so far."""

    client: float = 0.0
    server: float = 0.0

    def set(self, party: Party, value: float) -> Clocks:
        """One of them moved."""
        if party is Party.CLIENT:
            return Clocks(value, self.server)
        return Clocks(self.client, value)

    def of(self, party: Party) -> float:
        """One of them."""
        return self.client if party is Party.CLIENT else self.server


@dataclass(frozen=True, slots=True)
class Together:
    """Both parties work and wait in step: `rounds` messages one after the other.

    serial_bytes: of the larger direction where both send at once. streams: bytes travel in frames
    while both go on computing, so that the longer of the two counts, not the sum.
    """

    counts: Units = ()
    rounds: int = 0
    serial_bytes: int = 0
    streams: bool = False

    def advance(self, clocks: Clocks, prices: Prices) -> Clocks:
        """Both end at the same time."""
        own = prices.seconds(self.counts)
        if not self.rounds:
            return Clocks(clocks.client + own, clocks.server + own)
        wire = self.serial_bytes / prices.bytes_per_s
        busy = max(own, wire) if self.streams else own + wire
        end = max(clocks.client, clocks.server) + busy + self.rounds * prices.latency_s
        return Clocks(end, end)

    def counted(self) -> Units:
        """All units, of one party."""
        return self.counts


@dataclass(frozen=True, slots=True)
class Message:
    """One message; the sender goes on while the receiver works on it."""

    sender: Party
    size: int
    before: Units = ()
    after: Units = ()

    def advance(self, clocks: Clocks, prices: Prices) -> Clocks:
        """The receiver waits for the message, the sender for nothing."""
        sent = clocks.of(self.sender) + prices.seconds(self.before)
        arrival = sent + prices.latency_s + self.size / prices.bytes_per_s
        receiver = self.sender.peer
        done = max(clocks.of(receiver), arrival) + prices.seconds(self.after)
        return clocks.set(self.sender, sent).set(receiver, done)

    def counted(self) -> Units:
        """All units, of both parties."""
        return add_units(self.before, self.after)


@dataclass(frozen=True, slots=True)
class Trip:
    """A question of the client in several frames, an answer of the server in several frames.

    Counts are of all frames together. Each party works on a frame while others travel.
    """

    question: Units
    """Client, before each frame goes out."""
    own: Units
    """Server, before the first frame is read."""
    arriving: Units
    """Server, on each frame of the question."""
    between: Units
    """Server, after the whole question, before the answer."""
    leaving: Units
    """Server, before each frame of the answer goes out."""
    finish: Units
    """Client, on each frame of the answer."""
    after: Units
    """Server, after the last frame."""
    frames_up: int
    frames_down: int
    up_bytes: int
    down_bytes: int
    stages: int = 1
    """Parts of the answer, each of which waits for its own part of the question only."""

    def advance(self, clocks: Clocks, prices: Prices) -> Clocks:
        """Frame by frame: client, link, server, link, client."""
        s, up, down = prices.seconds, self.frames_up, self.frames_down
        ask, read = s(self.question) / up, s(self.arriving) / up
        make, finish = s(self.leaving) / down, s(self.finish) / down
        up_wire = self.up_bytes / up / prices.bytes_per_s
        down_wire = self.down_bytes / down / prices.bytes_per_s
        client, server = clocks.client, clocks.server + s(self.own)
        link_up = link_down = 0.0
        arrivals, received = [], 0
        for _ in range(up):
            client += ask
            link_up = max(link_up, client) + up_wire
            arrivals.append(link_up + prices.latency_s)
        answers = []
        for frame in range(down):
            needed = -(-(frame * self.stages // down + 1) * up // self.stages)
            while received < needed:
                server = max(server, arrivals[received]) + read
                received += 1
            if not frame:
                server += s(self.between)
            server += make
            link_down = max(link_down, server) + down_wire
            answers.append(link_down + prices.latency_s)
        for arrival in answers:
            client = max(client, arrival) + finish
        return Clocks(client, server + s(self.after))

    def counted(self) -> Units:
        """All units, of both parties."""
        parts = (self.question, self.own, self.arriving, self.between)
        return add_units(*parts, self.leaving, self.finish, self.after)


Part = Together | Message | Trip


@dataclass(frozen=True, slots=True)
class Work:
    """Parts in the order in which they run."""

    parts: tuple[Part, ...] = ()

    @classmethod
    def together(cls, counts: Units, rounds: int = 0, serial_bytes: int = 0) -> Work:
        """One part of both."""
        return cls((Together(counts, rounds, serial_bytes),))

    def __add__(self, later: Work) -> Work:
        """This work, then the later one."""
        if not self.parts or not later.parts:
            return Work(self.parts or later.parts)
        last, first = self.parts[-1], later.parts[0]
        if (
            isinstance(last, Together)
            and isinstance(first, Together)
            and not (last.streams or first.streams)
        ):
            merged = Together(
                add_units(last.counts, first.counts),
                last.rounds + first.rounds,
                last.serial_bytes + first.serial_bytes,
            )
            return Work((*self.parts[:-1], merged, *later.parts[1:]))
        return Work(self.parts + later.parts)

    def __mul__(self, times: int) -> Work:
        """`times` runs one after the other."""
        if len(self.parts) == 1 and isinstance(part := self.parts[0], Together):
            counts = scale_units(part.counts, times)
            rounds, serial = part.rounds * times, part.serial_bytes * times
            return Work((Together(counts, rounds, serial, part.streams),)) if times else NO_WORK
        return sum([self] * times, NO_WORK)

    def advance(self, clocks: Clocks, prices: Prices) -> Clocks:
        """Where both parties are after this work."""
        for part in self.parts:
            clocks = part.advance(clocks, prices)
        return clocks

    def counted(self) -> Units:
        """All units of all parts; those that both do in step count once."""
        return add_units(*(part.counted() for part in self.parts))


NO_WORK = Work()
