"""One long table out of several: the right one, shared, and nothing else by any message."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from hybrid.testing.local_parties import RecordingStock
from mpc_nonlinear.blocks.long_tables import (
    _expanded,
    offer_tables,
    take_tables,
    take_tables_cost,
)
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.correlations import SoftSpokenSource
from mpc_nonlinear.cost import NO_COST, OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from tests.he_setup import looks_uniform
from tests.ot_sources import InsecureLocalSource, quick_session, stocked
from transport.errors import UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

STOCK = OtCount(0, 256)


def transfer(tables, choice, watch=None, times=1):  # choice: of each taking, or of the only one
    choices = [choice] if isinstance(choice, int) else choice
    client, server = _transfer(tables, choices, watch, times)
    if isinstance(choice, int):
        return [x[0] for x in client], [x[0] for x in server]
    return client, server


def _transfer(tables, choices, watch, times):
    """Both parties' shares of each time, and what crossed the wire is what was declared."""

    def role(channel):
        source = stocked(InsecureLocalSource(channel.party), STOCK, channel)
        stock = RecordingStock(source)
        session = Session(channel, Context(FixedPoint(16), None), source, SecureRandom(), stock)
        if watch is not None:
            watch(channel)
        with channel.step("tables"):
            found = [once(session) for _ in range(times)]
        cost = take_tables_cost(len(tables), tables[0].size, len(choices)) * times
        assert channel.traffic("tables") == cost.traffic
        assert stock.asked == cost.demand
        return found

    def once(session):
        if session.party is Party.SERVER:
            return offer_tables(tables, len(choices), session)
        return take_tables(choices, len(tables), tables.shape[1:], session)

    return run_both(role)[:2]


def listening(frames):
    """Keeps what each party sends."""

    def watch(channel):
        put = channel._put

        def kept(frame):
            frames[channel.party].append(bytes(frame.payload))
            put(frame)

        channel._put = kept

    return watch


@settings(deadline=None, max_examples=25)
@given(st.sampled_from([2, 4, 8, 16]), st.integers(0, 15), st.sampled_from([(1,), (3, 5, 2)]))
def test_the_table_that_was_asked_for(count, choice, shape):
    tables = SecureRandom().uint64((count, *shape))
    (client,), (server,) = transfer(tables, choice % count)
    assert np.array_equal(client + server, tables[choice % count])


def test_over_real_transfers():
    tables = SecureRandom().uint64((8, 40))

    def role(channel):
        make = SoftSpokenSource(channel.party, SecureRandom())
        source = stocked(make, STOCK, channel)
        session = Session(channel, Context(FixedPoint(16), None), source, SecureRandom())
        if session.party is Party.SERVER:
            return offer_tables(tables, 1, session)
        return take_tables([5], 8, (40,), session)

    client, server, _ = run_both(role)
    assert np.array_equal(client[0] + server[0], tables[5])


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([2, 8, 16]), st.lists(st.integers(0, 15), min_size=1, max_size=5))
def test_takings_share_rounds_and_no_mask(count, choices):
    tables, choices = SecureRandom().uint64((count, 3, 2)), [c % count for c in choices]
    (client,), (server,) = transfer(tables, choices)
    assert np.array_equal(client + server, tables[choices])
    assert len(np.unique(server)) == server.size
    one, several = take_tables_cost(count, 6), take_tables_cost(count, 6, len(choices))
    assert several.traffic.rounds == one.traffic.rounds


def test_nothing_of_an_empty_table():
    tables = np.zeros((8, 2, 0), np.uint64)
    (client,), (server,) = transfer(tables, 3)
    assert client.shape == server.shape == (2, 0)
    assert take_tables_cost(8, 0) == NO_COST


def test_shares_are_uniform_and_new_each_time():
    tables = np.zeros((4, 3000), np.uint64)
    client, server = transfer(tables, 2, times=2)
    for share in (*client, *server):
        assert looks_uniform(share)
    assert not np.any(client[0] == client[1])


def test_the_client_cannot_open_the_others():
    """Not even with what it learned of its own table: each has a seed of its own."""
    frames = {party: [] for party in Party}
    tables = np.zeros((8, 3000), np.uint64)
    seen = []

    def watch(channel):
        listening(frames)(channel)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "mpc_nonlinear.blocks.long_tables._expanded",
            lambda seed, shape: seen.append(_expanded(seed, shape)) or seen[-1],
        )
        (client,), _ = transfer(tables, 3, watch)
    masked = np.frombuffer(frames[Party.SERVER][-1], np.uint64).reshape(8, -1)
    own = masked[3] - client
    assert any(np.array_equal(own, stream) for stream in seen)
    for number in range(8):
        if number != 3:
            # The table less the server's share, as the client's own is; so this would be nothing.
            assert looks_uniform(masked[number] - own - client)
    assert looks_uniform(masked)


def test_the_server_sees_the_same_whatever_is_taken():
    tables = SecureRandom().uint64((4, 5))
    sent = []
    for choice in range(4):
        frames = {party: [] for party in Party}
        transfer(tables, choice, listening(frames), times=1)
        sent.append([len(frame) for frame in frames[Party.CLIENT]])
    assert all(sizes == sent[0] for sizes in sent)


@pytest.mark.parametrize("choice", [0, 3])
def test_what_the_client_sends_is_uniform(choice):
    """Two bits for each of four transfers of a seed's words: a byte, whatever is taken."""
    tables, times = np.zeros((4, 1), np.uint64), 1280
    frames = []

    def role(channel):
        session = quick_session(channel, OtCount(0, 8 * times))
        if session.party is Party.SERVER:
            for _ in range(times):
                offer_tables(tables, 1, session)
            return
        put = channel._put
        channel._put = lambda frame: (frames.append(bytes(frame.payload)), put(frame))
        for _ in range(times):
            take_tables([choice], 4, (1,), session)

    run_both(role)
    assert {len(frame) for frame in frames} == {1}
    counts = np.bincount([frame[0] for frame in frames], minlength=256)
    assert stats.chisquare(counts).pvalue > 1e-9


@pytest.mark.parametrize(("count", "choice"), [(3, 0), (1, 0), (32, 0), (8, 8), (8, -1)])
def test_refused(count, choice):
    def role(channel):
        with pytest.raises(UsageError, match="table"):
            take_tables([choice], count, (1,), quick_session(channel, STOCK))

    run_both(role)
    if choice == 0:
        with pytest.raises(UsageError, match="2, 4, 8 or 16"):
            take_tables_cost(count, 1)
