"""The trusted dealer as a process that both parties connect to."""

from __future__ import annotations

from collections.abc import Callable

from mpc_nonlinear.correlations.dealer import run_dealer
from transport.traffic import Party
from transport.zmq_channel import listen

LOOPBACK = "tcp://127.0.0.1:*"


def deal(announce: Callable[[str], None], timeout_s: float) -> None:
    """Open one channel a party, announce both endpoints, the client's first, and serve them."""
    channels = []
    for party in (Party.CLIENT, Party.SERVER):
        channel = listen(LOOPBACK, party.peer, timeout_s=timeout_s)
        announce(channel.endpoint)
        channels.append(channel)
    run_dealer(channels[0], channels[1])
