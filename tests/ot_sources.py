"""Sources for tests: real ones on real dealers and threads, and an insecure instant one."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.correlations import (
    FerretSource,
    IknpSource,
    SoftSpokenSource,
    TrustedDealer,
    run_dealer,
)
from mpc_nonlinear.correlations.stock import StockedSource
from mpc_nonlinear.fixed_point import FixedPoint
from tests.waiting import GUARD_S
from transport.local import memory_pair
from transport.randomness import SEED_BYTES, SecureRandom
from transport.traffic import NO_TRAFFIC, Party

SETUP, PRODUCE = "source setup", "source produce"


class InsecureLocalSource(StockedSource):
    """Both parties expand one public seed: no traffic, no secrecy, no set-up to wait for."""

    name = "insecure local"
    source = "none"
    trust = "INSECURE: for tests only."

    def __init__(self, party, seed=bytes(SEED_BYTES)):
        super().__init__(party)
        self._streams = {p: SecureRandom(seed, domain=f"sender {p}") for p in Party}
        self._deltas = {p: stream.uint64(2) for p, stream in self._streams.items()}

    @classmethod
    def setup_traffic(cls):
        return NO_TRAFFIC

    @classmethod
    def production_traffic(cls, count):  # noqa: ARG003
        return NO_TRAFFIC

    def _setup(self, channel):  # noqa: ARG002
        return self._deltas[self.party]

    def _produce(self, sending, receiving, channel):  # noqa: ARG002
        self._sending.add(self._draw(self.party, sending)[0])
        blocks, choices = self._draw(self.party.peer, receiving)
        delta = self._deltas[self.party.peer]
        self._receiving.add(blocks ^ (choices[:, None].astype(np.uint64) * delta), choices)

    def _draw(self, sender, count):
        return self._streams[sender].uint64((count, 2)), self._streams[sender].bits(count)


class SoftSpoken8(SoftSpokenSource):
    k = 8


class SoftSpoken2(SoftSpokenSource):
    k = 2


@contextmanager
def source_factory(name: str):
    """Give a function channel -> source of this kind; a dealer lives as long as the context."""
    if name != "dealer":
        kinds: dict[str, Callable] = {
            "local": lambda party, _: InsecureLocalSource(party),
            "iknp": IknpSource,
            "ferret": FerretSource,
            "softspoken": SoftSpokenSource,
            "softspoken k=2": SoftSpoken2,
            "softspoken k=8": SoftSpoken8,
        }
        yield lambda channel: kinds[name](channel.party, SecureRandom())
        return
    client, dealer_to_client = memory_pair(timeout_s=GUARD_S)
    dealer_to_server, server = memory_pair(timeout_s=GUARD_S)
    thread = threading.Thread(target=run_dealer, args=(dealer_to_client, dealer_to_server))
    thread.start()
    links = {Party.CLIENT: client, Party.SERVER: server}
    try:
        yield lambda channel: TrustedDealer(channel.party, SecureRandom(), links[channel.party])
    finally:
        for link in links.values():
            link.close()
        thread.join(timeout=GUARD_S)
        assert not thread.is_alive()


def stocked(source, count, channel):
    """Set up and produce under their own labels."""
    with channel.step(SETUP):
        source.setup(channel)
    with channel.step(PRODUCE):
        source.produce(count, channel)
    return source


def quick_session(channel, count, *, products=None, fraction_bits=16):
    """A session whose correlations cost nothing; `count` OTs are in stock."""
    source = stocked(InsecureLocalSource(channel.party), count, channel)
    return Session(channel, Context(FixedPoint(fraction_bits), products), source, SecureRandom())


def run_misbehaving(role):
    """Like `run_both`, for roles that leave bytes unread: the two counts may differ."""
    pair = memory_pair(timeout_s=GUARD_S)

    def closing(channel):
        try:
            return role(channel)
        finally:
            channel.close()

    with ThreadPoolExecutor(max_workers=2) as pool:
        return [future.result() for future in [pool.submit(closing, end) for end in pair]]
