"""Softmax over the last axis: shifted by the row maximum, one polynomial, one reciprocal a row."""

from __future__ import annotations

from dataclasses import dataclass

from mpc_nonlinear.blocks.functions import CLIP, EXPONENTIAL, RECIPROCAL
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.row_softmax import RowSoftmax


@dataclass(frozen=True, slots=True)
class SquaredPolynomialSoftmax(RowSoftmax):
    """Row maximum by a tournament, clipping, exp as a squared polynomial, one reciprocal a row.

    `bound`: largest |x| of positions that count; masked ones lie down to -(3 * bound + MASK_GAP).
    Clipped positions keep 6e-6 each: `approximation_error` holds for rows of up to 100.
    """

    op = "softmax"
    name = "squared_polynomial"
    source = "polynomials of this project; tournament of [Rathee20]"
    # Fourteen times the noise of the exponential in slots, whose tails are heavy.
    max_error = 2.0**-9.5
    approximation_error = 2.0**-10
    clip = CLIP

    @classmethod
    def approximation_error_of_rows(cls, length: int) -> float:
        """The polynomials', and every term but the largest clipped."""
        return float(2.0**-14 + (length - 1) * 7e-6)

    def exponential(self, z: FloatArray) -> FloatArray:
        """The fitted polynomial."""
        return EXPONENTIAL(z)

    def exponential_cost(self, count: int, context: Context) -> Cost:
        """One polynomial."""
        return context.products.polynomial_cost(count, EXPONENTIAL)

    def shared_exponential(self, z: RingArray, session: Session) -> RingArray:
        """One polynomial."""
        return session.products.polynomial(z, EXPONENTIAL, session)

    def inverse(self, s: FloatArray) -> FloatArray:
        """The fitted polynomial."""
        return RECIPROCAL(s)

    def inverse_cost(self, count: int, context: Context) -> Cost:
        """One polynomial."""
        return context.products.polynomial_cost(count, RECIPROCAL)

    def shared_inverse(self, s: RingArray, session: Session) -> RingArray:
        """One polynomial."""
        return session.products.polynomial(s, RECIPROCAL, session)
