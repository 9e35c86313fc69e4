"""Comparisons of shared numbers with public thresholds, narrow and coarse.

If |y| < 2^(b - 1) the low b bits of both shares of y determine it, so only they are compared.
Dropping k further low bits moves a threshold by a share-dependent amount in [-2^(k-1), 2^(k-1)].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mpc_nonlinear.blocks.bit_triples import and_bits, ands, ands_cost
from mpc_nonlinear.blocks.digits import (
    comparison_groups,
    digits_of,
    leaves_cost,
    receiver_leaves,
    sender_leaves,
)
from mpc_nonlinear.blocks.flow import Move, question
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.blocks.wide_digits import (
    LARGEST_DIGIT_BITS,
    equal_tables,
    less_tables,
    wide_leaves_cost,
    wide_receivers,
    wide_senders,
)
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RING_BITS, BitArray, RingArray
from transport.bitpack import low_mask
from transport.errors import UsageError
from transport.traffic import Party

DIGIT_BITS = 4
MAX_THRESHOLDS = 32
"""Of one pass: pads of the oblivious transfers are as long as all thresholds need."""


@dataclass(frozen=True, slots=True)
class Width:
    """Which bits of the shares a comparison reads: `bits` of them above `dropped`.

    Differences y must satisfy -2^(bits + dropped - 1) + 2^dropped <= y < 2^(bits + dropped - 1)
    in ring units; bits is 2 to 64.
    """

    bits: int
    dropped: int
    digits: int = 0
    """How many the bits below the sign are cut into, 1 to 3 of up to 8 bits, with longer messages
    and fewer rounds and oblivious transfers; 0: digits of up to 4 bits, the fewest bytes."""

    def __post_init__(self) -> None:
        if self.bits < 2 or self.dropped < 0 or self.bits + self.dropped > RING_BITS:
            raise UsageError(
                f"comparison of {self.bits} bits above {self.dropped}: use 2 bits or more, "
                f"{RING_BITS} with the dropped ones at most; is a bound too large?"
            )
        if self.digits and not (
            self.digits in range(1, 4) and self.bits - 1 <= self.digits * LARGEST_DIGIT_BITS
        ):
            raise UsageError(
                f"comparison of {self.bits} bits in {self.digits} digits: use 1 to 3 of up to "
                f"{LARGEST_DIGIT_BITS} bits, or 0 for short ones"
            )

    @property
    def slack(self) -> int:
        """Ring units on either side of a threshold within which the result may be either."""
        return (1 << self.dropped) // 2

    @property
    def ring_bits(self) -> int:
        """Bits of the shares that are read, the dropped ones included."""
        return self.bits + self.dropped

    @classmethod
    def exact(cls, max_abs_units: int) -> Width:
        """The narrowest exact comparison of differences |y| <= max_abs_units."""
        bits = max(2, max_abs_units.bit_length() + 1)
        if max_abs_units < 0 or bits > RING_BITS:
            raise UsageError(
                f"exact comparison of numbers up to {max_abs_units} units: use 0 to "
                f"2^{RING_BITS - 1} - 1; lower the bound"
            )
        return cls(bits, 0)

    @classmethod
    def covering(
        cls, max_abs_units: float, bits: int, max_slack: float = math.inf, digits: int = 0
    ) -> Width:
        """`bits` bits placed just high enough for |y| <= max_abs_units.

        Four bits more at a time while the slack would exceed `max_slack` units.
        """
        if not max_abs_units < 1 << (RING_BITS - 2):
            raise UsageError(
                f"comparison of numbers up to {max_abs_units:g} units: stay below "
                f"2^{RING_BITS - 2}; lower the bound"
            )
        dropped = 0
        while max_abs_units + (1 << dropped) > 1 << (bits + dropped - 1):
            dropped += 1
        width = cls(bits, dropped, digits)
        if width.slack > max_slack:
            return cls.covering(max_abs_units, bits + DIGIT_BITS, max_slack, digits)
        return width


def less_than_constants_cost(
    count: int, thresholds: int, width: Width, asker: Party = Party.CLIENT
) -> Cost:
    """Cost of comparing `count` numbers with `thresholds` constants each."""
    return _carries_cost(count, thresholds, width.bits - 1, width.digits, asker)


def comparison_moves(width: Width, asker: Party = Party.CLIENT) -> tuple[Move, ...]:
    """Messages of a comparison: tables of digits, then a level of conjunctions each."""
    levels = width.digits - 1
    if not width.digits:
        levels = digits_of(comparison_groups(width.bits - 1)).bit_length() - 1
    return *question(asker), *[Move.BOTH] * levels


def less_than_constants(
    x: RingArray,
    thresholds: Sequence[int],
    width: Width,
    session: Session,
    asker: Party = Party.CLIENT,
) -> BitArray:
    """Boolean shares of [x < t] for every t (ring units), shape (thresholds, *x.shape).

    Exact for dropped = 0, otherwise within `width.slack` units of the threshold. One pass of
    1-of-16 or 1-of-8 OTs serves all thresholds, since only the sender's tables depend on them.
    2 + ceil(log2((bits - 1) / 4)) rounds, as many as `digits` and 1. [Rathee20] eprint 2020/1002,
    Algorithm 1, Section 3.2. asker: who sends first and gets tables; of long digits either party.
    """
    flat = x.reshape(-1)
    shape = (len(thresholds), *x.shape)
    if not flat.size:
        return np.zeros(shape, np.uint8)
    if len(thresholds) > MAX_THRESHOLDS:
        raise UsageError(
            f"comparison with {len(thresholds)} thresholds: at most {MAX_THRESHOLDS} share a "
            "pass; split them"
        )
    values = flat[None]
    if session.party is not asker:
        offsets = np.array([(width.slack - t) % 2**RING_BITS for t in thresholds], np.uint64)
        values = values + offsets[:, None]
    kept = values >> np.uint64(width.dropped)
    sign = (kept >> np.uint64(width.bits - 1)).astype(np.uint8) & np.uint8(1)
    # The sign of the sum is the exclusive or of both signs and the carry, for every threshold.
    carries = _carries(kept, len(thresholds), width.bits - 1, session, width.digits, asker)
    return (sign ^ carries).reshape(shape)


def less_than_zero_cost(count: int, width: Width, asker: Party = Party.CLIENT) -> Cost:
    """Cost of `less_than_zero`."""
    return less_than_constants_cost(count, 1, width, asker)


def less_than_zero(
    x: RingArray, width: Width, session: Session, asker: Party = Party.CLIENT
) -> BitArray:
    """Boolean shares of [x < 0], same shape; see `less_than_constants`."""
    (result,) = less_than_constants(x, [0], width, session, asker)
    return np.asarray(result, np.uint8)


def carry_cost(count: int, bits: int) -> Cost:
    """Cost of `carry`."""
    return _carries_cost(count, 1, bits)


def carry(x: RingArray, bits: int, session: Session) -> BitArray:
    """Boolean shares of the carry out of the low `bits` bits when both shares are added.

    Same shape, exact; 2 + ceil(log2(bits / 4)) rounds. The comparison inside [Rathee20]
    Section 3.2.
    """
    if not x.size:
        return np.zeros(x.shape, np.uint8)
    return _carries(x.reshape(1, -1), 1, bits, session).reshape(x.shape)


def _carries_cost(
    count: int, rows: int, bits: int, digits: int = 0, asker: Party = Party.CLIENT
) -> Cost:
    if not count:
        return NO_COST
    _check_asker(digits, asker)
    if digits:
        lowest, *above = _wide_sizes(bits, digits)
        leaves = [(lowest, rows), *((size, 2 * rows) for size in above)]
        cost = wide_leaves_cost(count, leaves, asker.peer)
        return cost + ands_cost(rows * count, 0) * len(above)
    groups = comparison_groups(bits)
    cost = leaves_cost(count, rows, groups, Party.SERVER)
    count_of = digits_of(groups)
    while count_of > 1:
        count_of //= 2
        # The lowest pair needs no "equal": that one is never read again.
        cost += ands_cost(rows * count, rows * count * (count_of - 1))
    return cost


def _check_asker(digits: int, asker: Party) -> None:
    if not digits and asker is not Party.CLIENT:
        raise UsageError("comparison in short digits: the client asks; use long digits")


def _wide_sizes(bits: int, digits: int) -> list[int]:
    """Bits of each digit, lowest first."""
    size, longer = divmod(bits, digits)
    return [size] * (digits - longer) + [size + 1] * longer


def _carries(
    values: RingArray,
    rows: int,
    bits: int,
    session: Session,
    digits: int = 0,
    asker: Party = Party.CLIENT,
) -> BitArray:
    """Carries out of the low `bits` bits, (rows, n).

    The asker's values are (1, n), its peer's (rows, n). A carry is
    [2^bits - 1 - the peer's bits < the asker's bits].
    """
    _check_asker(digits, asker)
    session.channel.next_round()
    if digits:
        return _wide_carries(values, rows, _wide_sizes(bits, digits), session, asker)
    groups = comparison_groups(bits)
    if session.party is Party.SERVER:
        leaves = sender_leaves(values, groups, session)
    else:
        leaves = receiver_leaves(values.reshape(-1), rows, groups, session)
    less: BitArray = _combine(leaves, session)[:, 0] & np.uint8(1)
    return less


def _wide_carries(
    values: RingArray, rows: int, sizes: list[int], session: Session, asker: Party
) -> BitArray:
    """The same of a few digits; the tables of all in one round, then one after the other."""
    starts = np.cumsum([0, *sizes[:-1]])
    parts = [
        values >> np.uint64(start) & low_mask(size)
        for start, size in zip(starts, sizes, strict=True)
    ]
    if session.party is not asker:
        tables = [less_tables(parts[0].T, sizes[0])]
        for part, size in zip(parts[1:], sizes[1:], strict=True):
            both = less_tables(part.T, size), equal_tables(part.T, size)
            tables.append(np.concatenate(both, axis=1))
        found = wide_senders(tables, sizes, session)
    else:
        digits = [part.reshape(-1).astype(np.uint8) for part in parts]
        widths = [rows, *[2 * rows] * (len(sizes) - 1)]
        found = wide_receivers(list(zip(digits, sizes, strict=True)), widths, session)
    less = np.ascontiguousarray(found[0].T)
    for pair in found[1:]:
        above, equal = pair[:, :rows].T, pair[:, rows:].T
        less = above ^ and_bits(np.ascontiguousarray(equal), less, session)
    return less


def _combine(digits: BitArray, session: Session) -> BitArray:
    """Shares of less | equal << 1 by digit (rows, digits, n), lowest first, to one a number.

    A pair of digits is less where the high one is, or is equal and the low one is less.
    """
    rows, _, n = digits.shape
    while digits.shape[1] > 1:
        high = digits[:, 1::2]
        operands = high >> np.uint8(1) | digits[:, 0::2] << np.uint8(1)
        lowest = operands[:, 0] & np.uint8(3)
        single, double = ands(lowest.reshape(-1), operands[:, 1:].reshape(-1), session)
        digits = high & np.uint8(1)
        digits[:, 0] ^= single.reshape(rows, n)
        digits[:, 1:] ^= double.reshape(rows, -1, n)
    return digits
