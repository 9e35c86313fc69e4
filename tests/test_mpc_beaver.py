"""Products from a dealer against plain integers; costs, single use, what the dealer refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from mpc_nonlinear.blocks.beaver import (
    DealerProducts,
    masked_weights,
    matrix_product,
    matrix_product_cost,
    prepare_weight_product,
    weight_product,
    weight_product_cost,
)
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.correlations import dealer
from mpc_nonlinear.correlations.dealt import (
    DEAL,
    DEAL_WEIGHTS,
    describe,
    element_kind,
    matrix_kind,
    square_kind,
    weight_kind,
)
from mpc_nonlinear.cost import Demand, Form, Kind, OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.ring_matmul import Limbs
from tests.ot_sources import source_factory
from tests.waiting import GUARD_S
from transport.channel import Channel
from transport.errors import FrameError, TransportError, UsageError
from transport.local import memory_pair, run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

FIXED = FixedPoint(16)
WORD = 2**64


def dealt_run(function, *, seed=None):
    """Both parties' results of function(session), and the traffic of its step."""
    with source_factory("dealer") as make:

        def role(channel: Channel):
            source = make(channel)
            source.setup(channel)
            context = Context(FIXED, DealerProducts(16))
            session = Session(channel, context, source, SecureRandom(seed))
            with channel.step("tested"):
                result = function(session)
            return result, channel.traffic("tested")

        (left, traffic), (right, _), _ = run_both(role)
        return left, right, traffic


def words(rng, *shape):
    return rng.integers(0, WORD, shape, np.uint64, endpoint=False)


def shares(values, party, rng_seed=5):
    mask = words(np.random.default_rng(rng_seed), *values.shape)
    return mask if party is Party.CLIENT else values - mask


@pytest.mark.parametrize("bits,bound", [(34, 1.0), (62, 2.0**28)])
def test_elements_and_squares(bits, bound):
    bounds = Bounds(1.0, 1.0, 1.0, 0, bound)
    top = int(min(bound, 2.0**20) ** 0.5 * 2**16)
    x = np.array([0, 1, -1, top, -top, 12345, -777], np.int64).view(np.uint64)
    y = x[::-1].copy()
    products = DealerProducts(16)
    assert products._ring_bits(bounds) == bits
    cost = products.multiply_cost(x.size, bounds) + products.square_cost(x.size, bounds)

    def role(s):
        s.correlations.produce(cost.ots, s.channel)
        s.prepared.prepare(cost.demand)
        mine = [shares(v, s.party, i) for i, v in enumerate((x, y))]
        both = [products.multiply(*mine, s, bounds), products.square(mine[0], s, bounds)]
        assert not s.prepared.stock().counts
        return both

    left, right, traffic = dealt_run(role)
    assert traffic == cost.traffic
    for found, true in zip(
        (a + b for a, b in zip(left, right, strict=True)),
        (x.view(np.int64) * y.view(np.int64).astype(object), x.view(np.int64).astype(object) ** 2),
        strict=True,
    ):
        exact = np.array([int(t) / 2**16 for t in true])
        assert np.abs(found.view(np.int64) - exact).max() < 1


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 2, 5, 4), (2, 1, 600, 3)])
def test_matrices(shape):
    batch, m, k, n = shape
    rng = np.random.default_rng(1)
    x, y = words(rng, batch, m, k), words(rng, batch, k, n)
    x[0, 0, 0] = WORD - 1
    cost = matrix_product_cost(*shape)

    def role(s):
        return matrix_product(shares(x, s.party, 1), shares(y, s.party, 2), s)

    left, right, traffic = dealt_run(role)
    assert traffic == cost.traffic
    assert cost.demand == Demand.of(matrix_kind(*shape), 1)
    exact = (x.astype(object) @ y.astype(object)) % WORD
    assert np.array_equal(left + right, exact.astype(np.uint64))


def test_weights_serve_many_inputs():
    m, k, n = 3, 40, 7
    rng = np.random.default_rng(2)
    weights = rng.integers(-(2**18), 2**18, (k, n))
    inputs = [words(rng, m, k) for _ in range(3)]
    layer = 77
    cost = weight_product_cost(layer, m, k, n)

    def role(s):
        own = weights.view(np.uint64) if s.party is Party.SERVER else None
        masked = masked_weights(own, layer, (k, n), s)
        limbs = Limbs.small(weights) if own is not None else None
        results = []
        for i, x in enumerate(inputs):
            pad = prepare_weight_product(layer, (m, k, n), masked, s)
            with s.channel.step(f"product {i}"):
                results.append(weight_product(shares(x, s.party, i), pad, limbs, s))
            assert s.channel.traffic(f"product {i}") == cost.traffic
        return results, None if masked is None else masked.parts

    (left, masked), (right, _), _ = dealt_run(role)
    for x, a, b in zip(inputs, left, right, strict=True):
        exact = (x.astype(object) @ weights.astype(object)) % WORD
        assert np.array_equal(a + b, exact.astype(np.uint64))
    # What the client holds of the weights is uniform: its high limb is no sign extension.
    assert len(np.unique(masked[2])) > k * n // 2


def test_masks_are_new_every_time():
    def role(s):
        return [
            s.prepared.dealt(kind, 50) for kind in (element_kind(), element_kind(), square_kind())
        ]

    left, right, _ = dealt_run(role)
    first, second, squares = (
        [a + b for a, b in zip(*pair, strict=True)] for pair in zip(left, right, strict=True)
    )
    assert np.array_equal(first[0] * first[1], first[2])
    assert np.array_equal(squares[0] * squares[0], squares[1])
    assert not np.intersect1d(first[0], second[0]).size
    for party in (left, right):
        assert not np.intersect1d(party[0][0], party[1][0]).size
    high = first[0] >> np.uint64(63)
    assert 5 < int(high.sum()) < 45


def test_only_a_dealer_deals():
    with source_factory("local") as make:
        client, _ = memory_pair(timeout_s=GUARD_S)
        source = make(client)
        with pytest.raises(UsageError, match="set mpc.correlations: dealer"):
            source.deal(element_kind(), 3)
        with pytest.raises(UsageError, match="set mpc.correlations: dealer"):
            source.deal_weights(1, (2, 2))
    assert element_kind().ots == OtCount()
    assert weight_kind(9, 2, 3, 4).products == 24
    assert Kind(Form.TRIPLE, 1).form.is_dealt is False


@pytest.mark.parametrize(
    "requests,words_",
    [
        (
            [(DEAL, 1, describe(kind)) for kind in (matrix_kind(1, 2, 3, 4), square_kind())],
            "different",
        ),
        ([(DEAL, 1, b"\x07" + bytes(32))] * 2, "does not belong"),
        ([(DEAL, 1, b"\x02" + bytes(32))] * 2, "no product of form 2"),
        ([(DEAL, 1, describe(matrix_kind(1, 2**14, 2**15, 1)))] * 2, "numbers in one request"),
        ([(DEAL, 1, describe(weight_kind(3, 1, 2, 2)))] * 2, "were not set up"),
        ([(DEAL_WEIGHTS, 4, describe(weight_kind(3, 1, 2, 2)))] * 2, "wrongly or twice"),
        ([(DEAL_WEIGHTS, 3, describe(element_kind()))] * 2, "wrongly or twice"),
    ],
)  # fmt: skip
def test_requests_that_the_dealer_refuses(requests, words_):
    client, to_client = memory_pair(timeout_s=GUARD_S)
    to_server, server = memory_pair(timeout_s=GUARD_S)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(dealer.run_dealer, to_client, to_server)
        for end in (client, server):
            end.send(dealer._REQUEST.pack(1, 0, 0))
        for end, (operation, count, kind) in zip((client, server), requests, strict=True):
            end.recv_array((2,), np.uint64)
            end.send(dealer._REQUEST.pack(operation, count, count))
            end.send(kind)
        with pytest.raises(FrameError, match=words_):
            running.result(timeout=GUARD_S)
        with pytest.raises(TransportError, match="the dealer stopped"):
            client.recv(1)
