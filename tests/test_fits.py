"""The constants in the protocols are the ones that the fitting scripts give."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mpc_nonlinear.protocols import gelu, layernorm, softmax


@pytest.fixture(autouse=True)
def experiments_on_path(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(Path(__file__).parent.parent / "experiments"), *sys.path])


def test_gelu_coefficients():
    import fit_gelu

    found, error = fit_gelu.coefficients()
    assert np.allclose(found, gelu.COEFFICIENTS, rtol=1e-5, atol=0)
    assert error < 1.2e-3
    assert fit_gelu.THRESHOLD == gelu.THRESHOLD


def test_exponential_coefficients():
    import fit_exp

    found, error = fit_exp.coefficients()
    assert np.allclose(found, softmax.EXPONENTIAL, atol=2e-5)
    own = softmax.EXPONENTIAL
    s = np.linspace(-softmax.CLIP / 8, fit_exp.HIGH, 1000)
    assert np.abs(np.polynomial.polynomial.polyval(s, own) ** 8 - np.exp(8 * s)).max() < 2e-5
    assert error < 2e-5


def test_starting_lines():
    import fit_rows

    line, error = fit_rows.inverse_root()
    assert np.allclose(line, layernorm.START, atol=1e-4)
    assert error < 0.0223
    constant, _ = fit_rows.doubled_reciprocal()
    assert abs(constant - softmax._START) < 1e-3
