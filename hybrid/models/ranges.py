"""Ranges: magnitudes on every edge of a graph, found by the server on public sample sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hybrid.config.files import read_lines, text_lines
from transport.errors import ConfigError
from transport.foreign import shown

SMALLEST = 2.0**-20
LARGEST = 2.0**20

Observer = Callable[[str, Tensor], None]
"""Sees every edge of the graph as the plain model computes it."""
Observed = Callable[[NDArray[np.int64], Observer], object]
"""Runs the plain model on token ids."""


@dataclass(frozen=True, slots=True)
class Bound:
    """Magnitudes on one edge, as powers of two: all of them are public."""

    low: float
    """Lower bound on |x|; meaningful for edges that are positive (variances)."""
    rms: float
    max_abs: float


Ranges = Mapping[str, Bound]
"""By edge."""


def widest(bounds: Sequence[Bound]) -> Bound:
    """Of edges that are one array."""
    low = min(bound.low for bound in bounds)
    rms, max_abs = (max(getattr(b, part) for b in bounds) for part in ("rms", "max_abs"))
    return Bound(low, rms, max_abs)


def weight_bound(weight: NDArray[np.float64]) -> Bound:
    """Of a matrix: public powers of two, by which its integers are scaled."""
    largest = _power(float(np.abs(weight).max()), math.ceil)
    return Bound(SMALLEST, largest, largest)


def default_sentences() -> list[str]:
    """The sample sentences kept with the package."""
    return default_lines("sentences.txt")


def default_lines(name: str) -> list[str]:
    """Samples kept with the package, one a line."""
    path = resources.files("hybrid.models").joinpath(f"data/{name}")
    return text_lines(path.read_text(encoding="utf-8"), comments=True)


def read_sentences(path: Path) -> list[str]:
    """Sample sentences, one a line; blank lines and lines that start with # are skipped."""
    remedy = "name a UTF-8 text file, one sentence a line, or leave the key out"
    return read_lines(path, "ranges.sentences", remedy, comments=True)


def observed_ranges(
    run: Observed, samples: Iterable[NDArray[np.int64]], margin: float
) -> dict[str, Bound]:
    """Bounds of every edge over `samples` (token ids), widened by `margin`."""
    seen: dict[str, list[tuple[float, float, float]]] = {}

    def observe(edge: str, tensor: Tensor) -> None:
        x = np.abs(tensor.detach().to("cpu").double().numpy())
        seen.setdefault(edge, []).append((x.min(), math.sqrt((x**2).mean()), x.max()))

    for token_ids in samples:
        run(token_ids, observe)
    return {
        edge: Bound(
            low=_power(min(s[0] for s in stats) / margin, math.floor),
            rms=_power(max(s[1] for s in stats), math.ceil),
            max_abs=_power(max(s[2] for s in stats) * margin, math.ceil),
        )
        for edge, stats in seen.items()
    }


def _power(value: float, direction: Any) -> float:
    """The next power of two in `direction`, kept inside a range every protocol can hold."""
    if not math.isfinite(value):
        raise ConfigError("ranges: the plain model gives values that are not finite numbers")
    clipped = min(max(value, SMALLEST), LARGEST)
    return float(2.0 ** direction(math.log2(clipped)))


def ranges_to_public(ranges: Ranges) -> dict[str, list[float]]:
    """Plain data for the handshake."""
    return {edge: [b.low, b.rms, b.max_abs] for edge, b in sorted(ranges.items())}


def ranges_from_public(data: object) -> dict[str, Bound]:
    """Rebuild from untrusted plain data."""
    if not isinstance(data, dict):
        raise ConfigError("handshake: ranges are not a table; are both parties one version?")
    return {str(edge): _bound(edge, values) for edge, values in data.items()}


def _bound(edge: object, values: object) -> Bound:
    if (
        not isinstance(values, list)
        or len(values) != 3
        or any(type(v) is not float or not SMALLEST <= v <= LARGEST for v in values)
        or any(math.frexp(v)[0] != 0.5 for v in values)
    ):
        raise ConfigError(f"handshake: bound of edge {shown(edge)} is not three powers of two")
    return Bound(*values)
