"""Hints of the way back from exact slots: exact sums, blurred edges, what they tell."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from he_linear.exact.slot_encryption import drawn_spread, slot_mask_for_client
from he_linear.exact.slot_parameters import SPREAD
from he_linear.kernels import sampling
from he_linear.kernels.wide_words import rounded_by_hint, rounded_with_hint
from he_linear.packings.exact_rows import ExactRowsPacking
from he_linear.packings.scaled_rows import ScaledRowsPacking
from tests.hints_setup import chance
from tests.rows_setup import N, P, T, made_keys
from transport.bitpack import unpack_bits
from transport.randomness import SecureRandom

ONE = 1 << 128
LARGEST = int(SPREAD * 2**64)
MARGIN = 1 / 4 - SPREAD


def pair(words):
    return tuple(np.array([w >> s & (2**64 - 1) for w in words], np.uint64) for s in (64, 0))


def sums(units, shifts, spread):
    """Of both shares, for t r = units, a message of zero and noise of these shifts, in ones."""
    server = [round(u * 2**40) * ONE // (T << 40) % ONE for u in units]
    moved = [round(e * 2**40) * ONE // (T << 40) for e in shifts]
    client = [(e - r) % ONE for e, r in zip(moved, server, strict=True)]
    own, hints = rounded_with_hint(pair(server), T, np.array(spread, np.uint64))
    other = rounded_by_hint(pair(client), T, hints)
    assert max(own.max(), other.max()) < T
    return (own + other) % np.uint64(T), hints


@settings(max_examples=200, deadline=None)
@given(
    st.floats(0, T - 1),
    st.floats(-0.99 * MARGIN, 0.99 * MARGIN),
    st.integers(-LARGEST, LARGEST),
)
def test_noise_within_the_margin_changes_nothing(unit, shift, spread):
    total, _ = sums([unit], [shift], [spread % 2**64])
    assert not total.any()


def test_noise_within_the_margin_changes_nothing_at_the_edges():
    """Integers, halves, where hints turn and are sure; the largest blur; zero and t."""
    parts = [k / 8 + e for k in range(9) for e in (-(2.0**-20), 0.0, 2.0**-20)]
    for whole in (0, 1, T // 2, T - 2):
        for shift in (-0.99 * MARGIN, -(2.0**-30), 0.0, 2.0**-30, 0.99 * MARGIN):
            for spread in (-LARGEST, 0, LARGEST - 1):
                units = [whole + part for part in parts]
                total, _ = sums(units, [shift] * len(units), [spread % 2**64] * len(units))
                assert not total.any()


def test_noise_beyond_a_half_is_wrong():
    total, _ = sums([5.0, 5.5], [0.6, -0.6], [0, 0])
    assert total.tolist() == [1, T - 1]


def test_edges_of_hints_are_blurred():
    count, rng = 1 << 15, SecureRandom()
    for part in (0.0, 1 / 8, 0.2, 1 / 4, 0.33, 1 / 2, 0.7, 3 / 4, 0.85, 7 / 8):
        spread = drawn_spread(rng, count)
        # A little above: on the way to 128 bits a part is rounded down.
        _, hints = sums([7 + part + 2.0**-30] * count, [0.0] * count, spread)
        expected = chance(part)
        deviation = math.sqrt(max(expected * (1 - expected), 2.0**-30) / count)
        assert abs(hints.mean() - expected) < 6 * deviation + 2.0**-25


def test_a_spread_is_a_sum_of_two_uniform_numbers():
    spread = drawn_spread(SecureRandom(), 1 << 16).view(np.int64) / 2.0**64
    assert np.abs(spread).max() <= SPREAD
    assert np.abs(spread).max() > 0.95 * SPREAD
    assert abs(spread.mean()) < 6 * SPREAD / math.sqrt(6 * spread.size)
    assert abs(spread.std() / (SPREAD / math.sqrt(6)) - 1) < 0.02


def test_hints_are_as_near_as_declared():
    """Hellinger's distance of a hint with the noise and without is below the bound everywhere."""
    parts = (np.arange(200_000) + 0.5) / 200_000
    here = np.vectorize(chance)(parts)
    for shift in (1e-2, 1e-3):
        there = np.vectorize(chance)((parts + shift) % 1)
        both = [np.sqrt(x) - np.sqrt(y) for x, y in ((here, there), (1 - here, 1 - there))]
        squared = 0.5 * (np.square(both[0]) + np.square(both[1])).max()
        noise = shift * P.modulus / T
        for count in (1, 4096):
            # The statistical distance is at most the root of twice the squares' sum.
            declared = P.hint_distance(noise, count)
            assert math.sqrt(2 * count * squared) <= declared < 1.1 * math.sqrt(2 * count * squared)


def test_hints_of_a_batch_tell_next_to_nothing():
    """All matrices of SmolLM2-135M for 64 rows, squares added up."""
    shapes = [(576, 960), (576, 576), (576, 3072), (1536, 576)] * 30
    shapes += [(576, 49152), (49152, 576)]
    squares = sum(ExactRowsPacking(P, 64, *shape).hint_distance ** 2 for shape in shapes)
    assert 2**-35 < math.sqrt(squares) < 2**-34.8
    rows = ScaledRowsPacking(P, 61, 576)
    n, products = N, P.hint_distance(rows.noise_std, rows.blocks * N)
    assert rows.hint_distance == math.hypot(products, P.hint_distance(rows.sum_noise_std, n))


def ciphertexts_of_zero():
    return np.zeros((2, 2, 3, N))


def hints_of(message):
    words = unpack_bits(message[32:], 2 * N, P.returned_bits)
    return words & np.uint64(1)


def test_blur_is_fresh_and_not_of_what_is_sent(monkeypatch):
    """The same masks and zeros twice: hints differ near edges, where half of them are blurred."""
    _, server = made_keys(())
    monkeypatch.setattr(sampling, "fresh_seed", lambda _rng: bytes(32))
    monkeypatch.setattr(sampling, "draw_zero", no_zero)
    first, again = (
        slot_mask_for_client([ciphertexts_of_zero()], server, SecureRandom()) for _ in range(2)
    )
    differing = (hints_of(first[0]) != hints_of(again[0])).mean()
    # Twice p (1 - p), of which p is the triangle's: its mean over both edges.
    parts = (np.arange(4096) + 0.5) / 4096
    expected = np.mean([2 * chance(x) * (1 - chance(x)) for x in parts])
    assert abs(differing - expected) < 6 * math.sqrt(expected / (2 * N))


def no_zero(_rng, count, n):
    return np.zeros((count, n), np.int64), np.zeros((count, 2, n), np.int64)
