"""SEAL reads what we write and writes what we read."""

import numpy as np
import pytest
import tenseal.sealapi as seal

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.canonical_embedding import slots_to_coefficients
from he_linear.ckks.keys import galois_element
from he_linear.ckks.rotation import relinearise, rotate
from he_linear.kernels import residues as kernels
from tests.he_setup import PARAMETERS, SLOTS, N, Operand, centre_modulo, decrypt, keys, upload

SCALE = 2.0**30
STEPS = (-1, 1, 7, 256)


@pytest.fixture(scope="module")
def pair():
    return keys(STEPS)


def slots_by_seal(ciphertext, client, scale):
    """What SEAL decrypts and decodes, real parts."""
    plain = seal.Plaintext()
    loaded = client.seal.to_ciphertext(ciphertext, scale)
    seal.Decryptor(client.seal.context, client.seal_secret_key).decrypt(loaded, plain)
    return np.array(seal.CKKSEncoder(client.seal.context).decode_double(plain))


def encrypted(values, client):
    return upload(Operand(values[None], None, SCALE / 2**10), client)[0]


def test_encoding_is_seals_up_to_rounding(pair):
    context = pair[0].seal
    rng = np.random.default_rng(0)
    values = rng.integers(-(2**20), 2**20, SLOTS)
    plain = seal.Plaintext()
    seal.CKKSEncoder(context.context).encode(values.tolist(), 2.0**10, plain)
    reference = context.from_plaintext(plain)
    ours = he.encode_integers(values[None], None, 2.0**10, PARAMETERS)[0]
    moduli = np.array(PARAMETERS.primes, np.uint64)[:, None]
    difference = kernels.add(ours, moduli - reference, PARAMETERS.primes)
    assert np.abs(centre_modulo(kernels.intt(difference, PARAMETERS.primes))).max() <= 1


def test_ntt_is_seals_bit_for_bit(pair):
    context = pair[0].seal
    values = np.random.default_rng(1).integers(0, min(PARAMETERS.primes), N).astype(np.uint64)
    coefficients = np.stack([values % p for p in PARAMETERS.primes])
    ciphertext = context.to_ciphertext(np.stack([coefficients] * 2))
    # The byte after the parms id says that the ciphertext is in NTT form; here it is not.
    body = context.dump(ciphertext)
    flagged = context.load(seal.Ciphertext(), body[:32] + b"\0" + body[33:])
    context.evaluator.transform_to_ntt_inplace(flagged)
    reference = context.from_ciphertext(flagged)
    assert (reference == kernels.ntt(np.stack([coefficients] * 2), PARAMETERS.primes)).all()


def test_seal_decrypts_ours(pair):
    values = np.random.default_rng(2).integers(-(2**16), 2**16, SLOTS)
    got = slots_by_seal(encrypted(values, pair[0]), pair[0], SCALE) * 2**10
    assert np.abs(got - values).max() < 8


def test_we_decrypt_seals(pair):
    client = pair[0]
    context = client.seal.context
    public = seal.PublicKey()
    seal.KeyGenerator(context, client.seal_secret_key).create_public_key(public)
    values = np.random.default_rng(3).normal(size=SLOTS)
    plain, ciphertext = seal.Plaintext(), seal.Ciphertext()
    seal.CKKSEncoder(context).encode(values.tolist(), SCALE, plain)
    seal.Encryptor(context, public).encrypt(plain, ciphertext)
    coefficients = decrypt(client.seal.from_ciphertext(ciphertext), client)
    expected = slots_to_coefficients(values.astype(np.clongdouble)) * SCALE
    assert np.abs(coefficients - expected).max() < 2**12


@pytest.mark.parametrize("step", STEPS)
def test_rotations_agree_with_seals(pair, step):
    client, server = pair
    values = np.random.default_rng(4).integers(-(2**16), 2**16, SLOTS)
    ciphertext = encrypted(values, client)
    ours = rotate(ciphertext, step, server)
    loaded = server.seal.to_ciphertext(ciphertext)
    element = galois_element(step, N)
    server.seal.evaluator.apply_galois_inplace(loaded, element, server.seal_galois_keys())
    reference = decrypt(server.seal.from_ciphertext(loaded), client)
    noise = (decrypt(ours, client) - reference).astype(float)
    assert noise.std() < 50
    assert np.abs(noise).max() < 300
    got = slots_by_seal(ours, client, SCALE) * 2**10
    assert np.abs(got - np.roll(values, -step)).max() < 8


def test_relinearisation_agrees_with_seals(pair):
    client, server = pair
    rng = np.random.default_rng(5)
    a, b = (rng.integers(-(2**16), 2**16, SLOTS) for _ in range(2))
    first, second = (
        kernels.to_centred(encrypted(x, client)[None], PARAMETERS.primes) for x in (a, b)
    )
    product = server.switcher.tensor(first, second)
    ours = relinearise(product[None], server)[0]
    loaded = server.seal.to_ciphertext(kernels.from_centred(product, PARAMETERS.primes))
    server.seal.evaluator.relinearize_inplace(loaded, server.seal_relin_keys())
    reference = decrypt(server.seal.from_ciphertext(loaded), client)
    assert np.abs((decrypt(ours, client) - reference).astype(float)).max() < 300
    got = slots_by_seal(ours, client, SCALE**2) * 2**20
    assert np.abs(got - a.astype(float) * b).max() < 2**22


def test_an_all_zero_ciphertext_rotates(pair):
    zero = np.zeros((2, 2, N), np.uint64)
    assert not rotate(zero, 1, pair[1]).any()
