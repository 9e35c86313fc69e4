"""Seconds of every row of a plan, from counted work and a machine's prices."""

from __future__ import annotations

from collections.abc import Sequence

from hybrid.machine.prices import MachinePrices
from transport.computing import Clocks, Work
from transport.link import LinkModel


def predicted_seconds(
    works: Sequence[tuple[str, Work]], prices: MachinePrices | None, link: LinkModel | None
) -> dict[str, float] | None:
    """Wall-clock seconds at the client, by row name, as a run measures them over this link.

    works: counted work of every row, in the order in which they run. None without prices, or
    where a plugin counts units that have none.

    Both parties' clocks go through the rows in their order: what the server still does after it
    has answered shows where the client next waits for it.
    """
    if prices is None or not all(prices.knows(work.counted()) for _, work in works):
        return None
    there, clocks, found = prices.over(link), Clocks(), dict[str, float]()
    for name, work in works:
        after = work.advance(clocks, there)
        found[name] = after.client - clocks.client
        clocks = after
    return found
