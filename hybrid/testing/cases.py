"""Numbers that the contract tries a protocol on, by operation: what is easily got wrong.

`CASES` has one maker an operation. All numbers lie inside the bounds of a protocol; scores of
padding are those before they are lowered, see `Case.lowered`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.models.graph import Node
from hybrid.testing.local_parties import FIXED_POINT, MisuseError
from mpc_nonlinear.fixed_point import FloatArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.row_softmax import MASK_GAP

_UNIT = FIXED_POINT.unit
_SEED = 20
_NEAR_ZERO = 8.0
"""Where activations bend; outside they are straight."""
_COARSE = 2.0**-6
"""Comparisons may be wrong this far around a breakpoint."""
_SMALLEST_VARIANCE = 2.0**-10
"""Rows of smaller ones have too few units for any protocol."""
_WINDOWED = 9
"""Columns of rows that see a window, where nothing says how many there are."""
_INSIDE = 1.02
"""Rounding to units must not move a row beyond its limits."""


@dataclass(frozen=True, slots=True)
class Domain:
    """What the numbers of one operation may be."""

    bound: float
    """Largest magnitude, of scores that count."""
    columns: int | None = None
    """Length of rows; None: any."""
    low: float = 0.0
    high: float = 0.0
    """Of variances or mean squares of rows."""
    epsilon: float = 0.0
    breakpoints: tuple[float, ...] = ()
    is_masked: bool = True
    """Softmax: whether a client hides columns of padding."""

    @classmethod
    def of_protocol(cls, protocol: NonlinearProtocol) -> Domain:
        """From the public parameters of an instance, under the names that built-in ones use."""
        place = f"{protocol.op}/{protocol.name}"
        bound = _number(protocol, "bound", place)
        if protocol.op not in _NORMS:
            return cls(bound, breakpoints=protocol.breakpoints)
        of = _NORMS[protocol.op]
        low, high = (_number(protocol, f"{of}_{end}", place) for end in ("min", "max"))
        width, epsilon = (_number(protocol, name, place) for name in ("width", "epsilon"))
        return cls(bound, int(width), low, high, epsilon)

    @classmethod
    def of_node(cls, node: Node, breakpoints: tuple[float, ...]) -> Domain:
        """From the bounds that a model has there."""
        low = high = 0.0
        if node.key in _NORMS:
            found = node.bounds[_NORMS[node.key]]
            low, high = found.low, found.max_abs
        return cls(
            node.bounds["input"].max_abs,
            node.shape[-1],
            low,
            high,
            node.constants.get("epsilon", 0.0),
            breakpoints,
            len(node.inputs) > 1 + node.residuals,
        )


def _number(protocol: NonlinearProtocol, name: str, place: str) -> float:
    value = getattr(protocol, name, None)
    if isinstance(value, int | float):
        return float(value)
    raise MisuseError(
        f"{place}: has no number `{name}` from which cases could be made; give x=, or the class "
        "and config="
    )


@dataclass(frozen=True, slots=True)
class Case:
    """One input."""

    name: str
    """What is special about it, for messages."""
    x: FloatArray
    visible: NDArray[np.bool_] | None = None
    """Which columns count, in a shape that broadcasts to that of x; None: all, and no mask."""

    def lowered(self, bound: float) -> FloatArray:
        """Numbers as a protocol gets them that takes no mask: hidden scores far below all others.

        By as much as `hybrid.operators.nonlinear` lowers them: down to -(3 bound + MASK_GAP), at
        least MASK_GAP below the smallest visible one.
        """
        if self.visible is None:
            return self.x
        low: FloatArray = self.x + np.where(self.visible, 0.0, -(2 * bound + MASK_GAP))
        return low

    def masked(self) -> FloatArray:
        """Minus infinity where nothing is visible."""
        if self.visible is None:
            return self.x
        hidden: FloatArray = np.where(self.visible, self.x, -np.inf)
        return hidden


Maker = Callable[[Domain], Iterator[Case]]


def cases_for(op: str, domain: Domain) -> Iterator[Case]:
    """Those of an operation, each rounded to whole units; generic ones where `CASES` has none."""
    for case in CASES.get(op, _generic)(domain):
        rounded = FIXED_POINT.decode(FIXED_POINT.encode(case.x))
        yield Case(case.name, rounded, case.visible)


# -- elementwise ----------------------------------------------------------------------------


def _elementwise(domain: Domain) -> Iterator[Case]:
    b = domain.bound
    yield Case("zero and one unit", np.array([0.0, _UNIT, -_UNIT]))
    yield Case("the bound", np.array([b, -b, b - _UNIT, _UNIT - b]))
    near = min(_NEAR_ZERO, b)
    yield Case("a dense grid", np.concatenate([np.linspace(-b, b, 501), _grid(near)]))
    # Where no place is named, pieces may still meet at zero.
    points = [p for p in (*domain.breakpoints, 0.0) if abs(p) <= b]
    around = np.concatenate([_UNIT * np.arange(-3, 4), np.linspace(-2 * _COARSE, 2 * _COARSE, 65)])
    closely = np.add.outer(points, around).reshape(-1)
    yield Case("around breakpoints", closely[np.abs(closely) <= b])
    yield Case("one number", np.array([b / 3]))
    yield Case("three axes", np.linspace(-b, b, 105).reshape(3, 5, 7))


def _grid(bound: float) -> FloatArray:
    return np.linspace(-bound, bound, 501)


def _generic(domain: Domain) -> Iterator[Case]:
    b = domain.bound
    yield Case("zero and one unit, as a row", np.array([[0.0, _UNIT, -_UNIT]]))
    columns = domain.columns or 7
    drawn = np.random.default_rng(_SEED).uniform(-b, b, (5, columns))
    yield Case("rows", drawn)
    drawn[0, 0], drawn[-1, -1] = b, -b
    yield Case("rows that reach the bound", drawn)


# -- softmax --------------------------------------------------------------------------------


def _softmax(domain: Domain) -> Iterator[Case]:
    yield from _of_all_lengths(domain, 1)
    if domain.is_masked and domain.columns != 1:
        yield from _windows(domain.bound, domain.columns or _WINDOWED)


def _causal_softmax(domain: Domain) -> Iterator[Case]:
    return _of_all_lengths(domain, 3)


def _of_all_lengths(domain: Domain, queries: int) -> Iterator[Case]:
    """Shape (groups, queries, columns); a group is one row of numbers for every query."""
    lengths = (1, 2, 7, 33) if domain.columns is None else (domain.columns,)
    for columns in lengths:
        shape = min(queries, columns), columns
        yield from _all_visible(domain.bound, *shape)
        if domain.is_masked:
            yield from _padding(domain.bound, *shape)


def _all_visible(b: float, queries: int, columns: int) -> Iterator[Case]:
    rng, of = np.random.default_rng(_SEED), f"rows of {columns}"
    drawn = np.clip(rng.normal(0, min(3.0, b / 3), (4, columns)), -b, b)
    yield Case(f"{of}, all visible", _spread([*drawn, *rng.uniform(-b, b, (2, columns))], queries))
    equal = [np.full(columns, value) for value in (0.0, b, -b, b / 2)]
    yield Case(f"{of}, all numbers equal", _spread(equal, queries))
    if columns > 1:
        place = np.arange(columns)
        spikes = [np.where(place == at, b, -b) for at in (0, columns // 2, columns - 1)]
        spikes += [-spikes[0], np.where(place < 2, b, -b)]
        yield Case(f"{of}, spikes at the bound", _spread(spikes, queries))


def _padding(b: float, queries: int, columns: int) -> Iterator[Case]:
    """Columns of padding have scores like any others before they are lowered."""
    if columns == 1:
        only = _spread([np.array([v]) for v in (0.0, b, -b)], queries)
        yield Case("rows of 1, masked with nothing hidden", only, np.ones((3, 1, 1), bool))
        return
    rng, of = np.random.default_rng(_SEED), f"rows of {columns}, padding"
    place = np.arange(columns)
    # The nearest that a hidden score comes to a visible one, and the farthest.
    corners = [(b, -b), (-b, b), (b, b), (-b, -b), (0.0, 0.0)]
    for count, name in ((1, "one column visible"), (columns - 1, "one column hidden")):
        rows = [np.where(place < count, seen, hidden) for seen, hidden in corners]
        visible = np.broadcast_to(place < count, (len(rows), 1, columns))
        yield Case(f"{of}, {name}", _spread(rows, queries), visible)
    counts = np.unique(np.linspace(1, columns, 5).astype(int))
    drawn = np.clip(rng.normal(0, min(3.0, b / 3), (len(counts), columns)), -b, b)
    visible = (place < counts[:, None])[:, None]
    yield Case(f"{of}, some columns visible", _spread(list(drawn), queries), visible)


def _windows(b: float, columns: int) -> Iterator[Case]:
    """The first, the middle and the last row where each sees the places around its own alone.

    What is hidden lies on both sides, and places at the end may be padding.
    """
    place, rng = np.arange(columns), np.random.default_rng(_SEED)
    rows = place[[0, columns // 2, -1]]
    near = abs(rows[:, None] - place) <= max(1, columns // 4)
    drawn = np.clip(rng.normal(0, min(3.0, b / 3), (3, 3, columns)), -b, b)
    # The nearest that a hidden score comes to a visible one.
    drawn[0] = np.where(near, -b, b)
    padded = near & (place <= columns // 2)
    padded = np.where(padded.any(-1, keepdims=True), padded, near)
    yield Case(f"rows of {columns}, padding, a window each", drawn, np.stack([near, near, padded]))


def _spread(rows: list[FloatArray], queries: int) -> FloatArray:
    return np.repeat(np.stack(rows)[:, None], queries, axis=1)


# -- normalisations -------------------------------------------------------------------------


def _layernorm(domain: Domain) -> Iterator[Case]:
    return _norm(domain, is_centred=True)


def _rmsnorm(domain: Domain) -> Iterator[Case]:
    return _norm(domain, is_centred=False)


def _norm(domain: Domain, *, is_centred: bool) -> Iterator[Case]:
    """Shape (rows, width)."""
    width, b = domain.columns or 1, domain.bound
    low, high = _reachable(domain)

    def statistic(row: FloatArray) -> float:
        return float(row.var() if is_centred else (row**2).mean())

    for name, wanted in (("smallest", low), ("largest", high)):
        rows = [
            row * np.sqrt(wanted / statistic(row))
            for row in _shapes_of_rows(width)
            if statistic(row) > 0
        ]
        rows = [row for row in rows if np.abs(row).max() <= b]
        if is_centred:
            rows += [row + 0.9 * (b - np.abs(row).max()) for row in rows[:2]]
        if rows:
            yield Case(f"{name} declared variance", np.stack(rows))
    spike = np.zeros(width)
    spike[width // 2] = 1.0
    if statistic(spike) > 0:
        size = min(b, np.sqrt(high / statistic(spike)))
        if size**2 * statistic(spike) >= low:
            yield Case("one spike", size * np.stack([spike, -spike]))
    if is_centred and domain.epsilon >= domain.low:
        yield Case("constant rows", np.full((3, width), 1.0) * [[0.0], [b], [-b / 2]])


def _reachable(domain: Domain) -> tuple[float, float]:
    """Smallest and largest variance, without epsilon, that rows inside the bound can have."""
    high = min(domain.high, domain.bound**2)
    low = min(max(domain.low, _SMALLEST_VARIANCE), high)
    if low * _INSIDE > high / _INSIDE:
        middle = float(np.sqrt(low * high))
        return middle, middle
    return low * _INSIDE, high / _INSIDE


def _shapes_of_rows(width: int) -> list[FloatArray]:
    rng = np.random.default_rng(_SEED)
    alternating = np.where(np.arange(width) % 2, -1.0, 1.0)
    return [alternating, *rng.normal(0, 1, (3, width)), *rng.uniform(-1, 1, (2, width))]


_NORMS = {"layernorm": "variance", "rmsnorm": "square"}
"""What is divided by, as bounds and parameters call it."""
ELEMENTWISE = ("gelu", "gelu_tanh", "relu", "silu", "tanh")
SOFTMAXES = ("softmax", "causal_softmax")
ROW_OPS = (*SOFTMAXES, *_NORMS)
CASES: dict[str, Maker] = {
    **dict.fromkeys(ELEMENTWISE, _elementwise),
    "softmax": _softmax,
    "causal_softmax": _causal_softmax,
    "layernorm": _layernorm,
    "rmsnorm": _rmsnorm,
}
"""By operation."""
