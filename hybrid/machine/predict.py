"""Seconds of every row of a plan, from counted work and a machine's prices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from hybrid.machine.prices import MachinePrices, prices_for_reports
from transport.computing import Clocks, Work
from transport.link import LinkModel

Predictor = Callable[[Sequence[tuple[str, Work]]], dict[str, float] | None]
"""From rows of counted work to their seconds, as `predicted_seconds`."""


def predictor(link: LinkModel | None) -> Predictor:
    """By this machine's prices over a link."""
    return partial(predicted_seconds, prices=prices_for_reports(), link=link)


def nothing_predicted(_works: Sequence[tuple[str, Work]]) -> None:
    """As of a machine without prices."""
    return


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
