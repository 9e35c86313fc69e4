"""Rows prepared by exact slots between two parties: pads, the online product, the way back."""

from functools import lru_cache
from threading import Lock

import numpy as np
import pytest

from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.exact.slot_parameters import SLOT_SETS
from he_linear.kernels.row_products import IntegerMatrix
from he_linear.packings.exact_rows import ExactRowsPacking
from he_linear.packings.row_blocks import Room
from hybrid.operators.exact_rows import (
    RowsClient,
    RowsServer,
    check_rows_range,
    prepare_cost,
    prepare_rows,
    prepare_traffic,
    rows_error_units,
    rows_online_cost,
    rows_product_online,
    rows_product_traffic,
    rows_result,
)
from hybrid.operators.pads import LinearPad
from mpc_nonlinear.blocks.prime_shares import from_prime_limit
from tests.he_setup import looks_uniform
from tests.ot_sources import quick_session, run_misbehaving
from transport.bitpack import pack_bits, unpack_bits
from transport.errors import FrameError, ParameterError, UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

P = SLOT_SETS["n8192_t44"]
T, BITS = P.plain_prime, P.plain_bits
SHIFT = 14
_KEYS_LOCK = Lock()


class StopError(Exception):
    pass


@lru_cache(maxsize=4)
def _made_keys(steps):
    client = ClientKeys.generate(P, steps, False, SecureRandom())
    return client, ServerKeys.parse(P, client.public_bytes(), steps, False)


def party(channel, packing):
    with _KEYS_LOCK:
        client, server = _made_keys(packing.galois_steps)
    if channel.party is Party.CLIENT:
        return RowsClient(client, SecureRandom())
    return RowsServer(server, SecureRandom(), Room())


def split(x):
    first = SecureRandom().uint64(x.shape)
    return first, x - first


def prepared(shape, weights, online, ots=None):
    """Prepare pads, then call online(channel, pads, weights, session) under a step of its own."""
    packing = ExactRowsPacking(P, *shape)
    matrix = IntegerMatrix.from_integers(weights)

    def role(channel):
        session = None if ots is None else quick_session(channel, ots)
        own = matrix if channel.party is Party.SERVER else None
        with channel.step("offline"):
            pads = prepare_rows(packing, party(channel, packing), channel, own, layer="layer 0")
        with channel.step("online"):
            return online(channel, pads, own, session)

    client, server, channel = run_both(role)
    assert channel.traffic("offline") == prepare_traffic(packing) == prepare_cost(packing).traffic
    assert (channel.traffic("offline").client_payload_bytes,
            channel.traffic("offline").server_payload_bytes,
            channel.traffic("offline").rounds) == (
        packing.upload_bytes, packing.download_bytes, 2)  # fmt: skip
    return client, server, channel.traffic("online")


@pytest.mark.parametrize("shape", [(1, 5, 3), (3, 100, 70), (2, 300, 130)])
def test_tokens_are_exact_and_truncated_within_the_declared_error(shape):
    tokens, d_in, d_out = shape
    rng = np.random.default_rng(d_in)
    weights = rng.integers(-(2**15), 2**15, (d_in, d_out))
    x = rng.integers(-(2**18), 2**18, (tokens, d_in)).view(np.uint64)
    x[0, ::3] = 0
    pair = split(x)
    cost = rows_online_cost(shape, P, 2.0, 16)

    def online(channel, pads, own, session):
        product = rows_product_online(pair[channel.party], pads, P, channel, own)
        return product, rows_result(product, P, SHIFT, session)

    (c, c64), (s, s64), traffic = prepared(shape, weights, online, cost.ots)
    assert traffic == cost.traffic
    assert cost.traffic.rounds == 2
    expected = x.view(np.int64) @ weights
    assert (((c + s) % np.uint64(T)).astype(np.int64) == expected % T).all()
    away = (c64 + s64).view(np.int64) - expected / 2**SHIFT
    assert np.abs(away).max() < rows_error_units(P, SHIFT) < 1.001


def test_results_at_zero_and_at_both_ends_of_the_range():
    limit = from_prime_limit(P.plain_prime, SHIFT)
    # One weight of 2^14: the result is the input, truncated back.
    weights = np.zeros((5, 5), np.int64)
    weights[np.arange(5), np.arange(5)] = 2**14
    x = np.array([[0, limit >> 14, -(limit >> 14), 1, -1]]).view(np.uint64)
    pair = split(x)
    cost = rows_online_cost((1, 5, 5), P, 1.0, 16)

    def online(channel, pads, own, session):
        product = rows_product_online(pair[channel.party], pads, P, channel, own)
        return rows_result(product, P, SHIFT, session)

    client, server, _ = prepared((1, 5, 5), weights, online, cost.ots)
    assert np.abs((client + server - x).view(np.int64)).max() <= 1


def test_declared_failures_and_ranges():
    cost = rows_online_cost((1, 576, 960), P, 4.0, 16)
    assert cost.failure_probability == 576 * 4.0 * 2.0**-48
    assert cost.ots.total == 960
    assert cost.traffic.client_payload_bytes == 576 * 44 // 8 + 960 // 8
    assert cost.traffic.server_payload_bytes == 960 * 8
    check_rows_range(4000.0, 30, P, SHIFT)
    with pytest.raises(ParameterError, match=r"room below 4096; use fewer bits"):
        check_rows_range(4096.0, 30, P, SHIFT)
    packing = ExactRowsPacking(P, 64, 576, 960)
    assert prepare_cost(packing).failure_probability == packing.wrong_probability < 2**-32


def sent_online(tokens, d_in):
    """What the client sends for zero inputs, as residues."""
    seen = []

    def online(channel, pads, own, _session):
        if channel.party is Party.CLIENT:
            send = channel.send
            channel.send = lambda data: (seen.append(unpack_bits(data, d_in, BITS)), send(data))
        zero = np.zeros((1, d_in), np.uint64)
        return [rows_product_online(zero, [pad], P, channel, own) for pad in pads]

    client, server, traffic = prepared((tokens, d_in, 3), np.ones((d_in, 3), np.int64), online)
    assert traffic == rows_product_traffic(d_in, P) * tokens
    assert not any(((c + s) % np.uint64(T)).any() for c, s in zip(client, server, strict=True))
    return seen


def test_what_travels_online_is_uniform_and_fresh():
    first, second = sent_online(2, 3000)
    for words in (first, second, (first + np.uint64(T) - second) % np.uint64(T)):
        assert int(words.max()) < T
        assert looks_uniform(words << np.uint64(20) | words & np.uint64(2**20 - 1))


def used_twice(channel, pads, own, _session):
    zero = np.zeros((1, 4), np.uint64)
    rows_product_online(zero, pads[:1], P, channel, own)
    before = channel.total
    with pytest.raises(UsageError, match="layer 0: its pad was used already"):
        rows_product_online(zero, pads[:1], P, channel, own)
    assert channel.total == before


def test_a_pad_serves_once():
    prepared((2, 4, 3), np.ones((4, 3), np.int64), used_twice)


def test_two_tokens_never_share_a_pad():
    def online(channel, pads, own, _session):
        before = channel.total
        with pytest.raises(UsageError, match="used already"):
            rows_product_online(np.zeros((2, 4), np.uint64), [pads[0]] * 2, P, channel, own)
        assert channel.total == before

    prepared((2, 4, 3), np.ones((4, 3), np.int64), online)


def test_a_pad_that_serves_twice_is_noticed(monkeypatch):
    monkeypatch.setattr(LinearPad, "take", lambda pad: pad._arrays)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test_a_pad_serves_once()


def test_a_pad_is_consumed_before_anything_is_sent():
    def online(channel, pads, _own, _session):
        def stop(_data):
            raise StopError

        if channel.party is Party.CLIENT:
            channel.send = stop
            with pytest.raises(StopError):
                rows_product_online(np.zeros((1, 4), np.uint64), pads[:1], P, channel)
            with pytest.raises(UsageError, match="used already"):
                pads[0].take()

    prepared((2, 4, 3), np.ones((4, 3), np.int64), online)


def test_an_input_that_does_not_fit_burns_its_pad_and_sends_nothing():
    def online(channel, pads, own, _session):
        with pytest.raises(UsageError, match=r"input of shape \(1, 5\); the pads are for \(1, 4\)"):
            rows_product_online(np.zeros((1, 5), np.uint64), pads[:1], P, channel, own)
        with pytest.raises(UsageError, match="used already"):
            pads[0].take()
        assert channel.total.client_frames == 1

    prepared((2, 4, 3), np.ones((4, 3), np.int64), online)


def test_words_above_the_plain_prime_are_refused():
    matrix = IntegerMatrix.from_integers(np.ones((2, 3), np.int64))

    def role(channel):
        if channel.party is Party.CLIENT:
            channel.next_round()
            channel.send(pack_bits(np.array([1, T], np.uint64), BITS))
            channel.send(b"too short")
            return
        for match in ("exceeds the plain prime", "sent 9 bytes where 11 were expected"):
            pad = LinearPad("layer 0", np.zeros(3, np.uint64))
            with pytest.raises(FrameError, match=match):
                rows_product_online(np.zeros((1, 2), np.uint64), [pad], P, channel, matrix)

    run_misbehaving(role)


def test_the_server_brings_its_weights():
    packing = ExactRowsPacking(P, 1, 4, 3)

    def role(channel):
        if channel.party is Party.SERVER:
            with pytest.raises(UsageError, match="passes its weights"):
                prepare_rows(packing, party(channel, packing), channel)
            pad = LinearPad("layer 0", np.zeros(3, np.uint64))
            with pytest.raises(UsageError, match="passes its weights"):
                rows_product_online(np.zeros((1, 4), np.uint64), [pad], P, channel)

    run_both(role)
