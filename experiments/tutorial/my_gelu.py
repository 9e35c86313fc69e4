"""A plugin: GELU as one quadratic between two thresholds. Tutorial 2 walks through it.

With c = x clipped to [-t, t]:  gelu(x) ~ c/2 + b c^2 + (t/2 - b t^2) + max(x - t, 0).
That is exactly 0 below -t, exactly x above t, and continuous, which is why the comparisons may be
coarse: a comparison that is wrong close to a threshold hardly changes the result.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
from scipy.special import erf

from mpc_nonlinear.blocks.compare import Width, less_than_constants, less_than_constants_cost
from mpc_nonlinear.blocks.local import scale, scale_cost
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from transport.traffic import Party

# Least largest error of this form: 0.0537, the same inside and at t (scan of t, then of b).
THRESHOLD, CURVATURE = 1.91, 0.24712
CONSTANT = THRESHOLD / 2 - CURVATURE * THRESHOLD**2
MAX_SLACK = 2.0**-8
SQUARE = Bounds(THRESHOLD, THRESHOLD, THRESHOLD**2, largest=4.0)


@dataclass(frozen=True, slots=True)
class ClippedQuadraticGelu(NonlinearProtocol):
    """One square and two coarse comparisons an element. `bound`: largest |x|."""

    op = "gelu"
    name = "clipped_quadratic"
    source = "tutorial 2 of this project"
    # Slack times the jump of the slope at a threshold (0.44), and a few units of rounding.
    max_error = 2.0**-8
    approximation_error = 0.054

    bound: float

    def _width(self, unit: float) -> Width:
        return Width.covering((self.bound + THRESHOLD) / unit, 13, MAX_SLACK / unit)

    def reference(self, x: FloatArray) -> FloatArray:
        """The formula above, in the clear."""
        c = np.clip(x, -THRESHOLD, THRESHOLD)
        y: FloatArray = c / 2 + CURVATURE * c**2 + CONSTANT + np.maximum(x - THRESHOLD, 0)
        return y

    def true_function(self, x: FloatArray) -> FloatArray:
        """GELU with erf."""
        y: FloatArray = x * (1 + erf(x / sqrt(2))) / 2
        return y

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """The same pieces as `run`, in the same order."""
        n, unit = prod(shape), context.fixed_point.unit
        return (
            less_than_constants_cost(n, 2, self._width(unit))
            + select_cost(2 * n)
            + context.products.square_cost(n, SQUARE)
            + scale_cost(2 * n, SQUARE.largest / unit)
        )

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of the formula."""
        limit = round(THRESHOLD / session.fixed_point.unit)
        is_server = session.party is Party.SERVER
        # A public constant is added, and a shared bit negated, by one party alone.
        t = np.uint64(limit if is_server else 0)
        one = np.uint8(is_server)
        # 1. [x < -t] and [x < t] in one pass, then max(x + t, 0) and max(x - t, 0) in one round.
        below, not_above = less_than_constants(
            x, [-limit, limit], self._width(session.fixed_point.unit), session
        )
        bits = np.stack([below ^ one, not_above ^ one])
        lower, upper = select(bits, np.stack([x + t, x - t]), session)
        # 2. The clipped number costs nothing more.
        clipped = lower - upper - t
        square = session.products.square(clipped, session, SQUARE)
        # 3. Products with public numbers are local.
        y = scale(square, CURVATURE) + scale(clipped, 0.5) + upper
        constant = session.fixed_point.encode(np.array(CONSTANT)) if is_server else np.uint64(0)
        result: RingArray = y + constant
        return result


PROTOCOLS = (ClippedQuadraticGelu,)
