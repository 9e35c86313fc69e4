"""Set-up that every session has, whatever it computes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from hybrid.config.loading import Config
from hybrid.operators.base import RunState
from hybrid.operators.homomorphic import HomomorphicParty
from hybrid.operators.slot_products import CheapestProducts, CkksProducts
from hybrid.planning.catalog import Catalog
from hybrid.planning.plan import Plan
from hybrid.runtime.runner import Progress
from mpc_nonlinear.blocks.session import Context, Products, Session
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.correlations.dealer import TrustedDealer
from transport.channel import Channel
from transport.errors import ConfigError
from transport.handshake import handshake
from transport.randomness import SecureRandom
from transport.traffic import Party

_FACT_LENGTH = 120


def _ignore(_step: str, _layer: int) -> None:
    """No progress display."""


class SessionParts:
    """What both parties of any session do."""

    def __init__(
        self, config: Config, catalog: Catalog, channel: Channel, progress: Progress | None = None
    ) -> None:
        self.config = config
        self.catalog = catalog
        self.channel = channel
        self.progress: Progress = progress or _ignore

    def agree_on_config(self) -> None:
        """Compare version and config, key by key."""
        facts = self.config.agreed()
        handshake(self.channel, {f"config key {key}": _fact(v) for key, v in facts.items()})

    def start_correlations(self, plan: Plan, dealer: Channel | None) -> CorrelationSource:
        """Make this party's source of correlations and set it up."""
        party, randomness = self.channel.party, SecureRandom(domain="correlations")
        source: CorrelationSource
        if issubclass(plan.source, TrustedDealer):
            if dealer is None:
                raise ConfigError(no_dealer(self.config))
            source = plan.source(party, randomness, dealer)
        else:
            make: Callable[[Party, SecureRandom], CorrelationSource] = plan.source
            source = make(party, randomness)
        source.setup(self.channel)
        return source


def _fact(value: str) -> str:
    """A value that may be shown whole, else its hash."""
    if len(value) <= _FACT_LENGTH:
        return value
    return f"sha256 {hashlib.sha256(value.encode()).hexdigest()}"


def no_dealer(config: Config) -> str:
    """Why two machines cannot run what relies on a dealer."""
    key = "mpc.correlations" if config.run.mpc.correlations else "scheduler.trust"
    command = "run" if config.run.generation is None else "generate"
    return (
        f"{config.path}: {key}: the schedule needs a dealer, a third process that only `hybrid "
        f"{command}` starts; choose another source of correlations for serve and query"
    )


def run_state(
    channel: Channel, plan: Plan, homomorphic: HomomorphicParty, source: CorrelationSource
) -> RunState:
    """One party's state, able to run the plan's steps."""
    context = plan.context
    engines = {name: with_keys(p, homomorphic) for name, p in context.products.items()}
    mpc = Context(context.fixed_point, engines[CheapestProducts.name])
    session = Session(channel, mpc, source, SecureRandom(domain="mpc"))
    return RunState(session, homomorphic, products=engines)


def with_keys(products: Products, party: HomomorphicParty) -> Products:
    """The same products, able to run: CKKS ones get this party's keys."""
    if isinstance(products, CkksProducts):
        return replace(products, party=party)
    if isinstance(products, CheapestProducts):
        return products.with_choices(lambda choice: with_keys(choice, party))
    return products
