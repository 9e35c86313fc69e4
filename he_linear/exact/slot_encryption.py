"""Encryption of uniform slots modulo t, and the masked way back to shares modulo t.

Into. The client does not choose what it encrypts. With c1 from a seed and d = -(c1 s + e), it
keeps m = round(t d / Q) modulo t and sends B = d - round(Q m / t), which lies within Q / 2t of
zero: c0 = B, and c0 + c1 s = -round(Q m / t) - e is an encryption of -m, uniform because d is
pseudorandom; B takes log2(Q / t) bits, less `DROPPED_BITS` that are rounded off. docs/security.md
says why (c1, B) hides m.

Back. A fresh public-key encryption of zero is added; every coefficient is taken as a fraction of
Q, c0' in 128 bits, c1' rounded to `second_bits`. The mask r = c0' - u is uniform modulo 2^128
because u is: the client gets u, as the seed that it comes from, and c1'. Rounded, t r and
t (u + c1' s) are shares modulo t of the message, unless t r lies so near a half that the noise
decides: so a bit beside c1', the hint, has both move away by a half where t r is within about a
quarter of one. The edges of that quarter are blurred by `SPREAD`, for the client knows t r but for
the noise, and must not learn on which side of an edge that puts it: `SlotParameters.hint_distance`
bounds what the hints tell, docs/security.md proves it. The noise stays inside the shares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numba import njit

from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.exact.ring_encryption import plus_zero, rounded_words
from he_linear.exact.slot_parameters import (
    DROPPED_BITS,
    LIFTED_PRIMES,
    SPREAD,
    SlotParameters,
)
from he_linear.kernels import sampling
from he_linear.kernels.residues import intt, to_centred
from he_linear.kernels.ring_words import (
    fractions,
    lift,
    reduce_words,
    short_fractions,
    transform,
    words_times,
)
from he_linear.kernels.scalars import Floats, Integers, Residues, centre, centred, times
from he_linear.kernels.wide_words import (
    WidePair,
    add_wide,
    raised,
    rounded_by_hint,
    rounded_multiple,
    rounded_with_hint,
    subtract_wide,
)
from transport.bitpack import WORD_BITS, pack_bits, packed_bytes, unpack_bits
from transport.errors import FrameError
from transport.randomness import SEED_BYTES, SecureRandom

_INPUT_DOMAIN, _MASK_DOMAIN = "slot input", "slot mask"
_PARSED = 32
"""Ciphertexts parsed at a time: working memory of hundreds would be twice the result."""


def slot_parameters(keys: ClientKeys | ServerKeys) -> SlotParameters:
    """Of keys for exact slots."""
    assert isinstance(keys.parameters, SlotParameters)
    return keys.parameters


# -- into -----------------------------------------------------------------------------------


@njit(cache=True, nogil=True)
def _subtract_scaled(m, t, q_mod_t, p, factor, d):  # type: ignore[no-untyped-def]
    """D -= round(Q m / t) modulo p: (Q m - (Q m mod t)) / t with Q = 0; factor = -1 / t."""
    inv, t_quotient, p_quotient = 1.0 / p, q_mod_t / t, factor / p
    for i in range(m.size):
        rest = centre(times(m[i], q_mod_t, t_quotient, t), t, 1.0 / t)
        scaled = times(centre(rest, p, inv), factor, p_quotient, p)
        d[i] = centre(d[i] - scaled, p, inv)


def slot_encrypted_bytes(count: int, parameters: SlotParameters) -> int:
    """Length of `slot_encrypt` for `count` ciphertexts."""
    words = count * parameters.poly_degree
    return SEED_BYTES + 8 * words + packed_bytes(words, parameters.body_low_bits)


def slot_encrypt(count: int, keys: ClientKeys, rng: SecureRandom) -> tuple[bytes, Residues]:
    """Ciphertexts of uniform polynomials, and those polynomials (count, N) modulo t.

    Drawn again where a body comes near Q / 2t, with a chance of 2^-43 a coefficient: for the
    others every pair of B and m belongs to exactly one d, so that m is independent of B.
    """
    p = slot_parameters(keys)
    limit = p.modulus // (2 * p.plain_prime) >> WORD_BITS
    while True:
        seed = sampling.fresh_seed(rng)
        m, body = _drawn(count, seed, keys)
        if _inside(body[0].view(np.int64), limit - 1):
            break
    half = np.full_like(body[1], 1 << DROPPED_BITS >> 1)
    rounded = add_wide(body, (np.zeros_like(half), half))
    high, _ = raised(rounded, WORD_BITS - DROPPED_BITS - p.body_low_bits)
    low = rounded[1] >> np.uint64(DROPPED_BITS)
    message = seed + high.tobytes() + pack_bits(low, p.body_low_bits)
    return message, np.where(m, np.uint64(p.plain_prime) - m, m)


def _drawn(count: int, seed: bytes, keys: ClientKeys) -> tuple[Residues, WidePair]:
    """Messages m (count, N) modulo t and bodies B, modulo 2^128, for fresh noise and this seed."""
    p = slot_parameters(keys)
    uniform = sampling.expand_uniform(seed, _INPUT_DOMAIN, count, p.primes, p.poly_degree)
    rows = keys.encrypt_rows(uniform, np.zeros_like(uniform))
    d = to_centred(intt(rows, p.primes), p.primes).transpose(1, 0, 2).copy()
    t = p.plain_prime
    m = rounded_multiple(fractions(d, p.primes), t)
    signed = np.where(m > t // 2, m - np.uint64(t), m).view(np.int64).astype(np.float64)
    for row, prime in zip(d, p.primes, strict=True):
        factor = centred(-pow(t, -1, prime), prime)
        constants = float(t), centred(p.modulus, t), float(prime), factor
        _subtract_scaled(signed.reshape(-1), *constants, row.reshape(-1))
    return m, lift(d, p.primes)


def _inside(high: Integers, limit: int) -> bool:
    """Whether all bodies, whose upper words these are, lie within limit * 2^64 of zero."""
    return bool(high.min() >= -limit and high.max() < limit)


def slot_parse(data: bytes, count: int, parameters: SlotParameters) -> Floats:
    """Untrusted bytes to ciphertexts (count, 2, primes, N), centred, NTT form."""
    expected = slot_encrypted_bytes(count, parameters)
    if len(data) != expected:
        raise FrameError(
            f"encrypted rows: got {len(data)} bytes, expected {expected}; are both parties the "
            "same version?"
        )
    p, n = parameters, parameters.poly_degree
    end = SEED_BYTES + 8 * count * n
    high = np.frombuffer(data[SEED_BYTES:end], np.int64).reshape(count, n)
    bound = (p.modulus // (2 * p.plain_prime) >> (DROPPED_BITS + p.body_low_bits)) + 1
    if high.min() < -bound or high.max() > bound:
        raise FrameError("encrypted rows: a body exceeds Q / t; the frame is corrupt")
    low = unpack_bits(data[end:], count * n, p.body_low_bits).reshape(count, n).view(np.int64)
    uniform = sampling.expand_uniform(data[:SEED_BYTES], _INPUT_DOMAIN, count, p.primes, n)
    out, unit = np.empty((count, 2, len(p.primes), n)), 1 << (p.body_low_bits + DROPPED_BITS)
    for start in range(0, count, _PARSED):
        some = slice(start, start + _PARSED)
        values = reduce_words(high[some], p.primes, unit, low[some] << DROPPED_BITS)
        out[some, 0] = transform(values, p.primes).transpose(1, 0, 2)
        out[some, 1] = to_centred(uniform[some], p.primes)
    return out


# -- back -----------------------------------------------------------------------------------


def slot_masked_bytes(count: int, parameters: SlotParameters) -> int:
    """Length of `slot_mask_for_client`'s message for `count` ciphertexts."""
    return SEED_BYTES + count * packed_bytes(parameters.poly_degree, parameters.returned_bits)


def _masked_bodies(seed: bytes, n: int) -> Iterator[WidePair]:
    """Fractions u of each ciphertext in turn, uniform modulo 2^128."""
    stream = SecureRandom(seed, domain=_MASK_DOMAIN)
    while True:
        yield sampling.draw_mask(stream, (n,)), sampling.draw_mask(stream, (n,))


def drawn_spread(rng: SecureRandom, n: int) -> Residues:
    """Sums of two uniform numbers within SPREAD / 2 of zero, in units of 2^-64, modulo 2^64."""
    half = int(SPREAD * 2.0 ** (WORD_BITS - 1))
    words = rng.uint64((2, n)) & np.uint64(2 * half - 1)
    spread: Residues = words[0] + words[1] - np.uint64(2 * half)
    return spread


def slot_mask_for_client(
    groups: Iterable[Floats], keys: ServerKeys, rng: SecureRandom
) -> tuple[bytes, Residues]:
    """The message for the key owner and the server's share of the coefficients, (count, N).

    groups: ciphertexts (some, 2, primes, N), centred, NTT form, as they come.
    """
    p = slot_parameters(keys)
    seed = sampling.fresh_seed(rng)
    bodies = _masked_bodies(seed, p.poly_degree)
    public_key = to_centred(keys.public_key, p.primes).transpose(1, 0, 2)
    parts, shares = [seed], []
    for group in groups:
        fresh = _randomised(group, public_key, p.primes, rng)
        high, low = fractions(fresh[:, :, 0], p.primes)
        seconds, _ = rounded_words(short_fractions(fresh[:, :, 1], p.primes), low, p.second_bits)
        for body, second in zip(zip(high, low, strict=True), seconds, strict=True):
            mask, spread = subtract_wide(body, next(bodies)), drawn_spread(rng, p.poly_degree)
            share, hints = rounded_with_hint(mask, p.plain_prime, spread)
            shares.append(share)
            parts.append(pack_bits(second << np.uint64(1) | hints, p.returned_bits))
    return b"".join(parts), np.stack(shares)


def _randomised(
    ciphertexts: Floats, public_key: Floats, primes: tuple[int, ...], rng: SecureRandom
) -> Floats:
    """Plus a fresh encryption of zero each: coefficients (primes, some, 2, N)."""
    u, errors = sampling.draw_zero(rng, len(ciphertexts), ciphertexts.shape[-1])
    factors = transform(reduce_words(u, primes), primes)
    values = np.ascontiguousarray(ciphertexts.transpose(2, 0, 1, 3))
    return plus_zero(values, public_key, (factors, errors), primes)


def slot_unmask(data: bytes, count: int, keys: ClientKeys) -> Residues:
    """The client's share of the coefficients modulo t, (count, N): t (u + c1' s), rounded."""
    p = slot_parameters(keys)
    expected = slot_masked_bytes(count, p)
    if len(data) != expected:
        raise FrameError(
            f"masked rows: got {len(data)} bytes, expected {expected}; are both parties the same "
            "version?"
        )
    n, primes = p.poly_degree, p.primes[:LIFTED_PRIMES]
    size = packed_bytes(n, p.returned_bits)
    secret = to_centred(keys.secret_residues[:LIFTED_PRIMES], primes)
    out = np.empty((count, n), np.uint64)
    bodies = _masked_bodies(data[:SEED_BYTES], n)
    for index, target in enumerate(out):
        part = data[SEED_BYTES + index * size : SEED_BYTES + (index + 1) * size]
        words = unpack_bits(part, n, p.returned_bits)
        # Centred: the fraction counts modulo 1.
        shift = WORD_BITS - p.second_bits
        second = (words >> np.uint64(1) << np.uint64(shift)).view(np.int64) >> shift
        product = lift(words_times(second[None], None, 0, secret, primes), primes)
        fraction = raised(product, 2 * WORD_BITS - p.second_bits)
        word = add_wide((fraction[0][0], fraction[1][0]), next(bodies))
        target[:] = rounded_by_hint(word, p.plain_prime, words & np.uint64(1))
    return out
