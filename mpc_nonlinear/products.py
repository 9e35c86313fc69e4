"""Elementwise products of shared numbers: the one building block with more than one engine.

Nonlinear protocols ask for products through this interface, so that the same GELU runs on
products by oblivious transfer (`mpc_nonlinear.ot_products`) or in CKKS slots (in `hybrid`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray

if TYPE_CHECKING:
    from mpc_nonlinear.session import Session


@dataclass(frozen=True, slots=True)
class Bounds:
    """Public bounds on the real operands of a product and on its unshifted result."""

    x_rms: float
    y_rms: float
    product_rms: float
    """Root mean square of x * y, before the shift."""
    shift: int = 0
    """The result is x * y / 2^shift."""


class Products(ABC):
    """Fixed-point products of shares, truncated back to `fraction_bits`.

    |x * y| stays below 2^28 reals.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    max_error_units: ClassVar[int]
    """Largest distance from the exact product of operands below 4, declared with their
    bounds, in units of 2^-fraction_bits."""

    @abstractmethod
    def multiply_cost(self, count: int, bounds: Bounds) -> Cost:
        """Cost of `count` products."""

    @abstractmethod
    def square_cost(self, count: int, bounds: Bounds) -> Cost:
        """Cost of `count` squares."""

    @abstractmethod
    def multiply(self, x: RingArray, y: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """Shares of x * y / 2^shift; shapes are equal (`np.broadcast_to` before)."""

    @abstractmethod
    def square(self, x: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """Shares of x * x / 2^shift, same shape."""
