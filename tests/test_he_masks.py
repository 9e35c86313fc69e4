"""What the key owner receives is masked and fresh; the same tests fail when it is not.

A body c0 looks uniform even without a mask, because c1 s hides the message. What the key owner
learns is c0 + c1 s: that is what must be uniform.
"""

import numpy as np
import pytest

from he_linear.ckks import ciphertexts as he
from he_linear.kernels import sampling
from tests.he_setup import PARAMETERS, SLOTS, N, Operand, encode, keys, looks_uniform, upload
from transport.randomness import SecureRandom

COUNT = 2


@pytest.fixture(scope="module")
def ciphertexts():
    values = encode(np.random.default_rng(0).normal(0, 4, (2, COUNT, SLOTS)))
    return upload(Operand(*values, 2.0**10), keys()[0])


def masked(ciphertexts):
    client, server = keys()
    message, mask = he.mask_for_client(ciphertexts, server, SecureRandom())
    return message, mask, he.unmask(message, COUNT, client)


def second_polynomials(message):
    return np.frombuffer(message, np.uint64, 2 * COUNT * N)[COUNT * N :]


def test_everything_the_client_sees_is_uniform(ciphertexts):
    message, mask, share = masked(ciphertexts)
    for words in (mask, share, np.frombuffer(message, np.uint64, 2 * COUNT * N)):
        assert looks_uniform(words)


def test_masks_and_messages_are_fresh(ciphertexts):
    first, second = masked(ciphertexts), masked(ciphertexts)
    assert not (first[1] == second[1]).any()
    assert not (first[2] == second[2]).any()
    # Re-randomised: noise alone would leave the high bits equal.
    difference = second_polynomials(first[0]) - second_polynomials(second[0])
    assert looks_uniform(difference)


def test_every_ciphertext_has_its_own_zero(ciphertexts):
    twice = np.stack([ciphertexts[0]] * COUNT)
    message, mask, _ = masked(twice)
    second = second_polynomials(message).reshape(COUNT, N)
    assert looks_uniform(second[0] - second[1])
    assert looks_uniform(mask[0] - mask[1])


def test_a_missing_mask_is_noticed(ciphertexts, monkeypatch):
    monkeypatch.setattr(sampling, "draw_mask", lambda _rng, shape: np.zeros(shape, np.uint64))
    with pytest.raises(AssertionError):
        test_everything_the_client_sees_is_uniform(ciphertexts)


def test_a_short_mask_is_noticed(ciphertexts, monkeypatch):
    draw = sampling.draw_mask
    monkeypatch.setattr(sampling, "draw_mask", lambda rng, shape: draw(rng, shape) >> np.uint64(1))
    with pytest.raises(AssertionError):
        test_everything_the_client_sees_is_uniform(ciphertexts)


@pytest.mark.parametrize(
    "test", [test_masks_and_messages_are_fresh, test_every_ciphertext_has_its_own_zero]
)
def test_a_missing_fresh_zero_is_noticed(ciphertexts, monkeypatch, test):
    def nothing(_rng, count, n):
        return np.zeros((count, n), np.int64), np.zeros((count, 2, n), np.int64)

    monkeypatch.setattr(sampling, "draw_zero", nothing)
    with pytest.raises(AssertionError):
        test(ciphertexts)


def test_a_reused_fresh_zero_is_noticed(ciphertexts, monkeypatch):
    draw = sampling.draw_zero

    def repeated(rng, count, n):
        return tuple(np.repeat(part, count, axis=0) for part in draw(rng, 1, n))

    monkeypatch.setattr(sampling, "draw_zero", repeated)
    with pytest.raises(AssertionError):
        test_every_ciphertext_has_its_own_zero(ciphertexts)


def test_uniform_residues_cover_their_primes():
    for p in PARAMETERS.all_primes:
        drawn = sampling.uniform_residues(SecureRandom(), 4, (p,), N)
        assert drawn.max() < p
        top = (drawn >> np.uint64(p.bit_length() - 8)).astype(np.uint8)
        assert looks_uniform(np.ascontiguousarray(top.reshape(-1)).view(np.uint64))


def test_ternary_secrets_are_uniform_over_three_values():
    drawn = sampling.ternary(SecureRandom(), (90_000,))
    counts = np.bincount(drawn + 1, minlength=3)
    assert len(counts) == 3
    assert np.abs(counts - 30_000).max() < 6 * (90_000 * 2 / 9) ** 0.5
