"""The contract every nonlinear protocol fulfils; the contract tests check it for all of them.

A protocol is a frozen dataclass of public parameters (bounds from calibration), equal at both
parties. Everything it declares follows from them, the shape, and the session's context.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from transport.errors import UsageError


class Magnitudes(Protocol):
    """Of the numbers on one edge of a model, as powers of two."""

    @property
    def low(self) -> float:
        """Smallest magnitude, of edges that are positive."""

    @property
    def rms(self) -> float:
        """Root mean square."""

    @property
    def max_abs(self) -> float:
        """Largest magnitude."""


class NonlinearProtocol(ABC):
    """A two-party protocol for one elementwise or row-wise operation on shares."""

    op: ClassVar[str]
    """Operation it computes: gelu, softmax, layernorm, rmsnorm, relu, silu, tanh, ..."""
    name: ClassVar[str]
    """Name that configs use to choose it among the protocols of the same op."""
    source: ClassVar[str]
    """Paper and place in it."""
    max_error: ClassVar[float]
    """Largest distance from `reference`, in reals: `protocol_error` where that says no more."""
    approximation_error: ClassVar[float]
    """Largest distance of `reference` from the true function."""
    true_error: ClassVar[float | None] = None
    """Largest distance from the true function, where it is less than the sum of the two."""
    breakpoints: ClassVar[tuple[float, ...]] = ()
    """Of an elementwise operation: where its pieces meet. The contract tests around each."""
    product_engines: ClassVar[tuple[str, ...]] = ()
    """Names of the engines of products that it works with; empty: any. Plans and contract tests
    give it no other."""
    takes_mask: ClassVar[bool] = False
    """Whether a masked operation calls `run_masked`. Otherwise masked numbers arrive in `run`
    lowered so far that their exponential is clipped; see `row_softmax.MASK_GAP`."""

    @classmethod
    def for_operation(
        cls, width: int, bounds: Mapping[str, Magnitudes], constants: Mapping[str, float]
    ) -> Self:
        """The protocol for one step of a model; overridden where it takes more than a bound.

        width: of the last axis; bounds: by role, "input" among them; constants: the operation's
        public numbers, as a normalisation's epsilon.
        """
        del width, constants
        make: Any = cls
        made: Self = make(bound=bounds["input"].max_abs)
        return made

    @classmethod
    def approximation_error_of_rows(cls, length: int) -> float:
        """`approximation_error` over rows of `length`; overridden where it depends on that."""
        del length
        return cls.approximation_error

    def approximation_error_within(self, length: int) -> float:
        """The same inside this instance's bounds; overridden where it depends on them."""
        return self.approximation_error_of_rows(length)

    def protocol_error(self, length: int, context: Context) -> float:
        """Largest distance from `reference` inside the bounds, by the context's products.

        Over rows of `length`. Overridden where truncation or an engine's noise grows with the
        bounds or the length. A bound; by engines whose `errors` are estimates, one too.
        """
        del length, context
        return self.max_error

    def error(self, length: int, context: Context) -> float:
        """Largest distance from the true function inside the bounds, as `distance` measures it.

        What `scheduler.max_error` limits. Of the worst engine where any of several may multiply.
        """
        if self.true_error is not None:
            return self.true_error
        own = max(
            self.protocol_error(length, replace(context, products=products))
            for products in context.products.alternatives
        )
        return self.approximation_error_within(length) + own

    def public_sizes(self, length: int, context: Context) -> Mapping[str, float | int]:
        """What both parties derive for rows of this length and must have alike; of the plan's hash.

        Nothing, where the declared cost says it all.
        """
        del length, context
        return {}

    def distance(self, found: FloatArray, wanted: FloatArray) -> FloatArray:
        """What the declared errors bound, number by number: here the difference."""
        away: FloatArray = np.abs(found - wanted)
        return away

    @abstractmethod
    def reference(self, x: FloatArray) -> FloatArray:
        """The function this protocol computes, in the clear and without rounding."""

    @abstractmethod
    def true_function(self, x: FloatArray) -> FloatArray:
        """The function it stands for, float64."""

    @abstractmethod
    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Exact messages and correlations for an input of this shape."""

    @abstractmethod
    def run(self, x: RingArray, session: Session) -> RingArray:
        """Map this party's share of x to its share of the result, same shape."""

    def run_masked(self, x: RingArray, mask: RingArray, session: Session) -> RingArray:
        """As `run`, where only some numbers of a row count; others give zero.

        mask: this party's share modulo two of one bit a number, in a shape that broadcasts to
        that of x. A row without a one may come, of a decoder's fillers: its result, of any
        value, is thrown away, but it must not divide by zero or raise. `cost` declares this call
        where `takes_mask`, and `reference` gets minus infinity where the mask is zero.
        """
        del x, mask, session
        raise UsageError(f"{self.op}/{self.name}: declares takes_mask without run_masked")
