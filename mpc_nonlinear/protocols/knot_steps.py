"""The coarse steps in which an activation finds the segment of its input."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from mpc_nonlinear.blocks.steps import MAX_DIGIT_BITS, Steps

PART_BITS = 8
"""Of a step, to which its number is rounded before it is cut."""
_BYTES_AN_OT = 1.5
"""What making an oblivious transfer weighs beside a byte that is sent."""
_COUNT = 1000
"""Numbers whose cost is weighed: bits of a few fill no bytes."""


@dataclass(frozen=True)
class KnotSteps:
    """Length of a step, in reals, and the knots of both sides in steps, zero among them."""

    step: float
    compared: Steps


@lru_cache(maxsize=256)
def knot_steps(
    ends: tuple[tuple[float, float], ...], zero_slack: float, bound: float
) -> KnotSteps | None:
    """The cheapest steps for |x| <= bound; None where no two digits cover it.

    ends: of each segment of |x|, with how far off its threshold may be. A threshold is off by half
    a step, by what parts of a step are rounded, and by the knot's distance from a whole step.
    """
    found: list[tuple[float, KnotSteps]] = []
    nearest = ends[0][0]
    for count in range(1, ceil(4 * nearest / min(zero_slack, *(s for _, s in ends))) + 1):
        step = nearest / count
        at = [round(end / step) for end, _ in ends]
        off = step * (0.5 + 2.0**-PART_BITS)
        allowed = [zero_slack, *(s - abs(k * step - e) for k, (e, s) in zip(at, ends, strict=True))]
        if off > min(allowed):
            continue
        # Numbers of steps are up to two below their share of x.
        bits = (ceil(bound / step) + at[-1] + 1).bit_length()
        thresholds = (*(-k for k in reversed(at)), 0, *at)
        found += [
            (_weight(steps), KnotSteps(step, steps))
            for low in range(max(1, bits - MAX_DIGIT_BITS), min(bits - 1, MAX_DIGIT_BITS) + 1)
            for steps in [Steps(thresholds, low, bits - low)]
        ]
    return min(found, key=lambda one: one[0])[1] if found else None


def _weight(steps: Steps) -> float:
    cost = steps.cost(_COUNT)
    return cost.traffic.sent_bytes + _BYTES_AN_OT * cost.ots.total
