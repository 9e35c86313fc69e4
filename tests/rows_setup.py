"""Keys and one batch of rows in exact slots, shared by their tests."""

from functools import lru_cache

import numpy as np

from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.exact.slot_encryption import (
    slot_encrypt,
    slot_mask_for_client,
    slot_parse,
    slot_unmask,
)
from he_linear.exact.slot_parameters import SLOT_SETS
from he_linear.kernels.residues import add, from_centred, intt, multiply
from he_linear.kernels.row_products import IntegerMatrix
from he_linear.packings.row_blocks import Room
from tests.he_setup import looks_uniform
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


def uniform_residues(words):
    """T lies just below 2^44."""
    assert int(words.max()) < T
    return looks_uniform(words.ravel() << np.uint64(20) | words.ravel() & np.uint64(2**20 - 1))


def phase(ciphertexts, client):
    """C0 + c1 s, coefficients modulo Q as Python integers, of centred NTT (n, 2, primes, N)."""
    primes = P.primes
    residues = from_centred(ciphertexts, primes)
    total = add(
        residues[:, 0],
        multiply(residues[:, 1], np.stack([client.secret_residues] * len(residues)), primes),
        primes,
    )
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
