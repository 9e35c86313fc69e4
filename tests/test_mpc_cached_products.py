"""Products over a growing cache: against plain integers, masks that serve once, exact costs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.blocks.cached_products import (
    CacheSizes,
    KeyProducts,
    ValueProducts,
    append_known,
    append_known_cost,
    cached_context,
    cached_context_cost,
    cached_scores,
    cached_scores_cost,
    causal_masks,
    made_causal,
    made_causal_cost,
)
from mpc_nonlinear.blocks.moduli import WORDS, PrimeModulus
from mpc_nonlinear.cost import OtCount
from mpc_nonlinear.ring_matmul import ring_matmul
from tests.he_setup import looks_uniform
from tests.ot_sources import quick_session
from transport.bitpack import pack_bits
from transport.errors import UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

BITS = 16
SIZES = CacheSizes(kv_heads=2, group=2, size=4, prefix=3, capacity=6)


PRIME_BITS = 43
PRIME = PrimeModulus((1 << PRIME_BITS) - 57)


def split(x, modulus=WORDS):
    first = SecureRandom().uint64(x.shape)
    if modulus is WORDS:
        return first, x - first
    first = first % np.uint64(modulus.modulus)
    return first, modulus.minus(x, first)


def correlations(sizes, modulus=WORDS):
    """Both parties' masks of keys and of values."""
    rng = SecureRandom()
    query, key = (rng.uint64(shape) for shape in sizes.score_shapes)
    a, b = causal_masks(sizes, rng), rng.uint64(sizes.context_shapes[1])
    if modulus is not WORDS:
        query, key, a, b = (part % np.uint64(modulus.modulus) for part in (query, key, a, b))
    scores = query, key.transpose(0, 2, 1), modulus.times(query, key)
    context = a, b, modulus.times(a, b)
    return [
        tuple(zip(*(split(part, modulus) for part in whole), strict=True))
        for whole in (scores, context)
    ]


def caches(sizes, made, party, modulus=WORDS):
    return (
        KeyProducts("layer0", sizes, made[0][party], party, modulus),
        ValueProducts("layer0", sizes, made[1][party], party, modulus),
    )


def words(reals):
    return np.rint(reals * 2**BITS).astype(np.int64).view(np.uint64)


def reals(shares):
    return (shares[0] + shares[1]).view(np.int64) / 2**BITS


def conversation(sizes, passes, rng):
    """Reals: prefix keys and values, then rows and probabilities of every pass."""
    g, h, s = sizes.kv_heads, sizes.group, sizes.size
    prefix = [rng.normal(0, 2, (g, sizes.prefix, s)) for _ in range(2)]
    rows, past = [], 0
    for n in passes:
        query = rng.normal(0, 2, (g, n * h, s))
        key, value = (rng.normal(0, 2, (g, n, s)) for _ in range(2))
        weights = rng.uniform(0, 1, (g, n * h, sizes.prefix + past + n))
        rows.append((query, key, value, weights))
        past += n
    return prefix, rows


def expected(sizes, prefix, rows):
    keys, values, past, found = *prefix, 0, []
    for query, key, value, weights in rows:
        keys, values = np.concatenate([keys, key], 1), np.concatenate([values, value], 1)
        seen = np.array(
            [
                [j <= sizes.prefix + past + i // sizes.group for j in range(keys.shape[1])]
                for i in range(query.shape[1])
            ]
        )
        found.append(
            (
                np.where(seen, query @ keys.transpose(0, 2, 1), 0),
                np.where(seen, weights, 0) @ values,
            )
        )
        past += key.shape[1]
    return found


def converse(sizes, prefix, rows, watch=None, modulus=WORDS):
    """Both parties' shares of every pass; every call's traffic is what was declared."""
    made = correlations(sizes, modulus)
    prefix = [(np.zeros(p.shape, np.uint64), words(p)) for p in prefix]
    rows = [[split(words(part)) for part in row] for row in rows]

    def role(channel):
        mine = channel.party
        session = quick_session(channel, OtCount(0, 10**5), fraction_bits=BITS)
        if watch is not None:
            watch(channel)
        keys, values = caches(sizes, made, mine, modulus)
        with channel.step("prefix"):
            append_known(keys, prefix[0][mine], session)
            append_known(values, prefix[1][mine], session)
        assert channel.traffic("prefix") == (append_known_cost(sizes, modulus) * 2).traffic
        results, past = [], 0
        for query, key, value, weights in rows:
            n = key[0].shape[1]
            with channel.step(f"scores {past}"):
                own = query[mine], key[mine], value[mine]
                scores = cached_scores(keys, values, own, past, session)
            with channel.step(f"context {past}"):
                context = cached_context(values, weights[mine], past, session)
            for name, cost in (("scores", cached_scores_cost), ("context", cached_context_cost)):
                declared = cost(sizes, past, n, BITS, modulus)
                assert channel.traffic(f"{name} {past}") == declared.traffic
                assert declared.failure_probability == 0
            results.append((scores, context))
            past += n
        return results

    client, server, _ = run_both(role)
    return [
        [reals(pair) for pair in zip(*both, strict=True)]
        for both in zip(client, server, strict=True)
    ]


def check(sizes, passes, seed=0, modulus=WORDS):
    prefix, rows = conversation(sizes, passes, np.random.default_rng(seed))
    found = converse(sizes, prefix, rows, modulus=modulus)
    plain = expected(sizes, prefix, rows)
    assert len(found) == len(passes)
    for got, wanted in zip(found, plain, strict=True):
        for ours, theirs in zip(got, wanted, strict=True):
            # Roundings of the operands, and up to two units of the way back.
            assert ours.shape == theirs.shape
            assert np.abs(ours - theirs).max() < (2 + 12 * theirs.shape[-1] * sizes.size) / 2**BITS


@pytest.mark.parametrize("modulus", [WORDS, PRIME], ids=["words", "prime"])
@pytest.mark.parametrize(
    ("sizes", "passes"),
    [
        (SIZES, (4, 1, 1)),
        (SIZES, (1,) * 6),
        (SIZES, (2, 3, 1)),
        (CacheSizes(3, 1, 8, 0, 5), (5,)),
        (CacheSizes(3, 1, 8, 0, 1), (1,)),
        (CacheSizes(1, 3, 2, 7, 9), (3, 1)),
    ],
)
def test_passes_against_plain_products(sizes, passes, modulus):
    check(sizes, passes, modulus=modulus)


@settings(max_examples=15, deadline=None)
@given(
    st.tuples(*[st.integers(1, 3)] * 3, st.integers(0, 4)),
    st.lists(st.integers(1, 4), min_size=1, max_size=4),
    st.integers(0, 2),
    st.sampled_from([WORDS, PRIME]),
)
def test_any_sizes_and_passes(shape, passes, spare, modulus):
    check(CacheSizes(*shape, sum(passes) + spare), passes, seed=spare, modulus=modulus)


@pytest.mark.parametrize("sizes", [SIZES, CacheSizes(1, 2, 3, 0, 4), CacheSizes(2, 1, 2, 3, 1)])
def test_whole_masks_are_made_causal(sizes):
    rng = SecureRandom()
    a, b = (rng.uint64(shape) for shape in sizes.context_shapes)
    whole = [split(part) for part in (a, b, ring_matmul(a, b))]

    def role(channel):
        session = quick_session(channel, OtCount())
        with channel.step("causal"):
            found = made_causal(sizes, tuple(part[channel.party] for part in whole), session)
        assert channel.traffic("causal") == made_causal_cost(sizes).traffic
        return found

    client, server, _ = run_both(role)
    left, right, products = (x + y for x, y in zip(client, server, strict=True))
    seen = sizes.visible(0, sizes.capacity)
    assert np.array_equal(left, np.where(seen, a, 0))
    assert np.array_equal(right, b)
    assert np.array_equal(products, ring_matmul(left, b))
    for share in (client[0], server[0]):
        assert not share[:, ~seen].any()


def test_what_travels_is_uniform_and_fresh_in_every_conversation():
    sizes = CacheSizes(2, 2, 64, 8, 24)
    prefix, rows = conversation(sizes, (20, 1, 3), np.random.default_rng(1))
    sent = []

    def watch(channel):
        # A party's shares of public rows are its own: at the client, nothing but masks.
        if channel.party is Party.CLIENT:
            send = channel.exchange_array

            def exchange(array):
                sent[-1].append(array.copy())
                return send(array)

            channel.exchange_array = exchange

    for _ in range(2):
        sent.append([])
        converse(sizes, prefix, rows, watch)
    first, second = (np.concatenate(messages) for messages in sent)
    for seen in (first, second, first - second):
        assert looks_uniform(seen)
    assert not np.intersect1d(first, second).size
    assert len(np.unique(first)) == first.size


def test_no_mask_serves_twice():
    """What opens over a conversation of zeros are the masks: each one other than all others."""
    prefix, rows = conversation(SIZES, (2, 1, 3), np.random.default_rng(2))
    prefix, rows = ([0 * p for p in prefix], [tuple(0 * x for x in row) for row in rows])
    opened = []

    def watch(channel):
        if channel.party is Party.SERVER:
            exchange = channel.exchange_array

            def both(array):
                theirs = exchange(array)
                opened.append(array + theirs)
                return theirs

            channel.exchange_array = both

    found = converse(SIZES, prefix, rows, watch)
    assert max(np.abs(part).max() for pair in found for part in pair) <= 2**-BITS
    masks = np.concatenate(opened)
    assert len(np.unique(masks)) == masks.size
    whole = sum(np.prod(shape) for shape in SIZES.score_shapes) + np.prod(SIZES.context_shapes[1])
    assert masks.size == whole + SIZES.visible_count(0, 6)


def test_residues_open_uniform_and_once(monkeypatch):
    """Modulo a prime: what either party sends, and masks that no two numbers share."""
    sent, sums, opened = {party: [] for party in Party}, [], PrimeModulus.opened

    def watched(self, shares, session):
        sent[session.party].extend(share.ravel() for share in shares)
        found = opened(self, shares, session)
        if session.party is Party.SERVER:
            sums.extend(part.ravel() for part in found)
        return found

    monkeypatch.setattr(PrimeModulus, "opened", watched)
    sizes = CacheSizes(2, 2, 64, 8, 24)
    prefix, rows = conversation(sizes, (20, 1, 3), np.random.default_rng(3))
    prefix, rows = [0 * p for p in prefix], [tuple(0 * x for x in row) for row in rows]
    converse(sizes, prefix, rows, modulus=PRIME)
    whole = sum(np.prod(shape) for shape in sizes.score_shapes) + np.prod(sizes.context_shapes[1])
    for numbers in (*(np.concatenate(part) for part in sent.values()), np.concatenate(sums)):
        assert numbers.max() < PRIME.modulus
        low = np.frombuffer(pack_bits(numbers[: numbers.size // 8 * 8], 40), np.uint64)
        assert looks_uniform(low)
        assert len(np.unique(numbers)) == numbers.size == whole + sizes.visible_count(0, 24)


class StopError(Exception):
    pass


def stopping(channel):
    def stop(_array):
        raise StopError

    channel.exchange_array = stop


def alone(role, sizes=SIZES):
    """One party, whose peer says nothing."""
    made = correlations(sizes)

    def inside(channel):
        if channel.party is Party.CLIENT:
            role(channel, quick_session(channel, OtCount()), *caches(sizes, made, channel.party))

    run_both(inside)


def zeros(sizes, n, past=0):
    g, h, s = sizes.kv_heads, sizes.group, sizes.size
    weights = np.zeros((g, n * h, sizes.prefix + past + n), np.uint64)
    return [np.zeros((g, m, s), np.uint64) for m in (n * h, n, n)], weights


NO_PREFIX = CacheSizes(2, 2, 4, 0, 6)


def test_masks_are_gone_before_anything_is_sent():
    def role(channel, session, keys, values):
        stopping(channel)
        rows, weights = zeros(NO_PREFIX, 2)
        with pytest.raises(StopError):
            cached_scores(keys, values, rows, 0, session)
        assert (keys.length, keys.used, values.length) == (2, 2, 2)
        with pytest.raises(UsageError, match="layer0: a pass after 0 .* start a new conversation"):
            cached_scores(keys, values, rows, 0, session)
        # Whoever goes on as if the pass had ended gets no results from what was never opened.
        with pytest.raises(StopError):
            cached_context(values, weights, 0, session)
        with pytest.raises(UsageError, match="broke off"):
            cached_scores(keys, values, zeros(NO_PREFIX, 1, 2)[0], 2, session)
        with pytest.raises(UsageError, match="broke off"):
            keys.answer(np.zeros((2, 4, 4), np.uint64))
        assert channel.total.client_frames == 0

    alone(role, NO_PREFIX)


def test_probabilities_have_one_mask_each():
    def role(channel, session, _keys, values):
        values.keep(values.hide(np.zeros((2, 2, 4), np.uint64)))
        stopping(channel)
        _, weights = zeros(NO_PREFIX, 2)
        with pytest.raises(StopError):
            cached_context(values, weights, 0, session)
        assert values.used == 2
        with pytest.raises(UsageError, match="none can be repeated"):
            cached_context(values, weights, 0, session)
        values.answer(np.zeros_like(weights))
        with pytest.raises(UsageError, match="broke off"):
            values.answer(np.zeros_like(weights))

    alone(role, NO_PREFIX)


def test_room_and_order_and_shapes():
    def role(_channel, session, keys, values):
        with pytest.raises(UsageError, match="masks are left for 6; .* with more room"):
            cached_scores(keys, values, zeros(NO_PREFIX, 7)[0], 0, session)
        with pytest.raises(UsageError, match="a pass after 2 shared positions; the cache holds 0"):
            cached_scores(keys, values, zeros(NO_PREFIX, 1)[0], 2, session)
        with pytest.raises(UsageError, match="layer0: a pass after 0"):
            cached_context(values, zeros(NO_PREFIX, 1)[1], 0, session)
        with pytest.raises(UsageError, match=r"rows of shape \(2, 1, 5\)"):
            keys.hide(np.zeros((2, 1, 5), np.uint64))
        with pytest.raises(UsageError, match=r"rows of shape \(2, 2, 5\)"):
            keys.ask(np.zeros((2, 2, 5), np.uint64))
        assert keys.length == keys.used == 0

    alone(role, NO_PREFIX)
