"""What one party measured of a session: plain data, which reports are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybrid.machine.environment import describe, peak_memory_bytes
from hybrid.models.folding import FloatArray
from hybrid.runtime.runner import Measured
from transport.channel import SETUP, Channel
from transport.traffic import Traffic


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request."""

    steps: tuple[Measured, ...]
    seconds: float
    """Wall clock of offline, if it was not done before, and online."""
    answers: FloatArray | None = None
    """Client: finished answers, a row a text."""


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """All requests of a session."""

    requests: tuple[RequestRecord, ...]
    setup_seconds: float
    setup: Traffic
    """The words that announce and end requests belong to set-up."""
    total: Traffic
    dealer_bytes: int
    """Sent to the dealer; not traffic between the parties."""
    environment: Mapping[str, str]


def session_record(
    requests: list[RequestRecord], setup_s: float, channel: Channel, dealer: Channel | None
) -> SessionRecord:
    """As counted at a session's end."""
    return SessionRecord(
        tuple(requests),
        setup_s,
        channel.traffic(SETUP),
        channel.total,
        0 if dealer is None else dealer.total.sent_bytes,
        describe() | {"peak_memory_bytes": str(peak_memory_bytes())},
    )
