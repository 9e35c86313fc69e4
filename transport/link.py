"""Link models: bandwidth and latency that really delay messages on one machine."""

from __future__ import annotations

import time
from dataclasses import dataclass

from transport.frame import Frame
from transport.traffic import FRAME_HEADER_BYTES


@dataclass(frozen=True, slots=True)
class LinkModel:
    """A symmetric full-duplex link between the parties."""

    name: str
    bandwidth_bps: float
    """Bits per second, each direction."""
    latency_s: float
    """One way."""


class LinkSchedule:
    """Decides when a frame that has already arrived may be delivered.

    The receiver holds each frame until a link of the modelled speed would have carried it.
    Departure times are the sender's monotonic clock, which both processes of one machine
    share; the model is refused off one machine.
    """

    def __init__(self, link: LinkModel) -> None:
        self.link = link
        self._free_at_s = 0.0

    def wait(self, frame: Frame) -> None:
        """Sleep until `frame` is due."""
        size_bits = 8 * (FRAME_HEADER_BYTES + len(frame.payload))
        now_s = time.monotonic()
        # The peer's word, so not later than now: it must not make us sleep for ever.
        sent_s = min(frame.sent_at_ns * 1e-9, now_s)
        departure_s = max(self._free_at_s, sent_s)
        self._free_at_s = departure_s + size_bits / self.link.bandwidth_bps
        delay_s = self._free_at_s + self.link.latency_s - now_s
        if delay_s > 0:
            time.sleep(delay_s)
