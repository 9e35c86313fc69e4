"""Waiting for what can be observed: no test assumes that something takes a given time."""

from __future__ import annotations

import time
from collections.abc import Callable

GUARD_S = 300.0
"""Only ends what would hang for ever; no test that passes comes near it."""
_TICK_S = 0.01


def wait_until(happened: Callable[[], object], what: str) -> None:
    """Return as soon as `happened`; fail when it never does."""
    end = time.monotonic() + GUARD_S
    while not happened():
        assert time.monotonic() < end, f"never came: {what}"
        time.sleep(_TICK_S)
