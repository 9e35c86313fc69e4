"""What a protocol puts on the wire: the one type for predictions and for measurements."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

FRAME_HEADER_BYTES = 48
"""Size of the header that `transport.frame` puts before every payload."""


class Party(IntEnum):
    """Who runs this process: the client owns the input, the server owns the weights."""

    CLIENT = 0
    SERVER = 1

    @property
    def peer(self) -> Party:
        """The other party."""
        return Party(1 - self)


@dataclass(frozen=True, slots=True)
class Traffic:
    """Bytes, frames and rounds of one protocol run.

    Rounds count the longest chain of messages in which each one waits for the one
    before: a simultaneous exchange is one round, a question and its answer are two.
    """

    client_payload_bytes: int = 0
    server_payload_bytes: int = 0
    client_frames: int = 0
    server_frames: int = 0
    rounds: int = 0

    @classmethod
    def message(cls, sender: Party, payload_bytes: int) -> Traffic:
        """One frame from `sender`: one round."""
        if sender is Party.CLIENT:
            return cls(payload_bytes, 0, 1, 0, 1)
        return cls(0, payload_bytes, 0, 1, 1)

    @classmethod
    def exchange(cls, client_payload_bytes: int, server_payload_bytes: int) -> Traffic:
        """One frame each way at the same time: one round."""
        return cls(client_payload_bytes, server_payload_bytes, 1, 1, 1)

    @property
    def client_framing_bytes(self) -> int:
        """Header bytes the client sends."""
        return self.client_frames * FRAME_HEADER_BYTES

    @property
    def server_framing_bytes(self) -> int:
        """Header bytes the server sends."""
        return self.server_frames * FRAME_HEADER_BYTES

    @property
    def client_sent_bytes(self) -> int:
        """Payload and framing together, client to server."""
        return self.client_payload_bytes + self.client_framing_bytes

    @property
    def server_sent_bytes(self) -> int:
        """Payload and framing together, server to client."""
        return self.server_payload_bytes + self.server_framing_bytes

    @property
    def sent_bytes(self) -> int:
        """Payload and framing of both directions."""
        return self.client_sent_bytes + self.server_sent_bytes

    def __add__(self, later: Traffic) -> Traffic:
        """Traffic of this run followed by a later one."""
        return Traffic(
            self.client_payload_bytes + later.client_payload_bytes,
            self.server_payload_bytes + later.server_payload_bytes,
            self.client_frames + later.client_frames,
            self.server_frames + later.server_frames,
            self.rounds + later.rounds,
        )

    def __mul__(self, times: int) -> Traffic:
        """Traffic of `times` runs, one after the other."""
        return Traffic(
            self.client_payload_bytes * times,
            self.server_payload_bytes * times,
            self.client_frames * times,
            self.server_frames * times,
            self.rounds * times,
        )


NO_TRAFFIC = Traffic()
