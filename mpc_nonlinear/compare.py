"""Comparisons of shared numbers with public thresholds, narrow and coarse.

If |y| < 2^(b - 1) the low b bits of both shares of y determine it, so only they are compared.
Dropping k further low bits moves a threshold by a share-dependent amount in [-2^(k-1), 2^(k-1)].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.correlations.base import BitArray
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from mpc_nonlinear.oblivious_transfer import (
    one_of_16_cost,
    one_of_16_receive,
    one_of_16_send,
)
from mpc_nonlinear.session import Session
from mpc_nonlinear.triples import and_bits, and_cost
from transport.errors import UsageError
from transport.traffic import Party

DIGIT_BITS = 4
_TABLE_BITS = 64
"""Widest entry of a table of the oblivious transfer: 32 thresholds at once."""


@dataclass(frozen=True, slots=True)
class Width:
    """Which bits of the shares a comparison reads: `bits` of them above `dropped`.

    Differences y must satisfy -2^(bits + dropped - 1) + 2^dropped <= y < 2^(bits + dropped - 1)
    in ring units. bits - 1 is a multiple of 4.
    """

    bits: int
    dropped: int

    def __post_init__(self) -> None:
        if (self.bits - 1) % DIGIT_BITS or self.bits < 5 or self.bits + self.dropped > RING_BITS:
            raise UsageError(
                f"comparison of {self.bits} bits above {self.dropped}: use 5, 9, 13, ... bits, "
                f"{RING_BITS} with the dropped ones at most; is a bound too large?"
            )

    @property
    def digits(self) -> int:
        """Digits below the sign bit."""
        return (self.bits - 1) // DIGIT_BITS

    @property
    def slack(self) -> int:
        """Ring units on either side of a threshold within which the result may be either."""
        return (1 << self.dropped) // 2

    @classmethod
    def covering(cls, max_abs_units: float, bits: int, max_slack: float = math.inf) -> Width:
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
        width = cls(bits, dropped)
        if width.slack > max_slack:
            return cls.covering(max_abs_units, bits + DIGIT_BITS, max_slack)
        return width


def less_than_constants_cost(count: int, thresholds: int, width: Width) -> Cost:
    """Cost of comparing `count` numbers with `thresholds` constants each."""
    if not count:
        return NO_COST
    cost = one_of_16_cost(count * width.digits, 2 * thresholds, Party.SERVER)
    digits = width.digits
    while digits > 1:
        pairs = digits // 2
        # Every pair needs "less", all but the lowest also "equal".
        cost += and_cost(count * thresholds * (2 * pairs - 1))
        digits -= pairs
    return cost


def less_than_constants(
    x: RingArray, thresholds: Sequence[int], width: Width, session: Session
) -> BitArray:
    """Boolean shares of [x < t] for every t (ring units), shape (thresholds, *x.shape).

    Exact for dropped = 0, otherwise within `width.slack` units of the threshold. One pass of
    1-of-16 OTs serves all thresholds, since only the sender's tables depend on them.
    2 + ceil(log2(digits)) rounds. [Rathee20] eprint 2020/1002, Algorithm 1 and Section 3.2.
    """
    flat = x.reshape(-1)
    shape = (len(thresholds), *x.shape)
    if not flat.size:
        return np.zeros(shape, np.uint8)
    if 2 * len(thresholds) > _TABLE_BITS:
        raise UsageError(
            f"comparison with {len(thresholds)} thresholds: at most {_TABLE_BITS // 2} share a "
            "pass; split them"
        )
    if session.party is Party.SERVER:
        offsets = np.array([(width.slack - t) % 2**RING_BITS for t in thresholds], np.uint64)
        sign, less, equal = _sender_leaves(flat[None] + offsets[:, None], width, session)
    else:
        sign, less, equal = _receiver_leaves(flat, len(thresholds), width, session)
    result: BitArray = (sign ^ _combine(less, equal, session)).reshape(shape)
    return result


def less_than_zero_cost(count: int, width: Width) -> Cost:
    """Cost of `less_than_zero`."""
    return less_than_constants_cost(count, 1, width)


def less_than_zero(x: RingArray, width: Width, session: Session) -> BitArray:
    """Boolean shares of [x < 0], same shape; see `less_than_constants`."""
    (result,) = less_than_constants(x, [0], width, session)
    return np.asarray(result, np.uint8)


def carry_cost(count: int, bits: int) -> Cost:
    """Cost of `carry`."""
    return less_than_constants_cost(count, 1, _carry_width(bits)) if count else NO_COST


def carry(x: RingArray, bits: int, session: Session) -> BitArray:
    """Boolean shares of the carry out of the low `bits` bits when both shares are added.

    Same shape, exact; 2 + ceil(log2(digits)) rounds. The comparison inside [Rathee20] Section 3.2.
    """
    flat = x.reshape(-1)
    if not flat.size:
        return np.zeros(x.shape, np.uint8)
    width = _carry_width(bits)
    # Zeros below do not change the carry out of the top.
    moved = flat << np.uint64(DIGIT_BITS * width.digits - bits)
    if session.party is Party.SERVER:
        _, less, equal = _sender_leaves(moved[None], width, session)
    else:
        _, less, equal = _receiver_leaves(moved, 1, width, session)
    carried = _combine(less, equal, session)
    return carried.reshape(x.shape)


def _carry_width(bits: int) -> Width:
    return Width(DIGIT_BITS * -(-bits // DIGIT_BITS) + 1, 0)


def _digits(values: RingArray, width: Width) -> tuple[BitArray, BitArray]:
    """Sign bits and digits (..., digits), least significant first, of the bits that are read."""
    kept = values >> np.uint64(width.dropped)
    sign = (kept >> np.uint64(width.bits - 1)).astype(np.uint8) & np.uint8(1)
    shifts = np.arange(width.digits, dtype=np.uint64) * np.uint64(DIGIT_BITS)
    digits = (kept[..., None] >> shifts).astype(np.uint8) & np.uint8(15)
    return sign, digits


def _sender_leaves(
    values: RingArray, width: Width, session: Session
) -> tuple[BitArray, BitArray, BitArray]:
    """values: (thresholds, n). The carry of the low bits is [2^(bits-1) - 1 - low < peer's low]."""
    sign, digits = _digits(values, width)
    complement = np.uint8(15) - digits
    count, n, size = complement.shape
    less = session.randomness.bits((count, n, size))
    equal = session.randomness.bits((count, n, size))
    tables = np.zeros((n, size, 16), np.uint64)
    choices = np.arange(16, dtype=np.uint8)
    for index in range(count):
        own = complement[index][..., None]
        entry = ((own < choices) ^ less[index][..., None].astype(bool)).astype(np.uint64)
        same = ((own == choices) ^ equal[index][..., None].astype(bool)).astype(np.uint64)
        tables |= (entry | same << np.uint64(1)) << np.uint64(2 * index)
    one_of_16_send(_narrow(tables.reshape(-1, 16), 2 * count), 2 * count, session)
    return sign, less, equal


def _narrow(tables: NDArray[np.uint64], bits: int) -> NDArray[np.unsignedinteger]:
    for dtype in (np.uint8, np.uint16, np.uint32):
        if bits <= 8 * np.dtype(dtype).itemsize:
            return tables.astype(dtype)
    return tables


def _receiver_leaves(
    values: RingArray, count: int, width: Width, session: Session
) -> tuple[BitArray, BitArray, BitArray]:
    sign, digits = _digits(values, width)
    received = one_of_16_receive(digits.reshape(-1), 2 * count, session).astype(np.uint64)
    shifts = np.arange(count, dtype=np.uint64)[:, None] * np.uint64(2)
    entries = (received[None] >> shifts).reshape(count, *digits.shape)
    less = entries.astype(np.uint8) & np.uint8(1)
    equal = (entries >> np.uint64(1)).astype(np.uint8) & np.uint8(1)
    # The sign of the sum is the exclusive or of both signs and the carry, for every threshold.
    return np.broadcast_to(sign, (count, *sign.shape)), less, equal


def _combine(less: BitArray, equal: BitArray, session: Session) -> BitArray:
    """Digit results (thresholds, n, digits), least significant first, to one bit each."""
    while less.shape[-1] > 1:
        pairs = less.shape[-1] // 2
        paired = slice(0, 2 * pairs)
        low, high = less[..., paired][..., 0::2], less[..., paired][..., 1::2]
        equal_low, equal_high = equal[..., paired][..., 0::2], equal[..., paired][..., 1::2]
        left = np.concatenate([equal_high, equal_high[..., 1:]], axis=-1)
        right = np.concatenate([low, equal_low[..., 1:]], axis=-1)
        both = and_bits(left.reshape(-1), right.reshape(-1), session).reshape(left.shape)
        # The lowest digit's "equal" is never read again.
        equals = np.concatenate([equal_high[..., :1], both[..., pairs:]], axis=-1)
        less = np.concatenate([high ^ both[..., :pairs], less[..., 2 * pairs :]], axis=-1)
        equal = np.concatenate([equals, equal[..., 2 * pairs :]], axis=-1)
    return less[..., 0]
