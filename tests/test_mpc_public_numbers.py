"""Public factors: right, and the same whatever the processor has."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from mpc_nonlinear.blocks.power_cells import PowerCells
from mpc_nonlinear.blocks.public_numbers import exact_power, rotary_turns
from mpc_nonlinear.blocks.row_inverses import RowInverses
from tests.prime_triples import T

FEATURES = "X86_V4 AVX512_ICL AVX512_SPR AVX512_SKX AVX512_CLX AVX512_CNL AVX512F AVX512CD"


def words() -> str:
    """A digest of what both parties multiply shares by, or cut them by."""
    found = hashlib.sha256()
    for octaves in (1, 6, 11):
        for low in (0.96, 2.0**-9, 37.5):
            inverses = RowInverses(low, octaves, 2.0**8)
            for part in inverses.lines:
                found.update(np.rint(part * 2.0**30).astype(np.int64).tobytes())
                found.update(part.tobytes())
            found.update(repr(inverses.width).encode())
        for power in (-1.0, -0.5):
            for low in (0.96 * 2**20, 2.0**24):
                cells = PowerCells(power, low, low * 2.0**octaves, 2.0**8, T)
                found.update(repr(cells.windows).encode())
    for theta, half in ((1e4, 32), (1e5, 32), (5e5, 64), (160000.0, 5)):
        for part in rotary_turns(theta, half, 7, 40):
            found.update(part.tobytes())
    return found.hexdigest()


def test_they_are_the_same_without_the_processors_extensions():
    code = "from tests.test_mpc_public_numbers import words; print(words())"
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": FEATURES, "PYTHONPATH": os.getcwd()}
    # What a processor lacks, or a build, numpy warns of.
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == words()


@pytest.mark.parametrize(("theta", "half"), [(1e4, 16), (1e5, 32), (160000.0, 7)])
@pytest.mark.parametrize(("first", "count"), [(0, 3), (511, 2), (8190, 3)])
def test_turns_are_those_of_float64(theta, half, first, count):
    found = rotary_turns(theta, half, first, count)
    angles = np.arange(first, first + count)[:, None] * theta ** (-np.arange(half) / half)
    for part, function in zip(found, (np.cos, np.sin), strict=True):
        assert part.shape == (count, half)
        # Float64 angles are off by their own last bit.
        assert np.abs(part - function(angles)).max() < 1e-15 * (first + count + 4)
    assert np.abs(found[0] ** 2 + found[1] ** 2 - 1).max() < 1e-15


def test_powers_are_the_nearest_numbers():
    exponents = np.array([-1.0, -0.5, 0.0, 0.5, 1.0, 3.25])
    found = [exact_power(2.0, float(exponent)) for exponent in exponents]
    assert np.allclose(found, 2.0**exponents, rtol=3e-16)
    assert exact_power(2.0, 10) == 1024
    assert exact_power(9.0, 0.5) == 3
