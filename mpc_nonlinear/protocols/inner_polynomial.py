"""Activations that are a polynomial between two thresholds: what they have in common."""

from __future__ import annotations

from typing import ClassVar

from mpc_nonlinear.blocks.products import FactoredPolynomial
from mpc_nonlinear.blocks.session import Products
from mpc_nonlinear.protocols.activation import Activation


class InnerPolynomial(Activation):
    """`bound`: largest |x|; `rms`: its root mean square, which lifts of products fail by."""

    inner: ClassVar[FactoredPolynomial]

    def _polynomial(self, products: Products) -> FactoredPolynomial:
        """Numbers inside are no larger than x. Engines that count no lifts take it as it is."""
        return self.inner.of(self.rms) if products.needs_largest else self.inner
