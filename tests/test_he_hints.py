"""Hints of the way back from exact slots: exact sums, blurred edges, what they tell."""

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from he_linear.exact.slot_encryption import drawn_spread
from he_linear.exact.slot_parameters import SPREAD
from he_linear.kernels.wide_words import rounded_by_hint, rounded_with_hint
from tests.hints_setup import chance
from tests.rows_setup import N, P, T
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
    """Hellinger's distance of a hint with the noise and without, integrated, is below the bound."""
    for shift in (1e-2, 1e-3):
        parts = (np.arange(200_000) + 0.5) / 200_000
        here = np.vectorize(chance)(parts)
        there = np.vectorize(chance)((parts + shift) % 1)
        halves = (np.sqrt(here) - np.sqrt(there)) ** 2 + (
            np.sqrt(1 - here) - np.sqrt(1 - there)
        ) ** 2
        squared = 0.5 * halves.mean()
        noise = shift * P.modulus / T
        for count in (1, 4096):
            declared = P.hint_distance(noise, count)
            # The statistical distance is at most the root of twice the squared one.
            assert math.sqrt(2 * count * squared) < declared < 1.05 * math.sqrt(2 * count * squared)
        assert np.abs(here - there).mean() < P.hint_distance(noise, 1)


def test_hints_of_a_session_tell_next_to_nothing():
    # 64 rows of SmolLM2, 2^23.7 coefficients, whose noise is 2^59.7.
    assert P.hint_distance(2.0**59.7, 1 << 24) < 2**-34
    assert P.hint_distance(2.0**59.7, 4 * N) == 2 * P.hint_distance(2.0**59.7, N)
