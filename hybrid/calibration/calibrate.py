"""`hybrid calibrate`: measures this machine and keeps the prices."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

from hybrid.calibration import interactive
from hybrid.machine.prices import (
    MachinePrices,
    cache_file,
    check_writable,
    fingerprint,
    save,
)


def calibrate(progress: Callable[[str], None]) -> MachinePrices:
    """Measure everything, a minute or two; replaces what was kept."""
    check_writable(cache_file())
    start = time.perf_counter()
    prices = replace(
        interactive.measure(progress),
        machine=fingerprint(),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        took_s=round(time.perf_counter() - start, 1),
    )
    save(prices, cache_file())
    return prices
