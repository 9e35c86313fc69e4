"""Silent OT: admitted parameters, batches of every size, trees, and what travels."""

import numpy as np
import pytest

from mpc_nonlinear.correlations import FerretSource
from mpc_nonlinear.correlations.ferret import batches
from mpc_nonlinear.correlations.ggm import TreeHash, held_trees, own_trees
from mpc_nonlinear.correlations.lpn import LARGE, LARGEST, MEDIUM, SMALL, LpnParameters, PublicCode
from mpc_nonlinear.cost import OtCount
from tests.he_setup import looks_uniform
from transport.errors import ParameterError
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
        (1 << 15, [], 1 << 15),
        ((1 << 15) + 1, [SMALL], 0),
        (SMALL.usable, [SMALL], 0),
        (SMALL.usable + 1, [MEDIUM], 0),
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


def test_every_kind_of_batch_is_correlated_and_costs_what_it_declares():
    counts = [
        OtCount(SMALL.usable + 40_000, 70_000),
        OtCount(10, 40_000),
        OtCount(0, MEDIUM.usable + 3),
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
                assert abs(held.choices.mean() - 0.5) < 4 / len(held) ** 0.5
                assert looks_uniform(sent.blocks[:, 1])
                assert len(np.unique(sent.blocks[:, 1])) == len(sent)
    # One delta a party and session; its lowest bit marks choices.
    assert len(deltas) == 2
    assert all(delta[0] & 1 for delta in deltas)


def test_less_than_two_bits_an_ot_in_bulk():
    count = OtCount(4_000_000, 4_000_000)
    bits = FerretSource.production_traffic(count).sent_bytes * 8 / count.total
    assert bits < 2


def test_runs_differ():
    first, second = (produce(OtCount(40_000, 0))[0][0][0].blocks for _ in range(2))
    assert not (first[:, 1] == second[:, 1]).any()
