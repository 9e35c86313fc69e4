"""The double-double FFT and the embedding on it, against 300 bits and against long doubles."""

from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.canonical_embedding import (
    WRAP_BITS,
    coefficients_to_slots,
    decode_slots,
    encode_slots,
    slots_to_coefficients,
)
from he_linear.kernels.double_double import MIN_LENGTH, Grid, _roots, plan
from he_linear.kernels.residues import intt, to_centred
from tests.he_setup import PARAMETERS, SLOTS, N, centre_modulo
from transport.errors import ParameterError
from transport.randomness import SecureRandom

PRIMES = PARAMETERS.primes
LENGTHS = [64, 128, 256, 512, 2048, 4096, 8192]
has_long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="this machine's long double has no 64-bit mantissa"
)


@pytest.fixture(autouse=True)
def many_bits():
    with mpmath.workprec(300):
        yield


def words(rng, shape):
    return rng.integers(-(2**63), 2**63, shape)


def extreme(length):
    """Rows whose sums are as large as they can be, or concentrate in one value."""
    k = np.arange(length)
    low, high = -(2**63), 2**63 - 1
    return np.array(
        [
            np.full(length, low),
            np.full(length, high),
            np.where(k % 2, low, high),
            np.where(k, 0, low),
            np.where(np.cos(np.pi * k / (2 * length)) > 0.4, low, high),
        ]
    )


def as_pairs(p, x, grid):
    """(count, 2, H) integers as the FFT's input."""
    natural = p.natural(len(x))
    for part in range(2):
        upper = (x[:, part] >> grid.first) + (x[:, part] >> (grid.first - 1) & 1)
        natural[:, 2 * part] = upper * 2.0**grid.first
        natural[:, 2 * part + 1] = x[:, part] - (upper << grid.first)
    return natural


def exact(high, low):
    return mpmath.mpf(float(high)) + mpmath.mpf(float(low))


@pytest.mark.parametrize("length", LENGTHS)
def test_twiddles_are_exact_to_106_bits(length):
    period = 4 * length
    roots = _roots(period)
    for k in {0, 1, 2, length // 3, length, length + 1, 3 * length + 7, period - 1}:
        root = mpmath.expjpi(mpmath.mpf(2 * k) / period)
        assert abs(exact(*roots[k, :2]) - root.real) <= mpmath.mpf(2) ** -106
        assert abs(exact(*roots[k, 2:]) - root.imag) <= mpmath.mpf(2) ** -106


@pytest.mark.parametrize("length", LENGTHS)
def test_transform_is_evaluation_at_the_roots(length):
    p, grid = plan(length), Grid(64 + length.bit_length() - 1 - 51)
    x = words(np.random.default_rng(length), (2, 2, length))
    leaves = p.leaves(2)
    p.forward(as_pairs(p, x, grid), grid, leaves)
    assert sorted(p.angles.reshape(-1)) == list(range(1, 4 * length, 4))
    panels, columns, lanes = p.angles.shape
    for row, *at in (
        (0, 0, 0, 0),
        (1, panels - 1, columns - 1, lanes - 1),
        (0, 0, columns // 2, 3),
    ):
        root = mpmath.expjpi(mpmath.mpf(int(p.angles[tuple(at)])) / (2 * length))
        value = mpmath.mpc(0)
        for real, imag in zip(x[row, 0, ::-1].tolist(), x[row, 1, ::-1].tolist(), strict=True):
            value = value * root + mpmath.mpc(real, imag)
        cell = leaves[row, at[0], at[1], :, at[2]]
        # U = 2^25 at 4096: two to three units of 2^-53 U sqrt(H).
        bound = 2.0 ** (grid.first - 50) * length**0.5
        assert abs(exact(*cell[:2]) - value.real) < bound
        assert abs(exact(*cell[2:]) - value.imag) < bound


@pytest.mark.parametrize("length", LENGTHS)
def test_the_inverse_inverts(length):
    p, grid = plan(length), Grid(64 + length.bit_length() - 1 - 51)
    x = words(np.random.default_rng(length), (3, 2, length))
    leaves, back = p.leaves(3), p.natural(3)
    p.forward(as_pairs(p, x, grid), grid, leaves)
    # Values of random integers are sqrt(H) times larger, and fit the same grid once more.
    p.inverse(leaves, Grid(grid.first + length.bit_length() // 2 + 1), back)
    for row, part, j in ((0, 0, 0), (1, 1, length - 1), (2, 0, length // 2 + 1)):
        got = exact(back[row, 2 * part, j], back[row, 2 * part + 1, j])
        assert abs(got / length - int(x[row, part, j])) < 2.0**-12


@pytest.mark.parametrize("length", [0, 1, 32, 63, 96, 4095])
def test_lengths_that_are_refused(length):
    with pytest.raises(ParameterError, match=f"power of two from {MIN_LENGTH}"):
        plan(length)


def exact_coefficients(real, imag, picked):
    """Coefficients `picked` of one row of slots, by their definition."""
    half = len(real)
    exponents = [pow(3, i, 4 * half) for i in range(half)]
    roots = [mpmath.expjpi(mpmath.mpf(k) / (2 * half)) for k in range(4 * half)]
    out = []
    for j in picked:
        total = mpmath.mpf(0)
        for x, y, e in zip(real.tolist(), imag.tolist(), exponents, strict=True):
            root = roots[e * j % (4 * half)]
            total += x * root.real + y * root.imag
        out.append(total / half)
    return out


@pytest.mark.parametrize(
    ("half", "scale"),
    [(64, 1.0), (64, 2.0**10), (128, 2.0**34), (64, 3.7e5), (128, 2.0**-8), (4096, 2.0**12)],
)
def test_encoding_is_the_definition_rounded(half, scale):
    rng = np.random.default_rng(half)
    real = np.concatenate([words(rng, (2, half)), extreme(half)])
    imag = np.concatenate([words(rng, (2, half)), extreme(half)[::-1]])
    got = centre_modulo(
        np.moveaxis(encode_slots(real, imag, scale, PRIMES), 0, 1).astype(np.int64).astype(object)
    )
    picked = range(2 * half) if half == 64 else [0, 1, half - 1, half, half + 17, 2 * half - 1]
    for row in range(len(real)) if half < 4096 else (0, 2, 6):
        for j, value in zip(picked, exact_coefficients(real[row], imag[row], picked), strict=True):
            assert off_by(got[row, j], value * mpmath.mpf(scale)) < 0.5 + 2.0**-14 * scale**0.5


@has_long_double
def test_encoding_agrees_with_long_doubles():
    rng = np.random.default_rng(1)
    real, imag = words(rng, (2, 3, SLOTS))
    scale = 2.0**12
    slots = real.astype(np.clongdouble)
    slots.imag = imag
    rounded = np.rint(slots_to_coefficients(slots) * np.longdouble(scale))
    exact = np.vectorize(int, otypes=[object])(rounded)
    reference = np.stack([exact % p for p in PRIMES], axis=1).astype(np.uint64)
    got = intt(he.encode_integers(real, imag, scale, PARAMETERS), PRIMES)
    difference = to_centred(got - reference + np.array(PRIMES, np.uint64)[:, None], PRIMES)
    difference = np.mod(difference, np.array(PRIMES, float)[:, None])
    difference = np.minimum(difference, np.array(PRIMES, float)[:, None] - difference)
    # A long double has 2^-64 of 2^12 2^63 / sqrt(4096), the error of twelve layers more.
    assert difference.max() <= 2**8


def test_masks_of_two_parties_cancel_but_for_two_roundings():
    rng = np.random.default_rng(2)
    x = rng.integers(-(2**20), 2**20, (2, 4, SLOTS))
    mask = SecureRandom().uint64(x.shape).view(np.int64)
    scale = 2.0**10
    total = sum(encode_slots(part[0], part[1], scale, PRIMES) for part in (mask, x - mask))
    coefficients = centre_modulo(np.moveaxis(total, 0, 1).astype(np.int64).astype(object))
    slots = coefficients_to_slots(coefficients.astype(float)) / scale
    for got, expected in ((slots.real, x[0]), (slots.imag, x[1])):
        error = got - expected
        # Two roundings of 8192 coefficients: sqrt(8192 / 6) units of 2^-10 rms, in both parts.
        assert error.std() < 1.1 * (SLOTS / 6) ** 0.5 / scale
        assert np.abs(error).max() < 6 * (SLOTS / 6) ** 0.5 / scale


@settings(max_examples=10, deadline=None)
@given(st.floats(2.0**-20, 2.0**35), st.integers(0, 2**32))
def test_any_scale_is_exact_on_constants(scale, seed):
    """A constant in every slot is one coefficient."""
    value = int(np.random.default_rng(seed).integers(-(2**63), 2**63))
    real = np.full((1, 64), value)
    got = centre_modulo(
        np.moveaxis(encode_slots(real, None, scale, PRIMES), 0, 1).astype(np.int64).astype(object)
    )[0]
    assert off_by(got[0], value * Fraction(scale)) < 0.5 + 2.0**-14 * scale**0.5
    assert not got[1:].any()


@pytest.mark.parametrize("scale", [0.0, -1.0, 2.0**36, float("inf"), float("nan")])
def test_scales_that_are_refused(scale):
    with pytest.raises(ParameterError, match="scale"):
        encode_slots(np.zeros((1, 64), np.int64), None, scale, PRIMES)


def test_rows_do_not_depend_on_each_other_and_may_have_strides():
    rng = np.random.default_rng(4)
    real, imag = words(rng, (2, 5, 256))
    together = encode_slots(real, imag, 2.0**9, PRIMES)
    strided = encode_slots(real[::2, ::-1], imag[::2, ::-1], 2.0**9, PRIMES)
    again = encode_slots(
        np.ascontiguousarray(real[::2, ::-1]), np.ascontiguousarray(imag[::2, ::-1]), 512.0, PRIMES
    )
    assert np.array_equal(strided, again)
    for row in range(5):
        alone = encode_slots(real[row : row + 1], imag[row : row + 1], 2.0**9, PRIMES)
        assert np.array_equal(alone[:, 0], together[:, row])


def off_by(got, value):
    """Distance of an integer modulo Q from a real number."""
    modulus = PARAMETERS.modulus
    distance = (int(got) - value) % modulus
    return min(distance, modulus - distance)


def exact_slot(coefficients, i):
    degree = len(coefficients)
    exponent = pow(3, i, 2 * degree)
    roots = [mpmath.expjpi(mpmath.mpf(k) / degree) for k in range(2 * degree)]
    return mpmath.fsum(c * roots[exponent * j % (2 * degree)] for j, c in enumerate(coefficients))


def error_modulo(got, value):
    """Distance of a word from a real number modulo 2^64."""
    distance = (int(got) - value) % mpmath.mpf(2**64)
    return min(distance, 2**64 - distance)


@pytest.mark.parametrize(
    ("degree", "factor"),
    [(128, Fraction(1)), (128, Fraction(2**16, 2**26)), (8192, Fraction(2**16) / 123456789)],
)
def test_decoding_is_the_definition_rounded(degree, factor):
    rng = np.random.default_rng(degree)
    x = np.concatenate([words(rng, (2, degree)), extreme(degree)])
    real, imag = decode_slots(x.view(np.uint64), factor)
    scaled = mpmath.mpf(factor.numerator) / factor.denominator
    for row in range(len(x)) if degree == 128 else (0, 2):
        for i in (0, 1, degree // 4 + 3, degree // 2 - 1):
            value = exact_slot(x[row].tolist(), i) * scaled
            bound = 0.5 + 2.0**-15 * max(1.0, float(factor))
            assert error_modulo(real[row, i], value.real) < bound
            assert error_modulo(imag[row, i], value.imag) < bound


@has_long_double
def test_decoding_agrees_with_long_doubles():
    x = words(np.random.default_rng(5), (2, N))
    factor = Fraction(1, 2**10)
    real, imag = decode_slots(x.view(np.uint64), factor)
    slots = coefficients_to_slots(x.astype(np.longdouble)) / 2**10
    for got, reference in ((real, slots.real), (imag, slots.imag)):
        difference = got.view(np.int64) - np.rint(reference).astype(np.int64)
        assert np.abs(difference).max() <= 4


@pytest.mark.parametrize("degree", [128, 1024, 8192])
def test_wide_shares_add_up_to_one_unit(degree):
    rng = np.random.default_rng(degree)
    x = rng.integers(-(2**61), 2**61, (2, degree))
    modulus = 1 << (64 + WRAP_BITS)
    low = SecureRandom().uint64(x.shape)
    top = (SecureRandom().uint64(x.shape) >> np.uint64(64 - WRAP_BITS)).astype(np.int64)
    top -= 1 << (WRAP_BITS - 1)
    other = (x.astype(object) - (top.astype(object) * 2**64 + low.astype(object))) % modulus
    other = np.where(other >= modulus // 2, other - modulus, other)
    other_top = (other >> 64).astype(np.int64)
    factor = Fraction(2**16, 2**24)
    first = decode_slots(low, factor, top)
    second = decode_slots((other % 2**64).astype(np.uint64), factor, other_top)
    # The value alone, without masks.
    reference = decode_slots(x.view(np.uint64), factor)
    for part in range(2):
        error = (first[part] + second[part] - reference[part]).view(np.int64)
        assert np.abs(error).max() <= 1


def test_a_wide_number_is_the_integer_it_stands_for():
    """2^64 tops + words, at both ends of the range."""
    low = SecureRandom().uint64((4, 128))
    edge = 1 << (WRAP_BITS - 1)
    top = np.random.default_rng(6).integers(-edge, edge, (4, 128))
    top[0, :3] = -edge, edge - 1, 0
    low[0, :3] = 0, 2**64 - 1, 2**63
    factor = Fraction(1, 2**16)
    real, imag = decode_slots(low, factor, top)
    for row in range(4):
        integers = [
            t * 2**64 + w for t, w in zip(top[row].tolist(), low[row].tolist(), strict=True)
        ]
        for i in (0, 5, 63):
            value = exact_slot(integers, i) / 2**16
            assert error_modulo(real[row, i], value.real) < 0.51
            assert error_modulo(imag[row, i], value.imag) < 0.51
