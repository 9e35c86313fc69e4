"""The constants in the protocols are the ones that the fitting scripts give."""

import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from scipy.special import erf

from mpc_nonlinear.blocks import functions
from mpc_nonlinear.protocols import gelu
from mpc_nonlinear.protocols.gelu_tanh import CubicPiecesGeluTanh
from mpc_nonlinear.protocols.silu import CubicPiecesSilu


@pytest.fixture(autouse=True)
def experiments_on_path(monkeypatch):
    monkeypatch.setattr(
        sys, "path", [str(Path(__file__).parent.parent / "experiments" / "fits"), *sys.path]
    )


def same(polynomial, found):
    rows, leading, error = found
    assert np.allclose(polynomial.factors, rows, rtol=2e-4)
    assert np.isclose(polynomial.leading, leading, rtol=2e-4)
    return error


def test_gelu_polynomial():
    import fit_gelu

    assert same(gelu.POLYNOMIAL, fit_gelu.factors()) < 9.6e-4
    assert fit_gelu.THRESHOLD == gelu.THRESHOLD
    x = np.linspace(-fit_gelu.THRESHOLD - fit_gelu.SLACK, fit_gelu.THRESHOLD, 1001)
    true = x * erf(x / np.sqrt(2)) / 2
    assert np.abs(gelu.POLYNOMIAL(x) - true).max() < 9.7e-4


def test_exponential():
    import fit_exp

    assert same(functions.EXPONENTIAL, fit_exp.factors()) < 5e-5
    assert fit_exp.LOW == -functions.CLIP
    x = np.linspace(fit_exp.LOW, fit_exp.HIGH, 1001)
    error = np.abs(functions.EXPONENTIAL(x) - np.exp(x))
    assert (error < 5.5e-5 * np.exp(x / 2) + 1e-6).all()


def test_polynomials_of_a_row():
    import fit_rows

    s = np.linspace(fit_rows.LOW, fit_rows.HIGH, 1001)
    for polynomial, found, true, largest in (
        (functions.INVERSE_ROOT, fit_rows.inverse_root(), s**-0.5, 2.2e-6),
        (functions.RECIPROCAL, fit_rows.reciprocal(), 1 / s, 1.1e-5),
    ):
        assert same(polynomial, found) < largest
        assert np.abs(polynomial(s) / true - 1).max() < largest + 1e-6


@pytest.mark.parametrize("cls", [CubicPiecesSilu, CubicPiecesGeluTanh], ids=lambda cls: cls.op)
def test_cubic_pieces(cls):
    script = import_module(f"fit_{cls.op}")
    rows, errors = script.cubics()
    assert np.allclose([piece.coefficients for piece in cls.pieces], rows, rtol=1e-6)
    assert max(errors) < cls.approximation_error
    assert cls.steps == script.STEPS
    ends = [(0.0, cls.zero_slack), *((piece.end, piece.slack) for piece in cls.pieces)]
    assert list(zip(script.KNOTS, script.SLACKS, strict=True)) == ends
