"""Prices of units corrected by what whole steps took.

A step's seconds are not linear in prices, since parties and link work at the same time. Prices move
by factors, found by least squares of relative errors (Gauss-Newton with a prior: a price that no
step contradicts stays as it was measured).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from hybrid.calibration.steps import Observation
from hybrid.machine.prices import MachinePrices
from transport.computing import Clocks

_OBSERVATION_DEVIATION, _PRIOR_DEVIATION = 0.05, 0.35
"""Of a step's time, relative; of the logarithm of a price's factor."""
_MOST = math.log(4.0)
_STEPS, _DIFFERENCE = 5, 0.01
_SHORT_S = 2e-3
"""Shorter steps are as likely to be disturbed as to be informative: they weigh less."""


def predicted(observation: Observation, prices: MachinePrices) -> float:
    """Seconds until both parties are done and know it of each other."""
    clocks = observation.work.advance(Clocks(), prices)
    return max(clocks.client, clocks.server) + prices.latency_s


def corrected(prices: MachinePrices, observations: Sequence[Observation]) -> MachinePrices:
    """The same prices times the factors that fit the observations best; `fit_error` is theirs."""
    names = sorted({name for o in observations for name, _ in o.work.counted()})
    logs = np.zeros(len(names))
    base = {name: max(price, 1e-13) for name, price in prices.units.items()}
    weights = np.array(
        [min(1.0, o.seconds / _SHORT_S) / _OBSERVATION_DEVIATION for o in observations]
    )

    def at(factors: Mapping[str, float]) -> MachinePrices:
        units = {name: price * factors.get(name, 1.0) for name, price in base.items()}
        return replace(prices, units=units)

    def errors(where: MachinePrices) -> np.ndarray:
        return np.array([predicted(o, where) / o.seconds - 1 for o in observations])

    for _ in range(_STEPS):
        factors = dict(zip(names, np.exp(logs), strict=True))
        here = errors(at(factors))
        slopes = np.empty((len(observations), len(names)))
        for column, name in enumerate(names):
            moved = {**factors, name: factors[name] * (1 + _DIFFERENCE)}
            slopes[:, column] = (errors(at(moved)) - here) / math.log1p(_DIFFERENCE)
        rows = np.vstack([slopes * weights[:, None], np.eye(len(names)) / _PRIOR_DEVIATION])
        wanted = np.concatenate([-here * weights, -logs / _PRIOR_DEVIATION])
        change = np.linalg.lstsq(rows, wanted, rcond=None)[0]
        logs = np.clip(logs + change, -_MOST, _MOST)
    found = at(dict(zip(names, np.exp(logs), strict=True)))
    error = statistics.median(abs(e) for e in errors(found))
    return replace(found, fit_error=float(error))
