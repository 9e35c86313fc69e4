"""AES inside compiled loops gives what `cryptography` gives by whole buffers."""

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from mpc_nonlinear.correlations import hashing, vector_aes
from mpc_nonlinear.correlations.ggm import TreeHash, held_trees, own_trees
from mpc_nonlinear.correlations.lpn import PublicCode
from transport.randomness import SecureRandom

needs_rounds = pytest.mark.skipif(
    not vector_aes.AVAILABLE, reason="the processor has no VAES with AVX-512"
)


@njit
def _encrypt(buffer, keys):
    vector_aes.encrypt_blocks(buffer, keys)


@pytest.fixture
def both_ways(monkeypatch):
    """The results of a call with the processor's rounds, and by whole buffers."""

    def run(call):
        results = []
        for available in (True, False):
            monkeypatch.setattr(vector_aes, "AVAILABLE", available)
            results.append(call())
        return results

    return run


def test_the_key_schedule_is_that_of_fips_197():
    key = bytes.fromhex("2b7e151628aed2a6abf7158809cf4f3c")
    last = bytes.fromhex("d014f9a8c9ee2589e13f0cc8b6630ca6")
    keys = vector_aes.round_keys(key)
    assert keys[0].tobytes() == 4 * key
    assert keys[-1].tobytes() == 4 * last


@needs_rounds
def test_blocks_are_encrypted_as_by_another_implementation():
    rng = SecureRandom()
    for _ in range(5):
        key, buffer = rng.bytes(16), rng.uint64(vector_aes.WORDS)
        expected = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(buffer.tobytes())
        _encrypt(buffer, vector_aes.round_keys(key))
        assert buffer.tobytes() == expected


@needs_rounds
@pytest.mark.parametrize(("depth", "trees"), [(1, 3), (2, 1), (5, 7), (6, 2), (8, 5)])
def test_trees(depth, trees, both_ways):
    rng = SecureRandom()
    roots, delta, pads = rng.uint64((trees, 2)), rng.uint64(2), rng.uint64((depth, trees, 2))
    sides, tree_hash = rng.bits((depth, trees)), TreeHash(rng.uint64(2))
    for call in (
        lambda: own_trees(roots, delta, pads, tree_hash),
        lambda: held_trees(pads, pads[::-1], sides, tree_hash),
    ):
        for fused, whole in zip(*both_ways(call), strict=True):
            np.testing.assert_array_equal(fused, whole)


@needs_rounds
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 300])
def test_code(rows, both_ways):
    rng = SecureRandom()
    seed, secret, start = rng.bytes(16), rng.uint64((1 << 16, 2)), rng.uint64((rows, 2))

    def call():
        code, out = PublicCode(seed), np.stack([start, start])
        for part in out:
            code.add_rows(secret, part)
        return out

    fused, whole = both_ways(call)
    np.testing.assert_array_equal(fused, whole)
    assert (fused[0] != fused[1]).any()


@needs_rounds
@settings(max_examples=30)
@given(
    n=st.sampled_from([0, 1, 31, 32, 33, 100]),
    words=st.integers(1, 6),
    first=st.sampled_from([0, 5, (1 << 56) + 3, (1 << 63) - 50]),
    moved=st.booleans(),
)
def test_pads(n, words, first, moved):
    rng = SecureRandom()
    blocks, offset = rng.uint64((n, 2)), rng.uint64(2) if moved else None
    fused, whole = hashing.wide_pads(blocks, first, words, offset), np.empty((n, words), np.uint64)
    hashing._hash_buffers(blocks, first, offset, whole)
    np.testing.assert_array_equal(fused, whole)
