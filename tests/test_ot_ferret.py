"""Silent OT: admitted parameters, batches of every size, trees, and what travels."""

import numpy as np
import pytest

from mpc_nonlinear.correlations import FerretSource
from mpc_nonlinear.correlations.ferret import batches
from mpc_nonlinear.correlations.ggm import TreeHash, held_trees, own_trees
from mpc_nonlinear.correlations.lpn import LARGE, LARGEST, MEDIUM, SMALL, LpnParameters, PublicCode
from mpc_nonlinear.cost import OtCount
from tests.he_setup import looks_uniform
from tests.ot_sources import run_misbehaving
from tests.test_ot_sources import recorded
from transport.errors import FrameError, ParameterError, UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

ADMITTED = (LARGEST, LARGE, MEDIUM, SMALL)


@pytest.mark.parametrize("p", ADMITTED)
def test_blocks_fill_the_samples(p):
    assert p.t * p.block == p.n
    assert 1 << p.depth == p.block
    assert sum(count for _, count in p.chunks()) == p.t
    assert p.usable > p.n / 2


@pytest.mark.parametrize(
    "values",
    [
        (10485760, 452000, 1280, 1 << 13),
        (470016, 32768, 918, 1 << 9),
        (2396160, 1 << 17, 1170, 1 << 10),
        (2396160, 1 << 17, 1169, 1 << 11),
        (870400, 1 << 15, 850, 1 << 10),
    ],
)
def test_any_other_parameters_are_refused(values):
    with pytest.raises(ParameterError, match="not among the admitted"):
        LpnParameters(*values)


@pytest.mark.parametrize(
    ("count", "kinds", "few"),
    [
        (0, [], 0),
        (1, [], 1),
        (1 << 16, [], 1 << 16),
        ((1 << 16) + 1, [SMALL], 0),
        (SMALL.usable, [SMALL], 0),
        (SMALL.usable + 1, [SMALL], 1),
        (2 * SMALL.usable, [SMALL, SMALL], 0),
        (2 * SMALL.usable + 1, [MEDIUM], 0),
        (MEDIUM.usable + 5, [MEDIUM], 5),
        (2 * MEDIUM.usable + SMALL.usable, [MEDIUM, MEDIUM, SMALL], 0),
    ],
)
def test_batches_cover_any_demand(count, kinds, few):
    assert batches(count) == (kinds, few)
    assert sum(p.usable for p in kinds) + few >= count


@pytest.mark.parametrize(("depth", "trees"), [(2, 1), (5, 7), (10, 3)])
def test_trees_differ_by_delta_at_one_leaf(depth, trees):
    rng = SecureRandom()
    delta, roots = rng.uint64(2), rng.uint64((trees, 2))
    pads, sides = rng.uint64((depth, trees, 2)), rng.bits((depth, trees))
    held_pads = pads ^ (sides[..., None].astype(np.uint64) * delta)
    tree_hash = TreeHash(rng.uint64(2))
    own, message = own_trees(roots, delta, pads, tree_hash)
    held, missing = held_trees(message, held_pads, sides, tree_hash)
    difference = own ^ held
    for t in range(trees):
        path = [1 - int(side) for side in sides[:, t]]
        assert missing[t] == int("".join(map(str, path)), 2)
        assert (difference[t, missing[t]] == delta).all()
        difference[t, missing[t]] = 0
    assert not difference.any()
    # Every level sums to delta; leaves look random.
    assert (np.bitwise_xor.reduce(own, axis=1) == delta).all()


def test_code_is_linear_and_both_parties_have_the_same():
    rng = SecureRandom()
    first, second = rng.uint64((1 << 16, 2)), rng.uint64((1 << 16, 2))
    out = np.zeros((3, 1000, 2), np.uint64)
    seed = rng.bytes(16)
    for secret, rows in zip((first, second, first ^ second), out, strict=True):
        PublicCode(seed).add_rows(secret, rows)
    assert ((out[0] ^ out[1]) == out[2]).all()
    # Ten entries a row: with unit vectors, rows of weight at most ten and about ten on average.
    ones = np.zeros((1 << 16, 2), np.uint64)
    ones[:, 0] = 1
    weights = np.zeros((1000, 2), np.uint64)
    PublicCode(seed).add_rows(ones, weights)
    assert not weights.any()  # ten ones cancel


def produce(*counts):
    def role(channel):
        source = FerretSource(channel.party, SecureRandom())
        with channel.step("setup"):
            source.setup(channel)
        taken = []
        for index, count in enumerate(counts):
            with channel.step(f"produce {index}"):
                source.produce(count, channel)
            mine, theirs = count.client_sends, count.server_sends
            if channel.party is Party.SERVER:
                mine, theirs = theirs, mine
            assert source.stock() == count
            taken.append((source.take_sender(mine), source.take_receiver(theirs)))
        return taken

    return run_both(role)


@pytest.mark.long
def test_every_kind_of_batch_is_correlated_and_costs_what_it_declares():
    counts = [
        OtCount(SMALL.usable + 5, 70_000),
        OtCount(10, 100_000),
        OtCount(MEDIUM.usable + 3, SMALL.usable + 100_000),
        OtCount(SMALL.usable + 7, SMALL.usable + 1),
        OtCount(0, 3),
    ]
    client, server, channel = produce(*counts)
    assert channel.traffic("setup") == FerretSource.setup_traffic()
    deltas = set()
    for index, count in enumerate(counts):
        declared = FerretSource.production_traffic(count)
        assert channel.traffic(f"produce {index}") == declared
        mine, theirs = client[index], server[index]
        for sent, held in ((mine[0], theirs[1]), (theirs[0], mine[1])):
            expected = sent.blocks ^ (held.choices[:, None].astype(np.uint64) * sent.delta)
            assert (held.blocks == expected).all()
            assert sent.first_index == held.first_index
            deltas.add(sent.delta.tobytes())
            if len(held) > 10_000:
                packed = np.packbits(held.choices[: len(held) // 64 * 64])
                assert looks_uniform(packed.view(np.uint64))
                for half in (sent, held):
                    assert looks_uniform(half.blocks[:, 1])
                    assert len(np.unique(half.blocks[:, 1])) == len(half)
    # One delta a party and session; its lowest bit marks choices.
    assert len(deltas) == 2
    assert all(delta[0] & 1 for delta in deltas)


def test_less_than_two_bits_an_ot_in_bulk():
    count = OtCount(4_000_000, 4_000_000)
    bits = FerretSource.production_traffic(count).sent_bytes * 8 / count.total
    assert bits < 2


def test_runs_differ():
    first, second = (produce(OtCount(70_000, 0)) for _ in range(2))
    blocks, again = (client[0][0].blocks[:, 1] for client, _, _ in (first, second))
    assert not (blocks == again).any()
    choices, again = (server[0][1].choices for _, server, _ in (first, second))
    assert abs((choices == again).mean() - 0.5) < 5 / (2 * len(choices) ** 0.5)


@pytest.mark.parametrize(
    "p", [pytest.param(LARGEST, marks=pytest.mark.long), *ADMITTED[1:]], ids=lambda p: f"n={p.n}"
)
def test_one_batch_of_every_set(p):
    rng = SecureRandom()
    delta, own, bits = rng.uint64(2), rng.uint64((p.consumed, 2)), rng.bits(p.consumed)
    delta[0] |= np.uint64(1)
    own[:, 0] &= ~np.uint64(1)
    held = own ^ (bits[:, None].astype(np.uint64) * delta)

    def role(channel):
        source = FerretSource(channel.party, SecureRandom())
        if channel.party is Party.CLIENT:
            source._own_reserve = own
            return source._send_batch(p, delta, channel), source._own_reserve
        source._held_reserve = held
        return source._receive_batch(p, channel), source._held_reserve

    client, server, channel = run_both(role)
    assert channel.total.client_payload_bytes == 16 * (1 + p.t * p.depth)
    assert channel.total.server_payload_bytes == 0
    for sent, received, size in zip(client, server, (p.usable, p.consumed), strict=True):
        assert len(sent) == len(received) == size
        sent ^= received
        choices = sent.any(axis=1)
        assert (sent[choices] == delta).all()
        assert (choices == received[:, 0] & np.uint64(1)).all()
        assert abs(choices.mean() - 0.5) < 5 / (2 * size**0.5)


@pytest.mark.long
def test_what_a_batch_consumes_is_used_once_and_hides_its_messages():
    count = OtCount(100_000, 0)

    def role(channel):
        source = FerretSource(channel.party, SecureRandom())
        source.setup(channel)
        sent = recorded(channel)
        reserves = []
        for _ in range(3):
            reserves.append((source._own_reserve, source._held_reserve)[channel.party])
            source.produce(count, channel)
        return reserves, sent, source

    (reserves, sent, source), (held, silence, _), _ = run_both(role)
    for kept in (reserves, held):
        used = np.concatenate([r[: SMALL.consumed] for r in kept])
        assert len(np.unique(used, axis=0)) == 3 * SMALL.consumed
        # A small batch leaves the rest of a medium one's reserve alone.
        assert (kept[2][SMALL.consumed :] == kept[0][SMALL.consumed :]).all()
    used = np.concatenate([r[: SMALL.consumed] for r in reserves])
    out = source.take_sender(300_000).blocks
    assert len(np.unique(np.concatenate([used, out]), axis=0)) == len(used) + len(out)
    assert not silence
    words = np.frombuffer(b"".join(sent), np.uint64)
    assert looks_uniform(words)
    assert len(np.unique(words)) == len(words)


def test_a_failed_batch_burns_stock_and_reserves():
    def role(channel):
        source = FerretSource(channel.party, SecureRandom())
        source.setup(channel)
        source.produce(OtCount(0, 100), channel)
        if channel.party is Party.SERVER:
            channel.send(bytes(17))
            return
        with pytest.raises(FrameError, match=r"sent 17 bytes where \d+ were expected"):
            source.produce(OtCount(0, 100_000), channel)
        assert source.stock() == OtCount()
        assert source._delta is None
        assert len(source._own_reserve) == len(source._held_reserve) == 0
        for use in (source.take_receiver, source._extension.take_sender):
            with pytest.raises(UsageError, match="burnt"):
                use(0)
        with pytest.raises(UsageError, match="burnt"):
            source.produce(OtCount(0, 1), channel)

    run_misbehaving(role)
