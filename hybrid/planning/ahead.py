"""What of passes to come is made ahead of need: a public schedule, the same at both parties.

Prepared correlations of a kind serve any pass, so the stock is a count of each kind. Whatever comes
next takes what is there, oldest first, and makes what it lacks; the rest stays for later passes.
Those of a cache serve the one conversation that begins next.
"""

from __future__ import annotations

from dataclasses import replace

from hybrid.operators.slot_triples import triples_cost
from hybrid.planning.generation import CachePiece, GenerationPlan
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.cost import Cost, Demand
from transport.computing import NO_WORK

AHEAD = "ahead"
"""Correlations of passes to come, among what passes share."""
AHEAD_CACHE_BYTES = 1 << 30
"""Of a next conversation's correlations, at each party; larger ones are made when it begins."""
PIECE_OTS = 1 << 20
"""Of a piece, unless a row takes more: small pieces leave ciphertexts half empty."""


def still_to_make(cost: Cost, stock: Demand) -> Cost:
    """`cost`, its correlations those that are not in stock."""
    lacks = cost.demand - stock
    raw = cost.ots - cost.demand.ots
    return replace(cost, ots=raw + lacks.ots, demand=lacks)


def making(source: type[CorrelationSource], needed: Cost) -> Cost:
    """What making the correlations that a cost consumes sends, its risks."""
    made = triples_cost(needed.demand)
    traffic = source.production_traffic(needed.ots) + made.traffic
    return replace(made, traffic=traffic, work=NO_WORK)


def most(*demands: Demand) -> Demand:
    """Of every kind as many as the largest of these has."""
    found = Demand()
    for demand in demands:
        found += demand - found
    return found


class AheadPlan:
    """Correlations that the next passes of a session take, whatever is asked."""

    def __init__(self, plan: GenerationPlan) -> None:
        self.plan = plan
        settings, capacity = plan.model.settings, plan.model.capacity
        self.tokens = 0 if plan.needs_dealer else min(settings.ahead_tokens, capacity)
        """So many rows, of prompts and of tokens one by one; a dealer is asked when they come."""
        self._together = 1 if plan.needs_dealer else settings.tokens_at_once
        self._wanted: dict[int, Demand] = {}
        self._asked: tuple[tuple[int, int, Demand], Demand] | None = None
        # Where little fits, two caches at once would be too much.
        is_small = plan.masks_bytes() <= AHEAD_CACHE_BYTES
        self.cache_pieces: list[CachePiece] = plan.cache_pieces if self.tokens and is_small else []
        """Of the next conversation's cache, whatever its prompt; none with a dealer."""

    def wanted(self, past: int) -> Demand:
        """Of so many rows behind `past`, or in a new conversation.

        Enough for one prompt of all of them and for single tokens: of every kind the most that
        either takes. Prompts and answers that mix both, or end elsewhere, may lack a few.
        """
        if past not in self._wanted:
            # One place at a time is asked for again and again.
            self._wanted = {past: self._found(past)}
        return self._wanted[past]

    def _found(self, past: int) -> Demand:
        plan, capacity = self.plan, self.plan.model.capacity
        settings = plan.model.settings
        singles = (0, min(past, capacity - 1), capacity // 2, capacity - 1)
        found = [plan.of_pass(1, p).cost.demand * self.tokens for p in dict.fromkeys(singles)]
        prompts = [(self.tokens // settings.prompt_bucket * settings.prompt_bucket, 0)]
        if past and settings.stop_early:
            prompts.append((min(self.tokens, capacity - past), past))
        found += [plan.of_pass(rows, p).cost.demand for rows, p in prompts if rows > 0]
        return most(*found)

    def piece(self, past: int, stock: Demand) -> Demand:
        """The next to be made, as far as it is missing: about what some rows take.

        More of them, where they take little.
        """
        if not self.tokens:
            return Demand()
        wanted = self.wanted(past)
        lacks = dict((wanted - stock).counts)
        pieces = max(1, min(self.tokens // self._together, wanted.ots.total // PIECE_OTS))
        parts = ((kind, -(-count // pieces)) for kind, count in wanted.counts)
        return Demand(tuple((k, min(n, lacks[k])) for k, n in parts if k in lacks))

    @property
    def may_go_on(self) -> bool:
        """Whether a conversation takes another turn, so that one need not be the next to begin."""
        return self.plan.model.batch == 1 and self.plan.model.settings.stop_early

    def at_once(self, rows: int, past: int, stock: Demand) -> Demand:
        """What a pass of one row lacks, and with it those that may follow it.

        Nothing where it lacks nothing, for a prompt, whose pass makes its own, or with a dealer.
        The last answer is kept: a client asks before it says that a pass comes, and in the pass.
        """
        asked, last = (rows, past, stock), self._asked
        if last is None or last[0] != asked:
            self._asked = last = asked, self._at_once(rows, past, stock)
        return last[1]

    def _at_once(self, rows: int, past: int, stock: Demand) -> Demand:
        own = self.plan.of_pass(rows, past).cost.demand
        if rows > 1 or self._together == 1 or not (own - stock).counts:
            return Demand()
        # The nearest last, as plans keep the last few.
        places = reversed(range(past, min(past + self._together, self.plan.model.capacity)))
        return sum((self.plan.of_pass(1, p).cost.demand for p in places), Demand()) - stock

    def making(self, past: int = 0) -> list[Cost]:
        """What every piece of these sends, and its chance of failure, where the stock is empty."""
        stock, found = Demand(), []
        while (piece := self.piece(past, stock)).counts:
            found.append(making(self.plan.source, Cost(ots=piece.ots, demand=piece)))
            stock += piece
        return found
