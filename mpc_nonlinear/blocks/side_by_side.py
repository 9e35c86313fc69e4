"""Independent protocols at once, in as many rounds as the longest of them takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import Cost
from transport.channel import Channel
from transport.errors import UsageError
from transport.overlap import overlapped

Part = tuple[Cost, Callable[[Session], Any]]
"""What a protocol costs, and the protocol."""


def side_by_side(parts: Sequence[Part], session: Session) -> list[Any]:
    """Results of protocols none of which needs another's; see `Cost.beside`.

    Each takes its correlations from a part of the stock that is set aside before, as its cost says,
    since what the parties do first may differ.
    """
    if session.channel.is_branch:
        # Branches have no branches: one after the other, in as many rounds as that takes.
        raise UsageError("side by side: inside another; run these protocols one after the other")
    stocks = [session.prepared.reserve(cost.demand) for cost, _ in parts]
    tasks = [
        partial(_run, protocol, replace(session, stock=stock))
        for (_, protocol), stock in zip(parts, stocks, strict=True)
    ]
    results = overlapped(session.channel, tasks)
    for stock in stocks:
        if stock.stock().counts:
            raise UsageError("side by side: a protocol took less than it declares")
    return results


def _run(protocol: Callable[[Session], Any], session: Session, channel: Channel) -> Any:
    return protocol(replace(session, channel=channel))
