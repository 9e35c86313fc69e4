"""Messages that follow each other as they go: rounds are those of the longest chain."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.blocks.compare import (
    Width,
    comparison_moves,
    less_than_zero,
    less_than_zero_cost,
)
from mpc_nonlinear.blocks.flow import Flow, Move
from mpc_nonlinear.blocks.group_tournament import (
    fewest_meetings,
    group_tournament,
    group_tournament_flow,
)
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.side_by_side import side_by_side
from tests.test_mpc_contract import ring, run, signed
from transport.errors import UsageError
from transport.traffic import Party

VALUES = np.array([-3, 0, 5, -100, 100])
WIDTHS = [Width(10, 0), Width(9, 0, 1), Width(10, 0, 2)]
CASES = [(0, Party.CLIENT), *[(i, asker) for i in (1, 2) for asker in Party]]


def declared(steps):
    """Of comparisons (width, asker), a selection by the bit after each."""
    flow = Flow()
    for width, asker in steps:
        cost = less_than_zero_cost(VALUES.size, width, asker)
        flow = flow.then(cost, *comparison_moves(width, asker))
        flow = flow.then(select_cost(VALUES.size), Move.BOTH)
    return flow


def positive_parts(steps, x, session):
    for width, asker in steps:
        x = x - select(less_than_zero(x, width, session, asker), x, session)
    return x


@settings(max_examples=20, deadline=None)
@given(st.lists(st.sampled_from(CASES), min_size=1, max_size=5))
def test_any_row_of_protocols_takes_the_rounds_that_are_counted(drawn):
    steps = [(WIDTHS[i], asker) for i, asker in drawn]

    def flowing(session, x):
        with session.channel.flow():
            return positive_parts(steps, x, session)

    flow = declared(steps)
    left, right = run(flowing, flow.total, ring(VALUES))
    assert np.array_equal(signed(left + right), np.maximum(VALUES, 0))
    # In step they take more, unless there is nothing to share.
    run(lambda s, x: positive_parts(steps, x, s), flow.cost, ring(VALUES))
    assert flow.total.traffic.rounds <= flow.cost.traffic.rounds
    assert flow.total.traffic.sent_bytes == flow.cost.traffic.sent_bytes


@settings(max_examples=12, deadline=None)
@given(*[st.lists(st.sampled_from(CASES), max_size=3)] * 4)
def test_what_runs_beside_in_a_flow_takes_the_rounds_that_are_counted(before, one, other, after):
    before, one, other, after = (
        [(WIDTHS[i], asker) for i, asker in drawn] for drawn in (before, one, other, after)
    )

    def add(flow, steps):
        for width, asker in steps:
            cost = less_than_zero_cost(VALUES.size, width, asker)
            flow = flow.then(cost, *comparison_moves(width, asker))
            flow = flow.then(select_cost(VALUES.size), Move.BOTH)
        return flow

    flow = add(Flow(), before)
    branches = [add(flow.branch, steps) for steps in (one, other)]
    total = add(flow.beside(branches), after).total

    def flowing(session, x):
        with session.channel.flow():
            x = positive_parts(before, x, session)
            parts = [
                (branch.cost, lambda s, steps=steps: positive_parts(steps, x, s))
                for branch, steps in zip(branches, (one, other), strict=True)
            ]
            first, second = side_by_side(parts, session)
            return positive_parts(after, first + second, session)

    left, right = run(flowing, total, ring(VALUES))
    found = signed(left + right)
    once = np.maximum(VALUES, 0) if before else VALUES
    each = [np.maximum(once, 0) if steps else once for steps in (one, other)]
    assert np.array_equal(found, np.maximum(sum(each), 0) if after else sum(each))


@pytest.mark.parametrize(("longest", "rounds"), [(2, 3), (9, 4), (64, 7), (90, 10)])
def test_a_level_takes_three_rounds_where_who_asks_alternates(longest, rounds):
    lengths, sizes, width = np.array([longest, 1]), fewest_meetings(longest), Width(9, 0, 1)
    values = np.random.default_rng(0).integers(-60, 60, (2, longest))
    cost = group_tournament_flow(Flow(), lengths, sizes, width).total
    assert cost.traffic.rounds == rounds

    def flowing(session, x):
        with session.channel.flow():
            return group_tournament(x, lengths, sizes, width, session)

    left, right = run(flowing, cost, ring(values))
    found = signed((left + right) << np.uint64(55)) >> 55
    assert list(found) == [values[0].max(), values[1, 0]]


def test_two_levels_are_cut_so_that_few_meet():
    for longest in range(1, 200):
        left = longest
        for size in fewest_meetings(longest):
            assert 2 <= size <= 9
            left = -(-left // size)
        assert left == 1
    assert fewest_meetings(45) == [5, 9]
    assert fewest_meetings(64) == [8, 8]


def test_of_short_digits_only_the_client_asks():
    with pytest.raises(UsageError, match="client asks"):
        less_than_zero_cost(3, WIDTHS[0], Party.SERVER)
