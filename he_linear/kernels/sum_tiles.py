"""Tiles of sums of products modulo a prime, written once for every way of keeping a sum.

A tile's sums stay in registers over all its products; two vectors keep each of them exactly.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from he_linear.kernels.ntt_butterflies import ModularCode
from he_linear.kernels.vectors import LANES, data_of

_WHOLE = ir.IntType(64)


class TileSums(ABC):
    """Emits the arithmetic of one way of keeping sums of products, 8 lanes at a time."""

    vector: Any
    """The type of both parts of a sum and of its factors."""

    def __init__(self, code: ModularCode) -> None:
        self.code, self.builder = code, code.builder

    @abstractmethod
    def start(self) -> tuple[Any, Any]:
        """Both parts of an empty sum."""

    @abstractmethod
    def add(self, column: Any, weight: Any, high: Any, low: Any) -> None:
        """Add a product, of stored numbers, to the sum whose parts are at `high` and `low`."""

    @abstractmethod
    def value(self, high: Any, low: Any, factor: tuple[Any, Any]) -> Any:
        """The sum mod p, within 2 p, as float64; factor = (what one in `high` means, that / p)."""


def tile_maker(sums_of: type[TileSums], rows: int, vectors: int) -> Any:
    """Out (rows, 8 vectors) = or += sum over i < count of w (rows, i) * x (i, 8 vectors) mod p.

    Arguments: x, its first index, w, its first index and row step, count, out, its first index and
    row step, p, 1 / p, what one in the high part of a sum means mod p, that over p, and whether to
    add to what `out` holds.
    """

    def tile(  # noqa: PLR0913
        _typing: Any,
        x: Any,
        _x_at: Any,
        w: Any,
        _w_at: Any,
        _w_step: Any,
        _count: Any,
        out: Any,
        _to: Any,
        _step: Any,
        _p: Any,
        _inverse: Any,
        _factor: Any,
        _factor_over_p: Any,
        _more: Any,
    ) -> Any:
        i64, f64 = types.int64, types.float64
        signature = types.void(x, i64, w, i64, i64, i64, out, i64, i64, f64, f64, f64, f64, i64)

        def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
            xs, ws, outs = (data_of(context, b, signature, args, k) for k in (0, 2, 6))
            sums = sums_of(ModularCode(b, args[9], args[10]))
            cells = [(r, v) for r in range(rows) for v in range(vectors)]
            high, low = ({k: cgutils.alloca_once(b, sums.vector) for k in cells} for _ in range(2))
            start = sums.start()
            for k in cells:
                b.store(start[0], high[k])
                b.store(start[1], low[k])
            _emit_sums(sums, (xs, ws), args, high, low)
            _emit_results(sums, outs, args, high, low)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(tile)


def _emit_sums(sums: TileSums, data: tuple[Any, Any], args: Any, high: Any, low: Any) -> None:
    """The loop over the products of a tile."""
    code, b, (xs, ws) = sums.code, sums.builder, data
    rows, vectors = (1 + last for last in max(high))
    with cgutils.for_range(b, args[5]) as loop:
        at = b.add(args[1], b.mul(loop.index, _WHOLE(LANES * vectors)))
        columns = [b.bitcast(code.load(xs, at, LANES * v), sums.vector) for v in range(vectors)]
        for r in range(rows):
            place = b.add(b.add(args[3], loop.index), b.mul(args[4], _WHOLE(r)))
            weight = b.bitcast(code.splat(b.load(code.address(ws, place))), sums.vector)
            for v in range(vectors):
                sums.add(columns[v], weight, high[r, v], low[r, v])


def _emit_results(sums: TileSums, outs: Any, args: Any, high: Any, low: Any) -> None:
    """Both parts of every sum, reduced, to their place."""
    code, b = sums.code, sums.builder
    zero = code.splat(ir.DoubleType()(0.0))
    factor = code.splat(args[11]), code.splat(args[12])
    more = b.icmp_signed("!=", args[13], _WHOLE(0))
    for r, v in high:
        value = sums.value(b.load(high[r, v]), b.load(low[r, v]), factor)
        to = b.add(args[7], b.mul(args[8], _WHOLE(r)))
        before = b.select(more, code.load(outs, to, LANES * v), zero)
        code.store(code.centre(b.fadd(value, before)), outs, to, LANES * v)
