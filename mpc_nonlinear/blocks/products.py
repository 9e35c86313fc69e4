"""What is asked of products: bounds on their operands, and polynomials as products of factors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from mpc_nonlinear.fixed_point import FloatArray


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
    x_fresh: float = 1.0
    """Part of the x that no product before this one, by the same engine, took. What is wrong by
    chance in a number is so in all its products: engines that lift operands count these alone."""
    y_fresh: float = 1.0
    """The same of the y; 1 / n where each serves n products."""


DEVIATIONS = 7.0
"""Of a normal error that is called its largest: one in 4e11 is larger."""


@dataclass(frozen=True, slots=True)
class ProductErrors:
    """How far an engine's products under given bounds lie from the exact ones, in reals."""

    result: float
    """Of the shifted result, whatever the operands."""
    first: float = 0.0
    """Of x, before the product: it counts y times."""
    second: float = 0.0
    """Of y; of squares: that of x again."""
    shift: int = 0
    """The product's."""
    is_estimate: bool = False
    """Numbers are standard deviations of normal errors, each product's its own; else bounds."""

    def largest(self, x: float, y: float) -> float:
        """Of a product of operands up to these; estimates at `DEVIATIONS` of them."""
        parts = self.first * y * 2.0**-self.shift, self.second * x * 2.0**-self.shift
        if self.is_estimate:
            return DEVIATIONS * sqrt(parts[0] ** 2 + parts[1] ** 2 + self.result**2)
        return sum(parts) + self.first * self.second * 2.0**-self.shift + self.result

    def largest_of_mean(self, rms: float, count: int) -> float:
        """Of the mean of `count` squares of numbers with this root mean square."""
        part = 2 * self.first * rms * 2.0**-self.shift
        if self.is_estimate:
            return DEVIATIONS * sqrt((part**2 + self.result**2) / count)
        return part + self.first**2 * 2.0**-self.shift + self.result


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

    interval: tuple[float, float] | None = None
    """Where x lies; None: from -largest to largest."""

    def __post_init__(self) -> None:
        ratios = [
            2 * s * k / m for (s, _), (m, k) in zip(self.factors, self.multiples, strict=False)
        ]
        assert not ratios or max(ratios) - min(ratios) < 1e-6 * min(ratios), ratios

    def of(self, rms: float) -> FactoredPolynomial:
        """The same for inputs of this root mean square, or less where `input_rms` is less."""
        return replace(self, input_rms=min(self.input_rms, rms))

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
