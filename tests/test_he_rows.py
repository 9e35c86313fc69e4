"""Rows in exact slots: the packing, noise, parameters, untrusted bytes, masks."""

import math
import pickle
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest

from he_linear.ckks.ciphertexts import parse_seeded
from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.exact import slot_encryption
from he_linear.exact.slot_encryption import (
    slot_encrypt,
    slot_encrypted_bytes,
    slot_mask_for_client,
    slot_masked_bytes,
    slot_parse,
    slot_unmask,
)
from he_linear.exact.slot_parameters import DROPPED_BITS, SLOT_SETS, SPREAD, SlotParameters
from he_linear.kernels import sampling
from he_linear.kernels.row_products import IntegerMatrix
from he_linear.kernels.workers import Workers
from he_linear.packings.exact_rows import ExactRowsPacking, shared_galois_steps
from he_linear.packings.row_blocks import Room
from tests.he_setup import looks_uniform
from tests.hints_setup import chance
from tests.rows_setup import (
    ROOM,
    N,
    P,
    T,
    evaluated,
    made_keys,
    messages_and_noise,
    product,
    rng,
    trip,
)
from transport.errors import FrameError, ParameterError, UsageError
from transport.randomness import SecureRandom

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
    assert packing.wrong_probability < 2**-80
    assert packing.hint_distance < 2**-37


@pytest.mark.parametrize("value", [0, 1, -(2**15), 2**15 - 1])
def test_rows_of_extreme_weights_are_exact(value):
    packing = ExactRowsPacking(P, 64, 150, 140)
    weights = np.full((150, 140), value)
    rho, own, other, _ = trip(packing, weights)
    assert (((own + other) % np.uint64(T)).astype(np.int64) == product(rho, weights)).all()


def test_rows_times_powers_of_two_are_exact():
    packing, exponents = ExactRowsPacking(P, 64, 150, 140), rng.integers(0, 19, 150)
    weights = rng.integers(-(2**15), 2**15, (150, 140))
    matrix = IntegerMatrix.from_integers(weights, exponents.astype(np.uint64))
    client, server = made_keys(packing.galois_steps)
    message, drawn = slot_encrypt(packing.input_ciphertexts, client, SecureRandom())
    ciphertexts = slot_parse(message, packing.input_ciphertexts, P)
    groups = packing.stream(ciphertexts, matrix, server, ROOM)
    values, _ = messages_and_noise(np.concatenate(list(groups)), client)
    rho = packing.rows_in(drawn)
    assert (
        packing.rows_out(values).astype(np.int64) == product(rho, weights << exponents[:, None])
    ).all()


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
    assert packing.upload_bytes == slot_encrypted_bytes(5, P) == 32 + 5 * N * 103 // 8
    assert packing.download_bytes == slot_masked_bytes(8, P) == 32 + 8 * N * 56 // 8
    assert packing.rotations > 0
    names = {name for part in (packing.work.arriving, packing.work.between, packing.work.leaving)
             for name, _ in part}  # fmt: skip
    assert {"fused_multiply_add", "extended_rotation/8192x3", "horner_extended/8192x3"} <= names


def test_layers_of_one_batch_size_share_keys():
    shapes = [(576, 960), (576, 3072), (1536, 576), (576, 49152)]
    assert len(shared_galois_steps(ExactRowsPacking(P, 64, *shape) for shape in shapes)) <= 19
    shapes.append((49152, 576))
    assert len(shared_galois_steps(ExactRowsPacking(P, 64, *shape) for shape in shapes)) <= 21
    packings = [ExactRowsPacking(P, 3, 40, 33), ExactRowsPacking(P, 64, 5, 300)]
    client, server = made_keys(shared_galois_steps(packings))
    for packing in packings:
        weights = rng.integers(-(2**15), 2**15, (packing.d_in, packing.d_out))
        message, drawn = slot_encrypt(packing.input_ciphertexts, client, SecureRandom())
        ciphertexts = slot_parse(message, packing.input_ciphertexts, P)
        groups = packing.stream(ciphertexts, IntegerMatrix.from_integers(weights), server, ROOM)
        values, _ = messages_and_noise(np.concatenate(list(groups)), client)
        rho = packing.rows_in(drawn)
        assert (packing.rows_out(values).astype(np.int64) == product(rho, weights)).all()


def test_wrong_shapes_are_refused():
    with pytest.raises(UsageError, match="257 rows; prepare at most 256"):
        ExactRowsPacking(P, 257, 4, 3)
    with pytest.raises(UsageError, match="d_in is 0"):
        ExactRowsPacking(P, 1, 0, 3)
    packing = ExactRowsPacking(P, 1, 4, 3)
    _, server = made_keys(packing.galois_steps)
    matrix = IntegerMatrix.from_integers(np.zeros((3, 4), np.int64))
    with pytest.raises(UsageError, match=r"weights of shape \(3, 4\)"):
        next(packing.stream(np.zeros((1, 2, 3, N)), matrix, server, ROOM))


# -- noise -------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(64, 288, 480), (1, 5, 3), (50, 700, 130)])
def test_noise_is_as_estimated(shape):
    packing = ExactRowsPacking(P, *shape)
    weights = rng.integers(-(2**15), 2**15, shape[1:])
    _, results, client, _ = evaluated(packing, weights)
    noise = messages_and_noise(results, client)[1]
    assert 0.9 < noise.std() / packing.noise_std < 1.1
    assert np.abs(noise).max() < 8 * packing.noise_std
    # Bits left: Q / (2 t |noise|).
    assert math.log2(P.modulus / (2 * T * np.abs(noise).max())) > 46


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


def test_encryptions_are_parsed_in_parts(monkeypatch):
    client, _ = made_keys(())
    message, drawn = slot_encrypt(3, client, SecureRandom())
    monkeypatch.setattr(slot_encryption, "_PARSED", 2)
    values, _ = messages_and_noise(slot_parse(message, 3, P), client)
    assert (values == drawn).all()


@pytest.mark.parametrize("second_bits", [52, 53])
def test_short_second_polynomials_fail_as_they_must(second_bits):
    short = replace(P, second_bits=second_bits)
    client, server = made_short_keys(short)
    zeros, wrong, count = np.zeros((8, 2, 3, N)), 0, 16
    for _ in range(count // 8):
        answer, own = slot_mask_for_client([zeros], server, SecureRandom())
        total = (own + slot_unmask(answer, 8, client)) % np.uint64(T)
        wrong += int((total != 0).sum())
    # A rounding that hints leave alone turns when the error reaches a half, and so do the others.
    std, parts = T * 2.0**-second_bits * math.sqrt(N / 18), (np.arange(4096) + 0.5) / 4096
    turned = [(1 - chance(x)) * math.erfc(abs(x - 0.5) / std / 2**0.5) for x in parts]
    chance_of_one = float(np.mean(turned))
    expected = count * N * chance_of_one
    assert abs(wrong - expected) < 6 * expected**0.5 + 2
    # What is declared holds for the worst place of a rounding, not for the mean.
    margin = 1 / 4 - SPREAD
    assert chance_of_one < math.erfc(margin / std / 2**0.5) < short.wrong_probability(0.0)
    assert short.wrong_probability(0.0) < 9 * math.erfc(margin / std / 2**0.5)


@lru_cache(maxsize=2)
def made_short_keys(short):
    client = ClientKeys.generate(short, (), False, SecureRandom())
    return client, ServerKeys.parse(short, client.public_bytes(), (), False)


# -- parameters and untrusted bytes ------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8192, (54, 54, 54), 54, 44, 55), "exact slots: 216 modulus bits .* at most 214"),
        ((4096, (50, 50, 50), 51, 44, 55), "201 modulus bits at poly_degree 4096"),
        ((2048, (50, 50, 50), 51, 44, 55), "exact slots: poly_degree 2048"),
        ((8192, (52, 50, 50), 51, 44, 55), "use 3 data primes and a special one of 48 to 51"),
        ((8192, (50, 47, 50), 51, 44, 55), "use 3 data primes and a special one of 48 to 51"),
        ((8192, (50, 50), 51, 44, 55), "use 3 data primes"),
        ((8192, (50, 50, 50), 49, 44, 55), "special prime of 49 bits"),
        ((8192, (50, 50, 50), 51, 45, 55), "plain prime of 45 bits"),
        ((8192, (50, 50, 50), 51, 35, 55), "bodies of 109 bits.* at most 114 bits"),
        ((8192, (50, 50, 50), 51, 44, 64), "second_bits 64; use more than the 44 .* at most 63"),
        ((8192, (50, 50, 50), 51, 44, 44), "second_bits 44; use more than the 44 .* at most 63"),
    ],
)
def test_parameters_are_checked(arguments, message):
    with pytest.raises(ParameterError, match=message):
        SlotParameters(*arguments)


def test_named_sets():
    for parameters in SLOT_SETS.values():
        assert parameters.total_modulus_bits <= 214
        assert parameters.plain_prime % (2 * parameters.poly_degree) == 1
        assert len({*parameters.all_primes, parameters.plain_prime}) == 5
        again = pickle.loads(pickle.dumps(parameters))  # noqa: S301
        assert again == parameters
        assert again.all_primes == parameters.all_primes
        assert again.plain_prime == parameters.plain_prime
        assert parameters.wrong_probability(2.0**59) < 2**-99


def test_conversions_of_ckks_do_not_take_the_set():
    with pytest.raises(ParameterError, match="use two data primes of 40 to 49 bits"):
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
    # Two words below Q / 2t, a chance of 2^-43, where computed roundings are exact.
    limit = limits[0][1]
    assert 0 < P.modulus // (2 * T) - (limit << 64) < 2 << 64
    assert inside(np.array([limit - 1, -limit]), limit)
    assert not inside(np.array([limit]), limit)
    assert not inside(np.array([-limit - 1]), limit)
