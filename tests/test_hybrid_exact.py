"""Exact products between two parties: results, exact traffic, pads for single tokens."""

from functools import lru_cache
from threading import Lock

import numpy as np
import pytest

from he_linear.exact.ring_encryption import signed
from he_linear.exact.ring_keys import RingClientKeys, RingServerKeys
from he_linear.exact.ring_parameters import RING_SETS
from he_linear.kernels.ring_words import ring_matmul
from he_linear.packings.coefficients import RING_LINEAR_PACKINGS, CoefficientsPacking
from he_linear.packings.coefficients_product import RING_PRODUCT_PACKINGS
from hybrid.operators.exact_products import (
    ExactWeights,
    RingClient,
    RingServer,
    exact_linear,
    exact_linear_prepared,
    exact_matmul,
    exact_traffic,
    prepare_rows,
    prepared_traffic,
)
from mpc_nonlinear.blocks.truncate import truncate, truncate_cost
from tests.he_setup import looks_uniform
from tests.ot_sources import quick_session
from transport.errors import UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

SMALL, SMALL_L40 = RING_SETS["n4096_l64"], RING_SETS["n4096_l40"]
WIDE = RING_SETS["n8192_l64_q180"]
rng = SecureRandom()
_KEYS_LOCK = Lock()


@lru_cache(maxsize=8)
def _made_keys(parameters, automorphisms):
    client = RingClientKeys(parameters, automorphisms, SecureRandom())
    return client, RingServerKeys.parse(parameters, client.public_bytes(), automorphisms)


def party(channel, packing):
    with _KEYS_LOCK:
        client, server = _made_keys(packing.parameters, packing.automorphisms)
    if channel.party is Party.CLIENT:
        return RingClient(client, SecureRandom())
    return RingServer(server, SecureRandom())


def split(x):
    first = rng.uint64(x.shape)
    return first, x - first


def small_integers(shape, bits):
    return signed(rng.uint64(shape), bits)


def run_step(role):
    def inside(channel):
        with channel.step("test"):
            return role(channel)

    client, server, channel = run_both(inside)
    return client, server, channel.traffic("test")


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 40, 33), (33, 70, 20)])
@pytest.mark.parametrize("cls", RING_LINEAR_PACKINGS)
def test_linear(cls, shape):
    packing = cls(WIDE, *shape)
    x, w = rng.uint64(shape[:2]), small_integers(shape[1:], 64)
    pair = split(x)
    weights = ExactWeights.encode(w, packing)

    def role(channel):
        own = weights if channel.party is Party.SERVER else None
        return exact_linear(pair[channel.party], packing, party(channel, packing), channel, own)

    client, server, traffic = run_step(role)
    assert (client + server == ring_matmul(x, w.view(np.uint64))).all()
    assert traffic == exact_traffic(packing)
    assert (traffic.client_payload_bytes, traffic.server_payload_bytes, traffic.rounds) == (
        packing.upload_bytes,
        packing.download_bytes,
        2,
    )


@pytest.mark.parametrize(
    ("cls", "parameters", "shape"),
    [(cls, WIDE, (3, 6, 5, 7)) for cls in RING_PRODUCT_PACKINGS]
    + [(cls, RING_SETS["n8192_l40"], (5, 9, 17, 3)) for cls in RING_PRODUCT_PACKINGS]
    + [(RING_PRODUCT_PACKINGS[0], SMALL_L40, (2, 1, 33, 20))],
)
def test_products_of_shared_matrices(cls, parameters, shape):
    batch, rows, inner, columns = shape
    packing = cls(parameters, *shape)
    a, b = rng.uint64((batch, rows, inner)), rng.uint64((batch, inner, columns))
    pairs = split(a), split(b)

    def role(channel):
        own = [pair[channel.party] for pair in pairs]
        return exact_matmul(*own, packing, party(channel, packing), channel)

    client, server, traffic = run_step(role)
    away = signed(client + server - ring_matmul(a, b), parameters.plain_bits)
    assert np.abs(away).max() <= 1
    assert (away != 0).sum() <= 4 + 2 * packing.off_by_one_probability() * away.size
    assert traffic == exact_traffic(packing)
    for share in (client, server):
        assert int(share.max()) >> parameters.plain_bits == 0


def test_a_linear_layer_and_its_truncation():
    bits = 12
    packing = CoefficientsPacking(SMALL, 4, 60, 10)
    reals = np.random.default_rng(0).normal(size=(4, 60))
    weight = np.random.default_rng(1).normal(0, 0.1, (60, 10))
    x = np.rint(reals * 2**bits).astype(np.int64).view(np.uint64)
    pair, integers = split(x), np.rint(weight * 2**bits).astype(np.int64)
    weights = ExactWeights.encode(integers, packing)
    assert packing.off_by_one_probability(weights.square_sum) < 2**-13
    cost = truncate_cost(40, bits)

    def role(channel):
        session = quick_session(channel, cost.ots)
        own = weights if channel.party is Party.SERVER else None
        with channel.step("run"):
            doubled = exact_linear(
                pair[channel.party], packing, party(channel, packing), channel, own
            )
            return truncate(doubled, bits, session)

    client, server, channel = run_both(role)
    got = (client + server).view(np.int64)
    expected = x.view(np.int64) @ integers
    assert np.abs(got - expected / 2**bits).max() < 1 + 2**-10
    assert channel.traffic("run") == exact_traffic(packing) + cost.traffic


# -- pads for single tokens --------------------------------------------------------------


class StopError(Exception):
    pass


def prepared(tokens, d_in, d_out, online):
    """Prepare pads, then call online(channel, pads, weights) under a step of its own."""
    packing = CoefficientsPacking(SMALL, tokens, d_in, d_out)
    w = small_integers((d_in, d_out), 14)
    weights = ExactWeights.encode(w, packing)

    def role(channel):
        own = weights if channel.party is Party.SERVER else None
        with channel.step("offline"):
            pads = prepare_rows(packing, party(channel, packing), channel, own, layer="layer 0")
        with channel.step("online"):
            return online(channel, pads, own)

    client, server, channel = run_both(role)
    assert channel.traffic("offline") == exact_traffic(packing)
    return client, server, channel.traffic("online"), w


def test_prepared_tokens():
    tokens, d_in, d_out = 5, 70, 33
    x = rng.uint64((tokens, d_in))
    pair = split(x)

    def online(channel, pads, weights):
        rows = zip(pair[channel.party], pads, strict=True)
        return np.stack([exact_linear_prepared(row, pad, channel, weights) for row, pad in rows])

    client, server, traffic, w = prepared(tokens, d_in, d_out, online)
    away = (client + server - ring_matmul(x, w.view(np.uint64))).view(np.int64)
    assert np.abs(away).max() <= 1
    assert (away != 0).sum() <= 4
    # The client's sends back to back are rounds of their own by declaration.
    assert traffic == prepared_traffic(d_in) * tokens
    assert traffic.client_payload_bytes == 8 * tokens * d_in
    assert traffic.server_payload_bytes == 0


def test_what_travels_online_is_uniform_and_fresh():
    d_in, seen = 3000, []

    def online(channel, pads, weights):
        if channel.party is Party.CLIENT:
            send = channel.send_array
            channel.send_array = lambda array: (seen.append(array.copy()), send(array))
        zero = np.zeros(d_in, np.uint64)
        return [exact_linear_prepared(zero, pad, channel, weights) for pad in pads]

    client, server, *_ = prepared(2, d_in, 3, online)
    assert np.abs((client[0] + server[0]).view(np.int64)).max() <= 1
    for words in (*seen, seen[0] - seen[1]):
        assert looks_uniform(words)


def test_a_pad_serves_once():
    def online(channel, pads, weights):
        zero = np.zeros(4, np.uint64)
        exact_linear_prepared(zero, pads[0], channel, weights)
        before = channel.total
        with pytest.raises(UsageError, match="layer 0: its pad was used already"):
            exact_linear_prepared(zero, pads[0], channel, weights)
        assert channel.total == before

    prepared(2, 4, 3, online)


def test_a_pad_is_consumed_before_anything_is_sent():
    def online(channel, pads, _weights):
        def stop(_array):
            raise StopError

        if channel.party is Party.CLIENT:
            channel.send_array = stop
            with pytest.raises(StopError):
                exact_linear_prepared(np.zeros(4, np.uint64), pads[0], channel)
            with pytest.raises(UsageError, match="used already"):
                pads[0].take()

    prepared(2, 4, 3, online)


def test_an_input_that_does_not_fit_burns_its_pad_and_sends_nothing():
    def online(channel, pads, _weights):
        if channel.party is Party.CLIENT:
            with pytest.raises(UsageError, match=r"input of shape \(5,\)"):
                exact_linear_prepared(np.zeros(5, np.uint64), pads[0], channel)
        assert channel.total.client_frames == 1

    prepared(2, 4, 3, online)


def test_pads_need_the_whole_word():
    packing = CoefficientsPacking(SMALL_L40, 2, 4, 3)

    def role(channel):
        with pytest.raises(UsageError, match="40 bits; choose a set of 64 bits"):
            prepare_rows(packing, party(channel, packing), channel)

    run_both(role)


def test_the_server_brings_its_weights():
    packing = CoefficientsPacking(SMALL, 2, 4, 3)

    def role(channel):
        if channel.party is Party.SERVER:
            with pytest.raises(UsageError, match="passes its weights"):
                exact_linear(np.zeros((2, 4), np.uint64), packing, party(channel, packing), channel)

    run_both(role)
