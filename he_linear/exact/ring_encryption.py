"""Encryption of polynomials modulo 2^l, and the masked way back.

Into: round(Q / 2^l * m), encrypted symmetrically; the uniform half is a public seed. Times an
integer polynomial of any size below the noise bound this stays an encryption of the product.
Back: a fresh public-key encryption of zero is added; the body of the useful coefficients only is
rounded to l bits and masked by r uniform modulo 2^l, the second polynomial is rounded to
`second_bits`. So the key owner sees uniform words and a pseudorandom polynomial, and the noise,
which depends on weights and shares, stays inside the two shares: each is uniform, their sum is
the product, and off by one where the noise crosses a rounding boundary. The offset of that
boundary is uniform, so the chance is the noise's mean size in units of the last bit.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from he_linear.exact.ring_keys import RingClientKeys, RingServerKeys, prime_major, residues_of
from he_linear.exact.ring_parameters import RingParameters
from he_linear.kernels import sampling
from he_linear.kernels.residue_bytes import pack_residues, packed_residue_bytes, unpack_residues
from he_linear.kernels.ring_words import (
    add_product,
    fractions,
    lift,
    reduce_words,
    transform,
    words_times,
)
from he_linear.kernels.scalars import Floats, Integers, Residues
from transport.bitpack import WORD_BITS, low_mask, pack_bits, packed_bytes, unpack_bits
from transport.errors import FrameError
from transport.randomness import SEED_BYTES, SecureRandom

Positions = NDArray[np.int64]
"""Flat indices into (ciphertexts, N): where the results stand, in the order of the results."""

_INPUT_DOMAIN = "ring input"


def signed(words: Residues, bits: int) -> Integers:
    """Words modulo 2^bits as integers of least magnitude."""
    spare = np.int64(WORD_BITS - bits)
    shifted: Integers = (words << spare.astype(np.uint64)).view(np.int64) >> spare
    return shifted


def encode_message(message: Residues, parameters: RingParameters) -> Floats:
    """round(Q / 2^l * m) for words m (count, N) modulo 2^l: (primes, count, N).

    Q m - 2^l round(Q m / 2^l) is the centred remainder of Q m, a word; modulo a prime of Q only
    that remainder is left, divided by -2^l.
    """
    primes, bits = parameters.primes, parameters.plain_bits
    q = np.uint64(parameters.modulus % (1 << WORD_BITS))
    factors = [-pow(2, -bits, p) % p for p in primes]
    return reduce_words(signed(message * q, bits), primes, factors)


def encode_plain(words: Residues, parameters: RingParameters, divisor: int = 1) -> Floats:
    """Integer polynomials (..., N), read as signed, over `divisor` modulo Q: NTT form."""
    primes = parameters.primes
    factors = [pow(divisor, -1, p) for p in primes]
    values = reduce_words(signed(words, parameters.plain_bits), primes, factors)
    return transform(values, primes)


def ring_encrypted_bytes(count: int, parameters: RingParameters) -> int:
    """Length of `ring_encrypt` for `count` polynomials."""
    return SEED_BYTES + packed_residue_bytes(count, parameters.primes, parameters.poly_degree)


def ring_encrypt(message: Residues, keys: RingClientKeys, rng: SecureRandom) -> bytes:
    """Symmetric encryptions of polynomials (count, N) modulo 2^l, in the seeded form."""
    p = keys.parameters
    seed = sampling.fresh_seed(rng)
    uniform = sampling.expand_uniform(seed, _INPUT_DOMAIN, len(message), p.primes, p.poly_degree)
    body = keys.encrypt(uniform, encode_message(message, p), p.primes)
    return seed + pack_residues(residues_of(body, p.primes), p.primes)


def ring_parse(data: bytes, count: int, parameters: RingParameters) -> Floats:
    """Untrusted bytes to ciphertexts (primes, count, 2, N), NTT form."""
    expected = ring_encrypted_bytes(count, parameters)
    if len(data) != expected:
        raise FrameError(
            f"encrypted shares: got {len(data)} bytes, expected {expected}; are both parties the "
            "same version?"
        )
    primes, n = parameters.primes, parameters.poly_degree
    bodies = unpack_residues(memoryview(data)[SEED_BYTES:], count, primes, n, "encrypted shares")
    uniform = sampling.expand_uniform(data[:SEED_BYTES], _INPUT_DOMAIN, count, primes, n)
    return np.stack([prime_major(bodies, primes), prime_major(uniform, primes)], axis=2)


def ring_masked_bytes(count: int, results: int, parameters: RingParameters) -> int:
    """Length of `ring_mask_for_client`'s message: `count` ciphertexts with `results` results."""
    words = count * parameters.poly_degree
    low = packed_bytes(words, parameters.extra_bits) if parameters.extra_bits else 0
    return packed_bytes(results, parameters.plain_bits) + 8 * words + low


def ring_mask_for_client(
    ciphertexts: Floats, useful: Positions, keys: RingServerKeys, rng: SecureRandom
) -> tuple[bytes, Residues]:
    """The message for the key owner and the server's share of the results modulo 2^l.

    ciphertexts (primes, count, 2, N), NTT form, are spoilt; `useful` says where the results are.
    """
    p = keys.parameters
    fresh = _randomised(ciphertexts, keys, rng)
    count, n = fresh.shape[1], p.poly_degree
    bodies = np.ascontiguousarray(fresh[:, :, 0]).reshape(-1, count * n)[:, useful.reshape(-1)]
    high, low = fractions(bodies, p.primes)
    body, _ = rounded_words(high, low, p.plain_bits)
    mask = sampling.draw_mask(rng, body.shape) & low_mask(p.plain_bits)
    message = pack_bits(body - mask, p.plain_bits)
    high, low = rounded_words(*fractions(fresh[:, :, 1], p.primes), p.second_bits)
    message += high.tobytes()
    if p.extra_bits:
        message += pack_bits(low, p.extra_bits)
    return message, mask.reshape(useful.shape)


def draw_ring_zero(
    keys: RingServerKeys, rng: SecureRandom, count: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Randomness of fresh public-key encryptions of zero, new for each ciphertext.

    Ternary u in NTT form, (primes, count, N), and errors (count, 2, N): (pk0 u + e0, pk1 u + e1).
    """
    primes, n = keys.parameters.primes, keys.parameters.poly_degree
    u, errors = sampling.draw_zero(rng, count, n)
    return transform(reduce_words(u, primes), primes), errors


def _randomised(ciphertexts: Floats, keys: RingServerKeys, rng: SecureRandom) -> Floats:
    """Plus a fresh encryption of zero each, coefficient form."""
    primes = keys.parameters.primes
    zero = draw_ring_zero(keys, rng, ciphertexts.shape[1])
    return plus_zero(ciphertexts, keys.public_key, zero, primes)


def plus_zero(
    ciphertexts: Floats,
    public_key: Floats,
    zero: tuple[Floats, NDArray[np.int64]],
    primes: tuple[int, ...],
) -> Floats:
    """Plus (pk0 u + e0, pk1 u + e1): coefficients, centred but for the errors.

    ciphertexts (primes, count, 2, N), NTT form, are spoilt; public_key (primes, 2, N), centred;
    zero: u (primes, count, N) in NTT form and errors (count, 2, N).
    """
    u, errors = zero
    for half in range(2):
        add_product(u, public_key[:, half], primes, ciphertexts[:, :, half])
    fresh: Floats = transform(ciphertexts, primes, inverse=True) + errors
    return fresh


def rounded_words(high: Residues, low: Residues, bits: int) -> tuple[Residues, Residues]:
    """A fraction of 128 bits times 2^bits, rounded, modulo 2^bits.

    Up to 64 bits: the result and nothing; beyond: its upper 64 bits and the others.
    """
    if bits < WORD_BITS:
        half = np.uint64(1 << (WORD_BITS - 1 - bits))
        return (high + half) >> np.uint64(WORD_BITS - bits), low
    half = np.uint64(1 << (2 * WORD_BITS - 1 - bits))
    rounded = low + half
    high = high + (rounded < half)
    extra = bits - WORD_BITS
    return high, rounded >> np.uint64(WORD_BITS - extra) if extra else rounded


def ring_unmask(data: bytes, count: int, useful: Positions, keys: RingClientKeys) -> Residues:
    """The client's share of the results modulo 2^l: body + round(c1 s), shape of `useful`."""
    p = keys.parameters
    expected = ring_masked_bytes(count, useful.size, p)
    if len(data) != expected:
        raise FrameError(
            f"masked products: got {len(data)} bytes, expected {expected}; are both parties the "
            "same version?"
        )
    n, words = p.poly_degree, count * p.poly_degree
    at = packed_bytes(useful.size, p.plain_bits)
    body = unpack_bits(data[:at], useful.size, p.plain_bits)
    high = np.frombuffer(data[at : at + 8 * words], np.int64).reshape(count, n)
    low = None
    if p.extra_bits:
        packed = data[at + 8 * words :]
        low = unpack_bits(packed, words, p.extra_bits).view(np.int64).reshape(count, n)
    primes = p.lift_primes
    product = words_times(high, low, p.extra_bits, keys.secret[: len(primes)], primes)
    chosen = product.reshape(len(primes), words)[:, useful.reshape(-1)]
    # c1 s at second_bits, down to l bits with rounding.
    upper, lower = lift(chosen, primes)
    shift = p.second_bits - p.plain_bits
    half = np.uint64(1 << (shift - 1))
    rounded = lower + half
    upper = upper + (rounded < half)
    share = (rounded >> np.uint64(shift)) | (upper << np.uint64(WORD_BITS - shift))
    total: Residues = (body + share) & low_mask(p.plain_bits)
    return total.reshape(useful.shape)
