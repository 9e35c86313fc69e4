"""RMSNorm and LayerNorm from one opening of a row's numbers, with the inverse root by pieces.

Without gain and bias: they belong to the linear map that follows. Products are modulo a prime.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod, sqrt
from typing import Self

import numpy as np

from mpc_nonlinear.blocks.local import scale, scale_cost
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.base import Magnitudes, NonlinearProtocol
from mpc_nonlinear.protocols.row_scale import norm_of, normalised, relative_distance
from mpc_nonlinear.protocols.row_scaling import RowScaling

_LARGEST = 2.0**16
"""Of numbers whose root mean square is not given."""
_CENTRED_UNITS = 2.0
"""By which a number less its row's mean is off."""


class _PiecesNorm(NonlinearProtocol):
    """What both have in common: everything but the mean."""

    name = "pieces"
    source = (
        "[Beaver91] modulo a prime, one mask for squares and product; inverse root as the splines "
        "of [Liu17] MiniONN, eprint 2017/452, Section 5.3, a piece taken by one oblivious transfer"
    )
    max_error = 2.0**-6
    approximation_error = 2.0**-40
    product_engines = (PrimeProducts.name,)

    @property
    @abstractmethod
    def _scaling(self) -> RowScaling:
        """Of rows, centred where they are."""

    def protocol_error(self, length: int, context: Context) -> float:
        """Largest for rows of the smallest or the largest mean square; see `RowScaling`."""
        del length
        return self._scaling.error(context)

    def distance(self, found: FloatArray, wanted: FloatArray) -> FloatArray:
        """Relative where numbers exceed one."""
        return relative_distance(found, wanted)


@dataclass(frozen=True, slots=True)
class PiecesRmsNorm(_PiecesNorm):
    """x / sqrt(mean(x^2) + epsilon) over the last axis. 5 rounds.

    `bound`: largest |x|; `square_min`, `square_max`: powers of two around every mean square, at
    most 2^12 apart; `square_rms`: their root mean square over all rows; `rms`: that of x. A row
    below `square_min` is multiplied by up to 2.2 / sqrt(square_min); above twice `square_max` sums
    of squares wrap around the prime.
    """

    op = "rmsnorm"

    width: int
    epsilon: float
    square_min: float
    square_max: float
    square_rms: float
    bound: float
    rms: float = _LARGEST

    @classmethod
    def for_operation(
        cls, width: int, bounds: Mapping[str, Magnitudes], constants: Mapping[str, float]
    ) -> Self:
        """From the bounds of "input" and "square" and the constant "epsilon"."""
        return norm_of(cls, "square", width, bounds, constants)

    def __post_init__(self) -> None:
        self._scaling.check("mean square", self.bound)

    @property
    def _scaling(self) -> RowScaling:
        ends = self.square_min, self.square_max
        return RowScaling(self.op, self.width, self.epsilon, *ends, self.square_rms, self.rms)

    def reference(self, x: FloatArray) -> FloatArray:
        """In float64, the inverse root continued below the smallest mean square."""
        return self._scaling.value(x)

    def true_function(self, x: FloatArray) -> FloatArray:
        """Float64 RMSNorm."""
        return normalised(x, self.epsilon)

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """That of `RowScaling`."""
        return self._scaling.cost(shape, context)

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of the normalised rows."""
        return self._scaling.run(x, session)


@dataclass(frozen=True, slots=True)
class PiecesLayerNorm(_PiecesNorm):
    """(x - mean) / sqrt(variance + epsilon) over the last axis. 5 rounds: means are local.

    `bound`: largest |x|; `variance_min`, `variance_max`: powers of two around every variance, at
    most 2^12 apart where epsilon is not above the smallest; `variance_rms`: their root mean square
    over all rows; `rms`: that of x. Outside of the range as RMSNorm.
    """

    op = "layernorm"

    width: int
    epsilon: float
    variance_min: float
    variance_max: float
    variance_rms: float
    bound: float
    rms: float = _LARGEST

    @classmethod
    def for_operation(
        cls, width: int, bounds: Mapping[str, Magnitudes], constants: Mapping[str, float]
    ) -> Self:
        """From the bounds of "input" and "variance" and the constant "epsilon"."""
        return norm_of(cls, "variance", width, bounds, constants)

    def __post_init__(self) -> None:
        self._scaling.check("variance", self.bound)

    @property
    def _scaling(self) -> RowScaling:
        ends = self.variance_min, self.variance_max
        own = self.width, self.epsilon, *ends, self.variance_rms, sqrt(self.variance_rms)
        return RowScaling(self.op, *own, _CENTRED_UNITS)

    def reference(self, x: FloatArray) -> FloatArray:
        """In float64, the inverse root continued below the smallest mean square."""
        return self._scaling.value(x - x.mean(-1, keepdims=True))

    def true_function(self, x: FloatArray) -> FloatArray:
        """Float64 LayerNorm."""
        return normalised(x - x.mean(-1, keepdims=True), self.epsilon)

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """That of `RowScaling`, and the mean's lift."""
        mean = min(self.bound, self.rms) * self.width / context.fixed_point.unit
        return scale_cost(prod(shape[:-1]), mean) + self._scaling.cost(shape, context)

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of the normalised rows."""
        mean = scale(x.sum(axis=-1, dtype=np.uint64), 1 / self.width)
        return self._scaling.run(x - mean[..., None], session)
