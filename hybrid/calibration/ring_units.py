"""Prices of exact products modulo 2^64: encryption, products and merges of one parameter set."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from he_linear.exact.ring_encryption import (
    Positions,
    encode_plain,
    ring_encrypt,
    ring_mask_for_client,
    ring_parse,
    ring_unmask,
)
from he_linear.exact.ring_keys import RingClientKeys, RingServerKeys
from he_linear.exact.ring_parameters import RingParameters
from he_linear.kernels.residues import Floats
from he_linear.kernels.ring_words import multiply_sum, ring_matmul
from he_linear.packings.evaluation_work import unit
from he_linear.packings.interleaving import interleave, merge_elements
from hybrid.calibration.timing import fitted, seconds_of
from transport.randomness import SecureRandom

_COUNT = 4


def exact_prices(parameters: RingParameters) -> Iterator[tuple[str, float]]:
    """Every unit with its seconds."""
    n, primes, rng = parameters.poly_degree, parameters.primes, SecureRandom(domain="calibration")
    gap, group = 16, _COUNT
    elements = merge_elements(gap, group, n)
    client = RingClientKeys(parameters, elements, rng)
    server = RingServerKeys.parse(parameters, client.public_bytes(), elements)

    def named(operation: str) -> str:
        return unit(f"ring_{operation}", n, len(primes))

    words = rng.uint64((_COUNT, n))
    data = ring_encrypt(words, client, rng)
    yield named("encrypt"), seconds_of(lambda: ring_encrypt(words, client, rng)) / _COUNT
    yield named("parse"), seconds_of(lambda: ring_parse(data, _COUNT, parameters)) / _COUNT
    yield named("encode"), seconds_of(lambda: encode_plain(words, parameters)) / _COUNT
    ciphertexts, plain = ring_parse(data, _COUNT, parameters), encode_plain(words, parameters)
    out = np.zeros((len(primes), 2, n))
    seconds = seconds_of(lambda: multiply_sum(ciphertexts, plain, primes, out))
    yield "ring_multiply_add", seconds / (_COUNT * out.size)
    merged = seconds_of(lambda: interleave(ciphertexts, gap, group, server))
    yield named("merge"), merged / (group - 1)
    masks, unmasks = [], []
    for results in (64, n):
        useful = np.arange(results, dtype=np.int64)
        message, _ = ring_mask_for_client(ciphertexts.copy(), useful, server, rng)
        counts = [float(_COUNT), float(results)]
        masks.append((counts, seconds_of(partial(_masked, ciphertexts, useful, server, rng))))
        taken = seconds_of(partial(ring_unmask, message, _COUNT, useful, client))
        unmasks.append((counts, taken))
    yield from fitted((named("mask"), "mask_result"), masks).items()
    yield from fitted((named("unmask"), "unmask_result"), unmasks).items()
    a, b = rng.uint64((32, 384)), rng.uint64((384, 64))
    yield "word_multiply_add", seconds_of(lambda: ring_matmul(a, b)) / (32 * 384 * 64)


def _masked(
    ciphertexts: Floats, useful: Positions, server: RingServerKeys, rng: SecureRandom
) -> object:
    return ring_mask_for_client(ciphertexts.copy(), useful, server, rng)
