"""Whole protocols between the two parties: what the units' sum leaves out.

Interpreter, allocation and caches that other steps have used make a protocol slower than its
units, timed one by one. Two factors, one of trips into ciphertexts and one of interactive blocks,
make up for it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

import numpy as np

from he_linear.keys import ClientKeys, ServerKeys, public_key_bytes
from he_linear.params import PARAMETER_SETS, set_for_products
from hybrid.catalog import load_catalog
from hybrid.conversions import HomomorphicClient, HomomorphicParty, HomomorphicServer
from hybrid.machine.timing import fitted
from hybrid.products import CkksProducts
from mpc_nonlinear.correlations.softspoken import SoftSpokenSource
from mpc_nonlinear.fixed_point import FixedPoint
from mpc_nonlinear.session import Context, Session
from transport.channel import Channel
from transport.randomness import SecureRandom
from transport.traffic import Party
from transport.work import Clocks, Prices, Trip, Work

_RUNS = 4
_LEAST, _MOST = 0.9, 2.0
"""Factors outside are taken for a disturbed measurement and cut."""
_FIXED = FixedPoint(16)
Measured = list[tuple[Work, float]]


def composite_times(channel: Channel, wait: Callable[[], None]) -> Measured:
    """Counted work and seconds of a few protocols with products in slots."""
    rng = SecureRandom(domain="calibration")
    sets = (next(iter(PARAMETER_SETS.values())), set_for_products(4))
    party: HomomorphicParty
    if channel.party is Party.CLIENT:
        made = [ClientKeys.generate(p, (), True, rng) for p in sets]
        for keys in made:
            channel.send(keys.public_bytes())
        party = HomomorphicClient(made, rng)
    else:
        data = [channel.recv(public_key_bytes(p, 0, True)) for p in sets]
        parsed = [ServerKeys.parse(p, d, (), True) for p, d in zip(sets, data, strict=True)]
        party = HomomorphicServer(parsed, rng)
    products = CkksProducts(*sets, _FIXED.fraction_bits, party=party)
    source = SoftSpokenSource(channel.party, rng)
    source.setup(channel)
    session = Session(channel, Context(_FIXED, products), source, rng)
    return [_timed(protocol, shape, session, wait) for protocol, shape in _protocols()]


def _protocols() -> list[tuple[Any, tuple[int, ...]]]:
    catalog = load_catalog()
    layernorm = catalog["layernorm", "octave_polynomial"]
    return [
        (catalog["gelu", "even_polynomial"](bound=16.0), (16, 1536)),
        (catalog["softmax", "squared_polynomial"](bound=16.0), (12, 16, 16)),
        (layernorm(384, 1e-12, 0.5, 8.0, 2.5, 16.0), (16, 384)),
    ]


def _timed(
    protocol: Any, shape: tuple[int, ...], session: Session, wait: Callable[[], None]
) -> tuple[Work, float]:
    cost = protocol.cost(shape, session.context)
    # Any shares will do, as long as their sum keeps within the bounds.
    mask = SecureRandom(bytes(32), domain="calibration").uint64(shape)
    values = _FIXED.encode(np.linspace(-4, 4, prod(shape)).reshape(shape))
    share = mask if session.party is Party.CLIENT else values - mask
    taken = []
    for _ in range(_RUNS + 1):
        session.correlations.produce(cost.ots, session.channel)
        session.prepared.prepare(cost.demand)
        wait()
        start = time.perf_counter()
        protocol.run(share, session)
        taken.append(time.perf_counter() - start)
    return cost.work, statistics.median(taken[1:])


def factors(measured: Measured, prices: Prices) -> Mapping[str, float]:
    """What times of trips and of interactive blocks are multiplied by."""
    rows = []
    for work, seconds in measured:
        spent = {"trip": 0.0, "together": 0.0}
        for part in work.parts:
            kind = "trip" if isinstance(part, Trip) else "together"
            spent[kind] += part.advance(Clocks(), prices).client
        rows.append(([spent["trip"], spent["together"]], seconds))
    found = fitted(("trip", "together"), rows)
    return {name: min(_MOST, max(_LEAST, factor)) for name, factor in found.items()}
