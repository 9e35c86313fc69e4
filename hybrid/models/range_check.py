"""Whether ranges held for a text: bounds of the edges that a graph uses, beside what was seen.

Only who has weights and text can know: the launcher of `hybrid run` and `hybrid generate`. A client
sees what it sends in, a server nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.models.ranges import Bound, Ranges, Seen, is_variance

FEWEST_SAMPLES, FEWEST_TOKENS = 16, 64
"""Of samples that a user names; below, a plan and a report say so."""


@dataclass(frozen=True, slots=True)
class Reached:
    """What a text came to on one edge, beside the bound."""

    edge: str
    of: str
    """Which bound: `max_abs`, `low` of variances, or `rms`, by which failures are counted."""
    seen: float
    bound: float

    @property
    def times(self) -> float:
        """How many times the bound was reached: above 1 it is exceeded."""
        if self.of == "low":
            return self.bound / self.seen if self.seen else 0.0
        return self.seen / self.bound

    def row(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "times": self.times}


@dataclass(frozen=True, slots=True)
class RangeCheck:
    """Of one text."""

    exceeded: tuple[Reached, ...]
    """Worst first; those of `max_abs` and `low` make results wrong, those of `rms` failures more
    likely than declared."""
    nearest: Reached | None
    """Of `max_abs` and `low`, the one that was reached most; None where no edge was seen."""


def check_ranges(used: Ranges, seen: Mapping[str, Seen]) -> RangeCheck:
    """Bounds that a graph uses against what the plain model shows on the same edges."""
    reached = [one for edge in used if edge in seen for one in _reached(edge, used[edge], seen)]
    exceeded = sorted((one for one in reached if one.times > 1), key=lambda one: -one.times)
    hard = [one for one in reached if one.of != "rms"]
    return RangeCheck(tuple(exceeded), max(hard, key=lambda one: one.times, default=None))


def _reached(edge: str, bound: Bound, seen: Mapping[str, Seen]) -> Iterator[Reached]:
    found = seen[edge]
    yield Reached(edge, "max_abs", found.max_abs, bound.max_abs)
    yield Reached(edge, "rms", found.rms, bound.rms)
    if is_variance(edge):
        yield Reached(edge, "low", found.low, bound.low)


class _Asked(Mapping[str, Bound]):
    """Remembers which bounds were asked for."""

    def __init__(self, ranges: Ranges) -> None:
        self._ranges = ranges
        self.found: dict[str, Bound] = {}

    def __getitem__(self, edge: str) -> Bound:
        self.found[edge] = self._ranges[edge]
        return self.found[edge]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)


def used_ranges(ranges: Ranges, build: Callable[[Ranges], object]) -> dict[str, Bound]:
    """Of the edges whose bounds `build` asks for: the others decide nothing."""
    asked = _Asked(ranges)
    build(asked)
    return asked.found


def few_samples(samples: Sequence[NDArray[np.int64]] | Iterable[NDArray[np.int64]]) -> str:
    """A warning where samples (token ids) are too few to find ranges on, else nothing."""
    found = list(samples)
    tokens = len(np.unique(np.concatenate(found)))
    if len(found) >= FEWEST_SAMPLES and tokens >= FEWEST_TOKENS:
        return ""
    return (
        f"ranges.sentences: ranges were found on {len(found)} samples with {tokens} different "
        "tokens; a text of other words may exceed them and get a wrong answer that neither party "
        f"notices: give at least {FEWEST_SAMPLES} samples of many kinds with {FEWEST_TOKENS} "
        "tokens, or leave the key out"
    )
