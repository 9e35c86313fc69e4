"""Elementwise products of shared numbers: the one building block with more than one engine.

Nonlinear protocols ask for products through this interface, so that the same GELU runs on
products by oblivious transfer (`mpc_nonlinear.ot_products`) or in CKKS slots (in `hybrid`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray

if TYPE_CHECKING:
    from mpc_nonlinear.session import Session


class Products(ABC):
    """Fixed-point products of shares, truncated back to `fraction_bits`.

    `x_rms` and `y_rms` are upper bounds on the root mean square of the real operands,
    `max_abs` bounds |x * y| for every element (reals), `product_rms` its root mean square
    (`max_abs` when left out). All are public.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    max_error_units: ClassVar[int]
    """Largest distance from the exact product of operands below 4, in units of 2^-fraction_bits."""

    @abstractmethod
    def multiply_cost(
        self,
        count: int,
        *,
        x_rms: float,
        y_rms: float,
        max_abs: float,
        product_rms: float | None = None,
    ) -> Cost:
        """Cost of `count` products."""

    @abstractmethod
    def square_cost(
        self, count: int, *, x_rms: float, max_abs: float, product_rms: float | None = None
    ) -> Cost:
        """Cost of `count` squares."""

    @abstractmethod
    def multiply(
        self,
        x: RingArray,
        y: RingArray,
        session: Session,
        *,
        x_rms: float,
        y_rms: float,
        max_abs: float,
    ) -> RingArray:
        """Shares of x * y; shapes are equal (broadcast with `np.broadcast_to` before)."""

    @abstractmethod
    def square(self, x: RingArray, session: Session, *, x_rms: float, max_abs: float) -> RingArray:
        """Shares of x * x, same shape."""
