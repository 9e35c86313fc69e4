"""Protocols in a row whose messages follow each other as they go, counted message by message.

A party that has what a message takes sends it, whoever of the two is further: an answer and what
the next protocol asks travel together. Where who asks alternates from one table to the next, a
table takes one round, as an exchange does, while protocols that begin in step take two for it. The
channel counts the same way inside `Channel.flow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

from mpc_nonlinear.cost import NO_COST, Cost
from transport.computing import Together, Work
from transport.traffic import Party


class Move(Enum):
    """One message of a protocol, or one each way of which neither waits for the other."""

    CLIENT = 0
    SERVER = 1
    BOTH = 2


def question(asker: Party) -> tuple[Move, Move]:
    """What `asker` sends, and the answer."""
    both = Move.CLIENT, Move.SERVER
    return both if asker is Party.CLIENT else both[::-1]


@dataclass(frozen=True, slots=True)
class Flow:
    """Cost of the protocols so far, and the round in which each party would send next."""

    cost: Cost = NO_COST
    client: int = 1
    server: int = 1
    rounds: int = 0

    def then(self, cost: Cost, *moves: Move) -> Flow:
        """A protocol after these; `moves` are its messages in order, if it sends any."""
        client, server, rounds = self.client, self.server, self.rounds
        for move in moves if cost.traffic.rounds else ():
            sent = (
                (client if move is not Move.SERVER else 0),
                (server if move is not Move.CLIENT else 0),
            )
            # What a party sends after a message goes in a later round than that.
            client, server = max(client, sent[1] + 1), max(server, sent[0] + 1)
            rounds = max(rounds, *sent)
        return Flow(self.cost + cost, client, server, rounds)

    def beside(self, flows: Sequence[Flow]) -> Flow:
        """All of `flows`, which go on from here at once: see `branch`."""
        cost = sum((flow.cost for flow in flows), self.cost)
        client, server, rounds = (
            max(getattr(flow, name) for flow in (self, *flows))
            for name in ("client", "server", "rounds")
        )
        return Flow(cost, client, server, rounds)

    @property
    def branch(self) -> Flow:
        """What goes on from here beside others, its cost apart."""
        return replace(self, cost=NO_COST)

    @property
    def total(self) -> Cost:
        """Cost of all of it, in as many rounds as the longest chain of messages has."""
        parts = self.cost.work.parts
        serial = sum(part.serial_bytes for part in parts if isinstance(part, Together))
        work = Work.together(self.cost.work.counted(), self.rounds, serial)
        return replace(self.cost, traffic=replace(self.cost.traffic, rounds=self.rounds), work=work)
