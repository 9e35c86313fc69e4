"""Largest numbers of rows against numpy, ties and edges included, at exactly the declared cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc_nonlinear.blocks.compare import Width
from mpc_nonlinear.blocks.extrema import (
    argmax,
    argmax_cost,
    maximum,
    maximum_cost,
)
from mpc_nonlinear.blocks.top_k import top_k, top_k_cost, top_k_mask, top_k_mask_cost
from tests.test_mpc_blocks import client_share, few_examples, run_on_chosen_shares
from tests.test_mpc_contract import ring, run, signed
from transport.errors import UsageError

SHAPES = [(1,), (2,), (3,), (7,), (8,), (33,), (3, 1), (2, 5), (2, 3, 6), (4, 17)]


def draw(shape, bound, seed=0):
    """Many ties, and both ends of the range."""
    rng = np.random.default_rng(seed)
    x = np.where(rng.random(shape) < 0.5, rng.integers(-2, 3, shape), rng.integers(-bound, bound))
    return np.where(rng.random(shape) < 0.2, rng.choice([-bound, bound], shape), x)


@pytest.mark.parametrize("shape", SHAPES)
def test_argmax_is_the_first_of_the_largest(shape):
    bound = 2**20
    for seed in range(3):
        values = draw(shape, bound, seed)
        cost = argmax_cost(values.size // shape[-1], shape[-1], bound)
        left, right = run(lambda s, v: argmax(v, bound, s), cost, ring(values))
        assert np.array_equal(signed(left[0] + right[0]), values.max(-1))
        assert np.array_equal(left[1] + right[1], values.argmax(-1).astype(np.uint64))


@pytest.mark.parametrize("columns", [33, 300])
def test_places_take_more_bits_than_small_numbers(columns):
    values = np.eye(columns, dtype=np.int64)[[0, columns // 2, columns - 1]]
    cost = argmax_cost(3, columns, 1)
    left, right = run(lambda s, v: argmax(v, 1, s), cost, ring(values))
    assert (left[1] + right[1]).tolist() == [0, columns // 2, columns - 1]


@given(st.lists(st.tuples(st.integers(-3, 3), client_share), min_size=2, max_size=9))
@few_examples
def test_argmax_on_any_shares(drawn):
    values, client = zip(*drawn, strict=True)
    cost = argmax_cost(1, len(values), 3)
    left, right = run_on_chosen_shares(lambda s, v: argmax(v, 3, s), cost, values, client)
    assert int(left[1] + right[1]) == int(np.argmax(values))
    assert int(signed(left[0] + right[0])) == max(values)


@pytest.mark.parametrize("shape", SHAPES)
def test_maximum_within_the_slack_of_its_levels(shape):
    bound = 2**22
    values = draw(shape, bound)
    for width in (Width.exact(2 * bound), Width.covering(2 * bound, 13)):
        cost = maximum_cost(values.size // shape[-1], shape[-1], width)
        left, right = run(lambda s, v, w=width: maximum(v, w, s), cost, ring(values))
        found = signed(left + right)
        assert np.all(values.max(-1) - found <= width.slack * (shape[-1] - 1).bit_length())
        assert np.all((values == found[..., None]).any(-1))


@pytest.mark.parametrize("shape", SHAPES)
def test_top_k_sorted_with_first_places_of_equals(shape):
    bound, columns = 1000, shape[-1]
    values = draw(shape, bound)
    for k in {1, (columns + 1) // 2, columns}:
        cost = top_k_cost(values.size // columns, columns, k, bound)
        left, right = run(lambda s, v, k=k: top_k(v, k, bound, s), cost, ring(values))
        order = np.argsort(-values, axis=-1, kind="stable")[..., :k]
        assert np.array_equal(left[1] + right[1], order.astype(np.uint64))
        assert np.array_equal(signed(left[0] + right[0]), np.take_along_axis(values, order, -1))


@pytest.mark.parametrize("shape", SHAPES)
def test_members_of_the_k_largest_with_all_equals(shape):
    bits, columns = 12, shape[-1]
    values = draw(shape, 2**11 - 1)
    for k in {1, (columns + 1) // 2, columns}:
        cost = top_k_mask_cost(values.size // columns, columns, k, bits)
        left, right = run(lambda s, v, k=k: top_k_mask(v, k, bits, s), cost, ring(values))
        kth = np.sort(values, -1)[..., -k, None]
        assert np.array_equal((left ^ right) == 1, values >= kth)


@given(st.lists(st.tuples(st.integers(-4, 3), client_share), min_size=1, max_size=8), st.data())
@few_examples
def test_members_on_any_shares(drawn, data):
    values, client = zip(*drawn, strict=True)
    k = data.draw(st.integers(1, len(values)))
    cost = top_k_mask_cost(1, len(values), k, 3)
    left, right = run_on_chosen_shares(lambda s, v: top_k_mask(v, k, 3, s), cost, values, client)
    assert np.array_equal((left ^ right) == 1, np.array(values) >= sorted(values)[-k])


def test_what_does_not_fit():
    with pytest.raises(UsageError, match="lower the bound"):
        argmax_cost(1, 50257, 2**60)
    for k in (0, 6):
        with pytest.raises(UsageError, match="use 1 to 5"):
            top_k_cost(1, 5, k, 10)
        with pytest.raises(UsageError, match="use 1 to 5"):
            top_k_mask_cost(1, 5, k, 10)


def test_rounds_grow_with_the_logarithm():
    rounds = [argmax_cost(1, n, 2**20).traffic.rounds for n in (2**4, 2**8, 2**16)]
    assert rounds[2] < 2.5 * rounds[1] < 6.3 * rounds[0]
