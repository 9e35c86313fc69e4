"""Steps that each party computes on its own share, without a message."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from hybrid.models.graph import Node
from hybrid.operators.base import Choice, Operator, PlanContext, RunState
from mpc_nonlinear.blocks.local import turn, turn_cost
from mpc_nonlinear.blocks.public_numbers import rotary_turns
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RingArray


class LocalStep:
    """Base of the catalog entries of local steps."""

    op: ClassVar[str]
    name: ClassVar[str] = "local"
    source: ClassVar[str] = "linear in each share"


class Halves(LocalStep):
    """The left and the right half of an edge's columns."""

    op = "halves"


class LastRow(LocalStep):
    """The last row of every text of a sum."""

    op = "last_row"


class FirstRow(LocalStep):
    """The first row of every text."""

    op = "first_row"


class Rotary(LocalStep):
    """Public rotations of shared pairs."""

    op = "rotary"
    source = "[Su21] RoFormer, arXiv 2104.09864, Section 3.2.2"


class LocalOperator(Operator):
    """Halves, first and last rows: copies of shares."""

    engine = "mpc_nonlinear"
    entries = LocalStep

    def parameters(self) -> dict[str, float | int | str]:
        """Nothing but the shape."""
        return {}

    def cost(self) -> Cost:
        """Nothing."""
        return NO_COST

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """halves: (rows, 2 width) to two (rows, width).

        first_row, last_row, which sums: (batch * tokens, width) to (batch, width).
        """
        del state
        x, *residuals = inputs
        if self.node.op == Halves.op:
            left, right = np.split(x, 2, axis=1)
            return [np.ascontiguousarray(left), np.ascontiguousarray(right)]
        if self.node.op == FirstRow.op:
            return [np.ascontiguousarray(x[:: self.node.tokens])]
        newest = slice(self.node.tokens - 1, None, self.node.tokens)
        last = np.ascontiguousarray(x[newest])
        for residual in residuals:
            last = last + residual[newest]
        return [last]


class RotaryOperator(Operator):
    """Rotary positions: every pair of coordinates i, i + size / 2 of a head, turned by its angle.

    Off by at most two units. No message: fails where a lift does.
    """

    engine = "mpc_nonlinear"
    entries = Rotary

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        found = node.constants
        self._heads, self._size = int(found["heads"]), int(found["size"])
        self._first, self._theta = int(found["first"]), found["theta"]

    def parameters(self) -> dict[str, float | int | str]:
        """What decides the angles; a bound used for the failure probability."""
        return {"rms": self.node.bounds["input"].rms, **self.node.constants}

    def cost(self) -> Cost:
        """No message."""
        rows, units = self.node.shape[0], 1 / self.context.fixed_point.unit
        turned = rows * self._heads * self._size
        return turn_cost(turned, self.node.bounds["input"].rms * units)

    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """(rows, columns) to the same shape and scale.

        Columns behind the turned heads stay as they are.
        """
        x, width = inputs[0], self._heads * self._size
        rows, half = len(x), self._size // 2
        # Positions start again with every text, behind its idle rows.
        idle = state.idle or (0,) * self.node.batch
        turns = [
            rotary_turns(self._theta, half, self._first - rows_before, self.node.tokens)
            for rows_before in idle
        ]
        pairs = x[:, :width].reshape(rows, self._heads, 2, half)
        cosines, sines = (
            np.broadcast_to(np.concatenate(part)[:, None], pairs[:, :, 0].shape)
            for part in zip(*turns, strict=True)
        )
        turned = np.stack(turn(pairs[:, :, 0], pairs[:, :, 1], cosines, sines), axis=2)
        return [np.concatenate([turned.reshape(rows, width), x[:, width:]], axis=1)]
