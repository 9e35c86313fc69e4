"""What a policy wants small: seconds by a machine's prices, bytes, or rounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hybrid.machine.prices import MachinePrices
from hybrid.operators.slot_triples import triples_cost
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.cost import Cost, Demand, OtCount
from transport.computing import Clocks, Work
from transport.traffic import NO_TRAFFIC, Traffic

_LEAD_DIGITS = 9
"""Of seconds: leads that differ by less than a nanosecond are one."""
_TIE = 1e-10
"""Weight of bytes where rounds decide, and of rounds where bytes do."""


@dataclass(frozen=True)
class Measure:
    """Of one policy, under one source of correlations."""

    policy: str
    source: type[CorrelationSource]
    prices: MachinePrices | None
    """Of the policy `fastest`."""
    _moves: dict[tuple[int, float], tuple[Cost, Clocks]] = field(
        default_factory=dict, compare=False, repr=False
    )
    """By cost, kept so that no other takes its identity, and lead of the client's clock."""
    _made: dict[Demand, float] = field(default_factory=dict, compare=False, repr=False)
    _sent: dict[Demand, Traffic] = field(default_factory=dict, compare=False, repr=False)

    @property
    def is_time(self) -> bool:
        """Whether it is in seconds."""
        return self.policy == "fastest"

    def after(self, clocks: Clocks, cost: Cost) -> Clocks:
        """Both clocks, or the sum in both of them, after a step."""
        if not self.is_time:
            total = clocks.client + self.scalar(cost.traffic)
            return Clocks(total, total)
        # Shifting both clocks shifts both results: only the lead matters.
        lead = round(clocks.client - clocks.server, _LEAD_DIGITS)
        start = min(clocks.client, clocks.server)
        if (known := self._moves.get((id(cost), lead))) is None:
            known = cost, self._advanced(cost.work, Clocks(max(lead, 0.0), max(-lead, 0.0)))
            self._moves[id(cost), lead] = known
        moved = known[1]
        return Clocks(start + moved.client, start + moved.server)

    def scalar(self, traffic: Traffic) -> float:
        """Of messages, where these decide."""
        if self.policy == "fewest_rounds":
            return traffic.rounds + _TIE * traffic.sent_bytes
        return traffic.sent_bytes + _TIE * traffic.rounds

    def sent(self, frames: Sequence[int]) -> float:
        """Frames of so many bytes more from the client, for which nobody waits by themselves."""
        traffic = Traffic(client_payload_bytes=sum(frames), client_frames=len(frames))
        if not self.is_time:
            return self.scalar(traffic)
        assert self.prices is not None
        return traffic.sent_bytes / self.prices.bytes_per_s

    def alone(self, cost: Cost) -> float:
        """Of a step for itself, its correlations apart."""
        return self.after(Clocks(), cost).client

    def produced(self, needed: OtCount) -> float:
        """Making so many oblivious transfers."""
        if not self.is_time:
            return self.scalar(self.source.production_traffic(needed))
        return self._advanced(self.source.production_work(needed)).client

    def stored(self, demand: Demand) -> float:
        """Making what of a demand comes from slots, all of it together."""
        if self.is_time:
            if demand not in self._made:
                self._made[demand] = self._advanced(triples_cost(demand).work).client
            return self._made[demand]
        parts = [self._kind_traffic(Demand.of(*entry)) for entry in demand.counts]
        # One question and one answer for all kinds.
        rounds = max((part.rounds for part in parts), default=0)
        return self.scalar(replace(sum(parts, NO_TRAFFIC), rounds=rounds))

    def _kind_traffic(self, demand: Demand) -> Traffic:
        if demand not in self._sent:
            self._sent[demand] = triples_cost(demand).traffic
        return self._sent[demand]

    def made(self, demand: Demand) -> float:
        """Making raw oblivious transfers into what a demand says; takes no messages."""
        if not self.is_time:
            return 0.0
        assert self.prices is not None
        return self.prices.seconds(demand.offline_units)

    def knows(self, cost: Cost) -> bool:
        """Whether all that a cost counts, and what it consumes, has a price where one is needed."""
        if self.prices is None or not self.is_time:
            return True
        counted = cost.work.counted(), cost.demand.offline_units
        stored = triples_cost(cost.demand).work.counted()
        return all(self.prices.knows(part) for part in (*counted, stored))

    def _advanced(self, work: Work, clocks: Clocks = Clocks()) -> Clocks:  # noqa: B008
        assert self.prices is not None
        return work.advance(clocks, self.prices)


def difference(policy: str, amount: float) -> str:
    """Of two values of a policy's measure, for a reader."""
    if policy == "fastest":
        return f"{amount * 1e3:+.1f} ms"
    if policy == "fewest_rounds":
        return f"{amount:+.0f} rounds"
    return f"{amount / 1e6:+.3f} MB"
