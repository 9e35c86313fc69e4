"""Kernels against Python integers: every result is exact."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from he_linear.ckks.key_switching import KeySwitcher, SwitchingKey
from he_linear.ckks.parameters import CkksParameters
from he_linear.exact.slot_parameters import SlotParameters
from he_linear.kernels import ntt
from he_linear.kernels import residues as kernels
from he_linear.kernels.modular_matmul import LimbMatrices, max_inner, modular_matmul
from he_linear.kernels.ring_words import words_times
from tests.he_setup import PARAMETERS, N

PRIMES = PARAMETERS.all_primes
LARGEST = CkksParameters(8192, (49, 49), 49).all_primes[-1]
WIDE = tuple(SlotParameters(8192, (50, 50, 50), 51, 44, 55).all_primes[i] for i in (0, -1))
"""Of 50 and 51 bits."""


def residues(rng, shape, p):
    return rng.integers(0, p, shape).astype(np.uint64)


@pytest.mark.parametrize("p", [*PRIMES, LARGEST, *WIDE])
@pytest.mark.parametrize("n", [2, 4, 32, 64, 128, 1024])
def test_ntt_is_evaluation_at_bit_reversed_odd_powers(p, n):
    rng = np.random.default_rng(n)
    for a in (residues(rng, n, p), np.full(n, p - 1, np.uint64), np.full(n, p // 2, np.uint64)):
        values = kernels.ntt(a[None], (p,))[0]
        root, order = ntt.minimal_root(p, 2 * n), ntt.bit_reversal(n)
        for j in {0, 1, n // 2, n - 1}:
            point = pow(root, 2 * int(order[j]) + 1, p)
            assert int(values[j]) == sum(int(c) * pow(point, i, p) for i, c in enumerate(a)) % p


@pytest.mark.parametrize("p", [*PRIMES, LARGEST, *WIDE])
@pytest.mark.parametrize("n", [8, 64, 128, N])
def test_inverse_undoes_forward_for_extreme_rows(p, n):
    rows = np.stack(
        [
            np.full(n, p - 1, np.uint64),
            np.full(n, (p - 1) // 2, np.uint64),
            np.full(n, (p + 1) // 2, np.uint64),
            residues(np.random.default_rng(1), n, p),
        ]
    )[:, None]
    before = rows.copy()
    assert (kernels.intt(kernels.ntt(rows, (p,)), (p,)) == rows).all()
    assert (kernels.ntt(kernels.intt(rows, (p,)), (p,)) == rows).all()
    assert (rows == before).all(), "transforms return new arrays"


@pytest.mark.parametrize(("p", "n"), [(PRIMES[0], N), *((p, N) for p in WIDE), (LARGEST, 32768)])
def test_ntt_is_exact_where_values_grow_most(p, n):
    # Of the last layers, over one row of the first `columns` numbers: before every layer number
    # `last` gets another p / 2, and the last layer multiplies it.
    columns = 1 << (n.bit_length() // 2)
    rows, root, order = n // columns, ntt.minimal_root(p, 2 * n), ntt.bit_reversal(n)
    for sign in (1, -1):
        for last in (0, 1):
            terms, m = {last: sign * (p // 2)}, 1
            while m < columns >> last:
                factor = pow(root, -int(order[m * rows]), p)
                terms[last + columns // (2 * m)] = sign * (p // 2) * factor % p
                m *= 2
            a = np.zeros(n, np.uint64)
            a[list(terms)] = [term % p for term in terms.values()]
            values = kernels.ntt(a[None], (p,))[0]
            for j in (*range(2 * columns), n - 1):
                point = pow(root, 2 * int(order[j]) + 1, p)
                assert int(values[j]) == sum(c * pow(point, i, p) for i, c in terms.items()) % p
            assert (kernels.intt(values[None], (p,))[0] == a).all()


@pytest.mark.parametrize("p", [PRIMES[0], LARGEST, *WIDE])
def test_inverse_is_exact_where_values_grow_most(p):
    half = p // 2
    for pattern in ([half, half, -half, -half], [half], [half, -half]):
        values = np.resize(np.array(pattern) % p, N).astype(np.uint64)[None]
        back = kernels.intt(values, (p,))
        assert (kernels.ntt(back, (p,)) == values).all()


def test_one_row_is_not_changed_in_place():
    rows = residues(np.random.default_rng(2), (2, N), min(PRIMES))
    before = rows.copy()
    kernels.ntt(rows, PARAMETERS.primes)
    kernels.intt(rows, PARAMETERS.primes)
    assert (rows == before).all()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_elementwise_arithmetic(data):
    p = data.draw(st.sampled_from([*PRIMES, LARGEST]))
    values = st.integers(0, p - 1)
    pairs = data.draw(st.lists(st.tuples(values, values), min_size=1, max_size=8))
    a, b = (np.array(x, np.uint64)[None] for x in zip(*pairs, strict=True))
    assert kernels.multiply(a, b, (p,))[0].tolist() == [x * y % p for x, y in pairs]
    assert kernels.add(a, b, (p,))[0].tolist() == [(x + y) % p for x, y in pairs]
    back = kernels.from_centred(kernels.to_centred(a, (p,)), (p,))
    assert (back == a).all()


@pytest.mark.parametrize("p", [PRIMES[0], LARGEST])
@pytest.mark.parametrize("extreme", [False, True])
def test_modular_matmul_beyond_one_chunk(p, extreme):
    rng = np.random.default_rng(3)
    rows, inner, blocks, n = 3, 2 * max_inner(p) + 1, 4, 16
    half = p // 2
    shape = (rows, inner, blocks), (inner, 2, n)
    left, right = (np.full(s, half) if extreme else rng.integers(-half, half + 1, s) for s in shape)
    got = modular_matmul(LimbMatrices.from_values(left.astype(float), p), right.astype(float))
    columns = np.arange(n) // (n // blocks)
    for i in range(rows):
        expected = (left[i].astype(object)[:, columns][:, None] * right.astype(object)).sum(axis=0)
        assert ((got[i].astype(np.int64).astype(object) - expected) % p == 0).all()
        assert np.abs(got[i]).max() <= half + 1


def exact_switch(polynomial, key):
    """Key switching of coefficients by Python integers: digits, inner product, rounding."""
    primes, special = PARAMETERS.primes, PRIMES[-1]
    out = []
    for poly in range(2):
        extended = []
        for k, p in enumerate(PRIMES):
            total = np.zeros(N, object)
            for d, q in enumerate(primes):
                lifted = np.where(polynomial[d] > q // 2, polynomial[d] - q, polynomial[d])
                digit = kernels.ntt((lifted % p).astype(np.uint64)[None], (p,))[0]
                total = (total + digit.astype(object) * key[d, poly, k].astype(object)) % p
            extended.append(kernels.intt(total.astype(np.uint64)[None], (p,))[0].astype(object))
        rest = np.where(extended[-1] > special // 2, extended[-1] - special, extended[-1])
        out.append(
            [(e - rest) * pow(special, -1, p) % p for e, p in zip(extended, primes, strict=False)]
        )
    return np.array(out, object)


def test_key_switching_is_exact():
    rng = np.random.default_rng(4)
    key = np.stack([residues(rng, (2, 2, N), p) for p in PRIMES], axis=2)
    coefficients = np.stack([residues(rng, N, p) for p in PARAMETERS.primes])
    switcher = KeySwitcher(PARAMETERS)
    polynomial = kernels.to_centred(kernels.ntt(coefficients, PARAMETERS.primes), PARAMETERS.primes)
    extended = switcher.switch(
        switcher.decompose(polynomial), SwitchingKey.from_residues(key, 1, PARAMETERS)
    )
    expected = exact_switch(coefficients.astype(object), key)
    for poly in range(2):
        got = kernels.from_centred(switcher.divide(extended[poly]), PARAMETERS.primes)
        for k, p in enumerate(PARAMETERS.primes):
            back = kernels.intt(got[k : k + 1], (p,))[0].astype(object)
            # The quotient's remainder may be read from either side within 2 % of a half.
            off = (back - expected[poly, k]) % p
            assert np.isin(off, [0, 1, p - 1]).all()
            assert np.mean(off == 0) > 0.95


@pytest.mark.parametrize("n", [2, 8, 32, 64, 128, 512, N])
def test_transforms_of_rows_that_lie_apart(n):
    p = PRIMES[0]
    table, rng = ntt.tables(p, n), np.random.default_rng(n)
    x = rng.integers(-(p // 2), p // 2, (n, 3)).astype(float)
    expected = np.ascontiguousarray(x.T)
    table.forward(expected)
    turned = x.copy().T
    table.forward(turned)
    assert (turned == expected).all()
    table.inverse(turned)
    assert ((turned - x.T) % p == 0).all()


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_signed_integers_become_residues(data):
    primes = (PRIMES[0], LARGEST)
    limit = data.draw(st.sampled_from([21, min(primes) - 1, min(primes), 2**63 - 1]))
    values = data.draw(st.lists(st.integers(-limit, limit), min_size=1, max_size=8))
    got = kernels.reduce_signed(np.array(values, np.int64), primes)
    assert got.tolist() == [[v % p for v in values] for p in primes]


def test_words_times_a_polynomial():
    rng = np.random.default_rng(6)
    n, primes = 64, PARAMETERS.primes
    high, low = rng.integers(0, 2**64, (2, n), np.uint64), rng.integers(0, 2**6, (2, n), np.uint64)
    high[0, :2] = 0, 2**64 - 1
    factor = rng.integers(-1, 2, n)
    residue = kernels.ntt(kernels.reduce_signed(factor, primes), primes)
    product = words_times(
        high.view(np.int64), low.view(np.int64), 6, kernels.to_centred(residue, primes), primes
    )
    got = kernels.from_centred(product.transpose(1, 0, 2), primes)
    words = high.view(np.int64).astype(object) * 64 + low.astype(object)
    for row, values in enumerate(words):
        product = np.convolve(values, factor.astype(object))
        folded = product[:n] - np.append(product[n:], 0)
        for index, p in enumerate(primes):
            assert (folded % p == got[row, index].astype(object)).all()
