"""Arithmetic triples and products from them against plain integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpc_nonlinear.blocks.arithmetic_triples import (
    ArithmeticTriples,
    arithmetic_triples,
    arithmetic_triples_cost,
    multiply_with_triples,
    multiply_with_triples_cost,
)
from tests.test_mpc_blocks import few_examples, run_on_chosen_shares
from tests.test_mpc_contract import run
from transport.errors import UsageError

NUMBER, WORD = st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**64 - 1)


@pytest.mark.parametrize("bits", [1, 2, 17, 40, 63, 64])
@pytest.mark.parametrize("n", [0, 1, 33])
def test_triples_multiply(n, bits):
    cost = arithmetic_triples_cost(n, bits)
    left, right = run(lambda s, _: arithmetic_triples(n, s, bits), cost, np.zeros(n, np.uint64))
    modulus = 2**bits
    for i in range(n):
        a, b, c = ((int(getattr(left, k)[i]) + int(getattr(right, k)[i])) % modulus for k in "abc")
        assert c == a * b % modulus


def test_triples_are_uniform_and_new():
    cost = arithmetic_triples_cost(2000, 8)
    rows = [
        run(lambda s, _: arithmetic_triples(2000, s, 8), cost, np.zeros(1, np.uint64))
        for _ in range(2)
    ]
    values = [(left.a + right.a) & np.uint64(255) for left, right in rows]
    assert not np.array_equal(*values)
    counts = np.bincount(np.concatenate(values).astype(int), minlength=256)
    # Chi-square with 255 degrees of freedom.
    assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 400


@given(st.lists(st.tuples(NUMBER, WORD), min_size=1, max_size=6), st.sampled_from([1, 7, 64]))
@few_examples
def test_products_on_any_shares(drawn, bits):
    x, client = zip(*drawn, strict=True)
    n = len(x)
    cost = arithmetic_triples_cost(n, bits) + multiply_with_triples_cost(n, bits)

    def square(s, v):
        return multiply_with_triples(v, v, arithmetic_triples(n, s, bits), s)

    left, right = run_on_chosen_shares(square, cost, x, client)
    found = [(int(a) + int(b)) % 2**bits for a, b in zip(left, right, strict=True)]
    assert found == [v * v % 2**bits for v in x]


def test_what_is_refused():
    triples = ArithmeticTriples(*(np.zeros(2, np.uint64) for _ in range(3)), 64)
    triples.take()
    with pytest.raises(UsageError, match="used twice"):
        triples.take()
    three = np.zeros(3, np.uint64)
    with pytest.raises(UsageError, match="a triple for every element"):
        multiply_with_triples(three, three, triples, None)
    with pytest.raises(UsageError, match="use 1 to 64 bits"):
        arithmetic_triples(2, None, 65)
