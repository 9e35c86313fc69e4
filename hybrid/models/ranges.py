"""Ranges: magnitudes on every edge of a graph, found by the server on public sample sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hybrid.config.files import read_lines, text_lines
from transport.errors import ConfigError
from transport.foreign import shown

SMALLEST = 2.0**-20
LARGEST = 2.0**20
"""What an edge may reach that is computed in fixed point: `held` refuses what lies beyond."""
_FAINTEST = 2.0**-12
"""Least root mean square of such an edge: 16 units, whose rounding is 2 % of it."""
_LEAST, _MOST = 2.0**-100, 2.0**100
"""Of any bound, also of one that will be refused or scaled."""
_VARIANCES = (".variance", ".mean_square")
"""Ends of names of edges that are positive: their lower bound is one of the protocols."""
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
    largest = float(np.abs(weight).max())
    bound = _power(largest, math.ceil) if largest else 1.0
    return Bound(SMALLEST, bound, bound)


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


@dataclass(frozen=True, slots=True)
class Seen:
    """Magnitudes that one run of the plain model shows on an edge."""

    low: float
    """Smallest one that is not zero; 0 where all are."""
    rms: float
    max_abs: float


def is_variance(edge: str) -> bool:
    """Whether an edge's lower bound says something."""
    return edge.endswith(_VARIANCES)


def seen_by(run: Callable[[Observer], object]) -> dict[str, Seen]:
    """What a run of the plain model shows on every edge; `run` is given the observer."""
    found: dict[str, Seen] = {}

    def observe(edge: str, tensor: Tensor) -> None:
        x = np.abs(tensor.detach().to("cpu").double().numpy())
        low = x[x > 0].min(initial=math.inf) if is_variance(edge) else x.min()
        one = Seen(0.0 if low == math.inf else float(low), math.sqrt((x**2).mean()), float(x.max()))
        found[edge] = one if edge not in found else _wider(found[edge], one)

    run(observe)
    return found


def _wider(a: Seen, b: Seen) -> Seen:
    return Seen(min(a.low, b.low), max(a.rms, b.rms), max(a.max_abs, b.max_abs))


def observed_ranges(
    run: Observed, samples: Iterable[NDArray[np.int64]], margin: float
) -> dict[str, Bound]:
    """Bounds of every edge over `samples` (token ids), widened by `margin`.

    What no fixed-point number holds is not clipped: graphs refuse it where they use the edge.
    """

    def run_all(see: Observer) -> None:
        for token_ids in samples:
            run(token_ids, see)

    return {edge: _rounded(edge, seen, margin) for edge, seen in seen_by(run_all).items()}


def _rounded(edge: str, seen: Seen, margin: float) -> Bound:
    if not math.isfinite(seen.max_abs):
        raise ConfigError(
            f"ranges: the plain model gives values on edge {edge!r} that are not finite numbers; "
            "use weights whose activations float32 holds"
        )
    if not seen.max_abs:
        # Zeros are exact under any bound.
        return Bound(SMALLEST, 1.0, 1.0)
    low = seen.low / margin
    if low < SMALLEST and (seen.low >= SMALLEST or not is_variance(edge) or not seen.low):
        low = SMALLEST
    return Bound(
        _power(low, math.floor),
        _power(seen.rms, math.ceil),
        _power(seen.max_abs * margin, math.ceil),
    )


def _power(value: float, direction: Callable[[float], int]) -> float:
    """The next power of two in `direction`."""
    return float(2.0 ** direction(math.log2(min(max(value, _LEAST), _MOST))))


# -- what fixed point holds -----------------------------------------------------------------


def held(edge: str, bound: Bound) -> Bound:
    """The bound of an edge that is computed in fixed point; `ConfigError` where none holds it."""
    if bound.max_abs > LARGEST:
        raise ConfigError(
            f"ranges: edge {edge!r} needs a bound of {bound.max_abs:g}, its margin included; fixed "
            f"point holds {LARGEST:g}: lower ranges.margin, or scale the weights before it down"
        )
    # A matrix is scaled by its own bound, and a variance has a lower one. Softmax of tiny scores is
    # flat however they are rounded.
    is_scaled = edge.endswith((".weight", *_VARIANCES))
    faint = bound.max_abs < SMALLEST if is_scaled else bound.rms < _FAINTEST
    if faint and not edge.endswith(".scores"):
        raise ConfigError(
            f"ranges: edge {edge!r} has a root mean square of at most {bound.rms:g}, which "
            f"vanishes in the fixed point's units of {2.0**-16:g}; scale the weights before it up "
            "and those behind it down"
        )
    return Bound(*(max(part, SMALLEST) for part in (bound.low, bound.rms, bound.max_abs)))


def held_variance(edge: str, bound: Bound, epsilon: float) -> Bound:
    """As `held`, of a variance to which a normalisation adds `epsilon`."""
    if max(bound.low, epsilon) < SMALLEST:
        raise ConfigError(
            f"ranges: edge {edge!r} falls to {bound.low:g}; normalisations in fixed point hold "
            f"{SMALLEST:g} or more: scale the weights before it up, or leave out the samples whose "
            "rows are as good as constant"
        )
    return held(edge, bound)


_FEWEST_BITS, _MOST_BITS = 0, 5


def output_shift(bound: Bound) -> int:
    """By how many bits an opened edge is scaled up, so that fixed point holds it.

    Nothing computes with what is opened, so its last map is scaled by a public power of two, and
    the client scales back: root mean squares then lie from 2^0 to 2^5, where gains of normalised
    rows are of moderate size and a handful of fraction bits is precise.
    """
    bits = round(math.log2(bound.rms))
    return min(max(bits, _FEWEST_BITS), _MOST_BITS) - bits


def shifted(bound: Bound, bits: int) -> Bound:
    """Of the edge scaled up by 2^bits."""
    factor = 2.0**bits
    return Bound(bound.low, bound.rms * factor, bound.max_abs * factor)


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
        or any(type(v) is not float or not _LEAST <= v <= _MOST for v in values)
        or any(math.frexp(v)[0] != 0.5 for v in values)
        or values[1] > values[2]
    ):
        raise ConfigError(f"handshake: bound of edge {shown(edge)} is not three powers of two")
    return Bound(*values)
