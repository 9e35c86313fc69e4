"""Products side by side in exact slots: exact for any residues, noise as declared."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from he_linear.exact.slot_encryption import (
    slot_encrypt,
    slot_encrypted_bytes,
    slot_mask_for_client,
    slot_masked_bytes,
    slot_parse,
    slot_unmask,
)
from he_linear.kernels.workers import Workers
from he_linear.packings.column_products import ROWS, ColumnProductsPacking
from he_linear.packings.row_blocks import Room
from mpc_nonlinear.blocks.prime_arithmetic import matrix_product
from tests.rows_setup import ROOM, P, T, made_keys, messages_and_noise, uniform_residues
from transport.errors import UsageError
from transport.randomness import SecureRandom


def residues(rng, shape):
    return rng.integers(0, T, shape, np.uint64)


def evaluated(packing, weights):
    """Rows rho and the results' ciphertexts, before they are masked."""
    client, server = made_keys(())
    message, drawn = slot_encrypt(packing.input_ciphertexts, client, SecureRandom())
    assert len(message) == packing.upload_bytes
    ciphertexts = slot_parse(message, packing.input_ciphertexts, P)
    groups = list(packing.stream(ciphertexts, weights, server, ROOM))
    assert sum(map(len, groups)) == packing.output_ciphertexts
    return packing.rows_in(drawn), groups, client, server


def check(packing, weights):
    """Every column's product, from both shares; weights may be smaller than the packing."""
    rho, groups, client, server = evaluated(packing, weights)
    message, own = slot_mask_for_client(groups, server, SecureRandom())
    assert len(message) == packing.download_bytes
    other = slot_unmask(message, packing.output_ciphertexts, client)
    shares = packing.rows_out(own), packing.rows_out(other)
    assert max(share.max() for share in shares) < T
    found = (shares[0] + shares[1]) % np.uint64(T)
    assert rho.shape == (packing.columns, ROWS, packing.inner)
    assert rho.max() < T
    for rows, mine, matrix in zip(rho, found, weights, strict=True):
        inner, outputs = matrix.shape
        exact = matrix_product(rows[None, :, :inner], matrix[None], T)[0]
        assert (mine[:, :outputs] == exact).all()
        assert not mine[:, outputs:].any()
    assert packing.wrong_probability < 2**-80
    assert packing.hint_distance < 2**-40
    return rho


SHAPES = [(1, 1, 1), (1, 200, 2), (128, 3, 5), (127, 4, 33), (65, 2, 2), (64, 5, 2), (42, 47, 64),
          (3, 64, 70)]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_exact(shape):
    packing, rng = ColumnProductsPacking(P, *shape), np.random.default_rng(7)
    check(packing, [residues(rng, shape[1:]) for _ in range(shape[0])])


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 128), st.integers(1, 9), st.integers(1, 9), st.integers(0, 2**32))
def test_products_of_any_sizes(columns, inner, outputs, seed):
    """Sizes of their own, up to those of the packing."""
    packing, rng = ColumnProductsPacking(P, columns, inner, outputs), np.random.default_rng(seed)
    sizes = zip(
        rng.integers(1, inner + 1, columns), rng.integers(1, outputs + 1, columns), strict=True
    )
    check(packing, [residues(rng, size) for size in sizes])


@pytest.mark.parametrize("value", [0, 1, T // 2, T // 2 + 1, T - 1])
def test_extreme_residues_are_exact(value):
    packing = ColumnProductsPacking(P, 100, 9, 3)
    check(packing, [np.full((9, 3), value, np.uint64)] * 100)


def test_few_columns_are_cut_into_parts():
    """No more inputs than the products need, whatever the number of columns."""
    for columns, inner, inputs in ((128, 64, 64), (64, 64, 32), (65, 64, 64), (1, 64, 1),
                                   (42, 47, 16), (1, 300, 3)):  # fmt: skip
        packing = ColumnProductsPacking(P, columns, inner, 5)
        assert (packing.input_ciphertexts, packing.output_ciphertexts) == (inputs, 5)
        assert packing.ciphertexts == inputs + 5
        assert packing.upload_bytes == slot_encrypted_bytes(inputs, P)
        assert packing.download_bytes == slot_masked_bytes(5, P)


def test_threads_change_nothing():
    packing, rng = ColumnProductsPacking(P, 30, 5, 40), np.random.default_rng(3)
    client, server = made_keys(())
    message, _ = slot_encrypt(packing.input_ciphertexts, client, SecureRandom())
    ciphertexts = slot_parse(message, packing.input_ciphertexts, P)
    weights = [residues(rng, (5, 40)) for _ in range(30)]
    one, two = (
        np.concatenate(list(packing.stream(ciphertexts, weights, keys, Room())))
        for keys in (server, replace(server, workers=Workers(2)))
    )
    assert (one == two).all()


@pytest.mark.parametrize("shape", [(128, 64, 40), (2, 3, 4), (50, 7, 40)])
def test_noise_is_as_estimated(shape):
    packing, rng = ColumnProductsPacking(P, *shape), np.random.default_rng(11)
    weights = [residues(rng, shape[1:]) for _ in range(shape[0])]
    _, groups, client, _ = evaluated(packing, weights)
    _, noise = messages_and_noise(np.concatenate(groups), client)
    assert 0.7 < noise.std() / packing.noise_std < 1.1


def test_noise_of_few_weights_is_no_larger():
    """One uniform slot makes every coefficient uniform; no slot makes none."""
    packing, rng = ColumnProductsPacking(P, 128, 16, 2), np.random.default_rng(12)
    for used in (1, 60):
        weights = [residues(rng, (16, 2)) * np.uint64(j < used) for j in range(128)]
        _, groups, client, _ = evaluated(packing, weights)
        _, noise = messages_and_noise(np.concatenate(groups), client)
        assert noise.std() < 1.1 * packing.noise_std


def test_rows_and_answers_are_uniform():
    packing, rng = ColumnProductsPacking(P, 100, 4, 2), np.random.default_rng(13)
    weights = [residues(rng, (4, 2)) for _ in range(100)]
    rho, groups, client, server = evaluated(packing, weights)
    message, own = slot_mask_for_client(groups, server, SecureRandom())
    again, _ = slot_mask_for_client(groups, server, SecureRandom())
    assert message != again
    other = slot_unmask(message, 2, client)
    for numbers in (rho, packing.rows_out(own), packing.rows_out(other)):
        assert uniform_residues(numbers)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UsageError, match="129 columns; a ciphertext has 128 of 64 rows"):
        ColumnProductsPacking(P, 129, 4, 3)
    with pytest.raises(UsageError, match="inner is 0"):
        ColumnProductsPacking(P, 1, 0, 3)
