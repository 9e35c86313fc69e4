"""Matrix products modulo 2^64 against Python's integers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc_nonlinear.ring_matmul import Limbs, ring_matmul
from transport.errors import UsageError

LARGEST = 2**64 - 1


def exact(a, b):
    return (a.astype(object) @ b.astype(object)) % 2**64


@pytest.mark.parametrize("m,k,n", [(1, 1, 1), (3, 511, 2), (2, 512, 3), (2, 513, 1), (1, 1537, 4)])
@pytest.mark.parametrize("fill", ["random", "largest", "one"])
def test_words(m, k, n, fill):
    rng = np.random.default_rng(k)
    a, b = (rng.integers(0, LARGEST, shape, np.uint64, endpoint=True) for shape in ((m, k), (k, n)))
    if fill != "random":
        a[:], b[:] = (LARGEST, LARGEST) if fill == "largest" else (1, LARGEST)
    assert np.array_equal(ring_matmul(a, b), exact(a, b))
    assert np.array_equal(ring_matmul(Limbs.of(a), Limbs.of(b)), exact(a, b))


@pytest.mark.parametrize("bound", [1, 2**21 - 1, 2**21, 2**62])
def test_small_and_large_integers(bound):
    rng = np.random.default_rng(1)
    a = rng.integers(0, LARGEST, (5, 1000), np.uint64)
    w = rng.integers(-bound, bound, (1000, 7), endpoint=True)
    w[0] = -bound
    limbs = Limbs.small(w)
    assert len(limbs.parts) == (1 if bound < 2**21 else 3)
    assert np.array_equal(ring_matmul(a, limbs), exact(a, w.view(np.uint64)))


@given(st.lists(st.integers(0, LARGEST), min_size=2, max_size=20))
@settings(max_examples=50, deadline=None)
def test_inner_products(values):
    half = len(values) // 2
    a = np.array(values[:half], np.uint64)[None]
    b = np.array(values[-half:], np.uint64)[:, None]
    assert int(ring_matmul(a, b)[0, 0]) == int(exact(a, b)[0, 0])


def test_batches():
    rng = np.random.default_rng(2)
    a, b = (
        rng.integers(0, LARGEST, (2, 4, 3, 5), np.uint64)[:, :, :, :],
        rng.integers(0, LARGEST, (4, 5, 2), np.uint64),
    )
    product = ring_matmul(a, b)
    assert product.shape == (2, 4, 3, 2)
    assert np.array_equal(product[1, 2], exact(a[1, 2], b[2]))


def test_empty_and_wrong_shapes():
    assert not ring_matmul(np.zeros((2, 0), np.uint64), np.zeros((0, 3), np.uint64)).any()
    with pytest.raises(UsageError, match="shapes"):
        ring_matmul(np.zeros((2, 3), np.uint64), np.zeros((2, 3), np.uint64))
