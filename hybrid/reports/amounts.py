"""Amounts of what was sent and how long it took, and parts of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from transport.traffic import Traffic

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Amount:
    """Seconds, bytes and rounds, or a part of them."""

    seconds: float = 0.0
    client_sent_bytes: float = 0.0
    server_sent_bytes: float = 0.0
    rounds: float = 0.0

    @classmethod
    def of(cls, traffic: Traffic, seconds: float = 0.0) -> Amount:
        """All of a step."""
        sizes = traffic.client_sent_bytes, traffic.server_sent_bytes
        return cls(seconds, *sizes, traffic.rounds)

    def __add__(self, other: Amount) -> Amount:
        return Amount(
            self.seconds + other.seconds,
            self.client_sent_bytes + other.client_sent_bytes,
            self.server_sent_bytes + other.server_sent_bytes,
            self.rounds + other.rounds,
        )

    def __mul__(self, part: float) -> Amount:
        return Amount(
            self.seconds * part,
            self.client_sent_bytes * part,
            self.server_sent_bytes * part,
            self.rounds * part,
        )

    def __sub__(self, other: Amount) -> Amount:
        return self + other * -1

    def counts(self, digits: int = 2) -> Json:
        """Bytes whole, rounds with digits where they are part of a share."""
        rounds = round(self.rounds, digits)
        return {
            "client_sent_bytes": round(self.client_sent_bytes),
            "server_sent_bytes": round(self.server_sent_bytes),
            "rounds": int(rounds) if rounds == int(rounds) else rounds,
        }

    def row(self, digits: int = 2) -> Json:
        """As reports write a phase or what was measured of a step."""
        return {"seconds": self.seconds, **self.counts(digits)}


NOTHING = Amount()


def total(amounts: Iterable[Amount]) -> Amount:
    """Of all together."""
    return sum(amounts, NOTHING)
