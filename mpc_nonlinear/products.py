"""Elementwise products of shared numbers: the one building block with more than one engine.

Nonlinear protocols ask for products through this interface, so that the same GELU runs on
products by oblivious transfer (`mpc_nonlinear.ot_products`) or in CKKS slots (in `hybrid`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.local import scale, scale_cost
from transport.traffic import Party

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
    largest: float = 2.0**28
    """Of |x * y|, before the shift: narrower products by oblivious transfer are cheaper."""


@dataclass(frozen=True, slots=True)
class FactoredPolynomial:
    """leading * (prod ((y + shift)^2 + offset) [* y])^(2^squarings).

    y = z^2 if `even`, else z; z = x / 2^input_shift; the factor y where `with_input`. Products of
    shifted squares need no products with constants, and stay of moderate size.
    """

    leading: float
    factors: tuple[tuple[float, float], ...]
    """(shift, offset) of each square."""
    input_shift: int
    largest: float
    """Bound on |x|."""
    input_rms: float
    output_rms: float
    even: bool = False
    with_input: bool = False
    squarings: int = 0
    multiples: tuple[tuple[int, int], ...] = ()
    """(m, k) of each factor where 2 shift = r m / k for one real r > 0: then integers make every
    factor, up to k, from one shared square, k y^2 + m r y + k (shift^2 + offset)."""

    def __post_init__(self) -> None:
        ratios = [
            2 * s * k / m for (s, _), (m, k) in zip(self.factors, self.multiples, strict=False)
        ]
        assert not ratios or max(ratios) - min(ratios) < 1e-6 * min(ratios), ratios

    def __call__(self, x: FloatArray) -> FloatArray:
        """In the clear, float64."""
        z = x / 2.0**self.input_shift
        y = z * z if self.even else z
        result = y if self.with_input else np.ones_like(y)
        for shift, offset in self.factors:
            result = result * ((y + shift) ** 2 + offset)
        for _ in range(self.squarings):
            result = result * result
        scaled: FloatArray = self.leading * result
        return scaled


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

    def polynomial_cost(self, count: int, polynomial: FactoredPolynomial) -> Cost:
        """Cost of `count` values of a polynomial."""
        factors = len(polynomial.factors)
        scaled, plain = (1, factors) if polynomial.even else (factors, 0)
        cost = (
            self.square_cost(count, _square_bounds(polynomial)) * scaled
            + self.square_cost(count, _MODERATE) * (plain + polynomial.squarings)
            + self.multiply_cost(count, _MODERATE) * (factors + polynomial.with_input - 1)
            # Root mean squares, as the bounds of products in slots.
            + scale_cost(count, polynomial.output_rms / polynomial.leading * _UNITS)
        )
        if polynomial.with_input and not polynomial.even:
            cost += scale_cost(count, polynomial.input_rms * _UNITS)
        return cost

    def polynomial(
        self, x: RingArray, polynomial: FactoredPolynomial, session: Session
    ) -> RingArray:
        """Shares of the polynomial's values, same shape: here product by product."""
        bounds, bits = _square_bounds(polynomial), polynomial.input_shift
        own = session.party is Party.CLIENT

        def plus(value: RingArray, constant: float) -> RingArray:
            return value + session.fixed_point.encode(constant) if own else value

        base = self.square(x, session, bounds) if polynomial.even else x
        stretch = 1.0 if polynomial.even else 2.0**bits
        bounds = _MODERATE if polynomial.even else bounds
        squares = [
            plus(self.square(plus(base, shift * stretch), session, bounds), offset)
            for shift, offset in polynomial.factors
        ]
        if polynomial.with_input:
            squares.insert(0, base if polynomial.even else scale(base, 1 / stretch))
        result = squares[0]
        for factor in squares[1:]:
            result = self.multiply(result, factor, session, _MODERATE)
        for _ in range(polynomial.squarings):
            result = self.square(result, session, _MODERATE)
        return scale(result, polynomial.leading)


_MODERATE = Bounds(2.0, 2.0, 4.0, largest=256.0)
_UNITS = 2.0**16
"""Of one."""


def _square_bounds(polynomial: FactoredPolynomial) -> Bounds:
    largest = polynomial.largest
    moved = max(abs(shift) for shift, _ in polynomial.factors) * 2.0**polynomial.input_shift
    bound = largest**2 if polynomial.even else (largest + moved) ** 2
    return Bounds(largest, largest, largest**2, 2 * polynomial.input_shift, 2 * bound)
