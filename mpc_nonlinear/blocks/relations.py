"""Order and equality of shared numbers, with each other and with public ones; their bits.

Comparisons with public thresholds are in `compare`. Widths are public and follow from bounds.
"""

from __future__ import annotations

import numpy as np

from mpc_nonlinear.blocks.bit_triples import and_bits, and_cost, ands, ands_cost
from mpc_nonlinear.blocks.compare import Width, less_than_zero, less_than_zero_cost
from mpc_nonlinear.blocks.digits import (
    digits_of,
    equality_groups,
    leaves_cost,
    receiver_leaves,
    sender_leaves,
)
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RING_BITS, BitArray, RingArray
from transport.errors import UsageError
from transport.traffic import Party


def less_than_cost(count: int, width: Width) -> Cost:
    """Cost of `less_than`."""
    return less_than_zero_cost(count, width)


def less_than(x: RingArray, y: RingArray, width: Width, session: Session) -> BitArray:
    """Boolean shares of [x < y] for two shared tensors of one shape, same shape.

    `width` covers x - y; exact where it drops nothing, otherwise within its slack. Rounds as
    `less_than_constants`.
    """
    return less_than_zero(np.ascontiguousarray(x - y), width, session)


def is_zero_cost(count: int, bits: int = RING_BITS) -> Cost:
    """Cost of `is_zero` for `count` numbers."""
    if not count:
        return NO_COST
    groups = equality_groups(_checked(bits))
    cost = leaves_cost(count, 1, groups, Party.SERVER)
    digits = digits_of(groups)
    while digits > 1:
        digits //= 2
        cost += and_cost(count * digits)
    return cost


def is_zero(x: RingArray, session: Session, bits: int = RING_BITS) -> BitArray:
    """Boolean shares of [x = 0 modulo 2^bits], same shape. Exact; bits 1 to 64.

    For |x| < 2^bits the low bits say it all: fewer are cheaper. The server's -x1 equals the
    client's x0 digit by digit. 2 + ceil(log2(bits / 4)) rounds. [Rathee21] SIRNN, eprint
    2021/459, equality by digits.
    """
    groups = equality_groups(_checked(bits))
    if not x.size:
        return np.zeros(x.shape, np.uint8)
    session.channel.next_round()
    flat = x.reshape(-1)
    if session.party is Party.SERVER:
        # The complement of -1 + x1 is -x1.
        digits = sender_leaves((flat - np.uint64(1))[None], groups, session)[0]
    else:
        digits = receiver_leaves(flat, 1, groups, session)[0]
    while len(digits) > 1:
        low, high = np.ascontiguousarray(digits[0::2]), np.ascontiguousarray(digits[1::2])
        digits = and_bits(low, high, session)
    result: BitArray = digits[0].reshape(x.shape)
    return result


def equal_cost(count: int, bits: int = RING_BITS) -> Cost:
    """Cost of `equal` and `equal_to`."""
    return is_zero_cost(count, bits)


def equal(x: RingArray, y: RingArray, session: Session, bits: int = RING_BITS) -> BitArray:
    """Boolean shares of [x = y modulo 2^bits] for shared tensors of one shape; see `is_zero`."""
    return is_zero(np.ascontiguousarray(x - y), session, bits)


def equal_to(x: RingArray, constant: int, session: Session, bits: int = RING_BITS) -> BitArray:
    """Boolean shares of [x = constant modulo 2^bits] for a public one (ring units)."""
    own = constant % 2**RING_BITS if session.party is Party.CLIENT else 0
    return is_zero(x - np.uint64(own), session, bits)


def to_bits_cost(count: int, bits: int) -> Cost:
    """Cost of `to_bits`."""
    cost = and_cost(count * (_checked(bits) - 1))
    for _, upper, needs_propagate in _levels(bits):
        single = 0 if needs_propagate else len(upper)
        cost += ands_cost(count * single, count * (len(upper) - single))
    return cost if count else NO_COST


def to_bits(x: RingArray, bits: int, session: Session) -> BitArray:
    """Boolean shares of the low `bits` bits (1 to 64) of x, lowest first, (bits, *x.shape).

    Exact. 1 + ceil(log2(bits - 1)) rounds. Carries of the sum of both shares by a parallel prefix
    adder: [Sklansky60]; circuit as in [Demmler15] ABY.
    """
    flat = x.reshape(-1)
    shifts = np.arange(_checked(bits), dtype=np.uint64)[:, None]
    own = (flat >> shifts).astype(np.uint8) & np.uint8(1)
    if not flat.size or bits == 1:
        return own.reshape(bits, *x.shape)
    propagate = own[:-1]
    zero = np.zeros_like(propagate)
    # Each party knows one operand: its share of the other's is zero.
    mine, theirs = (propagate, zero) if session.party is Party.CLIENT else (zero, propagate)
    generate = and_bits(mine, theirs, session)
    spread = propagate.copy()
    for lower, upper, needs_propagate in _levels(bits):
        high, low = spread[upper], generate[lower]
        if needs_propagate:
            double = (high | low << np.uint8(1) | spread[lower] << np.uint8(2)).reshape(-1)
            _, both = ands(np.zeros(0, np.uint8), double, session)
            both = both.reshape(high.shape)
            spread[upper] = both >> np.uint8(1)
        else:
            single, _ = ands((high | low << np.uint8(1)).reshape(-1), zero[:0, 0], session)
            both = single.reshape(high.shape)
        generate[upper] ^= both & np.uint8(1)
    own[1:] ^= generate
    return own.reshape(bits, *x.shape)


def _levels(bits: int) -> list[tuple[list[int], list[int], bool]]:
    """Positions (lower end, upper end) that each level of the prefix adder joins.

    The last level makes carries only: nothing reads what propagates any more.
    """
    carries, levels, span = bits - 1, [], 1
    while span < carries:
        upper = [i for i in range(carries) if i & span]
        lower = [(i & ~(2 * span - 1)) + span - 1 for i in upper]
        levels.append((lower, upper, 2 * span < carries))
        span *= 2
    return levels


def _checked(bits: int) -> int:
    if not 1 <= bits <= RING_BITS:
        raise UsageError(f"relation of numbers of {bits} bits; use 1 to {RING_BITS}")
    return bits
