"""The largest of a row and its place: levels of every size, ties, and the search for levels."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc_nonlinear.blocks import placed_tournament as tournament
from mpc_nonlinear.blocks.compare import Width
from mpc_nonlinear.blocks.extrema import argmax_cost
from mpc_nonlinear.blocks.group_tournament import LARGEST_GROUP
from mpc_nonlinear.blocks.placed_tournament import Level, levels, placed_tournament
from mpc_nonlinear.blocks.placed_tournament import placed_tournament_cost as tournament_cost
from mpc_nonlinear.blocks.select import select_rows, select_rows_cost
from tests.test_mpc_extrema import client_share, draw, few_examples, ring, run, run_on_chosen_shares

BITS = 12
WIDTH = Width(10, 0)


def placed(values):
    """Numbers beside their places, flat."""
    places = np.broadcast_to(np.arange(values.shape[-1]), values.shape)
    return ring(np.stack([values, places], axis=-1))


def best_of(found):
    """Numbers with their sign, and places."""
    total = found.astype(np.int64) & (1 << BITS) - 1
    numbers = total[..., 0] - ((total[..., 0] >> (BITS - 1)) << BITS)
    return numbers, total[..., 1]


@pytest.mark.parametrize("size", range(2, LARGEST_GROUP + 1))
@pytest.mark.parametrize("digits", [0, 2])
@pytest.mark.parametrize("columns", [1, 2, 9, 23])
def test_a_level_of_any_size_finds_the_first_of_the_largest(size, digits, columns):
    level, values = Level(columns, size, digits), draw((3, columns), 250, size)
    cost = level.cost(3, WIDTH, BITS)
    left, right = run(lambda s, v: level.run(v, WIDTH, BITS, s), cost, placed(values))
    numbers, places = best_of(left + right)
    assert numbers.shape == (3, -(-columns // size))
    for group in range(numbers.shape[1]):
        part = values[:, group * size : (group + 1) * size]
        assert np.array_equal(numbers[:, group], part.max(-1))
        assert np.array_equal(places[:, group], group * size + part.argmax(-1))
    assert cost.traffic.rounds == {0: 4, 2: 3}[digits] + min(3, size - 1)


@given(st.lists(st.tuples(st.integers(-2, 2), client_share), min_size=3, max_size=3))
@few_examples
def test_three_at_once_on_any_shares(drawn):
    values, client = zip(*drawn, strict=True)
    level = Level(3, 3, 0)
    both = [number for place, value in enumerate(values) for number in (value, place)]
    shares = [number for share in client for number in (share, share)]
    left, right = run_on_chosen_shares(
        lambda s, v: level.run(v.reshape(1, 3, 2), WIDTH, BITS, s),
        level.cost(1, WIDTH, BITS), both, shares,
    )  # fmt: skip
    numbers, places = best_of(left + right)
    assert (numbers.item(), places.item()) == (max(values), np.argmax(values))


def three_of_every_order():
    values = np.array([[a, b, c] for a in range(3) for b in range(3) for c in range(3)])
    level = Level(3, 3, 0)
    cost = level.cost(len(values), WIDTH, BITS)
    left, right = run(lambda s, v: level.run(v, WIDTH, BITS, s), cost, placed(values))
    numbers, places = best_of(left + right)
    return np.array_equal(places[:, 0], values.argmax(1)) and np.array_equal(
        numbers[:, 0], values.max(1)
    )


def test_three_of_every_order():
    assert three_of_every_order()


def test_a_third_that_meets_the_wrong_one_is_noticed(monkeypatch):
    def nothing(conjunctions, _):
        return [np.zeros_like(own) for own in conjunctions._own]

    monkeypatch.setattr(tournament.Conjunctions, "results", nothing)
    assert not three_of_every_order()


@pytest.mark.parametrize("columns", [2, 5, 30, 200])
def test_the_whole_tournament(columns):
    values = draw((2, columns), 250, columns)
    cost = tournament_cost(2, columns, WIDTH, BITS)
    left, right = run(lambda s, v: placed_tournament(v, WIDTH, BITS, s), cost, placed(values))
    numbers, places = best_of(left + right)
    assert np.array_equal(numbers, values.max(-1))
    assert np.array_equal(places, values.argmax(-1))


def test_rows_go_by_one_choice_each():
    x = ring(draw((5, 3), 100))
    bits = np.array([0, 1, 1, 0, 1], np.uint8)

    def role(session, v):
        own = bits if session.party else 0 * bits
        return select_rows(own, v, session, 9)

    left, right = run(role, select_rows_cost(5, 3, 9), x)
    assert np.array_equal(left + right & np.uint64(511), x * bits[:, None] & np.uint64(511))
    assert select_rows_cost(5, 3, 9).ots.total == 10


def test_levels_end_with_one_and_weigh_rounds_and_transfers(monkeypatch):
    width = Width(16, 0)
    for columns in (2, 3, 10, 700, 49152):
        left = columns
        for level in levels(1, columns, width, 17):
            assert level.columns == left
            left = level.groups
        assert left == 1

    def found(round_trip):
        monkeypatch.setattr(tournament, "_WEIGHTS", (0.13, 0.04, round_trip))
        levels.cache_clear()
        return tournament_cost(1, 3000, width, 17)

    far, near = found(50_000.0), found(10.0)
    levels.cache_clear()
    assert far.traffic.rounds < near.traffic.rounds
    assert far.ots.total > near.ots.total


def test_a_vocabulary_takes_pairs_first_and_few_transfers():
    cost = argmax_cost(1, 49152, 8190)
    sizes = [level.size for level in levels(1, 49152, Width.exact(2 * 8190), 17)]
    assert sizes[:3] == [2, 2, 2]
    assert sizes[-1] > 3
    assert cost.traffic.rounds <= 47
    assert cost.ots.total < 1.1e6
    assert cost.traffic.sent_bytes < 1.4e6
