"""Reciprocals of one number a row by Goldschmidt's iteration, as published systems do it."""

from __future__ import annotations

from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from transport.traffic import Party

_STEP = Bounds(2.0, 1.0, 2.0, largest=4.0)


def refined(guess: FloatArray, s: FloatArray) -> FloatArray:
    """In the clear: guess * (1 + e) (1 + e^2) for e = 1 - s * guess."""
    e = 1 - s * guess
    result: FloatArray = guess * (1 + e) * (1 + e * e)
    return result


def refine_cost(count: int, context: Context) -> Cost:
    """Cost of `refine`."""
    exact = OtProducts(context.fixed_point.fraction_bits)
    return exact.multiply_cost(count, _STEP) * 3 + exact.square_cost(count, _STEP)


def refine(guess: RingArray, s: RingArray, session: Session) -> RingArray:
    """Shares of 1 / s from a first guess, 1 <= s <= 2, same shape; relative error e^4.

    Two iterations, products by oblivious transfer, 8 rounds. [Goldschmidt64], after Markstein.
    """
    fixed, products = session.fixed_point, OtProducts(session.fixed_point.fraction_bits)
    one = fixed.encode(1.0 if session.party is Party.CLIENT else 0.0)
    e = one - products.multiply(s, guess, session, _STEP)
    squared = products.square(e, session, _STEP)
    first = products.multiply(guess, one + e, session, _STEP)
    return products.multiply(first, one + squared, session, _STEP)
