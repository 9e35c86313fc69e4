"""ReLU: one exact comparison and one selection."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from mpc_nonlinear.blocks.compare import Width, less_than_zero, less_than_zero_cost
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.base import NonlinearProtocol


@dataclass(frozen=True, slots=True)
class ExactRelu(NonlinearProtocol):
    """max(x, 0), exact to the last unit. `bound`: largest |x|.

    5 to 7 rounds: the comparison reads every bit below the bound, then one selection.
    """

    op = "relu"
    name = "exact"
    source = "[Rathee20] eprint 2020/1002, Section 4.1"
    max_error = 0.0
    approximation_error = 0.0
    breakpoints = (0.0,)

    bound: float

    def _width(self, unit: float) -> Width:
        return Width.covering(self.bound / unit, 5, 0)

    def reference(self, x: FloatArray) -> FloatArray:
        """The function itself."""
        return np.maximum(x, 0.0)

    def true_function(self, x: FloatArray) -> FloatArray:
        """max(x, 0)."""
        return np.maximum(x, 0.0)

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """One comparison and one selection an element."""
        n = prod(shape)
        return less_than_zero_cost(n, self._width(context.fixed_point.unit)) + select_cost(n)

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of max(x, 0) = x - [x < 0] x."""
        negative = less_than_zero(x, self._width(session.fixed_point.unit), session)
        return x - select(negative, x, session)
