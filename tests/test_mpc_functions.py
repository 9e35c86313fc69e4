"""Exponential, reciprocal, quotient and inverse root against float64 over their whole range."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc_nonlinear.blocks.functions import (
    divide,
    divide_cost,
    exponential,
    exponential_cost,
    inverse_sqrt,
    inverse_sqrt_cost,
    reciprocal,
    reciprocal_cost,
)
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.session import Context
from tests.test_mpc_blocks import client_share, few_examples, run_on_chosen_shares
from tests.test_mpc_contract import FIXED, run
from transport.errors import UsageError

CONTEXT = Context(FIXED, OtProducts(16))
UNIT = FIXED.unit
RANGES = [(1.0, 1.0), (0.5, 4.0), (2.0**-6, 2.0**3), (1.0, 2.0**20)]


def spread(low, high):
    """Ends and starts of octaves, and numbers between."""
    powers = 2.0 ** np.arange(np.log2(low), np.log2(high) + 1)
    inside = np.geomspace(low, 2 * high - UNIT, 200)
    x = np.concatenate([powers, powers[1:] - UNIT, powers + UNIT, inside])
    return FIXED.decode(FIXED.encode(x))


@pytest.mark.parametrize("low,high", RANGES)
@pytest.mark.parametrize(
    "function,cost,true",
    [
        (reciprocal, reciprocal_cost, lambda x: 1 / x),
        (inverse_sqrt, inverse_sqrt_cost, lambda x: x**-0.5),
    ],
)
def test_positive_functions_over_their_range(function, cost, true, low, high):
    x = spread(low, high)
    declared = cost(x.size, low, high, CONTEXT)
    left, right = run(lambda s, v: function(v, low, high, s), declared, FIXED.encode(x))
    error = np.abs(FIXED.decode(left + right) - true(x))
    assert np.all(error <= true(x) * 2.0**-13 + 2 * UNIT)


@pytest.mark.parametrize("low,high", RANGES)
def test_quotients(low, high):
    y = spread(low, high)
    for bound in (1.0, 300.0):
        x = np.where(np.arange(y.size) % 2, -1.0, 1.0) * np.linspace(0, bound, y.size)
        x = FIXED.decode(FIXED.encode(x))
        cost = divide_cost(x.size, bound, low, high, CONTEXT)
        left, right = run(
            lambda s, u, v, b=bound: divide(u, v, b, low, high, s),
            cost,
            FIXED.encode(x),
            FIXED.encode(y),
        )
        error = np.abs(FIXED.decode(left + right) - x / y)
        assert np.all(error <= np.abs(x / y) * 2.0**-13 + 2 * UNIT / low + 2 * UNIT)


@given(st.lists(st.tuples(st.integers(2**15, 2**18 - 1), client_share), min_size=1, max_size=4))
@few_examples
def test_reciprocal_on_any_shares(drawn):
    values, client = zip(*drawn, strict=True)
    cost = reciprocal_cost(len(values), 0.5, 2.0, CONTEXT)
    left, right = run_on_chosen_shares(
        lambda s, v: reciprocal(v, 0.5, 2.0, s), cost, values, client
    )
    true = 2.0**16 / np.array(values)
    # Shares near half the ring wrap when they are scaled: the declared failure probability.
    wrapped = np.abs(np.array(client, np.uint64).view(np.int64).astype(float)) > 2.0**62
    error = np.abs(FIXED.decode(left + right) - true)
    assert np.all((error < true * 2.0**-13 + 2 * UNIT) | wrapped)


@pytest.mark.parametrize("bound", [4.0, 12.0, 100.0])
def test_exponential(bound):
    x = np.concatenate([np.linspace(-bound, 0.2, 500), [-bound, -12.0, 0.0]])
    x = FIXED.decode(FIXED.encode(x))
    cost = exponential_cost(x.size, bound, CONTEXT)
    left, right = run(lambda s, v: exponential(v, bound, s), cost, FIXED.encode(x))
    error = np.abs(FIXED.decode(left + right) - np.exp(np.maximum(x, -12.0)))
    assert error.max() < 2.0**-12.5
    assert error.mean() < 2.0**-14.5


@pytest.mark.parametrize("low,high", [(0.3, 4.0), (4.0, 1.0), (2.0**-15, 1.0), (1.0, 2.0**27)])
def test_ranges_that_do_not_fit(low, high):
    with pytest.raises(UsageError, match="powers of two"):
        reciprocal_cost(1, low, high, CONTEXT)
