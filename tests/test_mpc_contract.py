"""Every block and protocol keeps what it declares: values, traffic, correlations, freshness."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.operators.homomorphic import HomomorphicClient, HomomorphicServer
from hybrid.operators.slot_products import CkksProducts
from mpc_nonlinear import PROTOCOLS
from mpc_nonlinear.blocks.compare import Width, carry, carry_cost, less_than_constants
from mpc_nonlinear.blocks.compare import less_than_constants_cost as compare_cost
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
from mpc_nonlinear.blocks.truncate import round_exactly, round_exactly_cost, truncate, truncate_cost
from mpc_nonlinear.correlations import SoftSpokenSource
from mpc_nonlinear.cost import Cost, OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from tests.ot_sources import InsecureLocalSource, stocked
from tests.parties import DEEP, PARAMETERS, keys
from transport.local import run_both
from transport.randomness import SEED_BYTES, SecureRandom
from transport.traffic import Party

FIXED = FixedPoint(16)
GELU, SOFTMAX, LAYERNORM = PROTOCOLS[:3]
INTEGERS = st.integers(-(2**40), 2**40)
few_examples = settings(max_examples=12, deadline=None)


def run(function, cost: Cost, *values: np.ndarray, in_slots: bool = False):
    """Both results of `function(session, *shares)` with exactly the declared correlations.

    They are true ones from a common seed, new for every run: setting up a source that keeps
    them secret would take most of the time.
    """
    seed, pairs = SecureRandom().bytes(SEED_BYTES), []
    for value in values:
        first = SecureRandom().uint64(value.shape)
        pairs.append((first, value - first))

    def role(channel):
        source = stocked(InsecureLocalSource(channel.party, seed), cost.ots, channel)
        products = slot_products(channel.party) if in_slots else OtProducts(16)
        session = Session(channel, Context(FIXED, products), source, SecureRandom())
        with channel.step("run"):
            result = function(session, *(pair[channel.party] for pair in pairs))
        assert source.stock() == OtCount()
        return result

    client, server, channel = run_both(role)
    assert channel.traffic("run") == cost.traffic
    return client, server


def slot_products(party: Party | None = None) -> CkksProducts:
    products = CkksProducts(PARAMETERS, DEEP, 16)
    if party is None:
        return products
    client, server = keys(())
    holder = (
        HomomorphicClient(client, SecureRandom())
        if party is Party.CLIENT
        else HomomorphicServer(server, SecureRandom())
    )
    return replace(products, party=holder)


def ring(values) -> np.ndarray:
    return np.asarray(values, np.int64).view(np.uint64)


def signed(values: np.ndarray) -> np.ndarray:
    return values.view(np.int64)


# -- blocks --------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [5, 9, 13, 33, 61])
def test_exact_comparisons_at_every_edge(bits):
    width = Width(bits, 0)
    limit = 1 << (bits - 2)
    thresholds = [-limit + 1, -1, 0, 1, limit - 1]
    edges = [t + d for t in (*thresholds, -limit, limit) for d in (-1, 0, 1)]
    x = ring([min(max(e, -limit), limit) for e in edges])
    cost = compare_cost(x.size, len(thresholds), width)
    client, server = run(lambda s, v: less_than_constants(v, thresholds, width, s), cost, x)
    for index, threshold in enumerate(thresholds):
        assert np.array_equal((client ^ server)[index] == 1, signed(x) < threshold)


@given(st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=9), st.integers(1, 9))
@few_examples
def test_coarse_comparisons_are_right_outside_their_slack(numbers, dropped):
    width = Width(29, dropped)
    thresholds = [-500, 0, 777]
    x = ring(numbers)
    cost = compare_cost(x.size, len(thresholds), width)
    client, server = run(lambda s, v: less_than_constants(v, thresholds, width, s), cost, x)
    for index, threshold in enumerate(thresholds):
        got = (client ^ server)[index] == 1
        clear = np.abs(signed(x) - threshold) > width.slack
        assert np.array_equal(got[clear], (signed(x) < threshold)[clear])


def test_covering_width_holds_its_bound_and_wastes_no_bit():
    for largest in (1.0, 4095.0, 4096.0, 2**22 + 1.0):
        width = Width.covering(largest, 13)
        assert largest + 2**width.dropped <= 2 ** (12 + width.dropped)
        assert width.dropped == 0 or largest + 2 ** (width.dropped - 1) > 2 ** (11 + width.dropped)


@given(st.lists(INTEGERS, min_size=1, max_size=7), st.data())
@few_examples
def test_selection_and_bit_conversion_are_exact(numbers, data):
    x = ring(numbers)
    bits = np.array([data.draw(st.integers(0, 1)) for _ in numbers], np.uint8)
    share = SecureRandom().bits(bits.shape)

    def role(session, v):
        own = share if session.party is Party.CLIENT else share ^ bits
        return select(own, v, session), bit_to_arithmetic(own, session)

    cost = select_cost(x.size) + bit_to_arithmetic_cost(x.size)
    client, server = run(role, cost, x)
    assert np.array_equal(client[0] + server[0], bits * x)
    assert np.array_equal(client[1] + server[1], bits.astype(np.uint64))


@given(st.lists(INTEGERS, min_size=1, max_size=9), st.integers(1, 24))
@few_examples
def test_truncation_stays_within_one_unit(numbers, shift):
    x = ring([*numbers, 0, -1, 1, 2**60, -(2**60)])
    client, server = run(lambda s, v: truncate(v, shift, s), truncate_cost(x.size, shift), x)
    got = signed(client + server)
    exact = [int(v) / 2**shift for v in signed(x)]
    assert all(abs(int(g) - e) < 1 for g, e in zip(got, exact, strict=True))


def test_truncation_is_unbiased():
    x = ring(np.full(4000, 100))
    client, server = run(lambda s, v: truncate(v, 8, s), truncate_cost(x.size, 8), x)
    mean = signed(client + server).mean()
    # 4000 draws of one with probability 100/256: standard deviation 0.008.
    assert abs(mean - 100 / 256) < 0.05


@given(st.lists(INTEGERS, min_size=1, max_size=9), st.integers(1, 14))
@few_examples
def test_exact_rounding_depends_on_the_value_alone(numbers, shift):
    x = ring([*numbers, 0, -1, 1 << (shift - 1), -(1 << (shift - 1))])
    cost = round_exactly_cost(x.size, shift)
    client, server = run(lambda s, v: round_exactly(v, shift, s), cost, x)
    half = 1 << (shift - 1)
    assert signed(client + server).tolist() == [(int(v) + half) >> shift for v in signed(x)]


def test_carries_match_the_shares():
    seen = {}

    def role(session, v):
        seen[session.party] = v
        return carry(v, 6, session)

    client, server = run(role, carry_cost(300, 6), ring(np.arange(300)))
    low = (seen[Party.CLIENT] & np.uint64(63)) + (seen[Party.SERVER] & np.uint64(63))
    assert np.array_equal((client ^ server) == 1, low >= 64)


@pytest.mark.parametrize("shift", [0, 3])
def test_products_by_oblivious_transfer(shift):
    rng = np.random.default_rng(shift)
    x, y = rng.uniform(-4, 4, (2, 65))
    bounds = Bounds(4.0, 4.0, 16.0, shift)
    products = OtProducts(16)
    a, b = FIXED.encode(x), FIXED.encode(y)
    exact = FIXED.decode(a) * FIXED.decode(b) / 2**shift
    cost = products.multiply_cost(a.size, bounds)
    client, server = run(lambda s, v, w: products.multiply(v, w, s, bounds), cost, a, b)
    assert np.abs(FIXED.decode(client + server) - exact).max() <= FIXED.unit
    cost = products.square_cost(a.size, bounds)
    client, server = run(lambda s, v: products.square(v, s, bounds), cost, a)
    exact = FIXED.decode(a) ** 2 / 2**shift
    assert np.abs(FIXED.decode(client + server) - exact).max() <= FIXED.unit


def test_masked_sum_and_opening():
    x = ring(np.arange(-10, 11).reshape(7, 3))
    mask = np.array([1, 0, 1, 1, 0, 0, 1], bool)

    def role(session, v):
        own = mask if session.party is Party.CLIENT else None
        return open_to_client(masked_sum(v, session, own), session)

    client, server = run(role, masked_sum_cost(7, 3) + open_to_client_cost(3), x)
    assert server is None
    assert np.array_equal(signed(client), signed(x)[mask].sum(0))


# -- protocols -----------------------------------------------------------------------------


def softmax_rows() -> np.ndarray:
    rng = np.random.default_rng(3)
    rows = rng.normal(0, 6, (12, 7))
    rows[0] = 0.0
    rows[1] = 31.9
    rows[2, :] = -20
    rows[3, 3:] = -64.0
    rows[4, 1:] = -64.0
    rows[5, :2] = 9.25
    return rows


def norm_rows() -> np.ndarray:
    rng = np.random.default_rng(4)
    rows = rng.normal(0, 1, (9, 48))
    rows /= rows.std(-1, keepdims=True)
    rows *= np.sqrt([2**-5, 2**-4.9, 0.5, 1, 2, 3.9, 4, 7, 8])[:, None]
    rows[4, 0] += 5
    return rows + rng.normal(0, 2, (9, 1))


def gelu_points() -> np.ndarray:
    edges = np.array([-3.4, 3.4, 0.0, -64.0, 64.0, 2.0**-16, -(2.0**-16)])
    return np.concatenate(
        [edges, edges * 0.999, np.linspace(-5, 5, 997), np.linspace(-64, 64, 301)]
    )


CASES = {
    "gelu": (GELU(bound=64.0), gelu_points(), 2.0**-9),
    "softmax": (SOFTMAX(bound=32.0), softmax_rows(), 2.0**-9),
    "layernorm": (
        LAYERNORM(
            width=48,
            epsilon=1e-12,
            variance_min=2.0**-5,
            variance_max=2.0**3,
            variance_rms=2.0**2,
            bound=64.0,
        ),
        norm_rows(),
        2.0**-8,
    ),
}
every_protocol = pytest.mark.parametrize("op", list(CASES))


def private(protocol, x: np.ndarray, in_slots: bool) -> np.ndarray:
    products = slot_products() if in_slots else OtProducts(16)
    cost = protocol.cost(x.shape, Context(FIXED, products))
    keys(())  # Made here once, not by both parties' threads.
    client, server = run(
        lambda session, v: protocol.run(v, session), cost, FIXED.encode(x), in_slots=in_slots
    )
    return FIXED.decode(client + server)


def test_every_protocol_of_the_default_config_is_covered():
    # The others have tests of their own: activations and published protocols.
    assert {type(case[0]) for case in CASES.values()} == set(PROTOCOLS[:3])


@every_protocol
@pytest.mark.parametrize("in_slots", [False, True], ids=["ot", "ckks"])
def test_protocols_keep_their_error(op, in_slots):
    protocol, x, total = CASES[op]
    got = private(protocol, x, in_slots)
    assert np.abs(got - protocol.reference(x)).max() <= protocol.max_error
    assert np.abs(got - protocol.true_function(x)).max() <= total


@every_protocol
def test_references_approximate_the_true_function(op):
    protocol, x, _ = CASES[op]
    error = np.abs(protocol.reference(x) - protocol.true_function(x)).max()
    assert error <= protocol.approximation_error


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 1, 3)])
def test_gelu_traffic_on_any_shape(shape):
    protocol = GELU(bound=300.0)
    x = np.random.default_rng(1).uniform(-300, 300, shape)
    assert np.abs(private(protocol, x, False) - protocol.true_function(x)).max() < 2**-8


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (2, 3, 33)])
def test_softmax_of_short_and_odd_rows(shape):
    protocol = SOFTMAX(bound=256.0)
    x = np.random.default_rng(2).normal(0, 3, shape)
    got = private(protocol, x, False)
    assert np.abs(got - protocol.true_function(x)).max() < 2**-9
    assert np.abs(got.sum(-1) - 1).max() < 2**-6


def test_layernorm_with_one_octave_and_large_epsilon():
    protocol = LAYERNORM(
        width=5, epsilon=0.01, variance_min=1.0, variance_max=1.0, variance_rms=1.0, bound=8.0
    )
    x = np.array([[1.0, -1, 1.5, 0.5, -2.0], [2.0, 3, 4, 5, 5.4]])
    assert np.abs(private(protocol, x, False) - protocol.true_function(x)).max() < 2**-8


def test_two_runs_send_different_bytes():
    sent = []

    def role(channel):
        source = SoftSpokenSource(channel.party, SecureRandom())
        source.setup(channel)
        width = Width(13, 0)
        source.produce(compare_cost(64, 1, width).ots, channel)
        session = Session(channel, Context(FIXED, OtProducts(16)), source, SecureRandom())
        plain_send = channel.send

        def spy(payload):
            sent.append((channel.party, bytes(payload)))
            plain_send(payload)

        channel.send = spy
        less_than_constants(np.zeros(64, np.uint64), [1], width, session)

    run_both(role)
    first, sent = sent, []
    run_both(role)
    assert len(first) == len(sent) > 2
    assert not {p for p in first if len(p[1]) > 8} & set(sent)
