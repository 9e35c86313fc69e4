"""Protocols at once: their correlations are theirs, rounds are the longest's."""

from __future__ import annotations

import numpy as np
import pytest

from mpc_nonlinear.blocks.compare import Width, less_than_zero, less_than_zero_cost
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.side_by_side import side_by_side
from mpc_nonlinear.blocks.truncate import truncate, truncate_cost
from mpc_nonlinear.cost import NO_COST
from tests.test_mpc_contract import ring, run, signed
from transport.errors import UsageError

WIDTH = Width(10, 0)
VALUES = np.array([-3, 0, 5, -200, 200])


def parts(x):
    return [
        (less_than_zero_cost(x.size, WIDTH), lambda s: less_than_zero(x, WIDTH, s)),
        (truncate_cost(x.size, 2) * 2, lambda s: truncate(truncate(x, 2, s), 2, s)),
        (less_than_zero_cost(x.size, WIDTH), lambda s: less_than_zero(x + x, WIDTH, s)),
    ]


def test_results_are_those_of_one_after_the_other_in_fewer_rounds():
    costs = [cost for cost, _ in parts(VALUES)]
    together = costs[0].beside(costs[1]).beside(costs[2])
    assert together.traffic.rounds == max(cost.traffic.rounds for cost in costs)
    assert together.traffic.sent_bytes == sum(cost.traffic.sent_bytes for cost in costs)
    left, right = run(lambda s, x: side_by_side(parts(x), s), together, ring(4 * VALUES // 4))
    assert np.array_equal(left[0] ^ right[0], VALUES < 0)
    assert np.array_equal(left[2] ^ right[2], VALUES < 0)
    assert np.abs(signed(left[1] + right[1]) - VALUES / 16).max() < 1.3


def test_nothing_is_taken_that_was_not_declared():
    bits = np.zeros(4, np.uint8)

    def more(session, x):
        wrong = (NO_COST, lambda s: select(bits, x[:4], s))
        return side_by_side([wrong, wrong], session)

    with pytest.raises(UsageError, match="more than were reserved"):
        run(more, NO_COST, ring(VALUES))

    def fewer(session, x):
        wrong = (select_cost(5), lambda s: select(bits, x[:4], s))
        return side_by_side([wrong], session)

    with pytest.raises(UsageError, match="less than it declares"):
        run(fewer, select_cost(5), ring(VALUES))


def test_there_is_nothing_at_once_inside_what_runs_at_once():
    def inside(session, x):
        cost = truncate_cost(x.size, 2)
        part = (cost, lambda s: truncate(x, 2, s))
        return side_by_side([(cost, lambda s: side_by_side([part], s))], session)

    with pytest.raises(UsageError, match="inside another"):
        run(inside, truncate_cost(VALUES.size, 2), ring(VALUES))
