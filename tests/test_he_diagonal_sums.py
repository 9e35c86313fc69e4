"""Sums of products with full-size diagonals, against integers and against SEAL's transform."""

import numpy as np
import pytest

from he_linear.ckks.canonical_embedding import slots_to_coefficients
from he_linear.ckks.parameters import CkksParameters
from he_linear.kernels import residues as kernels
from he_linear.kernels.diagonal_sums import (
    accumulate_diagonals,
    empty_weights,
    in_order_of_use,
    mirrored,
)
from he_linear.kernels.ntt import tables
from he_linear.packings.column_bsgs import ColumnBsgsPacking
from tests.he_setup import PARAMETERS, SLOTS, N

LARGEST = CkksParameters(8192, (49, 49), 49).primes


@pytest.mark.parametrize("kept", [N // 2, N])
@pytest.mark.parametrize(
    ("primes", "rows", "inner"), [(PARAMETERS.primes, 3, 130), (LARGEST, 1, 9), (LARGEST, 2, 1)]
)
def test_sums_are_exact_for_the_largest_values(kept, primes, rows, inner):
    rng = np.random.default_rng(inner)
    moduli = np.array(primes, np.float64)
    top = np.floor(moduli / 2)[:, None]
    inputs = np.rint(rng.uniform(-1, 1, (inner, 2, len(primes), N)) * top)
    inputs[:, 0, :, :9] = top
    values = np.rint(rng.uniform(-1, 1, (rows, inner, len(primes), kept)) * top)
    values[..., :9] = -top
    weights = empty_weights(rows, len(primes), kept, inner)
    weights[...] = in_order_of_use(values)
    out = np.empty((rows, 2, len(primes), N))
    accumulate_diagonals(inputs, weights, moduli, out)
    whole = values if kept == N else np.concatenate([values, values[..., ::-1]], -1)
    places = [0, 8, N // 2 - 1, N // 2, N - 1]
    for k, p in enumerate(primes):
        for r in range(rows):
            w = whole[r, :, k, places].astype(np.int64).astype(object)
            for half in range(2):
                x = inputs[:, half, k, places].astype(np.int64).astype(object)
                expected = (w.T * x).sum(0)
                got = out[r, half, k, places].astype(np.int64).astype(object)
                assert ((got - expected) % p == 0).all()
                assert np.abs(out[r, half, k]).max() <= 0.51 * p


def test_half_of_a_real_diagonals_values_stands_for_all():
    slots = np.random.default_rng(0).normal(size=(2, SLOTS)).astype(np.complex128)
    rounded = np.rint(slots_to_coefficients(slots) * 2.0**24)
    fixed = mirrored(rounded)
    # Nothing but rounding is touched.
    assert np.abs(fixed - rounded).max() <= 1
    for p in PARAMETERS.primes:
        values = fixed.copy()
        tables(p, N).forward(values)
        residues = kernels.from_centred(values[:, None], (p,))
        assert (residues == residues[..., ::-1]).all()


def test_encoded_columns_are_half_as_many_bytes_as_their_residues():
    packing = ColumnBsgsPacking(PARAMETERS, 16, 64, 64)
    encoded = packing.encode_weights(np.eye(64))
    assert encoded.nbytes == packing.encoded_bytes == 64 * len(PARAMETERS.primes) * N // 2 * 8
