"""Reciprocals by lines found in every octave at once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.blocks import row_inverses as block
from mpc_nonlinear.blocks.flow import Flow
from mpc_nonlinear.blocks.row_inverses import (
    RESULT_ERROR_UNITS,
    RowInverses,
    row_inverses,
    row_inverses_flow,
)
from mpc_nonlinear.fixed_point import FixedPoint
from tests.prime_triples import run_products
from transport.errors import UsageError
from transport.traffic import Party

FIXED = FixedPoint(16)
RANGES = [(0.96, 9), (1.0, 1), (0.37, 4), (0.96, 13), (0.96, 16)]


def private(inverses, s, asker=Party.SERVER, shares=None):
    mean = inverses.low * 2.0**inverses.octaves / FIXED.unit
    cost = row_inverses_flow(Flow(), s.size, inverses, mean, asker).total

    def role(session, x):
        with session.channel.flow():
            return row_inverses(x, inverses, asker, session)

    client, server = run_products(role, cost, s, shares=shares)
    return FIXED.decode(client + server), cost


def near(inverses, got, s):
    real = inverses.factor / FIXED.decode(s)
    away = np.abs(got - real)
    assert (away <= inverses.error * real + (RESULT_ERROR_UNITS + 0.01) * FIXED.unit).all()


def test_lines_are_as_near_as_they_say():
    inverses = RowInverses(0.96, 3, 2.0)
    constants, slopes = inverses.lines
    away = 0.0
    for line, (a, b) in enumerate(block._intervals()[1]):
        s = np.linspace(a, b, 1001) * 0.96 / 64 * 2.0 ** np.arange(3)[:, None]
        value = constants[:, line, None] + slopes[:, line, None] * s
        away = max(away, np.abs(value * s / 2 - 1).max())
    assert 0.99 * inverses.error < away <= inverses.error * (1 + 1e-9) < 2.0**-9.6


@pytest.mark.parametrize("asker", list(Party))
@pytest.mark.parametrize(("low", "octaves"), RANGES)
def test_shared_values_are_right_around_every_end(low, octaves, asker):
    inverses = RowInverses(low, octaves, 256.0)
    places = np.r_[64, block._intervals()[0]]
    ends = low * np.outer(2.0 ** np.arange(octaves), places / 64).reshape(-1)
    unit = np.outer(low * 2.0 ** np.arange(octaves) / 64, np.ones(len(places))).reshape(-1)
    s = (ends[:, None] + unit[:, None] * np.array([-1.1, -0.9, -0.1, 0, 0.1, 0.9, 1.1])).reshape(-1)
    s = FIXED.encode(s[(s >= low + FIXED.unit) & (s < low * 2**octaves * (1 - 1e-4))])
    got, cost = private(inverses, s, asker)
    near(inverses, got, s)
    # A table, lines beside octaves, and a selection among these; wider ranges take one more.
    assert cost.traffic.rounds == {1: 3, 4: 4, 9: 4, 13: 4, 16: 5}[octaves]


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(RANGES), st.integers(0, 2**32), st.sampled_from(Party))
def test_shared_values_are_right_anywhere_however_they_are_shared(found, seed, asker):
    (low, octaves), rng = found, np.random.default_rng(seed)
    inverses = RowInverses(low, octaves)
    s = FIXED.encode(low * 1.0001 * np.exp2(rng.uniform(0, octaves * 0.999, 50)))
    near(inverses, private(inverses, s, asker)[0], s)


def test_what_it_refuses():
    for low, octaves in ((0.0, 3), (1.0, 0), (1.0, 17)):
        with pytest.raises(UsageError, match="row inverses"):
            RowInverses(low, octaves)
