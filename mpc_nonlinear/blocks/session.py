"""What a running protocol needs besides its input: peer, number format, correlations, products.

Products are the one building block with more than one engine: nonlinear protocols ask for them
through `Products`, so that the same GELU runs on products by oblivious transfer
(`mpc_nonlinear.blocks.ot_products`) or in CKKS slots (in `hybrid`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

from mpc_nonlinear.blocks.local import scale, scale_cost
from mpc_nonlinear.blocks.products import Bounds, FactoredPolynomial, ProductErrors
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.correlations.preprocessing import Prepared
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FixedPoint, RingArray
from transport.channel import Channel
from transport.randomness import SecureRandom
from transport.traffic import Party


class Products(ABC):
    """Fixed-point products of shares, truncated back to `fraction_bits`.

    |x * y| stays below 2^28 reals.
    """

    name: ClassVar[str]
    source: ClassVar[str]
    is_exact: ClassVar[bool] = False
    """Whether results are off by a unit or two whatever their operands, so that rows of numbers of
    very different sizes may go by this engine."""
    needs_largest: ClassVar[bool] = False
    """Whether it works only where `Bounds.largest` is close."""
    uses_ckks: ClassVar[bool] = False
    """Whether they take CKKS keys."""
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

    @property
    def alternatives(self) -> tuple[Products, ...]:
        """Engines of which any may carry a product."""
        return (self,)

    def errors(self, bounds: Bounds) -> ProductErrors:
        """Of a product under these bounds; here `max_error_units`, whatever the operands."""
        return ProductErrors(self.max_error_units / _UNITS, shift=bounds.shift)

    def square_errors(self, bounds: Bounds) -> ProductErrors:
        """Of a square."""
        return self.errors(bounds)

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


@dataclass(frozen=True, slots=True)
class Context:
    """The public half of a session: all that a cost depends on besides shape and bounds."""

    fixed_point: FixedPoint
    products: Products


@dataclass(frozen=True, slots=True)
class Session:
    """One party's view of a running two-party computation."""

    channel: Channel
    context: Context
    correlations: CorrelationSource
    randomness: SecureRandom
    stock: Prepared | None = None
    """Of another session over the same correlations; None: an empty one."""
    prepared: Prepared = field(init=False)
    """What `correlations` was made into; protocols take it from here."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "prepared", self.stock or Prepared(self.correlations))

    def with_products(self, products: Products) -> Session:
        """The same session, stock included, with other products."""
        return replace(self, context=replace(self.context, products=products), stock=self.prepared)

    @property
    def party(self) -> Party:
        """Who we are."""
        return self.channel.party

    @property
    def fixed_point(self) -> FixedPoint:
        """Number format of all shares."""
        return self.context.fixed_point

    @property
    def products(self) -> Products:
        """How this session multiplies shared numbers."""
        return self.context.products
