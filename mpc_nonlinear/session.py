"""What a running protocol needs besides its input: peer, number format, correlations."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.preprocessing import Prepared
from mpc_nonlinear.products import Products
from transport.channel import Channel
from transport.randomness import SecureRandom
from transport.traffic import Party


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
