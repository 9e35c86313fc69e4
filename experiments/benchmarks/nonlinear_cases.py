"""Operations, inputs and true results of `bench_nonlinear.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.planning.catalog import load_catalog
from mpc_nonlinear.blocks.compare import Width, less_than_constants, less_than_constants_cost
from mpc_nonlinear.blocks.decoding import GreedyDecoding
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import FixedPoint, FloatArray, RingArray
from transport.traffic import Party

FIXED = FixedPoint(16)
DEFAULT_SHAPES: dict[str, list[tuple[int, ...]]] = {
    "gelu": [(32, 1536)],
    "softmax": [(12, 32, 32)],
    "layernorm": [(32, 384)],
    "greater": [(65536,)],
    "argmax": [(50257,)],
    "relu": [(65536,)],
    "silu": [(32, 1536)],
    "tanh": [(32, 384)],
    "gelu_tanh": [(32, 1536)],
    "rmsnorm": [(32, 384)],
    "causal_softmax": [(12, 32, 32)],
}
_BOUND = 16.0
_NORMALISING = ("layernorm", "rmsnorm")
_WITH_PRIME = ("pieces",)
"""Protocols that none of the engines here can carry."""


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    op: str
    shape: tuple[int, ...]
    name: str
    correlations: str
    products: str
    profile: int


def choices() -> dict[str, list[str]]:
    """Protocols of every operation."""
    catalog = load_catalog()
    found = {
        op: [name for name in catalog.names(op) if name not in _WITH_PRIME]
        for op in DEFAULT_SHAPES
        if op not in _PRIMITIVES
    }
    return {**found, "greater": ["narrow"], "argmax": ["tournament"]}


def engine_of(op: str, name: str, wanted: str) -> str:
    """Of products: the wanted one, unless the protocol takes others."""
    allowed = () if op in _PRIMITIVES else load_catalog()[op, name].product_engines
    return allowed[0] if allowed and wanted not in allowed else wanted


def inputs(case: Case) -> FloatArray:
    """Normal numbers as the peers' scripts draw them."""
    rng = np.random.default_rng(20240)
    if case.op == "greater":
        # Below 2^8 in magnitude, and never closer to zero than the peers' numbers.
        x = rng.uniform(-256, 256, case.shape)
        return FIXED.decode(FIXED.encode(np.where(np.abs(x) < 1e-3, 0.5, x)))
    if case.op in _NORMALISING:
        return FIXED.decode(FIXED.encode(rng.normal(0.1, 1.5, case.shape)))
    return FIXED.decode(FIXED.encode(np.clip(rng.normal(0, 2, case.shape), -_BOUND, _BOUND)))


class Greater:
    """Boolean shares of x > 0 for |x| < 2^8, as ring elements whose sum is odd where true."""

    _width = Width.covering(2.0**24, 25)

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:  # noqa: ARG002
        """One comparison an element."""
        return less_than_constants_cost(prod(shape), 1, self._width)

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Not x < one unit."""
        (below,) = less_than_constants(x, [1], self._width, session)
        flipped: RingArray = (below ^ np.uint8(session.party is Party.CLIENT)).astype(np.uint64)
        return flipped


_PRIMITIVES: dict[str, Callable[[], Any]] = {
    "greater": Greater,
    "argmax": partial(GreedyDecoding, _BOUND),
}


def protocol(case: Case) -> Any:
    """The protocol under test."""
    if case.op in _PRIMITIVES:
        return _PRIMITIVES[case.op]()
    entry = load_catalog()[case.op, case.name]
    if case.op in _NORMALISING:
        return entry(case.shape[-1], 1e-12, 0.5, 8.0, 2.5, _BOUND)
    return entry(bound=_BOUND)


def expected(case: Case) -> tuple[FloatArray, Callable[[RingArray], NDArray[Any]]]:
    """True values, and how the sum of both shares is read."""
    x = inputs(case)
    if case.op == "greater":
        return (x > 0).astype(float), lambda total: (total & np.uint64(1)).astype(float)
    if case.op == "argmax":
        return x.argmax(-1).astype(float), lambda total: total.astype(float)
    true: FloatArray = protocol(case).true_function(x)
    return true, FIXED.decode
