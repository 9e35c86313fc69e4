"""Activations that are a polynomial between two thresholds: what they have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from mpc_nonlinear.blocks.products import FactoredPolynomial
from mpc_nonlinear.blocks.session import Products
from mpc_nonlinear.protocols.base import Magnitudes, NonlinearProtocol


class InnerPolynomial(NonlinearProtocol):
    """`bound`: largest |x|; `rms`: its root mean square, which lifts of products fail by."""

    inner: ClassVar[FactoredPolynomial]

    bound: float
    rms: float

    @classmethod
    def for_operation(
        cls, width: int, bounds: Mapping[str, Magnitudes], constants: Mapping[str, float]
    ) -> Self:
        """From the bounds of "input"."""
        del width, constants
        make: Any = cls
        made: Self = make(bounds["input"].max_abs, bounds["input"].rms)
        return made

    def _polynomial(self, products: Products) -> FactoredPolynomial:
        """Numbers inside are no larger than x. Engines that count no lifts take it as it is."""
        return self.inner.of(self.rms) if products.needs_largest else self.inner
