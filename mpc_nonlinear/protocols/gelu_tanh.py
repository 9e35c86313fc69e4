"""GELU in its tanh form, as GPT-2 and Gemma use it."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from mpc_nonlinear.fixed_point import FloatArray
from mpc_nonlinear.protocols.cubic_pieces import CubicPiece, CubicPieces
from mpc_nonlinear.protocols.gelu import EvenPolynomialGelu


@dataclass(frozen=True, slots=True)
class EvenPolynomialGeluTanh(EvenPolynomialGelu):
    """The protocol and polynomial of the erf form, held against the tanh form.

    The two forms differ by 4.8e-4 at most, so that both lie within 2^-9 of one polynomial.
    """

    op = "gelu_tanh"  # another function than the erf form
    name = "even_polynomial"

    def true_function(self, x: FloatArray) -> FloatArray:
        """Float64 x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
        return _gelu_tanh(x)


@dataclass(frozen=True, slots=True)
class CubicPiecesGeluTanh(CubicPieces):
    """max(x, 0) plus gelu_tanh(-|x|) as two cubics, see `CubicPieces`. 5 rounds below 300.

    `bound`: largest |x|; `rms`: its root mean square.
    """

    op = "gelu_tanh"
    name = "cubic_pieces"
    source = "this project; comparisons of [Rathee20], openings of [Beaver91]"
    # At a knot either piece may be taken, 1e-3 apart; operands cut to 1 / 1776 add 2e-4.
    max_error = 1.375 * 2.0**-10
    approximation_error = 1.4375 * 2.0**-11
    true_error = 0.9375 * 2.0**-10
    breakpoints = (-3.4, -1.68, 0.0, 1.68, 3.4)
    # Minimax as far as their slacks, errors 6.8e-4 and 3.2e-4; experiments/fits/fit_gelu_tanh.py
    pieces = (
        CubicPiece(
            1.68, (-0.000279823027648, -0.50900771045, 0.459413496847, -0.109538683668), 0.054
        ),
        CubicPiece(3.4, (-0.519325796494, 0.435710540465, -0.122292858958, 0.0114633506164), 0.1),
    )
    zero_slack = 0.054
    outside = -43 * 2.0**-16
    steps = 1776.0

    bound: float
    rms: float = 3.4

    def true_function(self, x: FloatArray) -> FloatArray:
        """As that of the other protocol."""
        return _gelu_tanh(x)


def _gelu_tanh(x: FloatArray) -> FloatArray:
    result: FloatArray = x / 2 * (1 + np.tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))
    return result
