"""Which keys count for a query where attention reaches some positions to each side only."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_Bools = NDArray[np.bool_]


def within(tokens: int, window: int) -> _Bools:
    """Of (tokens, tokens), queries and keys: those at most `window` positions apart."""
    place = np.arange(tokens)
    near: _Bools = abs(place[:, None] - place) <= window
    return near


def visible(real: _Bools, window: int) -> _Bools:
    """Of (..., tokens, tokens): keys within the window that are tokens, from real (..., tokens).

    A row of padding may have none. Nothing reads what comes of it, but it takes the same steps as
    every other row: it sees all within its window.
    """
    near = within(real.shape[-1], window)
    seen: _Bools = near & real[..., None, :]
    return np.where(seen.any(-1, keepdims=True), seen, near)
