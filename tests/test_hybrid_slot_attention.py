"""Correlations of cached attention modulo a prime: exact, causal, fresh, for all layers at once."""

from __future__ import annotations

import numpy as np
import pytest

from hybrid.models.graph import CachePlace
from hybrid.models.ranges import Bound
from hybrid.operators import cached_prefix
from hybrid.operators.slot_attention import SLOT_SET, SlotCachedAttentionOperator
from hybrid.operators.slot_matrices import (
    RowsTimes,
    answer_rows_times,
    ask_rows_times,
    rows_times_cost,
)
from mpc_nonlinear.blocks.cached_products import CacheSizes
from mpc_nonlinear.blocks.moduli import PrimeModulus
from mpc_nonlinear.cost import NO_COST
from tests.cached_setup import BOUND, operators, run_states, slot_party, stepped
from tests.rows_setup import T, uniform_residues
from transport.bitpack import packed_bytes, unpack_bits
from transport.errors import ConfigError, FrameError, UsageError
from transport.local import run_both
from transport.traffic import NO_TRAFFIC, Party

NAME = "slot_correlations"
MODULUS = PrimeModulus(T)
MODULUS_BITS = SLOT_SET.plain_bits


def company(sizes, layers=1, turns=1):
    """Both products of every layer, as a plan brings them together."""
    place = CachePlace(sizes.prefix, 0, sizes.capacity, sizes.kv_heads, turns)
    found = [o for layer in range(layers) for o in operators(NAME, sizes, 0, 1, layer, cache=place)]
    for operator in found:
        operator.join(found)
    return found


def made(sizes, layers=1, turns=1, conversations=1):
    """Shares of A, B and A B of either party, product by product."""

    def role(state):
        found = []
        for _ in range(conversations):
            state.caches.clear()
            found += [operator._correlations(state) for operator in company(sizes, layers, turns)]
        return found

    return run_states(NAME, sizes, role)


SIZES = [
    CacheSizes(1, 1, 4, 0, 1),
    CacheSizes(2, 3, 8, 5, 7),
    CacheSizes(1, 3, 5, 25, 30),
    CacheSizes(2, 1, 70, 3, 65),
    CacheSizes(1, 2, 64, 0, 64),
]


@pytest.mark.parametrize("turns", [1, 8])
@pytest.mark.parametrize("sizes", SIZES)
def test_correlations_are_exact_and_causal(sizes, turns):
    """Positions across a block's edge, a size above one block, one position, no prefix."""
    client, server = made(sizes, 2, turns)
    seen = sizes.visible(0, sizes.capacity)
    assert len(client) == 4
    for index, (mine, theirs) in enumerate(zip(client, server, strict=True)):
        assert all(part.max() < T for part in (*mine, *theirs))
        left, right, products = (MODULUS.plus(x, y) for x, y in zip(mine, theirs, strict=True))
        exact = MODULUS.times(left, right)
        if index % 2:
            assert (products == exact).all()
            for share in (mine[0], theirs[0]):
                assert not share[:, ~seen].any()
                assert share[:, seen].all()
        else:
            assert (products[:, seen] == exact[:, seen]).all()
            assert mine[0].all() and theirs[0].all()
        # The client has no part in masks of what the server knows, and does of what it does not.
        known = mine[1][:, :, : sizes.prefix] if index % 2 == 0 else mine[1][:, : sizes.prefix]
        assert known.all() if turns > 1 and index % 2 == 0 else not known.any()
        rest = mine[1][:, :, sizes.prefix :] if index % 2 == 0 else mine[1][:, sizes.prefix :]
        assert rest.all() and theirs[1].all()


def test_masks_are_uniform_and_new_in_every_conversation():
    sizes = CacheSizes(2, 2, 32, 4, 24)
    client, server = made(sizes, 2, 8, conversations=2)
    seen, drawn = sizes.visible(0, sizes.capacity), []
    for own in (client, server):
        parts = []
        for index, (left, right, products) in enumerate(own):
            parts.append(left[:, seen].ravel() if index % 2 else left.ravel())
            parts.append(right[:, -sizes.capacity :].ravel() if index % 2 else right.ravel())
            assert uniform_residues(products[:, seen] if index % 2 == 0 else products)
        drawn.append(np.concatenate(parts))
        assert uniform_residues(drawn[-1])
    together = np.concatenate([*drawn, MODULUS.plus(*drawn)])
    assert len(np.unique(together)) == together.size


@pytest.mark.parametrize(("turns", "room", "takings"), [(1, 1, 0), (8, 1 << 26, 1), (8, 1, 3)])
def test_one_question_for_all_layers(monkeypatch, turns, room, takings):
    """Every node's traffic is what it declares: the first one's that of all correlations.

    The last one's is that of the prefix, whose turned keys are taken for many layers at once.
    """
    monkeypatch.setattr(cached_prefix, "TABLES_BYTES", room)
    sizes, layers = CacheSizes(2, 2, 8, 3, 6), 3
    rng = np.random.default_rng(5)
    shape = (2, 3, 8)
    prefix = {f"layer{i}.values": rng.normal(0, 1, shape) for i in range(layers)}
    turned = (turns, *shape) if turns > 1 else shape
    prefix |= {f"layer{i}.keys": rng.normal(0, 1, turned) for i in range(layers)}

    def role(state):
        for operator in company(sizes, layers, turns):
            label = f"conversation {operator.node.name}"
            cost = operator.conversation_cost()
            stepped(state, label, cost, lambda o=operator: o.prepare_conversation(state))
        assert sorted(state.caches) == [f"layer{i}" for i in range(layers)]

    run_states(NAME, sizes, role, prefix)
    *rest, last = (o.conversation_cost().traffic.rounds for o in company(sizes, layers, turns))
    assert (sum(rest), last) == (2, 2 * takings + 1)
    first, *others = (operator._correlations_cost() for operator in company(sizes, layers, turns))
    assert first.traffic.rounds == 2
    for cost in others:
        # Not nothing: a conversation calls it all the same.
        assert cost.traffic == NO_TRAFFIC
        assert cost != NO_COST
    assert 0 < first.failure_probability < 2**-25


def test_bytes_of_a_conversation():
    """SmolLM2's shape: a seventh of what exact products in coefficients take, and less."""
    sizes = CacheSizes(3, 3, 64, 25, 64)
    for turns, megabytes in ((1, 120), (8, 140)):
        traffic = company(sizes, 30, turns)[0]._correlations_cost().traffic
        assert traffic.sent_bytes < megabytes * 1e6
    before = [operator._correlations_cost() for operator in
              operators("matrix_correlations", sizes, 0, 1)]  # fmt: skip
    assert 30 * sum(cost.traffic.sent_bytes for cost in before) > 7 * megabytes * 1e6


def test_rows_that_are_opened_mask_nothing():
    """What the client says in the clear is where A is zero, uniform, and kept nowhere."""
    sizes = CacheSizes(2, 2, 8, 3, 24)
    said = []

    def role(state):
        channel = state.session.channel
        (operator,) = company(sizes)[1:]
        operator._together = (operator,)
        if state.is_client:
            send = channel.send

            def watched(message):
                said.append(bytes(message))
                send(message)

            channel.send = watched
        return operator._correlations(state)

    client, server = run_states(NAME, sizes, role)
    sizes_of = [cross.size for cross in company(sizes)[1]._crosses]
    count = sizes.kv_heads * sum(int(size.zeros.sum()) for size in sizes_of)
    # All rows are one block, which sees as much as its last row.
    assert count == sizes.kv_heads * int((~sizes.visible(0, 24)).sum())
    (message,) = said
    words = unpack_bits(message[-packed_bytes(count, MODULUS_BITS) :], count, MODULUS_BITS)
    assert uniform_residues(words)
    for share in (*client, *server):
        assert not np.intersect1d(words, share).size


# -- products of rows ------------------------------------------------------------------------


def products(sizes, watch=lambda _channel: None):
    rng = np.random.default_rng(9)
    matrices = [rng.integers(0, T, (s.inner, s.outputs), np.uint64) for s in sizes]

    def role(channel):
        watch(channel)
        party = slot_party(channel.party)
        with channel.step("products"):
            if channel.party is Party.CLIENT:
                return sorted(ask_rows_times(sizes, party, SLOT_SET, channel), key=lambda x: x[0])
            made = answer_rows_times(sizes, matrices, party, channel, SLOT_SET)
            return sorted(made, key=lambda x: x[0])

    return matrices, run_both(role)


def test_products_of_many_sizes():
    rng = np.random.default_rng(4)
    sizes = [RowsTimes(*rng.integers(1, (65, 9, 9)).tolist()) for _ in range(150)]
    sizes[3] = RowsTimes(3, 4, 2, (0, 2, 4))
    sizes[140] = RowsTimes(2, 1, 9, (0, 0))
    matrices, (client, server, channel) = products(sizes)
    cost = rows_times_cost(sizes, SLOT_SET)
    assert channel.traffic("products") == cost.traffic
    # 150 products are more than one group has.
    assert (cost.traffic.client_frames, cost.traffic.rounds) == (2, 2)
    assert [place for place, *_ in client] == [place for place, _ in server] == list(range(150))
    for size, w, (_, rho, mine), (_, theirs) in zip(sizes, matrices, client, server, strict=True):
        assert rho.shape == (size.rows, size.inner)
        assert (rho == 0).tolist() == size.zeros.tolist()
        assert (MODULUS.plus(mine, theirs) == MODULUS.times(rho[None], w[None])[0]).all()
    assert dict(cost.work.counted())["slot_encrypt/8192x3"] > 0


@pytest.mark.parametrize("change", ["long", "beyond"])
def test_wrong_questions_are_refused(change):
    size = RowsTimes(3, 4, 2, (1, 2, 4))

    def spoil(channel):
        if channel.party is Party.CLIENT:
            send = channel.send
            end = packed_bytes(5, MODULUS_BITS)

            def wrong(message):
                spoilt = {"long": message + b"\0", "beyond": message[:-end] + b"\xff" * end}
                send(spoilt[change])

            channel.send = wrong

    match = {"long": "expected", "beyond": "a word exceeds the plain prime"}
    with pytest.raises(FrameError, match=match[change]):
        products([size], spoil)


# -- what is refused -------------------------------------------------------------------------


def test_both_products_of_a_layer_are_needed():
    sizes = CacheSizes(1, 2, 4, 2, 3)
    scores, _ = operators(NAME, sizes, 0, 1, 0)
    _, context = operators("matrix_correlations", sizes, 0, 1, 0)
    with pytest.raises(ConfigError, match=r"layer0.scores: slot_correlations for one product"):
        scores.join([scores, context])


def test_layers_may_differ():
    """The first of its kind makes what those of its kind need."""
    sizes = CacheSizes(1, 2, 4, 2, 3)
    others = operators("matrix_correlations", sizes, 0, 1, 0)
    own = operators(NAME, sizes, 0, 1, 1)
    for operator in (*others, *own):
        operator.join([*others, *own])
    assert own[0]._correlations_cost().traffic.rounds == 2
    assert own[1]._correlations_cost().traffic == NO_TRAFFIC


def test_results_that_the_prime_has_no_room_for():
    sizes = CacheSizes(1, 2, 4, 2, 3)
    for largest, fits in ((1023.9, True), (1024.0, False), (2.0**20, False)):
        bounds = {"left": BOUND, "right": BOUND, "output": Bound(1.0, 1.0, largest)}
        if fits:
            operators(NAME, sizes, 0, 1, bounds=bounds)
            continue
        match = "use fewer mpc.fraction_bits, or cached_attention: matrix_correlations"
        with pytest.raises(ConfigError, match=match):
            operators(NAME, sizes, 0, 1, bounds=bounds)
    with pytest.raises(ConfigError, match="needs bounds on operands and results"):
        operators(NAME, sizes, 0, 1, bounds={"output": BOUND})


def test_order():
    sizes = CacheSizes(1, 2, 4, 0, 3)

    def role(state):
        _, context, *_ = company(sizes, 2)
        before = state.session.channel.total
        with pytest.raises(UsageError, match="its correlations are made by layer0.scores"):
            context._correlations(state)
        assert state.session.channel.total == before

    run_states(NAME, sizes, role)


def test_failures_of_lifts_are_declared():
    """Queries and keys with the scores, probabilities and values with the context."""
    sizes = CacheSizes(2, 3, 4, 5, 8)
    left, right = Bound(1.0, 2.0, 8.0), Bound(1.0, 16.0, 64.0)
    bounds = {"left": left, "right": right, "output": BOUND}
    scores, context = operators(NAME, sizes, 3, 2, bounds=bounds)
    units = 2.0 ** (64 - 16)
    expected = 2 * 2 * 4 * (3 * 2.0 + 16.0)
    assert scores.cost().failure_probability * units == pytest.approx(expected)
    expected = sizes.visible_count(3, 2) * 2.0 + 2 * 2 * 4 * 16.0
    assert context.cost().failure_probability * units == pytest.approx(expected)
    # Keys that the client turns are shared; those that it does not are the server's alone.
    alone, turned = (
        operators(NAME, sizes, 0, 1, bounds=bounds, cache=CachePlace(5, 0, 8, 2, turns))[0]
        for turns in (1, 8)
    )
    more = turned.conversation_cost().failure_probability
    more -= turned._correlations_cost().failure_probability
    less = alone.conversation_cost().failure_probability
    assert less == alone._correlations_cost().failure_probability
    assert more * units == pytest.approx(2 * 5 * 4 * 16.0, rel=1e-3)


def test_keys_without_rotations():
    operator = company(CacheSizes(1, 1, 4, 0, 2))[0]
    assert isinstance(operator, SlotCachedAttentionOperator)
    assert operator.slot_steps == ()
    assert operator.ring_keys is None
