"""Rows in exact slots: parameters, kernels, encryption, the packing, noise, masks, SEAL."""

import math
import pickle
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import tenseal.sealapi as seal
from hypothesis import given, settings
from hypothesis import strategies as st

from he_linear.ckks.ciphertexts import parse_seeded
from he_linear.ckks.keys import ClientKeys, ServerKeys, galois_element
from he_linear.exact import slot_encryption
from he_linear.exact.plain_slots import coefficients_of, slots_of
from he_linear.exact.slot_encryption import (
    slot_encrypt,
    slot_encrypted_bytes,
    slot_mask_for_client,
    slot_masked_bytes,
    slot_parse,
    slot_unmask,
)
from he_linear.exact.slot_parameters import DROPPED_BITS, SLOT_SETS, SlotParameters
from he_linear.kernels import sampling
from he_linear.kernels.fused_sums import (
    MAX_FUSED_INNER,
    PANEL,
    key_products,
    multiply_blocks,
    panel_shape,
)
from he_linear.kernels.residues import add, from_centred, intt, multiply, ntt, to_centred
from he_linear.kernels.row_products import IntegerMatrix
from he_linear.kernels.wide_words import (
    add_wide,
    raised,
    rounded_multiple,
    subtract_wide,
)
from he_linear.kernels.workers import Workers
from he_linear.packings.exact_rows import ExactRowsPacking, Room
from tests.he_setup import looks_uniform
from transport.errors import FrameError, ParameterError, UsageError
from transport.randomness import SecureRandom

P = SLOT_SETS["n8192_t44"]
T, N = P.plain_prime, P.poly_degree
ROOM = Room()
rng = np.random.default_rng(5)


@lru_cache(maxsize=8)
def made_keys(steps):
    client = ClientKeys.generate(P, steps, False, SecureRandom())
    return client, ServerKeys.parse(P, client.public_bytes(), steps, False)


def evaluated(packing, weights):
    """Rows rho and the result's ciphertexts, before they are masked."""
    client, server = made_keys(packing.galois_steps)
    message, drawn = slot_encrypt(packing.input_ciphertexts, client, SecureRandom())
    assert len(message) == packing.upload_bytes
    ciphertexts = slot_parse(message, packing.input_ciphertexts, P)
    matrix = IntegerMatrix.from_integers(weights)
    groups = packing.stream(ciphertexts, matrix, server, ROOM)
    return packing.rows_in(drawn), np.concatenate(list(groups)), client, server


def trip(packing, weights):
    """Rows, both shares of their products, and the message that went back."""
    rho, results, client, server = evaluated(packing, weights)
    assert len(results) == packing.output_ciphertexts
    message, own = slot_mask_for_client([results], server, SecureRandom())
    assert len(message) == packing.download_bytes
    other = slot_unmask(message, packing.output_ciphertexts, client)
    return rho, packing.rows_out(own), packing.rows_out(other), message


def product(rho, weights):
    """rho W modulo t, by two limbs of 22 bits over 64-bit integers."""
    high, low = (rho >> np.uint64(22)).astype(np.int64), (rho & np.uint64(2**22 - 1)).astype(int)
    w = weights.astype(np.int64)
    return (((high @ w % T << 11) % T << 11) % T + low @ w) % T


def phase(ciphertexts, client):
    """C0 + c1 s, coefficients modulo Q as Python integers, of centred NTT (n, 2, primes, N)."""
    primes = P.primes
    residues = from_centred(ciphertexts, primes)
    total = add(residues[:, 0], multiply(residues[:, 1], client.secret_residues, primes), primes)
    return combined(intt(total, primes))


def combined(residues):
    q, total = P.modulus, 0
    for k, p in enumerate(P.primes):
        total = total + residues[:, k].astype(object) * (q // p * pow(q // p, -1, p))
    return total % q


def messages_and_noise(ciphertexts, client):
    """Polynomials modulo t, and noises: phase = round(Q m / t) + noise."""
    q, values = P.modulus, phase(ciphertexts, client)
    m = (2 * T * values + q) // (2 * q)
    noise = values - (2 * q * m + T) // (2 * T)
    return (m % T).astype(np.uint64), noise.astype(float)


# -- the packing -------------------------------------------------------------------------------

SHAPES = [(1, 1, 1), (1, 5, 3), (50, 100, 70), (64, 288, 480), (64, 384, 96), (50, 700, 130),
          (130, 70, 33), (256, 40, 45)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_exact(shape):
    packing = ExactRowsPacking(P, *shape)
    weights = rng.integers(-(2**15), 2**15, shape[1:])
    rho, own, other, _ = trip(packing, weights)
    assert rho.shape == shape[:2]
    assert rho.max() < T
    assert (((own + other) % np.uint64(T)).astype(np.int64) == product(rho, weights)).all()
    assert packing.wrong_probability < 2**-30


@pytest.mark.parametrize("value", [0, 1, -(2**15), 2**15 - 1])
def test_rows_of_extreme_weights_are_exact(value):
    packing = ExactRowsPacking(P, 64, 150, 140)
    weights = np.full((150, 140), value)
    rho, own, other, _ = trip(packing, weights)
    assert (((own + other) % np.uint64(T)).astype(np.int64) == product(rho, weights)).all()


def test_threads_change_nothing():
    packing = ExactRowsPacking(P, 64, 288, 480)
    client, server = made_keys(packing.galois_steps)
    message, _ = slot_encrypt(packing.input_ciphertexts, client, SecureRandom())
    ciphertexts = slot_parse(message, packing.input_ciphertexts, P)
    matrix = IntegerMatrix.from_integers(rng.integers(-(2**15), 2**15, (288, 480)))
    one, two = (
        np.concatenate(list(packing.stream(ciphertexts, matrix, keys, Room())))
        for keys in (server, replace(server, workers=Workers(2)))
    )
    assert (one == two).all()


def test_working_memory_is_bounded_and_used_again():
    room, packing = Room(), ExactRowsPacking(P, 64, 288, 480)
    (first,) = room.arrays((packing.room_bytes // 8,))
    assert first.nbytes == packing.room_bytes
    again = room.arrays((3, 5), (7,))
    assert all(np.shares_memory(first, part) for part in again)
    assert not np.shares_memory(*again)
    for shape, megabytes in {(576, 3072): 330, (1536, 576): 330, (576, 49152): 370}.items():
        assert ExactRowsPacking(P, 64, *shape).room_bytes < megabytes * 1e6


def test_declared_sizes():
    packing = ExactRowsPacking(P, 64, 576, 960)
    assert (packing.input_ciphertexts, packing.output_ciphertexts) == (5, 8)
    assert packing.upload_bytes == slot_encrypted_bytes(5, P) == 32 + 5 * N * 115 // 8
    assert packing.download_bytes == slot_masked_bytes(8, P) == 32 + 8 * N * 100 // 8
    assert packing.rotations > 0
    names = {name for part in (packing.work.arriving, packing.work.between, packing.work.leaving)
             for name, _ in part}  # fmt: skip
    assert {"fused_multiply_add", "extended_rotation/8192x4", "horner_extended/8192x4"} <= names
    # All layers of one batch size share keys.
    steps = [set(ExactRowsPacking(P, 64, *s).galois_steps) for s in ((576, 960), (1536, 576))]
    assert len(set.union(*steps)) <= 19


def test_wrong_shapes_are_refused():
    with pytest.raises(UsageError, match="257 rows; prepare at most 256"):
        ExactRowsPacking(P, 257, 4, 3)
    with pytest.raises(UsageError, match="d_in is 0"):
        ExactRowsPacking(P, 1, 0, 3)
    packing = ExactRowsPacking(P, 1, 4, 3)
    _, server = made_keys(packing.galois_steps)
    matrix = IntegerMatrix.from_integers(np.zeros((3, 4), np.int64))
    with pytest.raises(UsageError, match=r"weights of shape \(3, 4\)"):
        next(packing.stream(np.zeros((1, 2, 4, N)), matrix, server, ROOM))


# -- noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 288, 480), (1, 5, 3), (50, 700, 130)])
def test_noise_is_as_estimated(shape):
    packing = ExactRowsPacking(P, *shape)
    weights = rng.integers(-(2**15), 2**15, shape[1:])
    _, results, client, _ = evaluated(packing, weights)
    noise = messages_and_noise(results, client)[1]
    assert 0.5 < noise.std() / packing.noise_std < 1.2
    assert np.abs(noise).max() < 8 * packing.noise_std
    # Bits left: Q / (2 t |noise|).
    assert math.log2(P.modulus / (2 * T * np.abs(noise).max())) > 58


def test_structured_weights_make_no_more_noise():
    packing = ExactRowsPacking(P, 64, 140, 130)
    unit = np.eye(140, 130, dtype=int)
    for weights in (np.ones((140, 130), int), unit, -unit):
        _, results, client, _ = evaluated(packing, weights)
        assert messages_and_noise(results, client)[1].std() < 2 * packing.noise_std


def test_noise_of_an_encryption():
    client, _ = made_keys(())
    message, drawn = slot_encrypt(2, client, SecureRandom())
    values, noise = messages_and_noise(slot_parse(message, 2, P), client)
    assert (values == drawn).all()
    expected = math.hypot(sampling.NOISE_VARIANCE**0.5, 2**DROPPED_BITS / 12**0.5)
    assert 0.95 < noise.std() / expected < 1.05


def test_short_second_polynomials_fail_about_as_often_as_declared():
    short = replace(P, second_bits=65)
    client, server = made_short_keys(short)
    zeros, wrong, count = np.zeros((8, 2, 4, N)), 0, 160
    for _ in range(count // 8):
        answer, own = slot_mask_for_client([zeros], server, SecureRandom())
        total = (own + slot_unmask(answer, 8, client)) % np.uint64(T)
        wrong += int((total != 0).sum())
    # About 11 wrong ones: the mean of |error| instead of its deviation, and one of two roundings.
    declared = count * N * short.wrong_probability(0.0)
    assert 25 < declared < 30
    assert 0 < wrong <= declared


@lru_cache(maxsize=1)
def made_short_keys(short):
    client = ClientKeys.generate(short, (), False, SecureRandom())
    return client, ServerKeys.parse(short, client.public_bytes(), (), False)


# -- parameters and untrusted bytes ------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8192, (43, 43, 43, 43), 43, 44, 100), "exact slots: 215 modulus bits .* at most 214"),
        ((4096, (41, 41, 41, 41), 43, 44, 100), "207 modulus bits at poly_degree 4096"),
        ((2048, (41, 41, 41, 41), 43, 44, 100), "exact slots: poly_degree 2048"),
        ((8192, (44, 41, 41, 41), 43, 44, 100), "use 4 data primes and a special one of 40 to 43"),
        ((8192, (41, 41, 41), 43, 44, 100), "use 4 data primes"),
        ((8192, (41, 41, 41, 41), 40, 44, 100), "special prime of 40 bits"),
        ((8192, (41, 41, 41, 41), 43, 45, 100), "plain prime of 45 bits"),
        ((8192, (41, 41, 41, 41), 43, 41, 100), "a size that no other prime has"),
        ((8192, (41, 41, 41, 41), 43, 38, 100), "bodies of 122 bits.* at most 120 bits"),
        ((8192, (41, 41, 41, 41), 43, 44, 115), "second_bits 115; use 65 to 114"),
    ],
)
def test_parameters_are_checked(arguments, message):
    with pytest.raises(ParameterError, match=message):
        SlotParameters(*arguments)


def test_named_sets():
    for parameters in SLOT_SETS.values():
        assert parameters.total_modulus_bits <= 214
        assert parameters.plain_prime % (2 * parameters.poly_degree) == 1
        assert len({*parameters.all_primes, parameters.plain_prime}) == 6
        again = pickle.loads(pickle.dumps(parameters))  # noqa: S301
        assert again == parameters
        assert again.all_primes == parameters.all_primes
        assert again.plain_prime == parameters.plain_prime
        assert parameters.wrong_probability(2.0**57) < 2**-50


def test_conversions_of_ckks_do_not_take_the_set():
    with pytest.raises(ParameterError, match="too small for the conversion"):
        _ = P.base


def test_bytes_of_wrong_size_or_range_are_refused():
    client, _ = made_keys(())
    message, _ = slot_encrypt(1, client, SecureRandom())
    with pytest.raises(FrameError, match="encrypted rows: got"):
        slot_parse(message[:-1], 1, P)
    with pytest.raises(FrameError, match="encrypted rows: got"):
        slot_parse(message, 2, P)
    for extreme in (2**63 - 1, -(2**63)):
        words = np.frombuffer(message[32 : 32 + 8 * N], np.int64).copy()
        words[77] = extreme
        with pytest.raises(FrameError, match="exceeds Q / t"):
            slot_parse(message[:32] + words.tobytes() + message[32 + 8 * N :], 1, P)
    with pytest.raises(FrameError, match="masked rows: got"):
        slot_unmask(bytes(slot_masked_bytes(1, P) + 1), 1, client)
    with pytest.raises(FrameError):
        parse_seeded(message, 1, P)


def test_matrices_are_checked():
    for bad, match in [
        (np.zeros((2, 2)), "use a matrix of integers"),
        (np.zeros(2, int), "use a matrix of integers"),
        (np.full((2, 2), 2**15), "do not fit 16 bits"),
        (np.full((2, 2), -(2**15) - 1), "do not fit 16 bits"),
    ]:
        with pytest.raises(UsageError, match=match):
            IntegerMatrix.from_integers(bad)


# -- what each party sees ----------------------------------------------------------------------


def residues_look_uniform(residues):
    """Of 44-bit residues: every byte from the top and the lowest ones; t is 2^44 (1 - 2^-30)."""
    x = np.ascontiguousarray(residues).reshape(-1)
    return looks_uniform(x << np.uint64(20) | x & np.uint64(2**20 - 1))


ZERO = ExactRowsPacking(P, 64, 16, 256)


def masked():
    """Server's and client's share of zero, seconds of the message; the weights are zero."""
    _, results, client, server = evaluated(ZERO, np.zeros((16, 256), int))
    message, own = slot_mask_for_client([results], server, SecureRandom())
    other = slot_unmask(message, ZERO.output_ciphertexts, client)
    assert not ((own + other) % np.uint64(T)).any()
    parts = np.frombuffer(message[32:], np.uint8).reshape(ZERO.output_ciphertexts, -1)
    return own, other, np.ascontiguousarray(parts).view(np.uint64)


def no_zero(_rng, count, n):
    return np.zeros((count, n), np.int64), np.zeros((count, 2, n), np.int64)


def test_shares_and_messages_are_uniform():
    own, other, seconds = masked()
    for share in (own, other):
        assert share.max() < T
        assert residues_look_uniform(share)
    assert looks_uniform(seconds)
    assert looks_uniform(seconds[0] - seconds[1])


def test_every_answer_is_fresh():
    first, again = masked(), masked()
    t = np.uint64(T)
    for one, two in zip(first[:2], again[:2], strict=True):
        assert residues_look_uniform((one + t - two) % t)
    assert looks_uniform(first[2] - again[2])


def test_a_missing_fresh_zero_is_noticed(monkeypatch):
    monkeypatch.setattr(sampling, "draw_zero", no_zero)
    # The weights are zero: without a fresh zero the second polynomials are.
    with pytest.raises(AssertionError):
        test_shares_and_messages_are_uniform()


def test_the_mask_alone_makes_shares_uniform(monkeypatch):
    monkeypatch.setattr(sampling, "draw_zero", no_zero)
    first, again = masked(), masked()
    for share in (*first[:2], *again[:2], (first[0] + np.uint64(T) - again[0]) % np.uint64(T)):
        assert residues_look_uniform(share)


def test_a_missing_mask_is_noticed(monkeypatch):
    monkeypatch.setattr(sampling, "draw_mask", lambda _rng, shape: np.zeros(shape, np.uint64))
    with pytest.raises(AssertionError):
        test_the_mask_alone_makes_shares_uniform(monkeypatch)


def test_a_mask_used_twice_is_noticed(monkeypatch):
    monkeypatch.setattr(sampling, "fresh_seed", lambda _rng: bytes(32))
    with pytest.raises(AssertionError):
        test_the_mask_alone_makes_shares_uniform(monkeypatch)


def test_rows_and_encryptions_are_uniform_and_fresh():
    client, _ = made_keys(())
    sent, drawn = zip(*(slot_encrypt(2, client, SecureRandom()) for _ in range(2)), strict=True)
    for rows in (*drawn, (drawn[0] + np.uint64(T) - drawn[1]) % np.uint64(T)):
        assert residues_look_uniform(rows)
    assert sent[0][:32] != sent[1][:32]
    for message in sent:
        high = np.frombuffer(message[32 : 32 + 16 * N], np.uint64)
        assert looks_uniform(high << np.uint64(8) | high & np.uint64(255))
        # Over the whole of Q / t: the mean of |B| is a quarter of it.
        body = np.abs(high.view(np.int64).astype(float)) * 2.0 ** (DROPPED_BITS + P.body_low_bits)
        assert abs(body.mean() / (P.modulus / T) - 0.25) < 0.01


def test_bodies_near_the_edge_are_drawn_again(monkeypatch):
    client, answers, limits = made_keys(())[0], [False, False, True], []
    inside = slot_encryption._inside

    def answer(high, limit):
        limits.append((high, limit))
        return answers.pop(0)

    monkeypatch.setattr(slot_encryption, "_inside", answer)
    message, drawn = slot_encrypt(1, client, SecureRandom())
    assert not answers
    assert len({high.tobytes() for high, _ in limits}) == 3
    values, _ = messages_and_noise(slot_parse(message, 1, P), client)
    assert (values == drawn).all()
    # Two words below Q / 2t, a chance of 2^-54, where computed roundings are exact.
    limit = limits[0][1]
    assert 0 < P.modulus // (2 * T) - (limit << 64) < 2 << 64
    assert inside(np.array([limit - 1, -limit]), limit)
    assert not inside(np.array([limit]), limit)
    assert not inside(np.array([-limit - 1]), limit)


# -- kernels -----------------------------------------------------------------------------------

wide = st.integers(0, 2**128 - 1)


def halves(values):
    return (np.array([v >> 64 for v in values], np.uint64),
            np.array([v & (2**64 - 1) for v in values], np.uint64))  # fmt: skip


def joined(pair):
    return [int(h) << 64 | int(low) for h, low in zip(*pair, strict=True)]


@given(st.lists(st.tuples(wide, wide), min_size=1, max_size=8), st.integers(0, 127))
@settings(deadline=None)
def test_wide_words(pairs, bits):
    a, b = zip(*pairs, strict=True)
    one, two, full = halves(a), halves(b), 1 << 128
    assert joined(add_wide(one, two)) == [(x + y) % full for x, y in pairs]
    assert joined(subtract_wide(one, two)) == [(x - y) % full for x, y in pairs]
    assert joined(raised(one, bits)) == [(x << bits) % full for x in a]
    # Products are taken to 2^-64 before they are rounded.
    for x, got in zip(a, rounded_multiple(one, T), strict=True):
        near = (T * x + (full >> 1) + far for far in (-(1 << 65), 0, 1 << 65))
        assert int(got) in {m // full % T for m in near}


def test_multiples_near_a_half():
    for k in (0, 1, 77, T - 1):
        half = (2 * k + 1) * (1 << 127) // T
        # One unit of the word is t / 2^128 of the product.
        below, above = rounded_multiple(halves([half - (1 << 25), half + (1 << 25)]), T)
        assert (int(below), int(above)) == (k, (k + 1) % T)


@given(st.data())
@settings(deadline=None, max_examples=25)
def test_row_products(data):
    d_in, d_out = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 7))
    values = st.sampled_from([-(2**15), 2**15 - 1, 0, 1, -77])
    w = np.array([[data.draw(values) for _ in range(d_out)] for _ in range(d_in)])
    row = [data.draw(st.sampled_from([0, 1, T - 1, T // 2, T // 2 + 1])) for _ in range(d_in)]
    matrix = IntegerMatrix.from_integers(w)
    got = matrix.rows_times(np.array([row], np.uint64), T)[0]
    assert [int(y) for y in got] == [int(y) % T for y in np.array(row, object) @ w.astype(object)]


def test_matrices_in_chunks():
    w = rng.integers(-(2**15), 2**15, (40, 2500))
    matrix = IntegerMatrix.from_integers(w)
    assert matrix.nbytes == 2 * 40 * 3 * 1024
    assert matrix.shape == w.shape
    for start, stop in ((0, 2500), (1000, 1100), (1024, 2048), (2400, 2600), (2499, 2500)):
        columns = matrix.columns(start, stop)
        assert columns.shape == (40, stop - start)
        assert (columns[:, : 2500 - start] == w[:, start:stop]).all()
        assert not columns[:, 2500 - start :].any()
    row = SecureRandom().uint64(40) % np.uint64(T)
    assert (matrix.rows_times(row[None], T)[0].astype(np.int64) == product(row[None], w)[0]).all()


def whole(values):
    """Floats as Python integers."""
    return values.astype(np.int64).astype(object)


@pytest.mark.parametrize("inner", [1, 31, MAX_FUSED_INNER, MAX_FUSED_INNER + 41])
def test_fused_sums_are_exact_at_the_extremes(inner):
    blocks, n, p = 8, 512, P.all_primes[-1]
    half = float(p // 2)
    for sign in (1.0, -1.0, 0.0):
        x = np.full(panel_shape(blocks, inner, n), half)
        w = np.full((blocks, 4, inner), sign * half)
        if not sign:
            x = np.rint(rng.uniform(-half, half, x.shape))
            w = np.rint(rng.uniform(-half, half, w.shape))
        out = np.zeros((4, 2, 5, n))
        multiply_blocks(x, w, 3, p, 4, out)
        panel = whole(x[5].transpose(1, 0, 2).reshape(inner, -1))
        expected = whole(w[5, :3]) @ panel
        run = n // (2 * blocks)
        first = out[:3, :, 4, 5 * run : 6 * run]
        mirrored = out[:3, :, 4, (2 * blocks - 6) * run : (2 * blocks - 5) * run]
        got = np.concatenate([first, mirrored], axis=1).reshape(3, -1)
        assert x.shape[-1] == PANEL
        assert ((whole(got) - expected) % p == 0).all()
        assert np.abs(got).max() <= p


def test_key_products_are_exact():
    for k, p in enumerate(P.all_primes):
        digits = np.rint(rng.uniform(-p / 2, p / 2, (4, 5, 64)))
        ends = np.full((4, 2, 5, 64), float(p // 2))
        keys = (ends, -ends, np.rint(rng.uniform(-p / 2, p / 2, ends.shape)))
        body, out = np.rint(rng.uniform(-p, p, 64)), np.empty((3, 64))
        key_products(digits, keys, (1, k), body, p, out)
        for key, row in zip(keys, out, strict=True):
            expected = (whole(digits[:, k]) * whole(key[:, 1, k])).sum(axis=0) + whole(body)
            assert ((whole(row) - expected) % p == 0).all()
            assert np.abs(row).max() < 0.51 * p


def test_slots_and_coefficients():
    x = SecureRandom().uint64((2, N)) % np.uint64(T)
    assert (coefficients_of(slots_of(x, T), T) == x).all()


# -- SEAL --------------------------------------------------------------------------------------


def test_slots_are_seals():
    literal = seal.EncryptionParameters(seal.SCHEME_TYPE.BFV)
    literal.set_poly_modulus_degree(N)
    literal.set_coeff_modulus([seal.Modulus(p) for p in P.all_primes])
    literal.set_plain_modulus(seal.Modulus(T))
    context = seal.SEALContext(literal, True, seal.SEC_LEVEL_TYPE.TC128)
    assert context.parameters_set()
    values = SecureRandom().uint64(N) % np.uint64(T)
    plain = seal.Plaintext()
    seal.BatchEncoder(context).encode(values.tolist(), plain)
    ours = coefficients_of(values.reshape(1, 2, -1), T)[0]
    assert [plain.__getitem__(i) if hasattr(plain, "__getitem__") else plain.data(i)
            for i in range(0, N, 97)] == ours[::97].tolist()  # fmt: skip


def test_seal_decrypts_rows():
    client, _ = made_keys(())
    message, drawn = slot_encrypt(1, client, SecureRandom())
    ciphertexts = slot_parse(message, 1, P)
    plain = seal.Plaintext()
    loaded = client.seal.to_ciphertext(from_centred(ciphertexts, P.primes)[0])
    seal.Decryptor(client.seal.context, client.seal_secret_key).decrypt(loaded, plain)
    values = combined(intt(client.seal.from_plaintext(plain)[None], P.primes))
    assert (values == phase(ciphertexts, client)).all()
    q = P.modulus
    assert ((2 * T * values + q) // (2 * q) % T == drawn.astype(object)).all()


def test_seal_rotates_rows():
    step = 5
    client, server = made_keys((step,))
    message, drawn = slot_encrypt(1, client, SecureRandom())
    loaded = server.seal.to_ciphertext(from_centred(slot_parse(message, 1, P), P.primes)[0])
    element = galois_element(step, N)
    server.seal.evaluator.apply_galois_inplace(loaded, element, server.seal_galois_keys())
    turned = to_centred(server.seal.from_ciphertext(loaded)[None], P.primes)
    values, _ = messages_and_noise(turned, client)
    assert (slots_of(values, T) == np.roll(slots_of(drawn, T), -step, axis=2)).all()


def test_we_decrypt_what_seal_encrypts():
    client, _ = made_keys(())
    context, public = client.seal, seal.PublicKey()
    seal.KeyGenerator(context.context, client.seal_secret_key).create_public_key(public)
    message = SecureRandom().uint64((1, N)) % np.uint64(T)
    scaled = (2 * P.modulus * message.astype(object) + T) // (2 * T)
    residues = np.stack([(scaled % p).astype(np.uint64) for p in P.primes], axis=1)
    plain = context.to_plaintext(ntt(residues, P.primes)[0])
    ciphertext = seal.Ciphertext()
    seal.Encryptor(context.context, public).encrypt(plain, ciphertext)
    ours = to_centred(context.from_ciphertext(ciphertext)[None], P.primes)
    assert (messages_and_noise(ours, client)[0] == message).all()
