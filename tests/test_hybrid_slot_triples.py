"""Triples made in exact slots between two parties: values, traffic, noise, masks, the binding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from he_linear.exact.slot_encryption import slot_encrypt, slot_mask_for_client, slot_parse
from he_linear.packings.element_triples import ElementTriplesPacking
from he_linear.packings.exact_rows import Room
from he_linear.packings.scaled_rows import ScaledRowsPacking
from hybrid.operators import slot_triples
from hybrid.operators.exact_rows import RowsClient, RowsServer
from hybrid.operators.slot_triples import make_triples, stored_part, triples_cost
from hybrid.planning.binding import _products
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.correlations import SoftSpokenSource
from mpc_nonlinear.correlations.dealt import (
    element_kind,
    prime_cross_kind,
    prime_scaled_row_kind,
    prime_square_kind,
    prime_triple_kind,
)
from mpc_nonlinear.correlations.preprocessing import Prepared
from mpc_nonlinear.cost import NO_COST, Demand, OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from tests.he_setup import looks_uniform
from tests.ot_sources import InsecureLocalSource, quick_session, run_misbehaving, stocked
from tests.parties import DEEP, PARAMETERS
from tests.rows_setup import N, P, T, made_keys, messages_and_noise, uniform_residues
from transport.errors import FrameError, ParameterError, UsageError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

made_keys(())
"""Here once, not by both parties' threads."""
TRIPLE, SQUARE = prime_triple_kind(T), prime_square_kind(T)


def party(channel):
    client, server = made_keys(())
    if channel.party is Party.CLIENT:
        return RowsClient(client, SecureRandom())
    return RowsServer(server, SecureRandom(), Room())


def made(demand):
    """Both parties' arrays by kind."""

    def role(channel):
        prepared = Prepared(stocked(InsecureLocalSource(channel.party), OtCount(), channel))
        with channel.step("made"):
            make_triples(demand, party(channel), channel, prepared)
        assert prepared.stock() == stored_part(demand)
        return {kind: prepared.dealt(kind, n) for kind, n in stored_part(demand).counts}

    client, server, channel = run_both(role)
    assert channel.traffic("made") == triples_cost(demand).traffic
    return client, server


def require_true(client, server):
    for kind, own in client.items():
        sums = [(x + y) % np.uint64(T) for x, y in zip(own, server[kind], strict=True)]
        exact = sums[0].astype(object) * sums[-2] % T
        assert (sums[-1].astype(object) == exact).all()


@pytest.mark.parametrize("triples,squares", [(1, 0), (0, 7), (N, 1), (N + 1, N - 1)])
def test_triples_are_true_for_any_amount(triples, squares):
    client, server = made(Demand.of(TRIPLE, triples) + Demand.of(SQUARE, squares))
    assert {kind.form: len(own[0]) for kind, own in client.items()} == {
        kind.form: n for kind, n in ((TRIPLE, triples), (SQUARE, squares)) if n
    }
    require_true(client, server)


@pytest.mark.parametrize("count", [1, N, N + 3])
def test_products_of_each_partys_own_numbers_are_true(count):
    kind = prime_cross_kind(T)
    client, server = made(Demand.of(kind, count) + Demand.of(SQUARE, 2))
    (u, first), (v, second) = client.pop(kind), server.pop(kind)
    assert len(u) == count
    assert np.array_equal((first + second) % np.uint64(T), (u.astype(object) * v % T))
    for numbers in (u, v, first, second):
        assert count < 100 or looks_uniform((numbers << np.uint64(20)) | numbers >> np.uint64(24))
    require_true(client, server)


def require_true_rows(client, server):
    for kind, own in client.items():
        a, b, product, squares = (
            (x.astype(object) + y) % T for x, y in zip(own, server[kind], strict=True)
        )
        assert a.shape == product.shape == (len(b), kind.width)
        assert (product == a * b[:, None] % T).all()
        assert (squares == (a**2).sum(-1) % T).all()


@pytest.mark.parametrize(
    "rows,width", [(1, 1), (3, 7), (1, N + 1), (15, 576), (N, 1), (N // 2 + 1, 3), (61, 64)]
)
def test_scaled_rows_are_true_for_any_amount(rows, width):
    require_true_rows(*made(Demand.of(prime_scaled_row_kind(T, width), rows)))


def test_scaled_rows_of_two_widths_go_in_frames_of_whole_rows(monkeypatch):
    monkeypatch.setattr(slot_triples, "_ROW_BLOCKS", 2)
    wide, narrow = (prime_scaled_row_kind(T, width) for width in (N - 1, 9))
    demand = Demand.of(wide, 5) + Demand.of(narrow, 2)
    traffic = triples_cost(demand).traffic
    assert (traffic.client_frames, traffic.server_frames, traffic.rounds) == (4, 4, 2)
    require_true_rows(*made(demand))


def test_scaled_rows_take_less_than_triples_and_squares_for_the_same():
    rows = triples_cost(Demand.of(prime_scaled_row_kind(T, 576), 113))
    others = triples_cost(Demand.of(TRIPLE, 113 * 576) + Demand.of(SQUARE, 113 * 576))
    assert rows.traffic.sent_bytes < 0.5 * others.traffic.sent_bytes
    assert rows.failure_probability < others.failure_probability


@pytest.mark.parametrize("rows,most", [(1, 57), (61, 39), (455, 29), (3904, 28)])
def test_a_number_of_scaled_rows_takes_one_ciphertext_each_way(rows, most):
    cost = triples_cost(Demand.of(prime_scaled_row_kind(T, 576), rows))
    slots = -(-rows * 576 // N) * N
    assert cost.traffic.sent_bytes < most * slots


@settings(max_examples=50, deadline=None)
@given(st.integers(1, N), st.integers(1, 2 * N))
def test_every_number_of_a_row_has_a_slot_of_its_own(rows, width):
    packing = ScaledRowsPacking(P, rows, width)
    assert packing.rows * packing.columns <= N
    empty = packing.blocks * packing.columns - width
    # What draws know of: slots without a number are in the last ciphertext alone.
    assert 0 <= empty < packing.columns


def test_more_rows_than_slots_are_refused():
    with pytest.raises(UsageError, match=f"scaled rows: {N + 1} rows; a ciphertext has {N}"):
        ScaledRowsPacking(P, N + 1, 1)


def test_many_go_in_frames(monkeypatch):
    monkeypatch.setattr(slot_triples, "_BLOCKS", 1)
    demand = Demand.of(TRIPLE, 2 * N + 5) + Demand.of(SQUARE, 3)
    traffic = triples_cost(demand).traffic
    assert (traffic.client_frames, traffic.server_frames, traffic.rounds) == (4, 4, 2)
    require_true(*made(demand))


def test_other_correlations_are_left_to_their_makers():
    dealt = Demand.of(element_kind(), 5)
    assert triples_cost(dealt) == NO_COST
    assert stored_part(dealt + Demand.of(SQUARE, 2)) == Demand.of(SQUARE, 2)
    assert made(dealt) == ({}, {})
    with pytest.raises(ParameterError, match="triples modulo 97: the keys are for"):
        triples_cost(Demand.of(prime_triple_kind(97), 1))


def test_declared_cost():
    one = triples_cost(Demand.of(TRIPLE, 1))
    assert one.traffic.client_payload_bytes == 32 + 2 * N * 103 // 8
    assert one.traffic.server_payload_bytes == 32 + N * 56 // 8
    assert triples_cost(Demand.of(TRIPLE, N)).traffic == one.traffic
    million = triples_cost(Demand.of(TRIPLE, 1 << 20))
    assert million.traffic.client_frames == 16
    assert 0 < million.failure_probability < 2.0**-80
    assert 0 < one.failure_probability < 2.0**-36
    counted = dict(million.work.counted())
    assert counted["slot_encrypt/8192x3"] == 2 * counted["slot_mask/8192x3"] == 256
    assert counted["prime_multiply_add"] == 2 << 20


# -- the packing ---------------------------------------------------------------------------


@pytest.mark.parametrize("squares", [False, True])
def test_noise_is_what_is_declared(squares):
    packing = ElementTriplesPacking(P, N + 1, squares=squares)
    client, _ = made_keys(())
    message, drawn = slot_encrypt(packing.input_ciphertexts, client, SecureRandom())
    assert len(message) == packing.upload_bytes
    ciphertexts = slot_parse(message, packing.input_ciphertexts, P)
    own = packing.draw(SecureRandom())
    results = np.concatenate(list(packing.stream(ciphertexts, own)))
    values, noise = messages_and_noise(results, client)
    assert 0.9 < noise.std() / packing.noise_std < 1.1
    # Bits between the noise and half of Q / t, beyond which a result is wrong.
    assert np.log2(float(P.modulus) / (2 * T) / np.abs(noise).max()) > 49
    mine, theirs = packing.operands_of(drawn), packing.operands_of(own)
    exact = mine[0].astype(object) * theirs[-1] + mine[-1].astype(object) * theirs[0]
    assert (packing.numbers(values).astype(object) == exact % T).all()


def test_extreme_operands_are_exact():
    packing = ElementTriplesPacking(P, N)
    client, server = made_keys(())
    message, drawn = slot_encrypt(2, client, SecureRandom())
    ciphertexts = slot_parse(message, 2, P)
    for value in (0, 1, T // 2, T // 2 + 1, T - 1):
        own = np.full((2, N), value, np.uint64)
        results = list(packing.stream(ciphertexts, own))
        (values, _) = messages_and_noise(np.concatenate(results), client)
        mine, theirs = packing.operands_of(drawn), packing.operands_of(own)
        exact = mine[0].astype(object) * theirs[1] + mine[1].astype(object) * theirs[0]
        assert (packing.numbers(values).astype(object) == exact % T).all()
        answer, _ = slot_mask_for_client(results, server, SecureRandom())
        assert len(answer) == packing.download_bytes


@pytest.mark.parametrize("rows,width", [(15, 576), (300, 576)])
def test_noise_of_scaled_rows_is_what_is_declared(rows, width):
    packing = ScaledRowsPacking(P, rows, width)
    client, _ = made_keys(())
    message, drawn = slot_encrypt(packing.input_ciphertexts, client, SecureRandom())
    assert len(message) + packing.difference_bytes == packing.upload_bytes
    ciphertexts = slot_parse(message, packing.input_ciphertexts, P)
    own, b = packing.draw(SecureRandom())
    values, noise = messages_and_noise(
        np.concatenate(list(packing.stream(ciphertexts, own))), client
    )
    assert 0.9 < noise[:-1].std() / packing.noise_std < 1.1
    assert 0.9 < noise[-1].std() / packing.sum_noise_std < 1.1
    assert np.log2(float(P.modulus) / (2 * T) / np.abs(noise).max()) > 47
    assert (packing.columns_of(own[-1:]) == b[:, None]).all() and len(set(b.tolist())) == rows
    mine, theirs = (packing.numbers(part[:-1]).astype(object) for part in (drawn, own))
    held = packing.repeated(packing.columns_of(drawn[-1:]))
    exact = mine * b[:, None] + held.astype(object) * theirs
    assert (packing.numbers(values[:-1]).astype(object) == exact % T).all()
    squares = packing.columns_of(values[-1:]).astype(object).sum(-1) % T
    assert (squares == (mine * theirs).sum(-1) % T).all()


def test_declared_probability_covers_every_ciphertext():
    small, large = ElementTriplesPacking(P, N), ElementTriplesPacking(P, 3 * N + 1)
    assert small.wrong_probability < 2.0**-85
    assert large.wrong_probability == 4 * small.wrong_probability
    assert (large.input_ciphertexts, large.output_ciphertexts) == (8, 4)
    with pytest.raises(UsageError):
        ElementTriplesPacking(P, 0)


# -- what the parties hold and see -----------------------------------------------------------


def test_every_share_is_uniform_and_fresh():
    demand = Demand.of(TRIPLE, N) + Demand.of(SQUARE, N)
    first, second = made(demand), made(demand)
    for role in Party:
        for kind, parts in first[role].items():
            for part, again in zip(parts, second[role][kind], strict=True):
                assert uniform_residues(part)
                assert uniform_residues((part + np.uint64(T) - again) % np.uint64(T))


def test_shares_of_scaled_rows_and_differences_are_uniform_and_fresh():
    kind = prime_scaled_row_kind(T, 64)
    first, second = made(Demand.of(kind, 200)), made(Demand.of(kind, 200))
    for role in Party:
        for part, again in zip(first[role][kind], second[role][kind], strict=True):
            assert not np.isin(part, again).any()
            if part.ndim == 2:
                assert uniform_residues(part.reshape(-1))
    packing, (client, _) = ScaledRowsPacking(P, 200, 64), made_keys(())
    factors = packing.draw_factors(SecureRandom())
    sent = []
    for _ in range(2):
        _, drawn = slot_encrypt(packing.input_ciphertexts, client, SecureRandom())
        data = packing.differences(factors, packing.columns_of(drawn[-1:]))
        sent.append(packing.parse_differences(data).reshape(-1))
    # Even of one and the same factor.
    assert all(
        uniform_residues(part)
        for part in (*sent, (sent[0] + np.uint64(T) - sent[1]) % np.uint64(T))
    )
    assert not (sent[0] == sent[1]).any()


def test_differences_that_are_none_are_refused():
    packing = ScaledRowsPacking(P, 2, 3)
    with pytest.raises(FrameError, match=r"scaled rows: got 1 bytes, expected 33"):
        packing.parse_differences(b"x")
    with pytest.raises(FrameError, match="a word exceeds the prime"):
        packing.parse_differences(b"\xff" * packing.difference_bytes)


def test_answers_differ_for_the_same_question():
    client, server = made_keys(())
    packing = ElementTriplesPacking(P, N, squares=True)
    message, _ = slot_encrypt(1, client, SecureRandom())
    ciphertexts, own = slot_parse(message, 1, P), packing.draw(SecureRandom())
    answers = [
        slot_mask_for_client(packing.stream(ciphertexts, own), server, SecureRandom())[0][32:]
        for _ in range(2)
    ]
    words = [np.frombuffer(a[: 8 * N], np.uint64) for a in answers]
    assert all(looks_uniform(w) for w in (*words, words[0] - words[1]))


def test_short_frames_are_refused_and_nothing_is_stored():
    def role(channel):
        if channel.party is Party.CLIENT:
            channel.next_round()
            channel.send(b"short")
            return
        prepared = Prepared(InsecureLocalSource(channel.party))
        with pytest.raises(FrameError):
            make_triples(Demand.of(SQUARE, 1), party(channel), channel, prepared)
        assert not prepared.stock().counts

    run_misbehaving(role)


# -- products on them --------------------------------------------------------------------------


def test_products_on_triples_from_slots():
    engine, fixed = PrimeProducts(16, T), FixedPoint(16)
    rng = np.random.default_rng(1)
    x, y = (fixed.encode(rng.uniform(-30, 30, 700)) for _ in range(2))
    bounds = Bounds(30.0, 30.0, 900.0, 0, 900.0)
    cost = engine.multiply_cost(x.size, bounds) + engine.square_cost(x.size, bounds)
    first = SecureRandom().uint64((2, x.size))
    pairs = first, np.stack([x, y]) - first

    def role(channel):
        session = quick_session(channel, cost.ots, products=engine)
        make_triples(cost.demand, party(channel), channel, session.prepared)
        own = pairs[channel.party]
        with channel.step("online"):
            both = engine.multiply(*own, session, bounds), engine.square(own[0], session, bounds)
        assert not session.prepared.stock().counts
        return both

    client, server, channel = run_both(role)
    assert channel.traffic("online") == cost.traffic
    for got, exact in zip(
        (a + b for a, b in zip(client, server, strict=True)),
        (fixed.decode(x) * fixed.decode(y), fixed.decode(x) ** 2),
        strict=True,
    ):
        assert np.abs(fixed.decode(got) - exact).max() * 2**16 < 1.26


def test_only_a_run_that_makes_them_multiplies_by_triples():
    bound = [
        _products(PARAMETERS, DEEP, FixedPoint(16), SoftSpokenSource, exact=False, **more)
        for more in ({}, {"slot_triples": True})
    ]
    assert list(bound[0]) == ["ckks", "ot", "cheapest"]
    assert list(bound[1]) == ["ckks", "ot", "cheapest", "slot_triples"]
    assert isinstance(bound[1]["slot_triples"], PrimeProducts)
    assert len(bound[1]["cheapest"]._choices) == 2
