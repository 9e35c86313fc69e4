"""Exact products on coefficients: parameters, encodings, noise, masks, packings."""

import pickle
from functools import lru_cache

import numpy as np
import pytest

from he_linear.ckks.key_switching import KeySwitcher
from he_linear.exact import ring_encryption
from he_linear.exact.ring_encryption import (
    ring_encrypt,
    ring_mask_for_client,
    ring_masked_bytes,
    ring_parse,
    ring_unmask,
    signed,
)
from he_linear.exact.ring_keys import RingClientKeys, RingServerKeys, ring_public_key_bytes
from he_linear.exact.ring_parameters import RING_SETS, RingParameters
from he_linear.kernels import sampling
from he_linear.kernels.ring_words import ring_matmul, transform
from he_linear.packings.coefficients import (
    RING_LINEAR_PACKINGS,
    CoefficientsInterleavedPacking,
    CoefficientsPacking,
)
from he_linear.packings.coefficients_product import RING_PRODUCT_PACKINGS
from he_linear.packings.interleaving import interleave, merge_elements, merge_switches
from tests.he_setup import looks_uniform
from transport.bitpack import low_mask
from transport.errors import FrameError, ParameterError, UsageError
from transport.randomness import SecureRandom

L64, L64_WIDE, L40 = RING_SETS["n8192_l64"], RING_SETS["n8192_l64_q180"], RING_SETS["n8192_l40"]
SMALL, SMALL_L40 = RING_SETS["n4096_l64"], RING_SETS["n4096_l40"]
rng = SecureRandom()


@lru_cache(maxsize=8)
def made_keys(parameters, automorphisms):
    client = RingClientKeys(parameters, automorphisms, SecureRandom())
    assert len(client.public_bytes()) == ring_public_key_bytes(parameters, len(automorphisms))
    return client, RingServerKeys.parse(parameters, client.public_bytes(), automorphisms)


def uniform_integers(shape, bits):
    """Uniform signed integers of so many bits."""
    return signed(rng.uint64(shape), bits)


def trip(packing, polynomials, operand):
    """Encrypt, evaluate, mask, unmask: the sum of both shares and the two."""
    client, server = made_keys(packing.parameters, packing.automorphisms)
    upload = ring_encrypt(polynomials, client, SecureRandom())
    assert len(upload) == packing.upload_bytes
    ciphertexts = ring_parse(upload, len(polynomials), packing.parameters)
    result = packing.evaluate(ciphertexts, operand, server)
    assert result.shape[1] == packing.output_ciphertexts
    message, own = ring_mask_for_client(result, packing.useful, server, SecureRandom())
    assert len(message) == packing.download_bytes
    other = ring_unmask(message, packing.output_ciphertexts, packing.useful, client)
    return own + other, own, other


def errors(packing, polynomials, operand, expected):
    got = trip(packing, polynomials, operand)[0]
    return signed(got - expected, packing.parameters.plain_bits)


# -- packings ----------------------------------------------------------------------------

SHAPES = [(1, 1, 1), (1, 97, 33), (5, 24, 7), (3, 1, 300), (33, 130, 70), (70, 300, 50)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cls", RING_LINEAR_PACKINGS)
def test_linear_layers_are_exact_over_uniform_words(cls, shape):
    packing = cls(L64_WIDE, *shape)
    x, w = rng.uint64(shape[:2]), uniform_integers(shape[1:], 64)
    expected = ring_matmul(x, w.view(np.uint64))
    assert packing.useful.shape == (shape[0], shape[2])
    assert len(np.unique(packing.useful)) == packing.useful.size
    assert packing.off_by_one_probability() < 2**-40
    encoded = packing.encode_weights(w)
    assert not errors(packing, packing.pack(x), encoded, expected).any()


@pytest.mark.parametrize(
    "shape", [(1, 1, 1, 1), (3, 5, 7, 9), (2, 1, 40, 33), (5, 33, 20, 33), (1, 70, 129, 90)]
)
@pytest.mark.parametrize("parameters", [L64_WIDE, L40])
@pytest.mark.parametrize("cls", RING_PRODUCT_PACKINGS)
def test_cross_terms_are_exact_over_uniform_words(cls, parameters, shape):
    batch, rows, inner, columns = shape
    packing = cls(parameters, *shape)
    a0, a1 = rng.uint64((2, batch, rows, inner))
    b0, b1 = rng.uint64((2, batch, inner, columns))
    expected = ring_matmul(a0, b1) + ring_matmul(a1, b0)
    wrong = errors(packing, packing.pack(a0, b0), packing.encode(a1, b1), expected)
    chance = packing.off_by_one_probability()
    assert np.abs(wrong).max() <= (chance > 2**-40)
    assert (wrong != 0).sum() <= 5 + 2 * chance * wrong.size


@pytest.mark.parametrize("cls", RING_LINEAR_PACKINGS)
def test_several_returned_ciphertexts(cls):
    packing = cls(L64, 96, 8, 200)
    assert packing.output_ciphertexts > 2
    x, w = rng.uint64((96, 8)), uniform_integers((8, 200), 20)
    expected = ring_matmul(x, w.view(np.uint64))
    wrong = errors(packing, packing.pack(x), packing.encode_weights(w), expected)
    assert np.abs(wrong).max() <= 1
    assert (wrong != 0).sum() <= 12


def test_off_by_one_happens_about_as_often_as_declared():
    packing = CoefficientsPacking(SMALL, 64, 128, 256)
    x, w = rng.uint64((64, 128)), uniform_integers((128, 256), 25)
    chance = packing.off_by_one_probability(packing.square_sum(w))
    wrong = errors(packing, packing.pack(x), packing.encode_weights(w),
                   ring_matmul(x, w.view(np.uint64)))  # fmt: skip
    assert np.abs(wrong).max() == 1
    assert 0.5 * chance < (wrong != 0).mean() < chance
    # As often up as down: the rounding has no bias.
    assert abs(wrong.sum()) < 6 * np.sqrt((wrong != 0).sum())


def test_merging_adds_little_noise():
    rates = []
    for cls in RING_PRODUCT_PACKINGS:
        packing = cls(L40, 8, 32, 32, 32)
        rates.append(packing.off_by_one_probability())
    assert rates[1] < 1.1 * rates[0]


def test_plaintexts_too_large_for_the_modulus_are_refused():
    packing = CoefficientsPacking(SMALL, 2, 64, 64)
    with pytest.raises(ParameterError, match="off by one with chance 1, more than 0.062"):
        packing.encode_weights(uniform_integers((64, 64), 40))
    # Shares have 64 bits, which a modulus of 98 bits has no room for.
    with pytest.raises(ParameterError, match="choose a set with a larger modulus"):
        RING_PRODUCT_PACKINGS[0](SMALL, 1, 8, 8, 8)


def test_weights_beyond_the_plain_modulus_count_modulo_it():
    packing = CoefficientsPacking(SMALL_L40, 2, 3, 4)
    w = uniform_integers((3, 4), 20)
    far = w + (np.int64(5) << np.int64(45))
    assert packing.square_sum(w) == packing.square_sum(far)
    x = rng.uint64((2, 3))
    expected = ring_matmul(x, w.view(np.uint64))
    assert not errors(packing, packing.pack(x), packing.encode_weights(far), expected).any()


def test_declared_sizes():
    tokens, d_in, d_out = 32, 384, 384
    plain = CoefficientsPacking(L64, tokens, d_in, d_out)
    merged = CoefficientsInterleavedPacking(L64, tokens, d_in, d_out)
    assert plain.automorphisms == ()
    assert (plain.key_switches, plain.rotations, plain.levels) == (0, 0, 1)
    assert merged.key_switches > 0
    assert merged.upload_bytes + merged.download_bytes < plain.upload_bytes
    encoded = plain.encode_weights(np.zeros((d_in, d_out), np.int64))
    assert sum(m.nbytes for m in encoded.matrices) == plain.encoded_bytes
    # 8 bytes a weight and prime, however many tokens.
    assert plain.encoded_bytes == 24 * d_in * d_out
    assert merged.encode_weights(np.zeros((d_in, d_out), np.int64)).nbytes == merged.encoded_bytes
    pieces = ring_masked_bytes(plain.output_ciphertexts, tokens * d_out, L64)
    assert plain.download_bytes == pieces == plain.output_ciphertexts * 8192 * 84 // 8 + 8 * 12288


@pytest.mark.parametrize(("count", "switches"), [(1, 3), (5, 7), (8, 7), (9, 10)])
def test_partly_filled_groups_switch_less(count, switches, monkeypatch):
    gap = group = 8
    elements = merge_elements(gap, group, 8192)
    _, server = made_keys(L40, elements)
    calls = []
    switch = KeySwitcher.switch
    monkeypatch.setattr(KeySwitcher, "switch", lambda *a: calls.append(1) or switch(*a))
    merged = interleave(np.zeros((2, count, 2, 8192)), gap, group, server)
    assert merged.shape == (2, -(-count // group), 2, 8192)
    assert len(calls) == merge_switches(count, group) == switches


def test_wrong_shapes_are_refused():
    packing = CoefficientsPacking(SMALL, 2, 3, 4)
    with pytest.raises(UsageError, match=r"input of shape \(3, 2\); expected \(2, 3\)"):
        packing.pack(rng.uint64((3, 2)))
    with pytest.raises(UsageError, match="weights of shape"):
        packing.encode_weights(np.zeros((4, 3), np.int64))
    product = RING_PRODUCT_PACKINGS[0](SMALL_L40, 1, 2, 3, 4)
    with pytest.raises(UsageError, match="operands of shapes"):
        product.pack(rng.uint64((1, 2, 3)), rng.uint64((1, 4, 3)))
    with pytest.raises(UsageError, match="d_in is 0"):
        CoefficientsPacking(SMALL, 1, 0, 4)


# -- parameters and untrusted bytes ------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((8192, (49, 49, 49, 49), 34, 64, 84), "230 modulus bits"),
        ((4096, (49, 49), 30, 40, 64), "128 modulus bits"),
        ((2048, (49,), None, 40, 64), "poly_degree 2048"),
        ((8192, (49, 49, 30), None, 64, 84), "use 40 to 49 bits"),
        ((8192, (49, 49), None, 65, 84), "plain modulus of 65 bits"),
        ((8192, (49, 49), None, 64, 64), "second_bits 64"),
        ((8192, (40, 40), None, 64, 84), "cannot hold the client's product"),
    ],
)
def test_parameters_are_checked(arguments, message):
    with pytest.raises(ParameterError, match=message):
        RingParameters(*arguments)


def test_sets_survive_pickling_and_keep_their_primes():
    for parameters in RING_SETS.values():
        assert parameters.total_modulus_bits <= {4096: 106, 8192: 214}[parameters.poly_degree]
        assert len(set(parameters.all_primes)) == len(parameters.all_primes)
        again = pickle.loads(pickle.dumps(parameters))  # noqa: S301
        assert again == parameters
        assert again.primes == parameters.primes


def test_interleaving_without_special_prime_is_refused():
    packing = CoefficientsInterleavedPacking(SMALL, 8, 64, 64)
    with pytest.raises(ParameterError, match="no special prime"):
        RingClientKeys(SMALL, packing.automorphisms, SecureRandom())
    packing = CoefficientsInterleavedPacking(L64, 8, 64, 64)
    _, server = made_keys(L64, ())
    with pytest.raises(UsageError, match="the client sent no such key"):
        packing.evaluate(
            np.zeros((3, packing.input_ciphertexts, 2, 8192)),
            packing.encode_weights(np.zeros((64, 64), np.int64)),
            server,
        )


def test_bytes_of_wrong_size_or_range_are_refused():
    client, _ = made_keys(SMALL, ())
    with pytest.raises(FrameError, match="public keys of exact products"):
        RingServerKeys.parse(SMALL, client.public_bytes()[:-1], ())
    upload = ring_encrypt(rng.uint64((1, 4096)), client, SecureRandom())
    with pytest.raises(FrameError, match="encrypted shares: got"):
        ring_parse(upload + b"0", 1, SMALL)
    with pytest.raises(FrameError, match="exceeds its prime"):
        ring_parse(upload[:32] + bytes([255]) * (len(upload) - 32), 1, SMALL)
    with pytest.raises(FrameError, match="masked products: got"):
        ring_unmask(b"", 1, np.zeros(1, np.int64), client)


# -- what the key owner sees -------------------------------------------------------------


@pytest.fixture(scope="module", params=RING_LINEAR_PACKINGS)
def layer(request):
    """A layer whose input and weights are zero: masks are all there is."""
    packing = request.param(L64, 64, 16, 64)
    weights = np.zeros((16, 64), np.int64)
    return packing, packing.pack(np.zeros((64, 16), np.uint64)), packing.encode_weights(weights)


def masked(layer):
    packing, polynomials, encoded = layer
    client, server = made_keys(packing.parameters, packing.automorphisms)
    upload = ring_encrypt(polynomials, client, SecureRandom())
    ciphertexts = ring_parse(upload, len(polynomials), packing.parameters)
    result = packing.evaluate(ciphertexts, encoded, server)
    message, own = ring_mask_for_client(result, packing.useful, server, SecureRandom())
    other = ring_unmask(message, packing.output_ciphertexts, packing.useful, client)
    body = np.frombuffer(message, np.uint64, packing.useful.size)
    words = packing.output_ciphertexts * packing.parameters.poly_degree
    second = np.frombuffer(message, np.uint64, words, 8 * packing.useful.size)
    return body, second.reshape(packing.output_ciphertexts, -1), own.ravel(), other.ravel()


def test_shares_and_messages_are_uniform(layer):
    body, second, own, other = masked(layer)
    assert ((own + other + np.uint64(1)) <= 2).all()
    for words in (body, own, other, second.ravel()):
        assert looks_uniform(words)


def test_every_answer_is_fresh(layer):
    first, again = masked(layer), masked(layer)
    for one, two in zip(first, again, strict=True):
        assert looks_uniform((one - two).ravel())
    if len(first[1]) > 1:
        assert looks_uniform(first[1][0] - first[1][1])


def test_a_missing_mask_is_noticed(layer, monkeypatch):
    monkeypatch.setattr(sampling, "draw_mask", lambda _rng, shape: np.zeros(shape, np.uint64))
    with pytest.raises(AssertionError):
        test_shares_and_messages_are_uniform(layer)


def test_a_missing_fresh_zero_is_noticed(layer, monkeypatch):
    def nothing(keys, _rng, count):
        p = keys.parameters
        shape = (count, p.poly_degree)
        return np.zeros((len(p.primes), *shape)), np.zeros((count, 2, shape[1]), np.int64)

    monkeypatch.setattr(ring_encryption, "draw_ring_zero", nothing)
    # The weights are zero: without a fresh zero the second polynomials are.
    with pytest.raises(AssertionError):
        test_shares_and_messages_are_uniform(layer)


def test_l40_shares_are_uniform_over_40_bits():
    packing = RING_PRODUCT_PACKINGS[0](SMALL_L40, 2, 64, 2, 64)
    zero = [np.zeros(s, np.uint64) for s in ((2, 64, 2), (2, 2, 64))]
    total, own, other = trip(packing, packing.pack(*zero), packing.encode(*zero))
    assert ((total + np.uint64(1)) & low_mask(40) <= 2).all()
    for words in (own.ravel(), other.ravel()):
        assert int(words.max()) < 2**40
        assert looks_uniform(np.frombuffer(words.tobytes(), np.uint8).reshape(-1, 8)[:, :4]
                             .copy().reshape(-1).view(np.uint64))  # fmt: skip


def test_encryptions_hide_the_message():
    client, _ = made_keys(L64, ())
    zero = np.zeros((2, 8192), np.uint64)
    first, second = (
        ring_parse(ring_encrypt(zero, client, SecureRandom()), 2, L64) for _ in range(2)
    )
    assert not (first == second).any(axis=-1).all()
    p = L64.primes[0]
    body = transform(first[:1, :, 0].copy(), (p,), inverse=True) % p
    top = (body.astype(np.uint64) >> np.uint64(41)).astype(np.uint8)
    assert looks_uniform(np.ascontiguousarray(top.reshape(-1)).view(np.uint64))
