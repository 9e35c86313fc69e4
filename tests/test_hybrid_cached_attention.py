"""Attention over a cache as operators: against plain attention, all sources of correlations."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid.models.graph import CachePlace
from hybrid.models.ranges import Bound
from hybrid.operators import exact_cached_attention
from hybrid.operators.base import Choice
from hybrid.operators.cached_attention import (
    DealtCachedAttentionOperator,
    DealtCorrelations,
    LayerCache,
)
from hybrid.operators.cached_prefix import enter_prefix
from hybrid.planning.binding import operator_for
from hybrid.planning.catalog import load_catalog
from mpc_nonlinear.blocks.cached_products import CacheSizes
from mpc_nonlinear.ring_matmul import ring_matmul
from tests.cached_setup import (
    EXACT,
    FIXED,
    NAMES,
    OPERATORS,
    advance,
    begin,
    check,
    operators,
    plain,
    run_states,
    shares,
    stepped,
    texts,
)
from tests.he_setup import looks_uniform
from transport.errors import ConfigError, UsageError
from transport.traffic import Party


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("sizes", "passes"),
    [
        (CacheSizes(2, 3, 8, 5, 7), (4, 1, 1, 1)),
        (CacheSizes(2, 1, 4, 0, 6), (1, 3, 1)),
        (CacheSizes(1, 2, 4, 2, 1), (1,)),
    ],
)
def test_against_plain_attention(name, sizes, passes):
    check(name, sizes, passes)


@settings(max_examples=8, deadline=None)
@given(
    st.tuples(*[st.integers(1, 3)] * 3, st.integers(0, 4)),
    st.lists(st.integers(1, 3), min_size=1, max_size=3),
    st.integers(0, 2),
)
def test_any_sizes_and_passes(shape, passes, spare):
    check("beaver", CacheSizes(*shape, sum(passes) + spare), passes, seed=spare)


def test_correlations_of_several_blocks(monkeypatch):
    monkeypatch.setattr(exact_cached_attention, "BLOCK", 3)
    sizes = CacheSizes(2, 2, 4, 2, 7)
    check("matrix_correlations", sizes, (2, 2, 1, 1, 1))
    # Rows of A B of a block have no later position than the block's last.
    blocks = list(operators("matrix_correlations", sizes, 0, 1)[0]._blocks())
    assert [shape for *_, shape in blocks] == [(2, 6, 4, 5), (2, 6, 4, 8), (2, 2, 4, 9)]


def masks_of(client, server):
    """A, B and A B of both products, whole."""
    whole = []
    for part in ("keys", "values"):
        mine, theirs = getattr(client, part), getattr(server, part)
        whole.append(
            [getattr(mine, f) + getattr(theirs, f) for f in ("_left", "_own", "_products")]
        )
    return whole


@pytest.mark.parametrize("name", ["beaver", "matrix_correlations"])
def test_masks_are_uniform_and_new_in_every_conversation(name):
    sizes = CacheSizes(2, 2, 32, 0, 24)

    def role(state):
        found = []
        for label in ("first", "second"):
            begin(state, name, sizes, label)
            cache = state.caches["layer0"]
            assert isinstance(cache, LayerCache)
            found.append(cache)
        return found

    seen = sizes.visible(0, sizes.capacity)
    drawn = []
    for client, server in zip(*run_states(name, sizes, role), strict=True):
        (query, key, scores), (weights, value, context) = masks_of(client, server)
        exact = ring_matmul(query, key.transpose(0, 2, 1)), ring_matmul(weights, value)
        for found, product, where in (
            (scores, exact[0], seen[None].repeat(2, 0)),
            (context, exact[1], np.ones(context.shape, bool)),
        ):
            assert np.abs((found - product).view(np.int64))[where].max() <= 1
        assert not weights[:, ~seen].any()
        for party in (client, server):
            assert not party.values._left[:, ~seen].any()
            parts = (party.keys._left, party.keys._own, party.values._own)
            own = np.concatenate([*(p.ravel() for p in parts), party.values._left[:, seen].ravel()])
            assert looks_uniform(own)
            drawn.append(own)
        whole = (query.ravel(), key.ravel(), value.ravel(), weights[:, seen].ravel())
        drawn.append(np.concatenate(whole))
        assert looks_uniform(drawn[-1])
    together = np.concatenate(drawn)
    assert len(np.unique(together)) == together.size


def test_order_room_and_single_use():
    name, sizes = "beaver", CacheSizes(1, 2, 4, 0, 3)
    zeros = np.zeros((2, 16), np.uint64), np.zeros((2, 2, 2), np.uint64)

    def role(state):
        scores, context = operators(name, sizes, 0, 2)
        with pytest.raises(UsageError, match=r"layer0.scores: no conversation has begun"):
            scores.run([zeros[0]], state)
        with pytest.raises(UsageError, match=r"layer0.context: no conversation has begun"):
            context.prepare_conversation(state)
        begin(state, name, sizes)
        with pytest.raises(UsageError, match=r"layer0.context: its layer is prepared already"):
            context.prepare_conversation(state)
        with pytest.raises(UsageError, match="layer0: a pass after 1 shared positions"):
            operators(name, sizes, 1, 1)[0].run([zeros[0][:1]], state)
        with pytest.raises(UsageError, match=r"the cache was prepared for"):
            operators(name, replace(sizes, capacity=4), 0, 2)[0].run([zeros[0]], state)
        before = state.session.channel.total
        with pytest.raises(UsageError, match="layer0: a pass after 0"):
            context.run([zeros[1]], state)
        assert state.session.channel.total == before
        advance(state, name, sizes, 0, *zeros)
        before = state.session.channel.total
        for operator, rows in ((scores, zeros[0]), (context, zeros[1])):
            with pytest.raises(UsageError, match="layer0: a pass after 0 .* new conversation"):
                operator.run([rows], state)
        assert state.session.channel.total == before
        begin(state, name, sizes, "again")
        with pytest.raises(UsageError, match="layer0: a pass after 2"):
            operators(name, sizes, 2, 1)[0].run([zeros[0][:1]], state)

    run_states(name, sizes, role)


def test_scores_wait_for_the_context_before_them():
    name, sizes = "beaver", CacheSizes(1, 2, 4, 0, 3)
    row = np.zeros((1, 16), np.uint64)

    def role(state):
        begin(state, name, sizes)
        operators(name, sizes, 0, 1)[0].run([row], state)
        cache, before = state.caches["layer0"], state.session.channel.total
        with pytest.raises(UsageError, match="the cache holds 1, and 0 have asked"):
            operators(name, sizes, 1, 1)[0].run([row], state)
        # Refused before any mask was taken.
        assert (cache.keys.length, cache.values.length) == (1, 1)
        assert state.session.channel.total == before

    run_states(name, sizes, role)


def test_nothing_is_left_of_a_conversation_when_the_next_one_fails_to_begin():
    name, sizes = "beaver", CacheSizes(1, 2, 4, 0, 3)

    def role(state):
        begin(state, name, sizes)
        scores = operators(name, sizes, 0, 1)[0]

        def stop(_state):
            raise ArithmeticError

        scores._correlations = stop
        with pytest.raises(ArithmeticError):
            scores.prepare_conversation(state)
        with pytest.raises(UsageError, match="no conversation has begun"):
            scores.run([np.zeros((1, 16), np.uint64)], state)

    run_states(name, sizes, role)


def test_a_prefix_comes_from_the_server():
    name, sizes = "beaver", CacheSizes(1, 1, 4, 2, 3)

    def role(state):
        if state.session.party is Party.SERVER:
            with pytest.raises(UsageError, match=r"prefix\['layer0.keys'\] at the server"):
                enter_prefix([operators(name, sizes, 0, 1)[0]._prefix], [None], state)

    run_states(name, sizes, role, {"layer0.keys": np.zeros((1, 3, 4))})


def test_what_does_not_fit_is_refused_before_anything_runs():
    sizes = CacheSizes(2, 2, 4, 3, 5)
    with pytest.raises(UsageError, match="2 positions after 4, the cache has room for 5"):
        operators("beaver", sizes, 4, 2)
    for changed in ({"cache": None}, {"cache": CachePlace(4, 0, 5, 2)}, {"shape": (3, 1, 4, 4)}):
        with pytest.raises(UsageError, match="does not fit the cache"):
            operators("beaver", sizes, 0, 1, **changed)
    with pytest.raises(ConfigError, match="the truncation takes less than"):
        wide = Bound(1.0, 1.0, 2.0**29)
        operators("beaver", sizes, 0, 1, bounds={"output": wide})
    node = operators("beaver", sizes, 0, 1)[0].node
    with pytest.raises(ConfigError, match=r"protocols.cached_attention: .* set mpc.correlations"):
        DealtCachedAttentionOperator(node, DealtCorrelations, Choice("beaver"), EXACT)


def test_the_catalog_knows_all():
    catalog = load_catalog()
    assert catalog.names("cached_attention") == list(NAMES)
    for name, (_, cls) in OPERATORS.items():
        assert operator_for(catalog["cached_attention", name]) is cls
    nodes = [operator.node for operator in operators("beaver", CacheSizes(1, 1, 2, 0, 2), 0, 1)]
    assert {node.key for node in nodes} == {"cached_attention"}


def test_a_token_opens_its_own_rows_and_its_probabilities():
    """Eight bytes a number, and a bit for every truncation; two rounds a product."""
    sizes = CacheSizes(3, 3, 64, 24, 64)
    for past in (0, 63):
        scores, context = operators("matrix_correlations", sizes, past, 1)
        opened = 8 * (9 + 6) * 64
        seen = 9 * (24 + past + 1)
        assert scores.cost().traffic.client_payload_bytes - opened == -(-seen // 8)
        assert context.cost().traffic.client_payload_bytes == 8 * seen + 9 * 64 // 8
        assert scores.cost().traffic.rounds == context.cost().traffic.rounds == 2


@pytest.mark.parametrize("name", NAMES)
def test_conversations_side_by_side(name):
    """Each as if it were alone, over a cache of its own; only the prefix is the same."""
    sizes, passes, rng = CacheSizes(2, 2, 4, 3, 6), (3, 1), np.random.default_rng(5)
    whole = replace(sizes, kv_heads=2 * sizes.kv_heads)
    prefix, first = texts(sizes, passes, rng)
    _, second = texts(sizes, passes, rng)
    pairs = [
        [shares(np.concatenate(parts)) for parts in zip(a, b, strict=True)]
        for a, b in zip(first, second, strict=True)
    ]

    def role(state):
        for operator in operators(name, whole, 0, 1, batch=2):
            prepare = partial(operator.prepare_conversation, state)
            stepped(state, operator.node.op, operator.conversation_cost(), prepare)
        past, found, mine = 0, [], state.session.party
        for n, (qkv, weights) in zip(passes, pairs, strict=True):
            scores, context = operators(name, whole, past, n, batch=2)
            runs = (scores, [qkv[mine]]), (context, [weights[mine]])
            found.append([
                stepped(state, f"{o.node.op} {n}", o.cost(), partial(o.run, edges, state))[0]
                for o, edges in runs
            ])  # fmt: skip
            past += n
        return found

    both = zip(*run_states(name, whole, role, prefix), strict=True)
    plainly = plain(sizes, prefix, first), plain(sizes, prefix, second)
    for (mine, theirs), *expected in zip(both, *plainly, strict=True):
        for a, b, of_each in zip(mine, theirs, zip(*expected, strict=True), strict=True):
            found = (a + b).view(np.int64) / 2.0**16
            np.testing.assert_allclose(found, np.concatenate(of_each), atol=2.0**-9)


# -- made before a conversation begins ----------------------------------------------------------


@pytest.mark.parametrize("made", range(4))
def test_pieces_made_ahead_are_taken_and_the_rest_is_made(monkeypatch, made):
    """Each piece by itself, as its cost says; what a conversation then does as if none was."""
    monkeypatch.setattr(exact_cached_attention, "BLOCK", 3)
    name, sizes, passes = "matrix_correlations", CacheSizes(2, 2, 4, 3, 8), (3, 1)
    prefix, rows = texts(sizes, passes, np.random.default_rng(2))
    pairs = [tuple(shares(part) for part in row) for row in rows]

    def role(state):
        both = operators(name, sizes, 0, 1)
        for operator in both:
            assert operator.pieces_ahead == 3
            for piece in range(made):
                prepare = partial(operator.prepare_piece, piece, state)
                label = f"{operator.node.op} {piece}"
                stepped(state, label, operator.piece_cost(piece), prepare)
        assert len(state.to_come) == (2 if made else 0)
        for operator in both:
            prepare = partial(operator.prepare_conversation, state)
            stepped(state, operator.node.op, operator.conversation_cost(made), prepare)
        assert not state.to_come
        mine, past, found = state.session.party, 0, []
        for qkv, weights in pairs:
            found.append(advance(state, name, sizes, past, qkv[mine], weights[mine]))
            past += len(qkv[0])
        return found

    both = zip(*run_states(name, sizes, role, prefix), plain(sizes, prefix, rows), strict=True)
    for client, server, wanted in both:
        for ours, theirs, exact in zip(client, server, wanted, strict=True):
            assert np.abs(FIXED.decode(ours + theirs) - exact).max() < 2.0**-8


def test_pieces_come_in_order_and_once():
    """What breaks off, or is asked for out of its turn, is gone."""
    name, sizes = "matrix_correlations", CacheSizes(1, 1, 4, 0, 3)

    def role(state):
        scores, _ = operators(name, sizes, 0, 1)
        before = state.session.channel.total
        with pytest.raises(UsageError, match=r"layer0.scores: piece 1 .* is not the next one"):
            scores.prepare_piece(1, state)
        state.to_come.clear()
        assert state.session.channel.total == before
        scores.prepare_piece(0, state)
        with pytest.raises(UsageError, match=r"layer0.scores: piece 0 .* is not the next one"):
            scores.prepare_piece(0, state)
        assert state.to_come == {}

        def stop(*_given):
            raise ArithmeticError

        scores._make = stop
        with pytest.raises(ArithmeticError):
            scores.prepare_piece(0, state)
        assert state.to_come == {}

    run_states(name, sizes, role)


def test_no_layer_runs_before_the_prefix_is_in_all():
    name, sizes = "matrix_correlations", CacheSizes(1, 1, 4, 2, 3)
    prefix = {f"layer{i}.{what}": np.ones((1, 2, 4)) for i in (0, 1) for what in ("keys", "values")}

    def role(state):
        every = [o for layer in (0, 1) for o in operators(name, sizes, 0, 1, layer)]
        for operator in every:
            operator.join(every)
        for operator in every[:-1]:
            operator.prepare_conversation(state)
        row = np.zeros((1, 12), np.uint64)
        with pytest.raises(UsageError, match=r"layer0.scores: no conversation has begun"):
            every[0].run([row], state)
        every[-1].prepare_conversation(state)
        every[0].run([row], state)

    run_states(name, sizes, role, prefix)
