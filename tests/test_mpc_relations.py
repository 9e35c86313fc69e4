"""Order, equality and bits of shared numbers at every width, with exactly the declared cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.blocks.compare import Width
from mpc_nonlinear.blocks.relations import (
    equal,
    equal_cost,
    equal_to,
    is_zero,
    is_zero_cost,
    less_than,
    less_than_cost,
    to_bits,
    to_bits_cost,
)
from tests.test_mpc_blocks import client_share, few_examples, run_on_chosen_shares
from tests.test_mpc_contract import ring, run
from transport.errors import UsageError

WIDTHS = [1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64]


@pytest.mark.parametrize("bits", WIDTHS)
def test_equality_reads_the_low_bits_only(bits):
    top = 1 << (bits - 1)
    values = [0, 1, -1, top, -top, top - 1, 1 << 63 if bits < 64 else 0, 2 * top - 1]
    x = ring([v if v < 2**63 else v - 2**64 for v in values])
    left, right = run(lambda s, v: is_zero(v, s, bits), is_zero_cost(x.size, bits), x)
    assert np.array_equal((left ^ right) == 1, x & np.uint64(2 * top - 1) == 0)


@given(st.lists(st.tuples(st.integers(-5, 5), client_share), min_size=1, max_size=7))
@few_examples
def test_equality_on_any_shares(drawn):
    values, client = zip(*drawn, strict=True)
    left, right = run_on_chosen_shares(
        lambda s, v: equal_to(v, 3, s, 9), equal_cost(len(values), 9), values, client
    )
    assert np.array_equal((left ^ right) == 1, np.array(values) == 3)


def test_two_shared_tensors():
    rng = np.random.default_rng(5)
    x, y = ring(rng.integers(-3, 4, (5, 7))), ring(rng.integers(-3, 4, (5, 7)))
    a, b = x.view(np.int64), y.view(np.int64)
    left, right = run(lambda s, u, v: equal(u, v, s, 4), equal_cost(35, 4), x, y)
    assert np.array_equal((left ^ right) == 1, a == b)
    width = Width.exact(6)
    left, right = run(lambda s, u, v: less_than(u, v, width, s), less_than_cost(35, width), x, y)
    assert np.array_equal((left ^ right) == 1, a < b)


@pytest.mark.parametrize("bits", range(2, 65, 3))
def test_order_of_the_largest_numbers_at_every_width(bits):
    top = (1 << (bits - 1)) - 1
    assert Width.exact(top) == Width(bits, 0)
    values = [-top, -top // 2, -1, 0, 1, top // 2, top]
    x, zero = ring(values), ring([0] * len(values))
    width = Width(bits, 0)
    cost = less_than_cost(len(values), width)
    left, right = run(lambda s, u, v: less_than(u, v, width, s), cost, x, zero)
    assert np.array_equal((left ^ right) == 1, np.array(values) < 0)


@pytest.mark.parametrize("largest", [-1, 2**63])
def test_numbers_no_comparison_can_hold(largest):
    with pytest.raises(UsageError, match="exact comparison"):
        Width.exact(largest)


@pytest.mark.parametrize("bits", WIDTHS)
def test_bits_of_the_largest_numbers(bits):
    top = 1 << (bits - 1)
    values = [0, 1, -1, top, -top, top - 1, 12345 % top, -(54321 % top)]
    x = ring([v if v < 2**63 else v - 2**64 for v in values])
    left, right = run(lambda s, v: to_bits(v, bits, s), to_bits_cost(x.size, bits), x)
    expected = x >> np.arange(bits, dtype=np.uint64)[:, None] & np.uint64(1)
    assert np.array_equal(left ^ right, expected)


@given(st.lists(st.tuples(st.integers(-(2**40), 2**40), client_share), min_size=1, max_size=5))
@few_examples
def test_bits_on_any_shares(drawn):
    values, client = zip(*drawn, strict=True)
    left, right = run_on_chosen_shares(
        lambda s, v: to_bits(v, 13, s), to_bits_cost(len(values), 13), values, client
    )
    expected = np.array(values) >> np.arange(13)[:, None] & 1
    assert np.array_equal(left ^ right, expected)


def test_nothing_of_nothing():
    x = ring(np.zeros((0, 3)))
    assert run(lambda s, v: is_zero(v, s), is_zero_cost(0), x)[0].shape == (0, 3)
    assert run(lambda s, v: to_bits(v, 5, s), to_bits_cost(0, 5), x)[0].shape == (5, 0, 3)


@pytest.mark.parametrize("bits", [0, 65])
def test_widths_that_do_not_exist(bits):
    with pytest.raises(UsageError, match="use 1 to 64"):
        is_zero_cost(1, bits)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 64))
def test_rounds_of_bits_grow_with_the_logarithm(bits):
    rounds = to_bits_cost(1, bits).traffic.rounds
    assert rounds == (0 if bits == 1 else 1 + (bits - 2).bit_length())
