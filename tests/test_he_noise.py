"""Estimated noise and failure probabilities against measurement."""

import numpy as np
import pytest

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.keys import ClientKeys, ServerKeys, _signed
from he_linear.ckks.noise import NoiseModel
from he_linear.ckks.parameters import PARAMETER_SETS
from he_linear.ckks.rotation import rotate
from he_linear.kernels.residues import add, from_centred, intt, multiply, to_centred
from he_linear.packings.token_periodic import TokenPeriodicPacking
from tests.he_setup import (
    FRACTION_BITS,
    PARAMETERS,
    SLOTS,
    N,
    Operand,
    decode,
    decrypt,
    encode,
    keys,
    trip,
    upload,
)
from transport.randomness import SecureRandom

MODEL = NoiseModel(PARAMETERS)


def rms(values):
    return float(np.sqrt(np.mean(np.asarray(values, float) ** 2)))


@pytest.fixture(scope="module")
def zeros():
    """Encryptions of zero slots: everything in them is noise."""
    client, _ = keys((1,))
    operand = Operand(np.zeros((6, SLOTS), np.int64), None, 2.0**10)
    return upload(operand, client)


def test_fresh_noise(zeros):
    client, _ = keys((1,))
    measured = rms([decrypt(ct, client) for ct in zeros])
    assert measured == pytest.approx(MODEL.fresh**0.5, rel=0.05)


def test_a_rotation_adds_the_noise_of_a_key_switch(zeros):
    client, server = keys((1,))
    measured = rms([decrypt(rotate(ct, 1, server), client) for ct in zeros])
    assert measured == pytest.approx((MODEL.fresh + MODEL.key_switch) ** 0.5, rel=0.1)


def test_rescaling_adds_its_rounding():
    deep = PARAMETER_SETS["n8192_q182"].reduced(2)
    client = ClientKeys.generate(deep, (), False, SecureRandom())
    server = ServerKeys.parse(deep, client.public_bytes(), (), False)
    zero = np.zeros((4, deep.slots), np.int64)
    encrypted = he.encrypt_seeded(he.encode_integers(zero, None, 1.0, deep), client, SecureRandom())
    ciphertexts = to_centred(he.parse_seeded(encrypted, 4, deep), deep.primes)
    base = deep.base.primes
    noise = []
    for ciphertext in ciphertexts:
        halves = [server.switcher.rescale(half.copy()) for half in ciphertext]
        c0, c1 = from_centred(np.stack(halves), base)
        opened = intt(add(c0, multiply(c1, client.base_secret_residues, base), base), base)
        noise.append(_signed(opened[0], base[0]))
    assert rms(noise) == pytest.approx(NoiseModel(deep).rescale ** 0.5, rel=0.1)


@pytest.mark.parametrize(("tokens", "d_in", "d_out"), [(8, 64, 40), (32, 384, 64), (200, 40, 90)])
def test_errors_of_linear_layers(tokens, d_in, d_out):
    rng = np.random.default_rng(tokens)
    packing = TokenPeriodicPacking(PARAMETERS, tokens, d_in, d_out, baby_steps=8)
    weights, x = rng.normal(0, d_in**-0.5, (d_in, d_out)), rng.normal(0, 2, (tokens, d_in))
    pair = keys(packing.galois_steps)
    encoded = packing.encode_weights(weights)
    errors = []
    for _ in range(3):
        real, imag = packing.pack(encode(x))
        operand = Operand(real, imag, packing.input_scale(FRACTION_BITS))
        out = trip(
            [operand],
            lambda ct: packing.evaluate(ct, encoded, pair[1]),
            packing.output_scale,
            pair,
        )
        errors.append(decode(packing.unpack(*out)[0]) - x @ weights)
    estimate = packing.error_rms(d_in**-0.5, 2.0, FRACTION_BITS)
    assert rms(errors) == pytest.approx(estimate, rel=0.5)


@pytest.mark.parametrize("bits", [56, 60])
def test_lifts_fail_as_often_as_declared(bits):
    """Coefficients of known size, shared with uniform masks: the lift wraps with |m| / 2^64."""
    rng = SecureRandom()
    count = 64
    message = np.random.default_rng(bits).normal(0, 2.0**bits, (count, N)).astype(np.int64)
    first = rng.uint64(message.shape)
    second = message.view(np.uint64) - first
    # The sum of the lifts is the message unless it wrapped: compare in floating point.
    total = first.view(np.int64).astype(float) + second.view(np.int64).astype(float)
    failed = int((np.abs(total - message) > 2.0**62).sum())
    expected = count * N * 2.0**bits * (2 / np.pi) ** 0.5 / 2.0**64
    assert abs(failed - expected) < 5 * expected**0.5
    # The declared bound takes the root mean square, which is at least the mean magnitude. Slots
    # are sqrt(N) times as large as coefficients.
    declared = he.lift_failure(count, PARAMETERS, 1.0, 2.0**bits * N**0.5)
    assert expected < declared < 1.3 * expected
