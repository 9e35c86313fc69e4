"""Numbers of exact products: scaled messages, fractions, lifts, words modulo primes."""

import numpy as np
import pytest

from he_linear.exact.ring_encryption import encode_message
from he_linear.exact.ring_parameters import RING_SETS
from he_linear.kernels import sampling
from he_linear.kernels.ring_words import fractions, lift, reduce_words, ring_matmul
from transport.randomness import SecureRandom

L64, L64_WIDE, SMALL = (RING_SETS[name] for name in ("n8192_l64", "n8192_l64_q180", "n4096_l64"))
rng = SecureRandom()


def exact(values, primes):
    """Python integers of least magnitude from residues (primes, count)."""
    q = int(np.prod([int(p) for p in primes], dtype=object))
    total = np.zeros(values.shape[1:], object)
    for row, p in zip(values, primes, strict=True):
        factor = q // p * pow(q // p, -1, p)
        total = (total + np.array([int(v) for v in row], object) * factor) % q
    return np.where(total > q // 2, total - q, total), q


@pytest.mark.parametrize("parameters", RING_SETS.values(), ids=RING_SETS)
def test_messages_are_scaled_and_rounded_exactly(parameters):
    edges = [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 1 << (parameters.plain_bits - 1)]
    message = np.concatenate([np.array(edges, np.uint64), rng.uint64(50)])[None]
    values, q = exact(encode_message(message, parameters)[:, 0], parameters.primes)
    for got, m in zip(values, message[0], strict=True):
        scaled = (int(m) % 2**parameters.plain_bits) * q
        away = (int(got) << parameters.plain_bits) - scaled
        away %= q << parameters.plain_bits
        away = min(away, (q << parameters.plain_bits) - away)
        assert 2 * away <= 2**parameters.plain_bits


@pytest.mark.parametrize("parameters", [L64, L64_WIDE, SMALL])
def test_fractions_are_right_to_the_last_bits(parameters):
    primes = parameters.primes
    values = np.stack([sampling.uniform_residues(rng, 1, (p,), 64)[0, 0] for p in primes])
    floats = np.stack(
        [np.where(v > p // 2, v.astype(float) - p, v.astype(float)) for v, p in
         zip(values, primes, strict=True)]
    )  # fmt: skip
    high, low = fractions(floats, primes)
    integers, q = exact(values, primes)
    for h, lo, x in zip(high, low, integers, strict=True):
        away = ((int(h) << 64) + int(lo) - ((int(x) % q) << 128) // q) % 2**128
        assert min(away, 2**128 - away) <= 4


@pytest.mark.parametrize("parameters", RING_SETS.values(), ids=RING_SETS)
def test_lifts_are_exact_up_to_a_quarter(parameters):
    primes = parameters.lift_primes
    q = int(np.prod([int(p) for p in primes], dtype=object))
    drawn = [int.from_bytes(rng.bytes(32), "little") % (q // 2) - q // 4 for _ in range(50)]
    drawn += [0, 1, -1, q // 4, -(q // 4)]
    values = np.array([[float((x % p + p // 2) % p - p // 2) for x in drawn] for p in primes])
    high, low = lift(values, primes)
    for h, lo, x in zip(high, low, drawn, strict=True):
        assert (int(h) << 64) + int(lo) == x % 2**128


def test_words_are_reduced_as_signed_integers():
    words = np.array([0, 1, -1, 2**63 - 1, -(2**63), 2**32, -(2**32), 2**31], np.int64)
    low = np.array([0, 5, 2**50 - 1, 0, 1, 2**49, 7, 3], np.int64)
    (got,) = reduce_words(words, (L64.primes[0],), 1 << 20, low)
    for x, a, b in zip(got, words, low, strict=True):
        assert abs(x) <= L64.primes[0] / 2 + 1
        assert (int(x) - (int(a) << 20) - int(b)) % L64.primes[0] == 0


def test_integer_products_wrap_around():
    a, b = rng.uint64((2, 3, 5)), rng.uint64((2, 5, 4))
    expected = [[[sum(int(x) * int(y) for x, y in zip(row, column, strict=True)) % 2**64
                  for column in right.T] for row in left]
                for left, right in zip(a, b, strict=True)]  # fmt: skip
    assert (ring_matmul(a, b) == np.array(expected, np.uint64)).all()
