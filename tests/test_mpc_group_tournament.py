"""Comparisons in long digits, and tournaments in groups."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc_nonlinear.blocks.compare import Width, less_than_constants, less_than_constants_cost
from mpc_nonlinear.blocks.group_tournament import (
    LARGEST_GROUP,
    even_groups,
    group_tournament,
    group_tournament_cost,
)
from tests.test_mpc_extrema import (
    client_share,
    draw,
    few_examples,
    ring,
    run,
    run_on_chosen_shares,
    signed,
)
from transport.errors import UsageError


@pytest.mark.parametrize(
    ("bits", "digits"), [(2, 1), (5, 1), (9, 1), (3, 2), (12, 2), (17, 2), (5, 3), (20, 3), (25, 3)]
)
def test_comparisons_in_long_digits_are_exact_and_short(bits, digits):
    width = Width(bits, 0, digits)
    high = 2 ** (bits - 1)
    ends = -high // 2, high // 2 - 1
    values = np.unique(np.clip(np.r_[draw((67,), high), 0, -1, 1, ends], *ends))
    marks = [0, 1, -1, high // 2 - 1, 1 - high // 2]
    marks = [m for m in marks if values.max() - m < high and values.min() - m >= -high]
    cost = less_than_constants_cost(values.size, len(marks), width)
    left, right = run(lambda s, v: less_than_constants(v, marks, width, s), cost, ring(values))
    assert np.array_equal((left ^ right) == 1, values < np.array(marks)[:, None])
    assert cost.traffic.rounds == digits + 1


@given(st.lists(st.tuples(st.integers(-63, 63), client_share), min_size=1, max_size=9))
@few_examples
def test_long_digits_on_any_shares(drawn):
    values, client = zip(*drawn, strict=True)
    width = Width(9, 0, 1)
    cost = less_than_constants_cost(len(values), 2, width)
    left, right = run_on_chosen_shares(
        lambda s, v: less_than_constants(v, [0, 5], width, s), cost, values, client
    )
    assert np.array_equal((left ^ right) == 1, np.array(values) < np.array([[0], [5]]))


@pytest.mark.parametrize("digits", [0, 1, 2])
@pytest.mark.parametrize(
    ("lengths", "sizes"),
    [
        ([1], []),
        ([2, 1], [2]),
        ([3, 1, 2], [3]),
        ([9, 8, 1], [9]),
        ([5, 64, 37], [8, 8]),
        ([7, 11], [2, 2, 3]),
        ([81], [9, 9]),
    ],
)
def test_the_largest_of_rows_of_any_lengths(lengths, sizes, digits):
    width = Width(9, 0, digits)
    lengths = np.array(lengths)
    values = draw((len(lengths), int(lengths.max())), 60)
    cost = group_tournament_cost(lengths, sizes, width)
    left, right = run(
        lambda s, v: group_tournament(v, lengths, sizes, width, s), cost, ring(values)
    )
    found = signed((left + right) << np.uint64(55)) >> 55
    assert list(found) == [row[:n].max() for row, n in zip(values, lengths, strict=True)]


def test_of_equal_numbers_the_first_with_its_luggage():
    width, sizes = Width(6, 0, 1), [9]
    places = np.arange(9) << 6
    values = np.array([[3, 9, 1, 9, 9, 0, 2, 9, 4]]) + places
    cost = group_tournament_cost(np.array([9]), sizes, width, 6)
    left, right = run(
        lambda s, v: group_tournament(v, np.array([9]), sizes, width, s, 6), cost, ring(values)
    )
    assert (left + right) & np.uint64(4095) == 9 + (1 << 6)


def test_groups_of_a_level_are_few_and_even():
    for longest in (1, 2, 9, 10, 64, 81, 82, 729):
        sizes = even_groups(longest)
        left = longest
        for size in sizes:
            assert 2 <= size <= LARGEST_GROUP
            left = -(-left // size)
        assert left == 1
    assert even_groups(64) == [8, 8]
    assert even_groups(82) == [5, 5, 4]


def test_what_a_tournament_in_groups_refuses():
    width = Width(9, 1)
    with pytest.raises(UsageError, match="exact"):
        group_tournament(np.zeros((1, 2), np.uint64), np.array([2]), [2], width, None)
    with pytest.raises(UsageError, match="groups of 10"):
        group_tournament_cost(np.array([10]), [10], Width(9, 0))
    with pytest.raises(UsageError, match="leave 2"):
        group_tournament_cost(np.array([4]), [2], Width(9, 0))
    for bits, digits in ((10, 1), (18, 2), (26, 3), (10, 4)):
        with pytest.raises(UsageError, match="1 to 3"):
            Width(bits, 0, digits)
