"""Bounds far beyond a usual model's: the protocols widen or rescale, or say that they cannot."""

from __future__ import annotations

import numpy as np
import pytest

from mpc_nonlinear import PROTOCOLS
from mpc_nonlinear.blocks.compare import Width
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.session import Context
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.protocols.gelu import THRESHOLD
from tests.test_mpc_contract import private
from transport.errors import UsageError

GELU, SOFTMAX, LAYERNORM = PROTOCOLS[:3]


@pytest.mark.parametrize("largest", [1.0, 2.0**22, 2.0**30, 2.0**44, 2.0**61])
def test_widths_grow_until_their_slack_is_small_enough(largest):
    width = Width.covering(largest, 13, 1024)
    assert width.slack <= 1024
    assert largest + 2**width.dropped <= 2 ** (width.bits + width.dropped - 1)
    # The next narrower comparison would have been too coarse.
    assert width.bits == 13 or Width.covering(largest, width.bits - 4).slack > 1024


def test_numbers_too_large_to_compare_are_refused():
    for largest in (2.0**62, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="lower the bound"):
            Width.covering(largest, 13)


@pytest.mark.parametrize("bound", [2.0**12, 2.0**20])
def test_gelu_of_huge_bounds_still_finds_its_segment(bound):
    near = np.linspace(THRESHOLD - 0.4, THRESHOLD + 0.4, 2001)
    x = np.concatenate([near, -near, [0.0, bound, -bound]])
    protocol = GELU(bound=bound)
    assert np.abs(private(protocol, x, False) - protocol.true_function(x)).max() <= 2.0**-9


def test_softmax_of_huge_bounds_still_finds_the_maximum():
    x = np.random.default_rng(8).uniform(0, 4, (16, 64))
    x[0, 3], x[1, ::5] = 2.0**14, -(2.0**14)
    protocol = SOFTMAX(bound=2.0**14)
    assert np.abs(private(protocol, x, False) - protocol.true_function(x)).max() <= 2.0**-9


def test_layernorm_of_large_variances_keeps_digits_of_the_inverse_root():
    x = np.random.default_rng(9).normal(0, 20, (3, 192))
    x[0] *= 8
    protocol = LAYERNORM(192, 1e-12, 2.0**8, 2.0**16, 2.0**14, 1024.0)
    assert np.abs(private(protocol, x, False) - protocol.true_function(x)).max() <= 2.0**-12


def test_layernorm_of_a_large_mean_keeps_digits_of_the_mean():
    x = np.random.default_rng(10).normal(0, 0.2, (4, 384)) + [[0.0], [25.0], [-60.0], [60.0]]
    protocol = LAYERNORM(384, 1e-12, 2.0**-6, 2.0**-3, 2.0**-4, 64.0)
    assert np.abs(private(protocol, x, False) - protocol.true_function(x)).max() <= 2.0**-11


@pytest.mark.parametrize("bound,variance", [(2.0**17, 1.0), (8.0, 2.0**17)])
def test_layernorm_beyond_its_range_is_refused(bound, variance):
    with pytest.raises(UsageError, match="must be at most 65536"):
        LAYERNORM(8, 1e-12, 1.0, variance, 1.0, bound)


def test_layernorm_of_outliers_keeps_small_rows_and_hardly_fails():
    """Variances 2^16 apart, as rows of MPNet have: coarser sums, still ten bits of the smallest."""
    rng = np.random.default_rng(11)
    x = rng.normal(0, 1, (6, 768)) * np.sqrt([[0.14], [0.3], [1.0], [60.0], [2000.0], [7000.0]])
    protocol = LAYERNORM(768, 1e-5, 2.0**-3, 2.0**13, 2.0**11, 2.0**12, 64.0)
    assert np.abs(private(protocol, x, False) - protocol.true_function(x)).max() <= 2.0**-8
    # 64 tokens: lifts of 768 means of 2^6 and, an eighth of them, of mean squares of 2^11.
    context = Context(FixedPoint(16), OtProducts(16))
    lifted = 64 * 768 * (2.0**6 + 2.0**8) * 2.0**-48
    assert protocol.cost((64, 768), context).failure_probability <= 1.1 * lifted
