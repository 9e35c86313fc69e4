"""Building blocks at their edges: chosen shares, every width, largest values, untrusted bytes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.blocks.compare import (
    Width,
    less_than_constants,
    less_than_constants_cost,
    less_than_zero,
    less_than_zero_cost,
)
from mpc_nonlinear.blocks.opening import (
    masked_sum,
    masked_sum_cost,
    open_to_client,
    open_to_client_cost,
)
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.select import (
    bit_to_arithmetic,
    bit_to_arithmetic_cost,
    select,
    select_cost,
)
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.blocks.truncate import MAX_ABS_BITS, truncate, truncate_cost
from mpc_nonlinear.correlations import SoftSpokenSource
from mpc_nonlinear.cost import NO_COST, OtCount
from tests.ot_sources import quick_session, run_misbehaving
from tests.test_mpc_contract import FIXED, ring, run, signed
from transport.errors import FrameError, UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party, Traffic

few_examples = settings(max_examples=15, deadline=None)
EXTREME_SHARES = [0, 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1, 2**32, 2**15 - 1]
client_share = st.one_of(st.sampled_from(EXTREME_SHARES), st.integers(0, 2**64 - 1))


def run_on_chosen_shares(function, cost, values, client):
    """Like `run`, but the client's share is given instead of uniform."""
    first = np.array(client, np.uint64)
    pair = (first, ring(values) - first)

    def role(channel):
        session = quick_session(channel, cost.ots)
        with channel.step("run"):
            result = function(session, pair[channel.party])
        assert session.correlations.stock() == OtCount()
        return result

    left, right, channel = run_both(role)
    assert channel.traffic("run") == cost.traffic
    return left, right


@given(st.lists(st.tuples(st.integers(-(2**10), 2**10), client_share), min_size=1, max_size=6))
@few_examples
def test_exact_comparisons_on_any_shares(drawn):
    values, client = zip(*drawn, strict=True)
    width, thresholds = Width(13, 0), [-(2**10), -1, 0, 2**10]
    cost = less_than_constants_cost(len(values), len(thresholds), width)
    left, right = run_on_chosen_shares(
        lambda s, v: less_than_constants(v, thresholds, width, s), cost, values, client
    )
    expected = np.array(values)[None] < np.array(thresholds)[:, None]
    assert np.array_equal((left ^ right) == 1, expected)


@given(st.data(), st.integers(1, 12))
@few_examples
def test_a_coarse_result_is_a_single_moved_threshold(data, dropped):
    """On the same client share the result is monotone in x and switches inside the slack."""
    client = data.draw(client_share)
    width = Width(9, dropped)
    around = np.arange(-width.slack - 3, width.slack + 4)
    cost = less_than_zero_cost(around.size, width)
    left, right = run_on_chosen_shares(
        lambda s, v: less_than_zero(v, width, s), cost, around, np.full(around.size, client)
    )
    below = ((left ^ right) == 1).astype(int)
    assert np.all(np.diff(below) <= 0)
    assert -width.slack <= around[np.count_nonzero(below)] <= width.slack


@pytest.mark.parametrize("width", [Width(5, 0), Width(9, 3), Width(17, 8), Width(61, 3)])
def test_sign_at_the_ends_of_the_range(width):
    top = 1 << (width.bits + width.dropped - 1)
    ends = [-top + 2 * (1 << width.dropped), top - 1 - (1 << width.dropped)]
    values = [ends[0], -width.slack - 1, width.slack + 1, ends[1]]
    cost = less_than_zero_cost(4 * len(EXTREME_SHARES), width)
    left, right = run_on_chosen_shares(
        lambda s, v: less_than_zero(v, width, s),
        cost,
        np.repeat(values, len(EXTREME_SHARES)),
        EXTREME_SHARES * 4,
    )
    assert ((left ^ right).reshape(4, -1) == [[1], [1], [0], [0]]).all()


def test_most_thresholds_in_one_pass():
    width, thresholds = Width(9, 0), list(range(-16, 16))
    x = ring(np.arange(-20, 21))
    cost = less_than_constants_cost(x.size, 32, width)
    left, right = run(lambda s, v: less_than_constants(v, thresholds, width, s), cost, x)
    assert np.array_equal(left ^ right, signed(x)[None] < np.array(thresholds)[:, None])
    # One pass: rounds and receiver's choices do not grow with the thresholds.
    one = less_than_constants_cost(x.size, 1, width)
    assert cost.traffic.rounds == one.traffic.rounds
    with pytest.raises(UsageError, match="33 thresholds"):
        run(lambda s, v: less_than_constants(v, [*thresholds, 16], width, s), cost, x)


@pytest.mark.parametrize("bits,dropped", [(1, 0), (0, 4), (-1, 0), (12, -1), (61, 4), (65, 0)])
def test_widths_that_no_comparison_can_read(bits, dropped):
    with pytest.raises(UsageError, match="comparison of"):
        Width(bits, dropped)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), client_share, client_share), min_size=1))
@few_examples
def test_selection_on_any_shares(drawn):
    columns = zip(*drawn, strict=True)
    bits, bit_shares = np.array(next(columns)), np.array(next(columns))
    values, client = np.array(next(columns), np.uint64), next(columns)
    own = (bit_shares, bit_shares ^ bits)

    def role(session, v):
        bit = own[session.party].astype(np.uint8)
        return select(bit, v, session), bit_to_arithmetic(bit, session)

    cost = select_cost(len(bits)) + bit_to_arithmetic_cost(len(bits))
    left, right = run_on_chosen_shares(role, cost, values.view(np.int64), client)
    assert np.array_equal(left[0] + right[0], bits * values)
    assert np.array_equal(left[1] + right[1], bits.astype(np.uint64))


@pytest.mark.parametrize("shift", [1, 16, 24, 61])
def test_truncation_of_the_largest_on_any_shares(shift):
    largest = 2**MAX_ABS_BITS - 1
    values = [-largest, -1, 0, 1, largest, 1 << (shift - 1), -(1 << (shift - 1))]
    grid = np.repeat(ring(values), len(EXTREME_SHARES)).view(np.int64)
    cost = truncate_cost(grid.size, shift)
    left, right = run_on_chosen_shares(
        lambda s, v: truncate(v, shift, s), cost, grid, EXTREME_SHARES * len(values)
    )
    # |got - x / 2^shift| < 1, in integers
    for got, x in zip(signed(left + right), grid, strict=True):
        assert abs((int(got) << shift) - int(x)) < 1 << shift


@pytest.mark.parametrize("value", [100, -100, 0, 256, -31])
def test_truncation_is_unbiased_for_either_sign(value):
    x = ring(np.full(4000, value))
    left, right = run(lambda s, v: truncate(v, 8, s), truncate_cost(x.size, 8), x)
    # Standard deviation of the mean at most 0.5 / sqrt(4000) = 0.008; exact for multiples.
    tolerance = 0.05 if value % 256 else 0
    assert abs(signed(left + right).mean() - value / 256) <= tolerance


@pytest.mark.parametrize("shift", [-8, 0, 6])
def test_products_of_large_and_small_operands(shift):
    products = OtProducts(16)
    x = np.array([2.0**14 - 1, -(2.0**14) + 1, 2.0**-16, -(2.0**-16), 0.0, 300.5])
    y = np.array([2.0**13, 2.0**13, 2.0**-16, 2.0**13, 5.0, -7.25])
    if shift < 0:
        x, y = x / 2**5, y / 2**4
    a, b = FIXED.encode(x), FIXED.encode(y)
    bounds = Bounds(2.0**14, 2.0**13, 2.0**27, shift)
    left, right = run(
        lambda s, v, w: products.multiply(v, w, s, bounds),
        products.multiply_cost(a.size, bounds),
        a,
        b,
    )
    # Below one unit, compared in exact integers.
    for got, p, q in zip(signed(left + right), signed(a), signed(b), strict=True):
        exact = int(p) * int(q)
        assert abs((int(got) << (16 + shift)) - exact) < products.max_error_units << (16 + shift)


@pytest.mark.parametrize("mask", [[False] * 3, [True] * 3, [False, True, False]])
def test_masked_sum_of_any_rows(mask):
    x = SecureRandom().uint64((3, 5))

    def role(session, v):
        return masked_sum(v, session, np.array(mask) if session.party is Party.CLIENT else None)

    left, right = run(role, masked_sum_cost(3, 5), x)
    assert np.array_equal(left + right, x[np.array(mask)].sum(0, dtype=np.uint64))


def test_opening_is_one_message_that_the_server_cannot_read_back():
    x = SecureRandom().uint64((2, 3))
    cost = open_to_client_cost(6)
    left, right = run(lambda s, v: open_to_client(v, s), cost, x)
    assert right is None
    assert np.array_equal(left, x)
    assert cost.traffic == Traffic.message(Party.SERVER, 48)
    assert cost.ots.total == 0


def test_nothing_to_do_costs_nothing():
    empty = np.zeros((0, 4), np.uint64)
    width = Width(13, 0)
    assert less_than_zero_cost(0, width) == select_cost(0) == truncate_cost(0, 5) == NO_COST

    def role(session, v):
        below = less_than_zero(v, width, session)
        return truncate(select(below, v, session), 5, session)

    left, right = run(role, NO_COST, empty)
    assert left.shape == right.shape == (0, 4)


@pytest.mark.parametrize(
    "function",
    [
        lambda s: less_than_zero(np.zeros(9, np.uint64), Width(13, 0), s),
        lambda s: select(np.zeros(9, np.uint8), np.zeros(9, np.uint64), s),
        lambda s: truncate(np.zeros(9, np.uint64), 16, s),
        lambda s: open_to_client(np.zeros(9, np.uint64), s),
    ],
)
def test_a_message_of_the_wrong_size_is_refused(function):
    def role(channel):
        if channel.party is Party.SERVER:
            channel.send(bytes(1))
            channel.send(bytes(1))
            return None
        with pytest.raises(FrameError, match="1 bytes where"):
            function(quick_session(channel, OtCount(5000, 5000)))
        return "refused"

    assert run_misbehaving(role)[0] == "refused"


def test_equal_runs_share_results_differently():
    """The shares of a result come from the OTs, and those are fresh."""
    x, width, results = np.zeros(256, np.uint64), Width(13, 0), []

    def role(channel):
        source = SoftSpokenSource(channel.party, SecureRandom())
        source.setup(channel)
        source.produce(less_than_zero_cost(256, width).ots, channel)
        session = Session(channel, Context(FIXED, OtProducts(16)), source, SecureRandom())
        return less_than_zero(x, width, session)

    for _ in range(2):
        left, right, _ = run_both(role)
        assert np.array_equal(left, right)
        assert 64 < left.sum() < 192
        results.append(left)
    assert not np.array_equal(*results)


def test_sources_are_interchangeable():
    x = ring([-5, 5])
    width = Width(9, 0)

    def role(channel):
        source = SoftSpokenSource(channel.party, SecureRandom())
        source.setup(channel)
        source.produce(less_than_zero_cost(2, width).ots, channel)
        session = Session(channel, Context(FIXED, OtProducts(16)), source, SecureRandom())
        own = x if channel.party is Party.CLIENT else np.zeros(2, np.uint64)
        return less_than_zero(own, width, session)

    left, right, _ = run_both(role)
    assert (left ^ right).tolist() == [1, 0]
