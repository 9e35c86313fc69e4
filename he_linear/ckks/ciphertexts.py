"""The ciphertext halves of the two conversions: into seeded ciphertexts, and out modulo 2^64.

Into: residues of encoded integers, encrypted symmetrically; the uniform half is a public seed.
Out: a fresh public-key encryption of zero is added, both polynomials are switched from Q to
2^64 with rounding, and the body is masked with a uniform polynomial. The second polynomial
keeps 6 further bits, so that rounding it costs about one unit of the result, not sqrt(N).
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numba import njit

from he_linear.ckks.canonical_embedding import decode_slots, encode_slots
from he_linear.ckks.encryption import randomised
from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.ckks.parameters import CkksParameters
from he_linear.kernels import sampling
from he_linear.kernels.ntt import tables
from he_linear.kernels.residue_bytes import pack_residues, packed_residue_bytes, unpack_residues
from he_linear.kernels.residues import add, from_centred, to_centred
from he_linear.kernels.ring_words import words_times
from he_linear.kernels.scalars import Residues, mulhi, mulmod, shoup
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.errors import FrameError
from transport.randomness import SEED_BYTES, SecureRandom

RING_BITS = 64
EXTRA_BITS = 6
"""Further bits of the second polynomial."""
_INPUT_DOMAIN = "ckks input"


def encode_integers(
    real: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    imag: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None,
    scale: float,
    parameters: CkksParameters,
) -> Residues:
    """Integer slots (n, N/2) times `scale`, rounded, as residues (n, primes, N), NTT form.

    The masks of two parties cancel up to both roundings: sqrt(N / 12) / scale units rms, 0.03 for
    N = 8192 and scale 2^10. `scale` is below 2^36.
    """
    primes = parameters.primes
    values = encode_slots(real, imag, scale, primes)
    for index, p in enumerate(primes):
        tables(p, parameters.poly_degree).forward(values[index])
    return from_centred(values.transpose(1, 0, 2), primes)


def encrypted_bytes(count: int, parameters: CkksParameters) -> int:
    """Length of `encrypt_seeded` for `count` ciphertexts."""
    return SEED_BYTES + packed_residue_bytes(count, parameters.primes, parameters.poly_degree)


def encrypt_seeded(residues: Residues, keys: ClientKeys, rng: SecureRandom) -> bytes:
    """Symmetric encryption of residues (n, level, N) in the seeded form, at their level."""
    primes = keys.parameters.primes[: residues.shape[1]]
    seed = sampling.fresh_seed(rng)
    uniform = sampling.expand_uniform(
        seed, _INPUT_DOMAIN, len(residues), primes, keys.parameters.poly_degree
    )
    return seed + pack_residues(keys.encrypt_rows(uniform, residues), primes)


def parse_seeded(data: bytes, count: int, parameters: CkksParameters) -> Residues:
    """Untrusted bytes to ciphertexts (n, 2, primes, N)."""
    if len(data) != encrypted_bytes(count, parameters):
        raise FrameError(
            f"encrypted input: got {len(data)} bytes, expected "
            f"{encrypted_bytes(count, parameters)}; are both parties the same version?"
        )
    primes, n = parameters.primes, parameters.poly_degree
    bodies = unpack_residues(memoryview(data)[SEED_BYTES:], count, primes, n, "encrypted input")
    uniform = sampling.expand_uniform(data[:SEED_BYTES], _INPUT_DOMAIN, count, primes, n)
    return np.stack([bodies, uniform], axis=1)


def add_plain(ciphertexts: Residues, residues: Residues, parameters: CkksParameters) -> Residues:
    """Add encoded plaintexts (n, primes, N) to ciphertexts (n, 2, primes, N), in place."""
    ciphertexts[:, 0] = add(ciphertexts[:, 0], residues, parameters.primes)
    return ciphertexts


def masked_bytes(count: int, parameters: CkksParameters) -> int:
    """Length of `mask_for_client`'s message for `count` ciphertexts."""
    n = parameters.poly_degree
    return count * n * 16 + packed_bytes(count * n, EXTRA_BITS)


def mask_for_client(
    ciphertexts: Residues, keys: ServerKeys, rng: SecureRandom
) -> tuple[bytes, Residues]:
    """The message for the key owner and the server's share r of the coefficients (n, N).

    ciphertexts: (n, 2, base primes, N), NTT form. The body c0' - r is uniform modulo 2^64; c1'
    is pseudorandom by the fresh encryption of zero.
    """
    p = keys.parameters.base
    u, errors = sampling.draw_zero(rng, len(ciphertexts), p.poly_degree)
    fresh = randomised(ciphertexts, keys.base_public_key, u, errors, p.primes)
    body, _ = switch_modulus(fresh[:, 0], p)
    second, low = switch_modulus(fresh[:, 1], p, EXTRA_BITS)
    mask = sampling.draw_mask(rng, body.shape)
    message = (body - mask).tobytes() + second.tobytes() + pack_bits(low, EXTRA_BITS)
    return message, mask


def switch_modulus(
    residues: Residues, parameters: CkksParameters, extra_bits: int = 0
) -> tuple[Residues, Residues]:
    """round(c * 2^(64 + extra) / Q) modulo 2^(64 + extra), as its high 64 and low extra bits.

    residues: (n, primes, N), coefficient form. c / Q = sum_i t_i / q_i modulo 1 with
    t_i = c (Q / q_i)^-1 mod q_i; every fraction is taken to 2^-128 and the sum rounded once.
    """
    primes = parameters.primes
    shape = (residues.shape[0], residues.shape[2])
    high, low = np.zeros(shape, np.uint64), np.zeros(shape, np.uint64)
    for index, p in enumerate(primes):
        inverse = pow(parameters.modulus // p, -1, p)
        fraction = (1 << 128) // p
        _accumulate(
            np.ascontiguousarray(residues[:, index]).reshape(-1),
            *shoup(inverse, p),
            np.uint64(fraction >> 64),
            np.uint64(fraction & ((1 << 64) - 1)),
            high.reshape(-1),
            low.reshape(-1),
        )
    half = np.uint64(1) << np.uint64(63 - extra_bits)
    rounded = low + half
    high += rounded < half
    return high, rounded >> np.uint64(64 - extra_bits) if extra_bits else np.zeros_like(low)


@njit(cache=True, nogil=True)
def _accumulate(values, inverse, quotient, p, high, low, out_high, out_low):  # type: ignore[no-untyped-def]
    """(out_high, out_low) += (c * inverse mod p) * (high, low) / 2^128, modulo 2^128."""
    for i in range(values.size):
        t = mulmod(values[i], inverse, quotient, p)
        carry_low = t * low
        carry_high = t * high + mulhi(t, low)
        s = out_low[i] + carry_low
        out_high[i] += carry_high + np.uint64(s < carry_low)
        out_low[i] = s


def unmask(data: bytes, count: int, keys: ClientKeys) -> Residues:
    """The client's share of the coefficients (n, N): c0' - r + round(c1' s) modulo 2^64."""
    p = keys.parameters.base
    n = p.poly_degree
    if len(data) != masked_bytes(count, p):
        raise FrameError(
            f"masked result: got {len(data)} bytes, expected {masked_bytes(count, p)}; "
            "are both parties the same version?"
        )
    words = np.frombuffer(data, np.uint64, 2 * count * n)
    body, second = words[: count * n].reshape(count, n), words[count * n :].reshape(count, n)
    low = unpack_bits(data[16 * count * n :], count * n, EXTRA_BITS)
    # second * 2^extra + low, signed, below 2^69; |c1' s| <= N 2^69 < Q / 2.
    signed, low_bits = second.view(np.int64), low.view(np.int64).reshape(count, n)
    secret = to_centred(keys.base_secret_residues, p.primes)
    product = words_times(signed, low_bits, EXTRA_BITS, secret, p.primes)
    return body + _round_product(from_centred(product.transpose(1, 0, 2), p.primes), p)


def _round_product(product: Residues, parameters: CkksParameters) -> Residues:
    """Centred lift of (n, 2, N) residues, divided by 2^extra with rounding, modulo 2^64."""
    q0, q1 = parameters.primes
    out = np.empty((product.shape[0], product.shape[2]), np.uint64)
    _garner(
        np.ascontiguousarray(product[:, 0]).reshape(-1),
        np.ascontiguousarray(product[:, 1]).reshape(-1),
        np.uint64(q0),
        *shoup(pow(q0, -1, q1), q1),
        np.uint64(EXTRA_BITS),
        out.reshape(-1),
    )
    return out


@njit(cache=True, nogil=True)
def _garner(r0, r1, q0, inverse, quotient, q1, extra, out):  # type: ignore[no-untyped-def]
    """X = r0 + q0 * ((r1 - r0) / q0 mod q1), centred modulo q0 q1, rounded by 2^extra."""
    one = np.uint64(1)
    half = one << (extra - one)
    for i in range(r0.size):
        a = r0[i]
        d = (r1[i] + q1 - a % q1) % q1
        k = mulmod(d, inverse, quotient, q1)
        # Negative numbers are those in the upper half: k >= q1 / 2 up to a negligible strip, which
        # |x| < Q / 4 keeps empty.
        if k > q1 >> one:
            k -= q1
            high = mulhi(k, q0) - q0
        else:
            high = mulhi(k, q0)
        low = k * q0
        s = low + a
        high += np.uint64(s < low)
        t = s + half
        high += np.uint64(t < s)
        out[i] = (t >> extra) | (high << (np.uint64(64) - extra))


def switched_scale(scale: float, parameters: CkksParameters) -> float:
    """Message scale after the switch from Q, the base primes' product, to 2^64."""
    return float(scale * (2.0**RING_BITS / parameters.base.modulus))


def decode_coefficients(
    coefficients: Residues,
    scale: float,
    fraction_bits: int,
    parameters: CkksParameters,
    tops: np.ndarray[tuple[int, ...], np.dtype[np.int64]] | None = None,
) -> tuple[Residues, Residues]:
    """A share of coefficients (n, N) to shares of real and imaginary slots (n, N/2).

    Centred lift, embedding, rescaling from `scale` to fraction bits, rounding, modulo 2^64. The
    two parties' results add up to the slots within one unit. With `tops` the share is the integer
    2^64 tops + coefficients, see `canonical_embedding.decode_slots`; one unit from scale 2^24 on.
    """
    assert coefficients.shape[-1] == parameters.poly_degree
    return decode_slots(coefficients, Fraction(2) ** fraction_bits / Fraction(scale), tops)


def lift_failure(count: int, parameters: CkksParameters, switched: float, slot_rms: float) -> float:
    """Bound on the chance that any coefficient of `count` masked ciphertexts lifts wrongly.

    A coefficient m fails with |m| / 2^64; N of them with root mean square scale * rms / sqrt(N).
    """
    return count * math.sqrt(parameters.poly_degree) * switched * slot_rms / 2.0**RING_BITS
