"""Chosen-input OTs and shared conjunctions: right results, exact cost, masked messages."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.blocks import oblivious_transfer as ot
from mpc_nonlinear.blocks.bit_triples import and_bits, and_cost
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.correlations.preprocessing import triple_kind
from mpc_nonlinear.cost import NO_COST, OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from tests.ot_sources import quick_session, run_misbehaving, source_factory, stocked
from tests.test_ot_sources import assert_uniform, recorded
from transport.errors import FrameError, UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

PARTIES = pytest.mark.parametrize("sender", list(Party), ids=lambda p: p.name)
WIDTHS = (1, 2, 7, 8, 13, 16, 32, 40, 63, 64)


def run_with_cost(role, cost):
    """Run on exactly the OTs that `cost` declares; check that and the traffic."""

    def counted(channel):
        session = quick_session(channel, cost.ots)
        with channel.step("ot"):
            result = role(session)
        assert session.correlations.stock() == OtCount()
        return result

    client, server, channel = run_both(counted)
    assert channel.traffic("ot") == cost.traffic
    return client, server


def words(rng, shape, bits=64):
    return rng.integers(0, 2**bits - 1, shape, dtype=np.uint64, endpoint=True)


def modulo(x, bits):
    return x & np.uint64(2**bits - 1)


@PARTIES
@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("width", [None, 1, 3])
def test_correlated_ot_shares_choice_times_x(sender, bits, width):
    rng = np.random.default_rng(bits)
    n = 37
    x = words(rng, (n,) if width is None else (n, width))
    choices = rng.integers(0, 2, n).astype(np.uint8)

    def role(session):
        if session.party is sender:
            return ot.correlated_ot_send(x, bits, session)
        return ot.correlated_ot_receive(choices, bits, session, width)

    cost = ot.correlated_ot_cost(n, bits, sender, width or 1)
    a, b = run_with_cost(role, cost)
    expected = x * (choices if width is None else choices[:, None]).astype(np.uint64)
    assert a.shape == b.shape == x.shape
    np.testing.assert_array_equal(modulo(a + b, bits), modulo(expected, bits))
    assert max(a.max(), b.max()) < 2**bits


@given(st.integers(1, 64), st.integers(1, 20), st.integers(1, 3), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_correlated_ot_both_ways(bits, n, width, seed):
    rng = np.random.default_rng(seed)
    x = words(rng, (2, n, width))
    choices = rng.integers(0, 2, (2, n)).astype(np.uint8)

    def role(session):
        me = session.party
        return ot.correlated_ot_both(x[me], choices[me], bits, session)

    client, server = run_with_cost(role, ot.correlated_ot_both_cost(n, bits, width))
    for p, sent, received in ((0, client[0], server[1]), (1, server[0], client[1])):
        expected = x[p] * choices[1 - p][:, None].astype(np.uint64)
        np.testing.assert_array_equal(modulo(sent + received, bits), modulo(expected, bits))


@PARTIES
@pytest.mark.parametrize("choice_bits", [1, 2, 3, 4])
@pytest.mark.parametrize("bits", [1, 2, 4, 5, 8, 9, 16, 24, 64])
def test_one_of_many_gives_the_chosen_entry(sender, choice_bits, bits):
    rng = np.random.default_rng(100 * choice_bits + bits)
    n, entries = 33, 2**choice_bits
    tables = words(rng, (n, entries), bits)
    choices = (np.arange(n) % entries).astype(np.uint8)
    dtype = next(t for t in (np.uint8, np.uint16, np.uint32, np.uint64) if t().itemsize * 8 >= bits)

    def role(session):
        if session.party is sender:
            return ot.one_of_many_send(tables.astype(dtype), bits, session)
        return ot.one_of_many_receive(choices, choice_bits, bits, session)

    results = run_with_cost(role, ot.one_of_many_cost(n, choice_bits, bits, sender))
    got = results[sender.peer]
    assert results[sender] is None
    assert got.dtype == dtype
    np.testing.assert_array_equal(got, tables[np.arange(n), choices])


@PARTIES
def test_one_of_16_is_one_of_many(sender):
    rng = np.random.default_rng(4)
    tables, choices = words(rng, (100, 16), 4).astype(np.uint8), words(rng, 100, 4).astype(np.uint8)

    def role(session):
        if session.party is sender:
            return ot.one_of_16_send(tables, 4, session)
        return ot.one_of_16_receive(choices, 4, session)

    cost = ot.one_of_16_cost(100, 4, sender)
    assert cost.ots.total == 400
    assert cost.traffic.rounds == 2
    got = run_with_cost(role, cost)[sender.peer]
    np.testing.assert_array_equal(got, tables[np.arange(100), choices])


@pytest.mark.parametrize("shape", [(1,), (7,), (2, 3), (1000,)])
def test_and_bits(shape):
    rng = np.random.default_rng(len(shape))
    x, y = (rng.integers(0, 2, (2, *shape)).astype(np.uint8) for _ in range(2))

    def role(session):
        return and_bits(x[session.party], y[session.party], session)

    client, server = run_with_cost(role, and_cost(x[0].size))
    assert client.shape == shape
    np.testing.assert_array_equal(client ^ server, (x[0] ^ x[1]) & (y[0] ^ y[1]))


def test_and_bits_over_its_truth_table():
    cases = np.array(np.meshgrid(*[[0, 1]] * 4)).reshape(4, -1).astype(np.uint8)

    def role(session):
        return and_bits(cases[session.party], cases[2 + session.party], session)

    client, server = run_with_cost(role, and_cost(16))
    np.testing.assert_array_equal(client ^ server, (cases[0] ^ cases[1]) & (cases[2] ^ cases[3]))


def test_triples_multiply_and_say_nothing():
    def role(channel):
        prepared = quick_session(channel, OtCount(5000, 5000)).prepared
        packed = prepared.triples(triple_kind(1), 5000)
        return [packed >> np.uint8(k) & np.uint8(1) for k in range(3)]

    client, server, channel = run_both(role)
    assert channel.total == NO_COST.traffic
    a, b, c = (own ^ other for own, other in zip(client, server, strict=True))
    np.testing.assert_array_equal(c, a & b)
    for bits in client + server:
        assert 0.4 < bits.mean() < 0.6


def test_zero_elements_cost_and_move_nothing():
    empty, none = np.zeros(0, np.uint64), np.zeros(0, np.uint8)

    def role(session):
        assert ot.correlated_ot_both(empty, none, 8, session)[0].shape == (0,)
        assert and_bits(none, none, session).shape == (0,)
        if session.party is Party.CLIENT:
            assert ot.correlated_ot_send(empty, 8, session).shape == (0,)
            ot.one_of_16_send(np.zeros((0, 16), np.uint8), 2, session)
        else:
            assert ot.correlated_ot_receive(none, 8, session, width=3).shape == (0, 3)
            assert ot.one_of_16_receive(none, 2, session).shape == (0,)

    run_with_cost(role, NO_COST)
    costs = (
        ot.correlated_ot_cost(0, 8, Party.CLIENT),
        ot.correlated_ot_both_cost(0, 8),
        ot.one_of_16_cost(0, 8, Party.SERVER),
        and_cost(0),
    )
    assert set(costs) == {NO_COST}


@pytest.mark.parametrize("name", ["softspoken", "iknp", "dealer"])
def test_every_message_is_masked(name):
    """All inputs are zero, so whatever is not uniform on the wire is a missing mask."""
    n = 1 << 15
    zeros, bits = np.zeros(n, np.uint64), np.zeros(n, np.uint8)
    need = OtCount(6 * n, 2 * n)

    def role(channel):
        source = stocked(make(channel), need, channel)
        session = Session(channel, Context(FixedPoint(), None), source, SecureRandom())
        sent = recorded(channel)
        ot.correlated_ot_both(zeros, bits, 24, session)
        and_bits(np.zeros(n, np.uint8), np.zeros(n, np.uint8), session)
        if channel.party is Party.CLIENT:
            ot.one_of_16_send(np.zeros((n, 16), np.uint8), 4, session)
        else:
            ot.one_of_16_receive(bits, 4, session)
        return sent

    with source_factory(name) as make:
        client, server, _ = run_both(role)
    assert len(client) == len(server) == 3  # corrections, opened bits; tables or flips
    for frame in client + server:
        assert_uniform(frame)


def test_entries_that_were_not_chosen_stay_masked():
    """Pads of the 16 entries are pairwise different and sum to nothing for any subset of 4."""
    n = 512

    def role(session):
        if session.party is Party.CLIENT:
            sent = recorded(session.channel)
            ot.one_of_16_send(np.zeros((n, 16), np.uint64), 64, session)
            return np.frombuffer(sent[0], np.uint64).reshape(n, 16)
        return ot.one_of_16_receive(np.zeros(n, np.uint8), 64, session)

    masks, _ = run_with_cost(role, ot.one_of_16_cost(n, 64, Party.CLIENT))
    assert len(np.unique(masks)) == 16 * n
    # With pads that do not depend on the entry, entries 0, 1, 2 and 3 would cancel.
    assert np.all(masks[:, 0] ^ masks[:, 1] ^ masks[:, 2] ^ masks[:, 3])


@pytest.mark.parametrize(
    "call",
    [
        lambda s: ot.correlated_ot_both(np.zeros(2), np.zeros(2, np.uint8), 8, s),
        lambda s: ot.correlated_ot_both(np.zeros(2, np.uint64), np.zeros(3, np.uint8), 8, s),
        lambda s: ot.correlated_ot_receive(np.full(2, 2, np.uint8), 8, s),
        lambda s: ot.correlated_ot_receive(np.zeros(2, np.int64), 8, s),
        lambda s: ot.one_of_16_receive(np.full(2, 16, np.uint8), 4, s),
        lambda s: ot.one_of_16_send(np.zeros((2, 15), np.uint8), 4, s),
        lambda s: ot.one_of_many_send(np.zeros((2, 3), np.uint8), 4, s),
        lambda s: ot.one_of_many_send(np.zeros((2, 4), np.uint8), 65, s),
        lambda s: ot.one_of_many_receive(np.zeros(2, np.uint8), 5, 4, s),
        lambda s: and_bits(np.zeros(2, np.uint8), np.zeros(3, np.uint8), s),
        lambda s: ot.correlated_ot_send(np.zeros(11, np.uint64), 8, s),
        lambda s: ot.correlated_ot_send(np.zeros(2, np.uint64), 65, s),
        lambda s: ot.correlated_ot_receive(np.zeros(2, np.uint8), 0, s),
    ],
)
def test_misuse_is_refused_before_anything_moves(call):
    def role(channel):
        session = quick_session(channel, OtCount(10, 10))
        with pytest.raises(UsageError):
            call(session)

    assert run_both(role)[2].total == NO_COST.traffic


@pytest.mark.parametrize("size", [0, 1, 3])
def test_truncated_flips_are_refused(size):
    def role(channel):
        if channel.party is Party.SERVER:
            channel.send(bytes(size))
            return
        session = quick_session(channel, OtCount(10, 0))
        with pytest.raises(FrameError, match="were expected"):
            ot.correlated_ot_send(np.zeros(10, np.uint64), 8, session)

    run_misbehaving(role)
