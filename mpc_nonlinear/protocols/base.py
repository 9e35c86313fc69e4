"""The contract every nonlinear protocol fulfils; the contract tests check it for all of them.

A protocol is a frozen dataclass of public parameters (bounds from calibration), equal at both
parties. Everything it declares follows from them, the shape, and the session's context.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray


class NonlinearProtocol(ABC):
    """A two-party protocol for one elementwise or row-wise operation on shares."""

    op: ClassVar[str]
    """Operation it computes: gelu, softmax, layernorm, rmsnorm, relu, silu, tanh, ..."""
    name: ClassVar[str]
    """Name that configs use to choose it among the protocols of the same op."""
    source: ClassVar[str]
    """Paper and place in it."""
    max_error: ClassVar[float]
    """Largest distance from `reference`, in reals, inside the bounds."""
    approximation_error: ClassVar[float]
    """Largest distance of `reference` from the true function."""

    @classmethod
    def approximation_error_of_rows(cls, length: int) -> float:
        """`approximation_error` over rows of `length`; overridden where it depends on that."""
        del length
        return cls.approximation_error

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
