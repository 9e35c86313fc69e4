"""Rows in exact slots of matrices whose moved inputs come in blocks, and both kinds of tiles."""

import numpy as np
import pytest

from he_linear.kernels import fused_sums
from he_linear.packings import row_blocks
from he_linear.packings.exact_rows import ExactRowsPacking
from tests.rows_setup import P, T, evaluated, messages_and_noise, product, rng, trip

BLOCKS = [
    # All sums in one product; in three, of which two are kept, so that inputs come twice; and few
    # baby steps.
    (16, 1, {"ROOM_BYTES": 62_000_000}),
    (16, 2, {"ROOM_BYTES": 46_000_000, "_SUMS": 14, "_KEPT": 28, "_FEW_BABY_STEPS": ()}),
    (
        4,
        1,
        {"ROOM_BYTES": 104_000_000, "_SUMS": 300, "_BABY_STEPS": (128,), "_FEW_BABY_STEPS": (4,)},
    ),
]


@pytest.mark.parametrize(("babies", "passes", "changes"), BLOCKS)
def test_inputs_in_blocks_make_the_same_rows_and_noise(monkeypatch, babies, passes, changes):
    changes = {"_BABY_STEPS": (16,), **changes}
    for name, value in changes.items():
        monkeypatch.setattr(row_blocks, name, value)
    packing, moved, move = ExactRowsPacking(P, 64, 846, 300), [], ExactRowsPacking._move

    def noted(self, ciphertexts, index, *arguments):
        moved.extend(range(index, index + len(ciphertexts)))
        move(self, ciphertexts, index, *arguments)

    monkeypatch.setattr(ExactRowsPacking, "_move", noted)
    weights = rng.integers(-(2**15), 2**15, (846, 300))
    rho, results, client, _ = evaluated(packing, weights)
    # Seven ciphertexts in blocks of three.
    assert moved == [0, 1, 2, 0, 1, 2, 0] * passes
    assert packing.room_bytes <= changes["ROOM_BYTES"]
    assert len(results) == packing.output_ciphertexts == 3
    values, noise = messages_and_noise(results, client)
    assert (packing.rows_out(values).astype(np.int64) == product(rho, weights)).all()
    assert 0.9 < noise.std() / packing.noise_std < 1.1
    assert packing.rotations == passes * 7 * babies + 3 * (-(-220 // babies) - 1)
    assert dict(packing.work.arriving)["extended_rotation/8192x3"] == passes * 7 * babies


def test_floats_make_the_same_rows(monkeypatch):
    monkeypatch.setattr(fused_sums, "_INTEGERS", False)
    packing, weights = ExactRowsPacking(P, 50, 700, 130), rng.integers(-(2**15), 2**15, (700, 130))
    rho, own, other, _ = trip(packing, weights)
    assert (((own + other) % np.uint64(T)).astype(np.int64) == product(rho, weights)).all()


def test_working_memory_of_any_shape_is_bounded():
    for tokens in (1, 64, 128, 256):
        for shape in [(49152, 576), (576, 49152), (4096, 11008), (49152, 49152)]:
            assert ExactRowsPacking(P, tokens, *shape).room_bytes <= 600e6
