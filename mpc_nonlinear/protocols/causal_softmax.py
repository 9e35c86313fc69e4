"""Softmax with a causal mask: this project's polynomials, nothing above the diagonal."""

from __future__ import annotations

from dataclasses import dataclass

from mpc_nonlinear.protocols.softmax import SquaredPolynomialSoftmax


@dataclass(frozen=True, slots=True)
class SquaredPolynomialCausalSoftmax(SquaredPolynomialSoftmax):
    """The same polynomials on the visible part of each row; see `RowSoftmax`.

    Shape (..., queries, keys); the last query is the newest key. About half the elements of a
    square are skipped.
    """

    op = "causal_softmax"  # an encoder whose attention looks both ways must not get it

    causal: bool = True
