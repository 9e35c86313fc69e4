"""Softmax with a causal mask: this project's polynomials, nothing above the diagonal."""

from __future__ import annotations

from dataclasses import dataclass

from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.ot_products import OtProducts
from mpc_nonlinear.protocols.row_softmax import RowSoftmax
from mpc_nonlinear.protocols.softmax import CLIP, EXPONENTIAL, RECIPROCAL
from mpc_nonlinear.session import Context, Session


@dataclass(frozen=True, slots=True)
class CausalSoftmax(RowSoftmax):
    """Exponential as a squared polynomial, reciprocal as a polynomial; see `RowSoftmax`.

    Shape (..., queries, keys); the last query is the newest key. About half the elements of a
    square are skipped. Clipped positions keep 6e-6 each: the approximation error holds for
    rows with up to 100 of them.
    """

    op = "causal_softmax"  # an encoder whose attention looks both ways must not get it
    name = "squared_polynomial"
    source = "polynomials of this project; tournament of [Rathee20]"
    max_error = 2.0**-9.5
    approximation_error = 2.0**-10
    clip = CLIP

    causal: bool = True

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
        """One polynomial by oblivious transfer."""
        return OtProducts(context.fixed_point.fraction_bits).polynomial_cost(count, RECIPROCAL)

    def shared_inverse(self, s: RingArray, session: Session) -> RingArray:
        """One polynomial by oblivious transfer."""
        products = OtProducts(session.fixed_point.fraction_bits)
        return products.polynomial(s, RECIPROCAL, session)
