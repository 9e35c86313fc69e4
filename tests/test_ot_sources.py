"""Every source makes true, fresh, single-use correlations at exactly its declared traffic."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import chi2

from mpc_nonlinear.correlations import SOURCES, dealer, extension
from mpc_nonlinear.cost import OtCount
from tests.ot_sources import (
    PRODUCE,
    SETUP,
    InsecureLocalSource,
    quick_session,
    run_misbehaving,
    source_factory,
    stocked,
)
from tests.waiting import GUARD_S
from transport.errors import FrameError, TransportError, UsageError
from transport.local import memory_pair, run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

REAL = ("ferret", "softspoken", "softspoken k=2", "softspoken k=8", "iknp", "dealer")
every_source = pytest.mark.parametrize("name", [*REAL, "local"])
every_extension = pytest.mark.parametrize("name", REAL[1:-1])
talking = pytest.mark.parametrize("name", REAL[:-1])


def make_pair(name, count):
    with source_factory(name) as make:
        return run_both(lambda channel: stocked(make(channel), count, channel))


def assert_fits(sender, receiver):
    """The definition: blocks differ by choice * delta, under the same hash index."""
    assert sender.first_index == receiver.first_index
    assert sender.blocks.shape == receiver.blocks.shape == (len(receiver.choices), 2)
    assert set(np.unique(receiver.choices)) <= {0, 1}
    expected = receiver.choices[:, None].astype(np.uint64) * sender.delta
    np.testing.assert_array_equal(sender.blocks ^ receiver.blocks, expected)


def assert_uniform(data):
    """Chi-square of byte frequencies; fails by chance once in 10^9 runs."""
    values = np.frombuffer(bytes(data), np.uint8)
    assert len(values) >= 256 * 10
    counts = np.bincount(values, minlength=256)
    statistic = ((counts - len(values) / 256) ** 2).sum() / (len(values) / 256)
    assert chi2.isf(1 - 5e-10, 255) < statistic < chi2.isf(5e-10, 255)


def recorded(channel):
    """Keep a copy of everything this party sends."""
    sent, send = [], channel.send
    channel.send = lambda payload: (sent.append(bytes(payload)), send(payload))[1]
    return sent


def test_registry_names_are_distinct_and_described():
    assert len({source.name for source in SOURCES}) == len(SOURCES) == 4
    for source in SOURCES:
        assert source.source
        assert source.trust.endswith(".")


@every_source
@pytest.mark.parametrize(
    "count",
    [
        OtCount(1, 0),
        OtCount(0, 1),
        OtCount(127, 129),
        OtCount(256, 512),
        OtCount(257, 1023),
        OtCount(1300, 3),
    ],
    ids=lambda c: f"{c.client_sends}-{c.server_sends}",
)
def test_correlation_and_traffic_across_chunk_boundaries(name, count, monkeypatch):
    # Ferret's set-up alone takes 2^18 OTs from the extension.
    monkeypatch.setattr(extension, "CHUNK_OTS", 1 << 14 if name == "ferret" else 256)
    monkeypatch.setattr(dealer, "CHUNK_OTS", 100)
    client, server, channel = make_pair(name, count)
    assert client.produced() == server.produced() == count
    assert client.stock() == server.stock() == count
    assert channel.traffic(SETUP) == type(client).setup_traffic()
    assert channel.traffic(PRODUCE) == type(client).production_traffic(count)
    assert_fits(client.take_sender(count.client_sends), server.take_receiver(count.client_sends))
    assert_fits(server.take_sender(count.server_sends), client.take_receiver(count.server_sends))
    assert client.stock() == server.stock() == OtCount()
    assert client.produced() == count


@pytest.mark.parametrize("name", ["softspoken", "iknp", "dealer"])
def test_chunks_of_the_real_size(name):
    count = OtCount(extension.CHUNK_OTS + 1, 0)
    client, server, channel = make_pair(name, count)
    assert channel.traffic(PRODUCE) == type(client).production_traffic(count)
    assert_fits(client.take_sender(count.client_sends), server.take_receiver(count.client_sends))


def test_declared_bytes_of_one_chunk():
    million = OtCount(1 << 20, 0)
    by_name = {s.name: s.production_traffic(million) for s in SOURCES}
    assert by_name["softspoken"].server_payload_bytes == (1 << 20) * 31 // 8
    assert by_name["iknp"].server_payload_bytes == (1 << 20) * 127 // 8
    assert by_name["softspoken"].client_payload_bytes == 0
    assert by_name["softspoken"].rounds == 1


@every_source
def test_later_productions_continue_and_takes_may_straddle_them(name):
    batches = [OtCount(100, 30), OtCount(0, 200), OtCount(77, 1)]

    def role(channel):
        source = stocked(make(channel), batches[0], channel)
        for batch in batches[1:]:
            with channel.step(PRODUCE):
                source.produce(batch, channel)
        return source

    with source_factory(name) as make:
        client, server, channel = run_both(role)
    total = sum(batches, OtCount())
    assert client.produced() == total
    declared = sum(
        (type(client).production_traffic(b) for b in batches[1:]),
        start=type(client).production_traffic(batches[0]),
    )
    assert channel.traffic(PRODUCE) == declared
    index = None
    for size in (99, 0, 2, 76):
        sender, receiver = client.take_sender(size), server.take_receiver(size)
        assert_fits(sender, receiver)
        assert index is None or sender.first_index == index
        index = sender.first_index + size


@every_source
def test_each_ot_leaves_once(name):
    client, server, _ = make_pair(name, OtCount(300, 300))
    blocks = np.concatenate([client.take_sender(150).blocks for _ in range(2)])
    assert len(np.unique(blocks, axis=0)) == 300
    with pytest.raises(UsageError, match="1 OTs asked for, 0 in stock"):
        client.take_sender(1)
    with pytest.raises(UsageError, match="300 in stock"):
        server.take_sender(301)
    with pytest.raises(UsageError, match="-1 OTs"):
        server.take_sender(-1)
    assert len(server.take_sender(300)) == 300


@every_source
def test_hash_indices_of_the_directions_never_meet(name):
    client, server, _ = make_pair(name, OtCount(10, 10))
    ranges = [
        range(o.first_index, o.first_index + len(o))
        for o in (client.take_sender(10), server.take_sender(10))
    ]
    assert not set(ranges[0]) & set(ranges[1])


@pytest.mark.parametrize("name", REAL)
def test_sessions_share_no_secret(name):
    count = OtCount(128, 128)
    pairs = [make_pair(name, count)[:2] for _ in range(2)]
    secrets = []
    for client, server in pairs:
        for sender, receiver in ((client, server), (server, client)):
            sent, received = sender.take_sender(128), receiver.take_receiver(128)
            secrets += [sent.delta.tobytes(), np.packbits(received.choices).tobytes()]
            secrets += [sent.blocks[i].tobytes() for i in range(128)]
    assert len(set(secrets)) == len(secrets)


@pytest.mark.parametrize("name", REAL)
def test_choices_and_blocks_look_uniform(name):
    client, server, _ = make_pair(name, OtCount(1 << 15, 0))
    sent, received = client.take_sender(1 << 15), server.take_receiver(1 << 15)
    # Ferret keeps choice bits in the lowest bits of the first words.
    part = np.s_[:8192, 1] if name == "ferret" else np.s_[:4096]
    for data in (np.packbits(received.choices), sent.blocks[part], received.blocks[part]):
        assert_uniform(data.tobytes())


@talking
def test_corrections_look_uniform_and_differ_between_productions(name):
    def role(channel):
        source = make(channel)
        source.setup(channel)
        sent = recorded(channel)
        for _ in range(2):
            source.produce(OtCount(1 << 14, 1 << 14), channel)
        return sent

    with source_factory(name) as make:
        client, server, _ = run_both(role)
    for sent in (client, server):
        assert len(sent) == 2
        assert sent[0] != sent[1]
        assert_uniform(sent[0] + sent[1])


@every_extension
def test_sender_lacks_one_leaf_of_every_tree(name):
    client, server, _ = make_pair(name, OtCount())
    # Index 0 of the sender's order is the unknown leaf; its seed is a placeholder.
    full, punctured = server._receiver_streams._streams, client._sender_streams._streams
    delta = np.unpackbits(client._delta.view(np.uint8), bitorder="little")
    for t, (own, seen) in enumerate(zip(full, punctured, strict=True)):
        bits = delta[t * client.k : (t + 1) * client.k]
        hidden = int((bits.astype(int) << np.arange(client.k)).sum())
        for y in range(len(own)):
            same = own[y ^ hidden].update(bytes(16)) == seen[y].update(bytes(16))
            assert same == (y != 0)


@every_source
def test_wrong_order_of_calls_is_refused(name):
    with source_factory(name) as make:

        def role(channel):
            source = make(channel)
            with pytest.raises(UsageError, match="before setup"):
                source.produce(OtCount(1, 0), channel)
            with pytest.raises(UsageError):
                source.take_sender(1)
            source.setup(channel)
            with pytest.raises(UsageError, match="setup.. ran already"):
                source.setup(channel)
            with pytest.raises(UsageError, match="negative"):
                source.produce(OtCount(-1, 5), channel)
            with channel.step("nothing"):
                source.produce(OtCount(), channel)
            source.close()
            for use in (source.take_sender, source.take_receiver):
                with pytest.raises(UsageError, match="start a new session"):
                    use(0)
            with pytest.raises(UsageError, match="start a new session"):
                source.produce(OtCount(1, 1), channel)
            source.close()
            return source

        client, server, channel = run_both(role)
    assert "nothing" not in channel.labels
    assert client.stock() == server.stock() == OtCount()


def test_a_failed_production_burns_the_source():
    def role(channel):
        source = stocked(make(channel), OtCount(100, 100), channel)
        if channel.party is Party.CLIENT:
            with pytest.raises(FrameError, match=r"sent 17 bytes where \d+ were expected"):
                source.produce(OtCount(1000, 0), channel)
            with pytest.raises(UsageError, match="burnt"):
                source.take_sender(1)
            assert source.stock() == OtCount()
        else:
            channel.send(bytes(17))

    with source_factory("softspoken") as make:
        run_misbehaving(role)


def test_truncated_tree_corrections_are_refused():
    def role(channel):
        if channel.party is Party.CLIENT:
            source = make(channel)
            with pytest.raises(FrameError):
                source.setup(channel)
            with pytest.raises(UsageError):
                source.setup(channel)
            return
        sent = channel.send
        channel.send = lambda payload: sent(payload if len(payload) != 3072 else payload[:-1])
        make(channel).setup(channel)

    with source_factory("softspoken") as make:
        run_misbehaving(role)


def test_dealer_links_carry_exactly_what_is_declared(monkeypatch):
    monkeypatch.setattr(dealer, "CHUNK_OTS", 64)
    count = OtCount(200, 65)
    client, server, _ = make_pair("dealer", count)
    for source in (client, server):
        party, link = source.party, source._dealer
        declared = dealer.dealer_setup_traffic(party) + dealer.dealer_traffic(party, count)
        assert link.total == declared
        sent = [declared.client_sent_bytes, declared.server_sent_bytes]
        assert source.dealer_sent_bytes == sent[party]
        assert source.dealer_received_bytes == sent[party.peer]
    assert dealer.dealer_traffic(Party.CLIENT, OtCount()) == dealer.NO_TRAFFIC


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_dealer_stops_both_parties_when_they_disagree():
    def role(channel):
        source = make(channel)
        source.setup(channel)
        count = OtCount(5, 6) if channel.party is Party.CLIENT else OtCount(6, 5)
        with pytest.raises(TransportError, match="the dealer stopped"):
            source.produce(count, channel)

    with source_factory("dealer") as make:
        run_both(role)


@pytest.mark.parametrize(
    ("request_bytes", "message"),
    [
        (dealer._REQUEST.pack(9, 0, 0), "operation 9 is unknown"),
        (dealer._REQUEST.pack(2, 1 << 33, 0), "exceed"),
        (dealer._REQUEST.pack(2, 1, 1), "starts with set-up"),
        (b"short", "5 bytes"),
    ],
)
def test_dealer_refuses_malformed_requests(request_bytes, message):
    client, to_client = memory_pair(timeout_s=GUARD_S)
    to_server, server = memory_pair(timeout_s=GUARD_S)
    for party in (client, server):
        party.send(request_bytes)
    with pytest.raises(FrameError, match=message):
        dealer.run_dealer(to_client, to_server)


def test_dealer_link_must_be_the_partys_own():
    client, _ = memory_pair()
    with pytest.raises(UsageError, match="keeps its role"):
        dealer.TrustedDealer(Party.SERVER, SecureRandom(), client)


def test_quick_session_of_the_tests_is_a_true_source():
    client, server, channel = run_both(lambda c: quick_session(c, OtCount(50, 40)))
    assert isinstance(client.correlations, InsecureLocalSource)
    assert channel.total == dealer.NO_TRAFFIC
    assert_fits(client.correlations.take_sender(50), server.correlations.take_receiver(50))
    assert_fits(server.correlations.take_sender(40), client.correlations.take_receiver(40))
