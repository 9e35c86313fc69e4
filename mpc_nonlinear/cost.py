"""What a protocol declares before it runs: messages, correlations, chance of failure."""

from __future__ import annotations

from dataclasses import dataclass

from transport.traffic import NO_TRAFFIC, Traffic


@dataclass(frozen=True, slots=True)
class OtCount:
    """Random correlated oblivious transfers, by who is the sender in them."""

    client_sends: int = 0
    server_sends: int = 0

    @property
    def total(self) -> int:
        """Both directions together."""
        return self.client_sends + self.server_sends

    def __add__(self, other: OtCount) -> OtCount:
        """Both amounts together."""
        return OtCount(
            self.client_sends + other.client_sends, self.server_sends + other.server_sends
        )

    def __sub__(self, other: OtCount) -> OtCount:
        """What is left after `other`, never below zero."""
        return OtCount(
            max(0, self.client_sends - other.client_sends),
            max(0, self.server_sends - other.server_sends),
        )

    def __mul__(self, times: int) -> OtCount:
        """`times` of this amount."""
        return OtCount(self.client_sends * times, self.server_sends * times)


@dataclass(frozen=True, slots=True)
class Cost:
    """What a protocol sends and consumes, both exact, and its chance of failure.

    The probability bounds that a result is wrong by more than the declared error.
    """

    traffic: Traffic = NO_TRAFFIC
    ots: OtCount = OtCount()
    failure_probability: float = 0.0

    def __add__(self, later: Cost) -> Cost:
        """Cost of this protocol followed by a later one."""
        return Cost(
            self.traffic + later.traffic,
            self.ots + later.ots,
            self.failure_probability + later.failure_probability,
        )

    def __mul__(self, times: int) -> Cost:
        """Cost of `times` runs, one after the other."""
        return Cost(self.traffic * times, self.ots * times, self.failure_probability * times)


NO_COST = Cost()
