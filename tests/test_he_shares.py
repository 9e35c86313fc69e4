"""Shares to ciphertexts and back, each half exact to its declared unit."""

import numpy as np
import pytest

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.canonical_embedding import coefficients_to_slots
from he_linear.kernels.residues import intt, ntt
from tests.he_setup import (
    FRACTION_BITS,
    PARAMETERS,
    SLOTS,
    N,
    Operand,
    centre_modulo,
    decode,
    decrypt,
    encode,
    keys,
    trip,
    uniform,
    upload,
)
from transport.randomness import SecureRandom

Q = PARAMETERS.modulus
SCALE = 2.0**26


def test_masks_of_two_parties_cancel_in_the_encoding():
    values = encode(np.random.default_rng(0).normal(0, 4, (2, SLOTS)))
    first, second = Operand(values[:1], values[1:], 2.0**10).share()
    total = (first.residues().astype(object) + second.residues().astype(object))[0]
    primes = np.array(PARAMETERS.primes, object)[:, None]
    coefficients = centre_modulo(intt((total % primes).astype(np.uint64), PARAMETERS.primes))
    slots = coefficients_to_slots(coefficients.astype(np.longdouble)) / 2**10
    for part, expected in ((slots.real, values[0]), (slots.imag, values[1])):
        error = (part - expected).astype(float)
        assert np.abs(error).max() <= 6
        assert error.std() < 1


@pytest.mark.parametrize("extra", [0, he.EXTRA_BITS])
def test_modulus_switch_rounds_to_nearest(extra):
    rng = np.random.default_rng(1)
    special = [0, 1, Q - 1, Q // 2, Q // 2 + 1, Q >> 65, Q >> 64, Q - (Q >> 66)]
    drawn = [int.from_bytes(rng.bytes(16), "little") % Q for _ in range(N - len(special))]
    values = special + drawn
    residues = np.array([[x % p for x in values] for p in PARAMETERS.primes], np.uint64)
    high, low = he.switch_modulus(residues[None], PARAMETERS, extra)
    bits = 64 + extra
    for x, h, e in zip(values, high[0].tolist(), low[0].tolist(), strict=True):
        nearest = ((x << (bits + 1)) + Q) // (2 * Q) % 2**bits
        assert ((h << extra) + e - nearest) % 2**bits in (0, 1, 2**bits - 1)


def test_modulus_switch_has_no_bias():
    rng = np.random.default_rng(2)
    residues = np.stack([rng.integers(0, p, N).astype(np.uint64) for p in PARAMETERS.primes])
    values = centre_modulo(residues)
    switched = he.switch_modulus(residues[None], PARAMETERS)[0][0]
    error = [
        float(((int(s) * Q - int(v) * 2**64 + (Q << 63)) % (Q << 64) - (Q << 63)) / Q)
        for s, v in zip(switched, values, strict=True)
    ]
    assert np.abs(error).max() <= 0.5 + 1e-6
    assert abs(np.mean(error)) < 6 * (1 / 12 / N) ** 0.5


def test_decoded_shares_add_up_to_one_unit():
    rng = np.random.default_rng(3)
    message = rng.integers(-(2**40), 2**40, (2, N))
    mask = uniform(message.shape)
    shares = [
        he.decode_coefficients(part.view(np.uint64), SCALE, FRACTION_BITS, PARAMETERS)
        for part in (mask, message - mask)
    ]
    exact = coefficients_to_slots(message.astype(np.longdouble)) * 2.0**FRACTION_BITS / SCALE
    for index, part in enumerate((exact.real, exact.imag)):
        total = (shares[0][index] + shares[1][index]).view(np.int64)
        assert np.abs((total - part).astype(float)).max() <= 1.25
        assert (np.abs(total - np.rint(part)) <= 1).all()


def test_unmasking_is_exact_to_a_unit_of_the_coefficients():
    client, server = keys()
    values = encode(np.random.default_rng(4).normal(0, 4, (2, SLOTS)))
    ciphertexts = upload(Operand(values[:1], values[1:], 2.0**10), client)
    message, mask = he.mask_for_client(ciphertexts, server, SecureRandom())
    share = he.unmask(message, 1, client)
    got = (share + mask).view(np.int64)[0]
    expected = decrypt(ciphertexts[0], client) * 2**64 / Q
    error = (got - expected).astype(float)
    # The fresh zero has noise 3.2 sqrt(4 N / 3), times 2^64 / Q far below one; the switch of c1
    # keeps 6 bits more, so that sqrt(2 N / 3) roundings cost 21 / 64 of a unit rms.
    assert np.abs(error).max() < 4
    assert error.std() < 1


@pytest.mark.parametrize("count", [1, 3])
def test_round_trip_returns_the_value(count):
    pair = keys()
    values = np.random.default_rng(count).normal(0, 4, (2, count, SLOTS))
    bits = 34
    operand = Operand(*encode(values), 2.0**bits)
    real, imag = trip([operand], lambda x: x, 2.0 ** (bits + FRACTION_BITS), pair)
    for got, expected in ((real, values[0]), (imag, values[1])):
        assert np.abs(decode(got) - expected).max() < 6 * 2.0**-FRACTION_BITS


def test_two_encryptions_share_nothing():
    client = keys()[0]
    residues = Operand(np.zeros((1, SLOTS), np.int64), None, 1.0).residues()
    first, second = (
        he.parse_seeded(he.encrypt_seeded(residues, client, SecureRandom()), 1, PARAMETERS)
        for _ in range(2)
    )
    assert np.mean(first == second) < 1e-3


def test_encryption_noise_is_seals():
    client = keys()[0]
    residues = Operand(np.zeros((8, SLOTS), np.int64), None, 1.0).residues()
    data = he.encrypt_seeded(residues, client, SecureRandom())
    noise = np.stack([decrypt(c, client) for c in he.parse_seeded(data, 8, PARAMETERS)]).astype(int)
    assert np.abs(noise).max() <= 21
    assert 3.15 < noise.std() < 3.33
    assert abs(noise.mean()) < 6 * 3.24 / noise.size**0.5


def test_declared_failure_probability_is_measured():
    """Lifts fail about as often as declared where they fail often enough to count."""
    rng = np.random.default_rng(5)
    rms = 2.0**60
    coefficients = np.rint(rng.normal(0, rms, (16, N))).astype(np.int64)
    mask = uniform(coefficients.shape)
    with np.errstate(over="ignore"):
        wrapped = (coefficients - mask).astype(float) + mask.astype(float)
    failures = np.abs(wrapped - coefficients) > 2.0**62
    # Slots have sqrt(N) times the coefficients' root mean square.
    declared = he.lift_failure(16, PARAMETERS, 1.0, rms * N**0.5)
    assert 0.5 * declared < failures.sum() < declared


def test_ntt_of_encoded_integers_has_the_declared_scale():
    values = np.ones((1, SLOTS), np.int64)
    coefficients = intt(he.encode_integers(values, None, 2.0**20, PARAMETERS), PARAMETERS.primes)
    assert (coefficients[0, :, 0] == 2**20).all()
    assert not coefficients[0, :, 1:].any()
    assert (ntt(coefficients, PARAMETERS.primes) == 2**20).all()
