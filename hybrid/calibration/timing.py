"""Repeated timing of short calls, and prices from times of several units together."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np
from scipy.optimize import nnls

_FORGOTTEN = np.zeros(32 << 20, np.uint8)
"""As large as a cache that cores share."""
_LEAST_RUNS, _MOST_RUNS, _ENOUGH_S = 4, 200, 0.05


def seconds_of(call: Callable[[], object]) -> float:
    """Median of a call's times, after one that is not counted."""
    call()
    taken: list[float] = []
    while len(taken) < _LEAST_RUNS or (sum(taken) < _ENOUGH_S and len(taken) < _MOST_RUNS):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def forget_caches() -> None:
    """Use the caches for something else, as other steps of a run do."""
    _FORGOTTEN[:] += 1


def fitted(names: tuple[str, ...], cases: list[tuple[list[float], float]]) -> dict[str, float]:
    """Non-negative prices whose sums come nearest to the measured seconds, relatively."""
    counts = np.array([row for row, _ in cases])
    seconds = np.array([s for _, s in cases])
    weighted = counts / seconds[:, None]
    # Columns of similar size keep the solver well conditioned.
    size = weighted.max(axis=0)
    size[size == 0] = 1.0
    found, _ = nnls(weighted / size, np.ones(len(cases)))
    return {name: float(price) for name, price in zip(names, found / size, strict=True)}
