"""What a protocol declares before it runs: messages, correlations, chance of failure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from enum import IntEnum
from math import prod

from transport.computing import NO_WORK, Units, Work, add_units, units
from transport.traffic import NO_TRAFFIC, Party, Traffic


@dataclass(frozen=True, slots=True)
class OtCount:
    """Random correlated oblivious transfers, by who is the sender in them."""

    client_sends: int = 0
    server_sends: int = 0

    @classmethod
    def one_way(cls, count: int, sender: Party) -> OtCount:
        """`count` OTs from `sender`."""
        return cls(count, 0) if sender is Party.CLIENT else cls(0, count)

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


class Form(IntEnum):
    """What raw OTs are made into before the input is known; see `correlations.preprocessing`."""

    PRODUCT = 0
    TABLE = 1
    LEAF = 2
    TRIPLE = 3
    ELEMENT_TRIPLE = 4
    SQUARE_PAIR = 5
    MATRIX_TRIPLE = 6
    WEIGHT_PRODUCT = 7
    PRIME_TRIPLE = 8
    PRIME_SQUARE = 9
    PRIME_SCALED_ROW = 10
    PRIME_CROSS = 11
    PRIME_CUBE = 12

    @property
    def is_dealt(self) -> bool:
        """Whether it comes whole, instead of raw OTs; see `correlations.dealt`."""
        return self >= Form.ELEMENT_TRIPLE

    @property
    def is_stored(self) -> bool:
        """Whether a protocol of its own makes it and stores it, instead of a dealer."""
        return self >= Form.PRIME_TRIPLE


RESIDUE_BITS = 128
"""Uniform bits of which a pad modulo a number is the remainder."""
_BATCH = 1 << 14
"""Instances made at a time, so that their raw OTs and pads stay near the processor."""
_BATCH_BITS = 1 << 28
"""Of the pads that these take: of long ones, fewer instances."""
_DEALT_BATCH = 1 << 19
"""Products that a dealer is asked for at a time."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of prepared randomness: instances of a kind are interchangeable."""

    form: Form
    bits: int
    """Of one value."""
    sender: Party | None = None
    """In the raw OTs; None where both parties send one."""
    choice_bits: int = 1
    """Raw OTs of an instance in each direction; the receiver's index has as many bits."""
    width: int = 1
    """Values under one index; numbers of a row."""
    shape: tuple[int, ...] = ()
    """Of a dealt product: (batch, m, k, n) of matrices, (layer, m, k, n) of weights; of products
    modulo a prime, and of pads modulo a number: (modulus,)."""

    @property
    def ots(self) -> OtCount:
        """Raw OTs that one instance takes."""
        if self.form.is_dealt:
            return OtCount()
        if self.sender is None:
            return OtCount(self.choice_bits, self.choice_bits)
        return OtCount.one_way(self.choice_bits, self.sender)

    def online_units(self, count: int) -> Units:
        """What using `count` instances computes."""
        name = use = self.form.name.lower()
        if self.form.is_dealt:
            return units({f"call_{name}": 1, f"use_{name}": count * self.products})
        if self.form is Form.LEAF:
            use += str(self.choice_bits)
        return units({f"call_{name}": 1, f"use_{use}": count * self.width})

    def offline_units(self, count: int) -> Units:
        """What making `count` instances of raw OTs computes, at the busier party.

        Nothing for what is stored: the protocol that makes it declares its own cost.
        """
        name, calls = self.form.name.lower(), -(-count // self.batch)
        if self.form.is_stored:
            return ()
        if self.form.is_dealt:
            return units({f"deal_{name}": count * self.products, "call_deal": calls})
        words = -(-self._string_bits * self.width // 64)
        # A sender hashes for both choices.
        strings = count * (3 if self.sender is None else 2) * self.choice_bits
        return units(
            {
                "aes_block": strings * (1 + -(-words // 2)),
                "pad_word": strings * words,
                f"make_{name}": count * self.width,
                f"call_make_{name}": calls,
            }
        )

    @property
    def batch(self) -> int:
        """Instances that are made at a time."""
        if self.form.is_dealt:
            return max(1, _DEALT_BATCH // self.products)
        # What has no bits is refused where it is made.
        pads = max(1, self._string_bits * self.width * self.choice_bits)
        return max(1, min(_BATCH, _BATCH_BITS // pads))

    @property
    def products(self) -> int:
        """Multiplications of numbers that one dealt instance stands for."""
        if self.form.is_stored:
            return self.width
        sizes = self.shape[1:] if self.form is Form.WEIGHT_PRODUCT else self.shape
        return prod(sizes)

    @property
    def _string_bits(self) -> int:
        """Of the pad of one value, as far as it matters to its making."""
        if self.form is Form.LEAF:
            return max(8, self.bits << self.choice_bits)
        if self.form is Form.TABLE:
            return self.bits << self.choice_bits
        return RESIDUE_BITS if self.shape else self.bits


@dataclass(frozen=True, slots=True)
class Demand:
    """How many instances of each kind, sorted by kind, none of them zero."""

    counts: tuple[tuple[Kind, int], ...] = ()

    @classmethod
    def of(cls, kind: Kind, count: int) -> Demand:
        """`count` instances of one kind."""
        return cls(((kind, count),)) if count else cls()

    @property
    def ots(self) -> OtCount:
        """Raw OTs that all of them take."""
        return sum((kind.ots * count for kind, count in self.counts), OtCount())

    @property
    def online_units(self) -> Units:
        """What using all of them computes."""
        return add_units(*(kind.online_units(count) for kind, count in self.counts))

    @property
    def offline_units(self) -> Units:
        """What making all of them computes."""
        return add_units(*(kind.offline_units(count) for kind, count in self.counts))

    def __add__(self, other: Demand) -> Demand:
        """Both together."""
        if not other.counts:
            return self
        merged = dict(self.counts)
        for kind, count in other.counts:
            merged[kind] = merged.get(kind, 0) + count
        return Demand(tuple(sorted(merged.items(), key=lambda item: _sort_key(item[0]))))

    def __sub__(self, other: Demand) -> Demand:
        """What is left of each after `other`, never below zero."""
        there = dict(other.counts)
        left = ((kind, count - there.get(kind, 0)) for kind, count in self.counts)
        return Demand(tuple((kind, count) for kind, count in left if count > 0))

    def __mul__(self, times: int) -> Demand:
        """`times` of each."""
        return Demand(tuple((kind, count * times) for kind, count in self.counts if times))


def _sort_key(kind: Kind) -> tuple[int, ...]:
    sender = -1 if kind.sender is None else int(kind.sender)
    return int(kind.form), kind.bits, sender, kind.choice_bits, kind.width, *kind.shape


Failures = tuple[tuple[str, float], ...]
"""Chances of failure by the block that fails, each block once."""


def _both_failures(first: Failures, second: Failures) -> Failures:
    if not (first and second):
        return first or second
    merged = dict(first)
    for block, probability in second:
        merged[block] = merged.get(block, 0.0) + probability
    return tuple(merged.items())


@dataclass(frozen=True, slots=True)
class Cost:
    """What a protocol sends and consumes, both exact, and its chance of failure.

    The probability bounds that a result is wrong by more than the declared error. `ots` counts
    raw OTs; `demand` says what they are made into, for those that can be prepared.
    """

    traffic: Traffic = NO_TRAFFIC
    ots: OtCount = OtCount()
    failure_probability: float = 0.0
    demand: Demand = Demand()
    work: Work = NO_WORK
    """Online, the correlations' making apart."""
    failures: Failures = field(default=(), compare=False)
    """`failure_probability` by block, as far as blocks say so; a word for a reader."""
    distance_squares: float = 0.0
    """Of what hints of ciphertexts tell, as squared bounds on a statistical distance, which add up:
    docs/security.md, "What a hint tells"."""

    @classmethod
    def failing(cls, block: str, probability: float, work: Work = NO_WORK) -> Cost:
        """Of a block without messages that fails with this probability."""
        named = ((block, probability),) if probability else ()
        return cls(failure_probability=probability, work=work, failures=named)

    def beside(self, other: Cost) -> Cost:
        """Cost of both at once: messages share rounds, everything else adds up."""
        rounds = max(self.traffic.rounds, other.traffic.rounds)
        both = self + other
        traffic = replace(both.traffic, rounds=rounds)
        sizes = traffic.client_sent_bytes, traffic.server_sent_bytes
        return replace(
            both, traffic=traffic, work=Work.together(both.work.counted(), rounds, max(sizes))
        )

    def inside(self, block: str) -> Cost:
        """The same, its failures under the name of the block that it is part of."""
        if not self.failures:
            return self
        return replace(self, failures=tuple((f"{block}: {b}", p) for b, p in self.failures))

    @classmethod
    def of(cls, traffic: Traffic, demand: Demand = Demand(), counts: Units = ()) -> Cost:  # noqa: B008
        """Cost of messages and of OTs all of which are prepared; further units of work."""
        sizes = traffic.client_sent_bytes, traffic.server_sent_bytes
        # One round goes both ways at once; question and answer follow each other.
        serial = max(sizes) if traffic.rounds == 1 else sum(sizes)
        payload = traffic.client_payload_bytes + traffic.server_payload_bytes
        own = add_units(demand.online_units, counts, units(message_byte=payload))
        return cls(traffic, demand.ots, 0.0, demand, Work.together(own, traffic.rounds, serial))

    def __add__(self, later: Cost) -> Cost:
        """Cost of this protocol followed by a later one."""
        return Cost(
            self.traffic + later.traffic,
            self.ots + later.ots,
            self.failure_probability + later.failure_probability,
            self.demand + later.demand,
            self.work + later.work,
            _both_failures(self.failures, later.failures),
            self.distance_squares + later.distance_squares,
        )

    def __mul__(self, times: int) -> Cost:
        """Cost of `times` runs, one after the other."""
        return Cost(
            self.traffic * times,
            self.ots * times,
            self.failure_probability * times,
            self.demand * times,
            self.work * times,
            tuple((block, probability * times) for block, probability in self.failures),
            self.distance_squares * times,
        )


NO_COST = Cost()


def total_without_work(costs: Iterable[Cost]) -> Cost:
    """The sum of many costs but for their work, whose parts keep their order elsewhere.

    In one pass: sums one by one sort all kinds of demand again and again.
    """
    traffic, ots, failure, squares = NO_TRAFFIC, OtCount(), 0.0, 0.0
    demand: dict[Kind, int] = {}
    failures: dict[str, float] = {}
    for cost in costs:
        traffic, ots = traffic + cost.traffic, ots + cost.ots
        failure += cost.failure_probability
        squares += cost.distance_squares
        for kind, count in cost.demand.counts:
            demand[kind] = demand.get(kind, 0) + count
        for block, probability in cost.failures:
            failures[block] = failures.get(block, 0.0) + probability
    counts = tuple(sorted(demand.items(), key=lambda item: _sort_key(item[0])))
    named = tuple(failures.items())
    return Cost(traffic, ots, failure, Demand(counts), NO_WORK, named, squares)
