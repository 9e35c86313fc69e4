"""Products of shares with public reals, against Python integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.blocks.local import scale, scale_cost
from transport.errors import UsageError
from transport.randomness import SecureRandom
from transport.traffic import NO_TRAFFIC

WORDS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63)])


@settings(max_examples=200, deadline=None)
@given(WORDS, st.floats(-16383, 16383))
def test_one_share_is_rounded_exactly(word, factor):
    units = round(factor * 2**48)
    expected = (word * units + 2**47 >> 48) % 2**64
    assert int(scale(np.array([word % 2**64], np.uint64), factor)[0]) == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(-(2**30), 2**30), st.floats(-100, 100))
def test_shares_add_up_within_a_unit(x, factor):
    first = SecureRandom().uint64(100)
    second = np.full(100, x % 2**64, np.uint64) - first
    got = (scale(first, factor) + scale(second, factor)).view(np.int64)
    assert np.abs(got - x * factor).max() <= 1 + abs(x) * 2.0**-48


def test_cost_and_limits():
    assert scale_cost(10, 2.0**20).traffic == NO_TRAFFIC
    assert scale_cost(10, 2.0**20).failure_probability == 10 * 2.0**-44
    assert scale(np.zeros((2, 3), np.uint64), 0.5).shape == (2, 3)
    with pytest.raises(UsageError, match="2\\^14"):
        scale(np.zeros(1, np.uint64), 2.0**14)
