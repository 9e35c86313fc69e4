"""Softmax by own powers: errors, sizes, rounds, masks, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.session import Context
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.protocols.causal_softmax import SquaredPolynomialCausalSoftmax
from mpc_nonlinear.protocols.own_powers import (
    OwnPowersCausalSoftmax,
    OwnPowersSoftmax,
    power_sizes,
)
from mpc_nonlinear.protocols.row_softmax import MASK_GAP
from tests.prime_triples import T, run_products
from tests.test_mpc_blocks import few_examples
from transport.errors import ConfigError

FIXED = FixedPoint(16)
CONTEXT = Context(FIXED, PrimeProducts(16, T))


def private(protocol, x):
    cost = protocol.cost(x.shape, CONTEXT)
    client, server = run_products(lambda s, v: protocol.run(v, s), cost, FIXED.encode(x))
    return FIXED.decode(client + server)


def holds(protocol, x):
    got = private(protocol, x)
    x = FIXED.decode(FIXED.encode(x))
    away = np.abs(got - protocol.true_function(x)).max()
    assert away <= protocol.error(x.shape[-1], CONTEXT)
    return got


def rows(kind, bound, length, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(0, bound / 8, (4, length)).clip(-bound, bound)
    if kind == "equal":
        x[:] = np.array([-bound, 0, 0.3, bound])[:, None]
    elif kind == "ends":
        x = rng.choice([-bound, bound], (4, length))
    elif kind == "clipped":
        # Around where terms start to count.
        x[:, 1:] = bound / 2 - rng.uniform(6, 15, (4, length - 1)).clip(0, bound)
        x[:, 0] = bound / 2
    return x


@pytest.mark.parametrize("kind", ["normal", "equal", "ends", "clipped"])
@pytest.mark.parametrize(("bound", "length"), [(8, 33), (64, 5), (64, 90), (256, 20), (32, 300)])
def test_errors_are_as_declared_over_the_whole_range(kind, bound, length):
    got = holds(OwnPowersSoftmax(float(bound)), rows(kind, bound, length))
    assert np.abs(got.sum(-1) - 1).max() < 2.0**-7


@given(st.lists(st.floats(-16, 16), min_size=1, max_size=12))
@few_examples
def test_any_short_row(values):
    holds(OwnPowersSoftmax(16.0), np.array([values]))


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 1, 9), (1, 3, 3), (3, 4, 11)])
def test_a_causal_row_sees_its_own_position_and_those_before(shape):
    x = np.random.default_rng(1).normal(0, 3, shape)
    got = holds(OwnPowersCausalSoftmax(32.0), x)
    queries, keys = shape[-2:]
    hidden = np.arange(keys) > keys - queries + np.arange(queries)[:, None]
    assert not got[:, hidden].any()


@pytest.mark.parametrize("bound", [4.0, 64.0])
def test_masked_numbers_are_zero_however_low_the_others_are(bound):
    x = np.full((2, 10), -bound)
    x[1, :3] = bound
    seen = np.arange(10) < 4
    lowered = x - np.where(seen, 0, 2 * bound + MASK_GAP)
    got = private(OwnPowersSoftmax(bound), lowered)
    assert not got[:, ~seen].any()
    assert np.abs(got.sum(-1) - 1).max() < 2.0**-7


@pytest.mark.parametrize("bound", [1.0, 8.0, 37.0, 64.0, 128.0])
def test_a_row_without_a_visible_number_does_no_harm(bound):
    """It is thrown away, but goes through further layers, where others might meet it."""
    protocol = OwnPowersSoftmax(bound)
    x = np.random.default_rng(2).uniform(-bound, bound, (3, 7))
    x[0] = -bound
    got = private(protocol, x - 2 * bound - MASK_GAP)
    assert np.abs(got - protocol.true_function(x)).max() < protocol.error(7, CONTEXT)


def test_a_token_takes_fewer_rounds_and_stored_products_than_by_polynomials():
    shape = (9, 1, 64)
    own = OwnPowersCausalSoftmax(64.0).cost(shape, CONTEXT)
    other = SquaredPolynomialCausalSoftmax(64.0).cost(shape, CONTEXT)
    assert own.traffic.rounds == 15
    assert other.traffic.rounds == 59
    assert own.traffic.sent_bytes < 1.2 * other.traffic.sent_bytes
    stored = [sum(n for k, n in c.demand.counts if k.form.is_stored) for c in (own, other)]
    assert stored[0] < stored[1] / 4


def test_sizes_are_public_and_part_of_the_plan():
    found = OwnPowersCausalSoftmax(64.0).public_sizes(64, CONTEXT)
    assert set(found) == {"clip", "stretch", "step_bits", "kept_bits"}
    assert found != OwnPowersCausalSoftmax(64.0).public_sizes(8, CONTEXT)


def test_sizes_follow_the_length_and_the_range():
    short, long = (power_sizes(80.0, length, FIXED.unit, T) for length in (8, 512))
    assert short.clip < long.clip
    wide = power_sizes(528.0, 8, FIXED.unit, T)
    assert wide.above > short.above
    assert wide.width.bits == short.width.bits + 1 == 9
    assert power_sizes(1040.0, 8, FIXED.unit, T).width.bits == 13
    for sizes in (short, long, wide):
        # The largest power stays below a quarter of the prime.
        top = sizes.lowest + 2 * sizes.kept_bits + sizes.above * np.log2(np.e)
        assert top < np.log2(T / 4)


def test_declared_errors_allow_long_rows():
    for length in (64, 128, 256, 512):
        assert OwnPowersCausalSoftmax(64.0).error(length, CONTEXT) < 2.0**-6


def test_what_it_refuses():
    with pytest.raises(ConfigError, match="slot_triples"):
        OwnPowersSoftmax(8.0).cost((2, 3), Context(FIXED, OtProducts(16)))
    with pytest.raises(ConfigError, match="bits of an exponential"):
        OwnPowersSoftmax(2.0**14).cost((2, 3), CONTEXT)
