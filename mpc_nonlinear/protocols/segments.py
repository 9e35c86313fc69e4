"""Three segments around zero, inner part by its absolute value: SiLU, tanh, GELU of BOLT."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpc_nonlinear.blocks.compare import Width, less_than_constants, less_than_constants_cost
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import BitArray, RingArray
from transport.traffic import Party

COMPARED_BITS = 13
MAX_SLACK = 2.0**-6
"""Polynomials hold this far beyond their thresholds and below zero; wider inputs compare four
bits more."""


@dataclass(frozen=True, slots=True)
class Segments:
    """Shares of x by segment, each of the shape of x; zero outside their segment."""

    magnitude: RingArray
    """|x| where |x| < t. Within the slack around zero the sign may be wrong: -|x|."""
    positive: RingArray
    """x where 0 <= x < t, within the slack."""
    high: RingArray
    """x where x >= t, if asked for; else zero."""
    negative: BitArray
    """[x < 0], wherever it lies."""
    inside: BitArray
    """[|x| < t]."""


def width_for(bound: float, threshold: float, unit: float) -> Width:
    """Comparison of |x| <= bound with -t, 0 and t."""
    return Width.covering((bound + threshold) / unit, COMPARED_BITS, MAX_SLACK / unit)


def segments_cost(count: int, width: Width, *, high: bool = True) -> Cost:
    """Cost of `segments` for `count` numbers."""
    return less_than_constants_cost(count, 3, width) + select_cost((2 + high) * count)


def segments(
    x: RingArray, threshold: float, width: Width, session: Session, *, high: bool = True
) -> Segments:
    """Three coarse comparisons in one pass and all selections in one round."""
    limit = round(threshold / session.fixed_point.unit)
    below, negative, not_above = less_than_constants(x, [-limit, 0, limit], width, session)
    bits = [negative ^ not_above, below ^ negative]
    if high:
        bits.append(not_above ^ np.uint8(session.party is Party.SERVER))
    wanted = np.stack(bits)
    parts = select(wanted, np.broadcast_to(x, wanted.shape), session)
    above = parts[2] if high else np.zeros_like(x)
    return Segments(parts[0] - parts[1], parts[0], above, negative, below ^ not_above)
