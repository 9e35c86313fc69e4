"""Products by triples modulo a prime against plain integers; costs, masks, single use, refusals."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.blocks import functions
from mpc_nonlinear.blocks.factor_tree import FactorTree
from mpc_nonlinear.blocks.prime_arithmetic import multiply_add
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.prime_shares import from_prime_limit, to_prime
from mpc_nonlinear.blocks.products import Bounds, FactoredPolynomial
from mpc_nonlinear.correlations.dealt import prime_square_kind, prime_triple_kind
from mpc_nonlinear.correlations.preprocessing import Prepared
from mpc_nonlinear.cost import Demand, OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.protocols import bolt, bumblebee, gelu, silu, tanh
from tests.he_setup import looks_uniform
from tests.ot_sources import quick_session, run_misbehaving
from tests.prime_triples import T, run_products, store_clear
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.errors import FrameError, ParameterError, UsageError
from transport.local import run_both
from transport.randomness import SEED_BYTES
from transport.traffic import Party

FIXED = FixedPoint(16)
ENGINE = PrimeProducts(16, T)
LIMIT = from_prime_limit(T, 16)
few_examples = settings(max_examples=10, deadline=None)


class StopError(Exception):
    pass


def ring(values):
    return np.array(values, np.int64).view(np.uint64)


def multiplied(x, y, bounds, engine=ENGINE, bits=16):
    cost = engine.multiply_cost(x.size, bounds)
    run = partial(run_products, fraction_bits=bits, products=engine)
    client, server = run(lambda s, v, w: s.products.multiply(v, w, s, bounds), cost, x, y)
    return (client + server).view(np.int64)


def squared(x, bounds, engine=ENGINE, bits=16):
    cost = engine.square_cost(x.size, bounds)
    run = partial(run_products, fraction_bits=bits, products=engine)
    client, server = run(lambda s, v: s.products.square(v, s, bounds), cost, x)
    return (client + server).view(np.int64)


# -- the kernel ----------------------------------------------------------------------------


@pytest.mark.parametrize("modulus", [T, 3, (1 << 50) - 27, (1 << 20) - 3])
def test_products_modulo_are_those_of_integers(modulus):
    edges = [0, 1, 2, modulus // 2, modulus // 2 + 1, modulus - 2, modulus - 1]
    edges = [e % modulus for e in edges]
    draw = np.random.default_rng(1).integers(0, modulus, (3, 3000))
    grid = np.array(np.meshgrid(edges, edges, edges)).reshape(3, -1)
    x, y, z = np.concatenate([grid, draw], axis=1).astype(np.uint64)
    got = multiply_add(x, y, z, modulus)
    exact = (x.astype(object) * y + z.astype(object)) % modulus
    assert (got.astype(object) == exact).all()


@given(st.integers(2, 2**50 - 1), st.data())
@few_examples
def test_products_modulo_anything(modulus, data):
    numbers = st.lists(st.integers(0, modulus - 1), min_size=3, max_size=3)
    x, y, z = data.draw(numbers)
    got = multiply_add(*(np.array([[v]], np.uint64) for v in (x, y, z)), modulus)
    assert got.shape == (1, 1)
    assert int(got[0, 0]) == (x * y + z) % modulus


def test_larger_moduli_are_refused():
    zero = np.zeros(1, np.uint64)
    with pytest.raises(UsageError, match="at most 50 bits"):
        multiply_add(zero, zero, zero, (1 << 50) + 1)


def test_lifts_are_centred():
    x = ring([0, 1, -1, T, -T, 2**63 - 1, -(2**63)])
    expected = [v % T for v in x.view(np.int64).tolist()]
    assert to_prime(x, T).tolist() == expected


# -- products ------------------------------------------------------------------------------


def check_products(x, y, bounds, engine=ENGINE, bits=16):
    scale = 2 ** (bits + bounds.shift)
    exact = [int(a) * int(b) / scale for a, b in zip(*(v.view(np.int64) for v in (x, y)),
                                                     strict=True)]  # fmt: skip
    largest = [float(np.abs(v.view(np.int64)).max()) / 2**bits for v in (x, y)]
    away = np.abs(multiplied(x, y, bounds, engine, bits) - np.array(exact))
    assert away.max() < engine.errors(bounds).largest(*largest) * 2**bits


@given(st.lists(st.tuples(*[st.integers(-(2**21), 2**21)] * 2), min_size=1, max_size=9),
       st.integers(-8, 12))  # fmt: skip
@few_examples
def test_products_are_off_by_what_is_declared(pairs, shift):
    x, y = (ring(v) for v in zip(*pairs, strict=True))
    bounds = Bounds(32.0, 32.0, 1024.0, shift, 1023.9)
    assert ENGINE.errors(bounds).largest(32.0, 32.0) < 1.5 * 2**-16
    check_products(x, y, bounds)


def test_products_at_both_ends_of_the_range():
    big = LIMIT >> 16
    x = ring([0, 0, 1, -1, big, -big, big, -big, 2**40, 1])
    y = ring([0, 7, -1, -1, 2**16, 2**16, -(2**16), -(2**16), 4, 2**40])
    bounds = Bounds(1.0, 1.0, 1.0, 0, LIMIT / 2**32)
    assert ENGINE._loss(bounds, 1) == 0
    check_products(x, y, bounds)
    away = squared(ring([0, 1, -1, 2**21 - 1, 1 - 2**21]), bounds) - np.array(
        [0, 2**-16, 2**-16, *[(2**21 - 1) ** 2 / 2**16] * 2]
    )
    assert np.abs(away).max() < 1.26


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 1, 3)])
def test_shapes_are_kept_and_traffic_is_exact(shape):
    x = FIXED.encode(np.random.default_rng(2).uniform(-5, 5, shape))
    bounds = Bounds(5.0, 5.0, 25.0, 0, 25.0)
    assert multiplied(x, x, bounds).shape == squared(x, bounds).shape == shape
    cost = ENGINE.multiply_cost(x.size, bounds)
    assert cost.traffic.rounds == 2
    ots = packed_bytes(x.size, 1)
    assert cost.traffic.client_payload_bytes == packed_bytes(2 * x.size, 44) + ots
    assert cost.traffic.server_payload_bytes == packed_bytes(2 * x.size, 44) + 8 * x.size
    assert cost.ots == OtCount(0, x.size)
    assert Demand.of(prime_triple_kind(T), x.size).counts[0] in cost.demand.counts
    assert cost.failure_probability == x.size * 10.0 * 2.0**-48
    one = ENGINE.square_cost(x.size, bounds)
    assert one.failure_probability == x.size * 5.0 * 2.0**-48
    assert one.traffic.client_payload_bytes == packed_bytes(x.size, 44) + ots


# -- products that do not fit --------------------------------------------------------------


@pytest.mark.parametrize("bits,largest,shift", [(16, 2.0**20, 0), (16, 2.0**25, -12),
                                                (18, 256.0, 3), (16, 2.0**11, 5)])  # fmt: skip
def test_large_products_lose_bits_and_say_how_many(bits, largest, shift):
    engine = PrimeProducts(bits, T)
    root = largest**0.5
    values = np.array([0, 1, -1, root, -root, root / 3, 2.0**-bits])
    x = np.rint(values * 2**bits * (1 - 1e-9)).astype(np.int64).view(np.uint64)
    bounds = Bounds(root, root / 2, largest, shift, largest)
    first, second = engine._cuts(bounds)
    assert first - second in (0, 1)
    assert first > 0
    for y in (x, x[::-1].copy()):
        check_products(x, y, bounds, engine, bits)
    exact = np.array([int(v) ** 2 / 2 ** (bits + shift) for v in x.view(np.int64)])
    away = np.abs(squared(x, bounds, engine, bits) - exact)
    assert away.max() < engine.square_errors(bounds).largest(root, root) * 2**bits
    # The residuals of a decoder, squared: relative error of 2^-9 at most from a root of one up.
    assert away[1] / exact[1] < 2.0**-5


def test_only_as_many_bits_as_needed():
    limit = LIMIT / 2**32
    for factor, loss in ((1.0, 0), (1.01, 2), (3.9, 2), (4.01, 4), (2.0**15, 16)):
        bounds = Bounds(1.0, 1.0, 1.0, 0, limit * factor * 0.99 if loss else limit)
        assert ENGINE._square_cut(bounds) * 2 == (loss if factor != 1.01 else 0)
    bounds = Bounds(1.0, 2.0, 1.0, 0, limit * 1.5)
    assert ENGINE._cuts(bounds) == (0, 1)
    cost = ENGINE.multiply_cost(8, bounds)
    # A cut is one of what is lifted: it adds no failure.
    assert cost.failure_probability == 8 * 2.0**-48 * (1.0 + 2.0)


def test_what_does_not_fit_even_so_is_refused():
    with pytest.raises(
        ParameterError,
        match=r"up to 2.68435e\+08 with 16 fraction bits each; a "
        "prime of 44 bits has room for 1024.*declare a smaller Bounds.largest",
    ):
        ENGINE.multiply_cost(1, Bounds(1.0, 1.0, 1.0))  # fmt: skip
    for shift in (-17, 26):
        with pytest.raises(ParameterError, match=f"shifted by {16 + shift} bits"):
            ENGINE.square_cost(1, Bounds(1.0, 1.0, 1.0, shift, 4.0))


# -- masks ---------------------------------------------------------------------------------


def opened_by(party, count):
    """What one party sends for zeros, twice in one session, as residues."""
    seen = []
    bounds = Bounds(1.0, 1.0, 1.0, 0, 4.0)

    def role(session, x):
        if session.party is party:
            exchange = session.channel.exchange

            def spy(data, size):
                if len(data) == packed_bytes(2 * count, 44):
                    seen.append(unpack_bits(data, 2 * count, 44))
                return exchange(data, size)

            session.channel.exchange = spy
        return [session.products.multiply(x, x, session, bounds) for _ in range(2)]

    zero = np.zeros(count, np.uint64)
    run_products(role, ENGINE.multiply_cost(count, bounds) * 2, zero, shares=[zero])
    return seen


@pytest.mark.parametrize("party", list(Party))
def test_what_is_opened_is_uniform_and_fresh(party):
    first, second = opened_by(party, 3000)
    for words in (first, second, (first + np.uint64(T) - second) % np.uint64(T)):
        assert int(words.max()) < T
        assert int(words.max()) > T * 0.995
        assert looks_uniform(words << np.uint64(20) | words & np.uint64(2**20 - 1))


def session_with(channel, count):
    session = quick_session(channel, OtCount(0, 4), products=ENGINE)
    demand = Demand.of(prime_triple_kind(T), count) + Demand.of(prime_square_kind(T), count)
    store_clear(session.prepared, demand, channel.party, bytes(SEED_BYTES))
    return session


BOUNDS = Bounds(1.0, 1.0, 1.0, 0, 4.0)


def used_twice(channel):
    session, x = session_with(channel, 2), np.zeros(2, np.uint64)
    ENGINE.multiply(x, x, session, BOUNDS)
    before = channel.total
    with pytest.raises(UsageError, match="2 prime_triple modulo 17592186028033 are missing"):
        ENGINE.multiply(x, x, session, BOUNDS)
    assert channel.total == before


def test_triples_serve_once():
    run_both(used_twice)


def test_triples_that_serve_twice_are_noticed(monkeypatch):
    def peek(prepared, kind, count):
        return tuple(part[:count] for part in prepared._stock[kind][0])

    monkeypatch.setattr(Prepared, "dealt", peek)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_triples_serve_once()


def test_triples_are_consumed_before_anything_is_sent():
    def role(channel):
        session, x = session_with(channel, 2), np.zeros(2, np.uint64)

        def stop(_data, _size):
            raise StopError

        channel.exchange = stop
        for product, left in ((lambda: ENGINE.multiply(x, x, session, BOUNDS), 1),
                              (lambda: ENGINE.square(x, session, BOUNDS), 0)):  # fmt: skip
            with pytest.raises(StopError):
                product()
            assert len(session.prepared.stock().counts) == left

    run_both(role)


def test_corrupt_words_are_refused():
    def role(channel):
        x = np.zeros(1, np.uint64)
        if channel.party is Party.CLIENT:
            channel.next_round()
            channel.exchange(pack_bits(np.array([T], np.uint64), 44), 6)
            return
        with pytest.raises(FrameError, match="exceeds the prime"):
            ENGINE.square(x, session_with(channel, 1), BOUNDS)

    def client_sets_up_too(channel):
        if channel.party is Party.CLIENT:
            session_with(channel, 1)
        return role(channel)

    run_misbehaving(client_sets_up_too)


# -- the stock -----------------------------------------------------------------------------


def test_the_stock_takes_only_what_is_stored_and_makes_none_of_it():
    def role(channel):
        prepared = session_with(channel, 3).prepared
        pair = prime_square_kind(T)
        prepared.prepare(Demand.of(pair, 100))
        assert dict(prepared.stock().counts)[pair] == 3
        assert [part.size for part in prepared.dealt(pair, 0)] == [0, 0]
        with pytest.raises(UsageError, match="missing in stock"):
            prepared.dealt(pair, 4)
        with pytest.raises(UsageError, match="of one length"):
            prepared.store(pair, (np.zeros(2, np.uint64), np.zeros(3, np.uint64)))

    run_both(role)
    kind = prime_triple_kind(T)
    assert (kind.bits, kind.shape, kind.products, kind.ots) == (44, (T,), 1, OtCount())
    assert kind.offline_units(5) == ()
    assert kind.online_units(5) == (("call_prime_triple", 1.0), ("use_prime_triple", 5.0))


# -- polynomials ---------------------------------------------------------------------------

POLYNOMIALS = {
    # Where it is used, rounds, and the error in units of 2^-16.
    "exponential": (functions.EXPONENTIAL, (-12.0, 0.2), 8, 8),
    "reciprocal": (functions.RECIPROCAL, (1.0, 2.0), 6, 4),
    "inverse root": (functions.INVERSE_ROOT, (1.0, 2.0), 6, 4),
    "silu": (silu.POLYNOMIAL, (0.0, 10.0), 8, 4),
    "gelu": (gelu.POLYNOMIAL, (-3.3, 3.3), 8, 24),
    "tanh": (tanh.POLYNOMIAL, (0.0, 4.125), 8, 6),
    "gelu of BOLT": (bolt.POLYNOMIAL, (0.0, 2.7), 4, 6),
    "middle of BumbleBee": (bumblebee.MIDDLE_POLYNOMIAL, (-2.0, 3.0), 6, 6),
}


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_polynomials_keep_their_digits(name):
    polynomial, (low, high), rounds, units = POLYNOMIALS[name]
    x = FIXED.encode(np.linspace(low, high, 1501))
    cost = ENGINE.polynomial_cost(x.size, polynomial)
    assert cost.traffic.rounds == rounds
    client, server = run_products(lambda s, v: s.products.polynomial(v, polynomial, s), cost, x)
    away = FIXED.decode(client + server) - polynomial(FIXED.decode(x))
    assert np.abs(away).max() * 2**16 < units


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_bounds_of_polynomials_hold_and_fit_without_a_cut(name):
    polynomial = POLYNOMIALS[name][0]
    tree = FactorTree.of(polynomial, LIMIT / 2**32)
    products = [*tree.levels, *tree.squarings, *([tree.last] if tree.last else [])]
    assert all(ENGINE._cuts(bounds) == (0, 0) for bounds in products)
    assert ENGINE._square_cut(tree.squares) == 0
    x = np.linspace(*POLYNOMIALS[name][1], 777)
    assert np.abs(x - tree.centre).max() <= max(tree.input_rms, polynomial.input_rms)


@pytest.mark.parametrize("name", POLYNOMIALS)
def test_one_lift_of_the_input_is_all_that_can_fail(name):
    polynomial = POLYNOMIALS[name][0]
    low, high = polynomial.interval or (-polynomial.largest, polynomial.largest)
    cost = ENGINE.polynomial_cost(1000, polynomial)
    half = max(high - round((low + high) / 2), round((low + high) / 2) - low)
    known = min(half, polynomial.input_rms)
    assert cost.failure_probability == pytest.approx(1000 * known * 2.0**-48)
    small = ENGINE.polynomial_cost(1000, polynomial.of(0.5))
    assert small.failure_probability == pytest.approx(1000 * 0.5 * 2.0**-48)
    assert small.traffic == cost.traffic


def test_lifts_count_once_for_a_number():
    bounds = Bounds(2.0, 4.0, 8.0, 0, 16.0)
    assert ENGINE.multiply_cost(64, bounds).failure_probability == 64 * 6.0 * 2.0**-48
    shared = replace(bounds, x_fresh=0.0, y_fresh=1 / 64)
    assert ENGINE.multiply_cost(64, shared).failure_probability == 4.0 * 2.0**-48


def test_one_factor_alone_and_small_rooms():
    polynomial = FactoredPolynomial(0.5, ((0.25, 1.0),), 1, 4.0, 4.0, 4.0)
    x = FIXED.encode(np.linspace(-4, 4, 33).reshape(3, 11))
    cost = ENGINE.polynomial_cost(x.size, polynomial)
    assert cost.traffic.rounds == 2
    client, server = run_products(lambda s, v: s.products.polynomial(v, polynomial, s), cost, x)
    away = FIXED.decode(client + server) - polynomial(FIXED.decode(x))
    assert client.shape == x.shape
    assert np.abs(away).max() * 2**16 < 3
    # At 20 fraction bits 4 are left for products: moved inputs are cut.
    fine, engine = FixedPoint(20), PrimeProducts(20, T)
    assert engine._square_cut(FactorTree.of(silu.POLYNOMIAL, 4.0).squares) > 0
    x = fine.encode(np.linspace(0, 10, 50))
    cost = engine.polynomial_cost(x.size, silu.POLYNOMIAL)
    client, server = run_products(
        lambda s, v: s.products.polynomial(v, silu.POLYNOMIAL, s), cost, x, fraction_bits=20
    )
    away = fine.decode(client + server) - silu.POLYNOMIAL(fine.decode(x))
    assert np.abs(away).max() < 2.0**-14
