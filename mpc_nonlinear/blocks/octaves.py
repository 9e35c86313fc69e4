"""Scaling of one positive number a row into [1, 2), and back by a power of two."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpc_nonlinear.blocks.compare import Width, less_than_constants, less_than_constants_cost
from mpc_nonlinear.blocks.local import scale, scale_cost
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import BitArray, RingArray
from transport.computing import Work, units
from transport.traffic import Party

COMPARED_BITS = 33
"""Exact enough for every octave from 2^-16 up."""


def octaves(low: float, high: float) -> list[float]:
    """Powers of two in (low, high]: the thresholds that tell which octave a number is in."""
    found = []
    step = 2 * low
    while step <= high:
        found.append(step)
        step *= 2
    return found


def _width(high: float, fraction_bits: int) -> Width:
    return Width.covering(2 * high * 2**fraction_bits, COMPARED_BITS)


def find_octave_cost(rows: int, low: float, high: float, fraction_bits: int) -> Cost:
    """Cost of `find_octave`."""
    count = len(octaves(low, high))
    return less_than_constants_cost(rows, count, _width(high, fraction_bits)) if count else NO_COST


def find_octave(x: RingArray, low: float, high: float, session: Session) -> BitArray:
    """Boolean shares of the octave of x, low <= x <= high (powers of two): (octaves, *shape).

    Exactly one bit of a column is set; octave i starts at low 2^i, the last at `high` or above.
    """
    fixed, thresholds = session.fixed_point, octaves(low, high)
    ones = np.full((1, *x.shape), int(session.party is Party.CLIENT), np.uint8)
    if not thresholds:
        return ones
    units = [round(t / fixed.unit) for t in thresholds]
    below = less_than_constants(x, units, _width(high, fixed.fraction_bits), session)
    # Thresholds ascend: x is in an octave if it is below its end and not below its start.
    ends = np.concatenate([below.reshape(-1, *x.shape), ones])
    found: BitArray = ends ^ np.concatenate([np.zeros_like(ones), ends[:-1]])
    return found


def scale_by_octave_cost(rows: int, count: int, max_abs_units: float) -> Cost:
    """Cost of `scale_by_octave` with `count` octaves.

    All multiples of a number come from one lift of its shares: they fail together.
    """
    others = Cost(work=Work.together(units(scaled=rows * (count - 1))))
    return select_cost(rows * count) + scale_cost(rows, max_abs_units) + others


def scale_by_octave(
    x: RingArray, octave: BitArray, factors: Sequence[float], session: Session
) -> RingArray:
    """Shares of x times the public factor of its row's octave, off by one unit, same shape.

    Every multiple is local; the right one is selected.
    """
    multiples = np.stack([scale(x, factor) for factor in factors])
    selected = select(octave.reshape(multiples.shape), multiples, session)
    total: RingArray = selected.sum(axis=0, dtype=np.uint64)
    return total
