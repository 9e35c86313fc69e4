"""Sums of products modulo primes of up to 51 bits, four operations a product, in float64.

With s near 1.5 * 2^104, h = fma(v, w, s) rounds v w to a multiple of 2^52, and fma(v, w, s - h) is
the exact rest, at most 2^51, which is summed beside it. Both sums are exact over 4 products, of
factors within 0.6 p: multiples stay within 4 * 0.36 * 2^102 < 2^103, rests within 2^53. Where the
processor multiplies integers of 52 bits, tiles of matrix products are those of `integer_tiles`, of
half the operations, and sums are over a hundred products. Results are the same residues either way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit

from he_linear.kernels.integer_tiles import AVAILABLE, BIAS, MAX_FOLD, WORD_BITS, IntegerSums
from he_linear.kernels.ntt_butterflies import ModularCode
from he_linear.kernels.scalars import Floats, centre, centred
from he_linear.kernels.sum_tiles import TileSums, tile_maker
from he_linear.kernels.vectors import LANES, VECTOR

MAX_FUSED_PRIME_BITS = 51
TILE_ROWS = 2
PANEL = 4 * LANES
"""Columns of a tile: with two rows, 16 accumulators stay in registers."""
_NARROW, _NARROW_ROWS = PANEL // 2, 2 * TILE_ROWS
"""Of a tile where blocks have fewer columns than a panel: as many accumulators."""

_INTEGERS = AVAILABLE
_NEAR_INNER = 160
"""Products in one sum of integers: a panel of x stays in the first cache, nearly."""
_FLOAT_INNER = 4
_SHIFT = WORD_BITS
_BIG, _SHRINK = 1.5 * 2.0 ** (52 + _SHIFT), 2.0**-_SHIFT


class _FloatSums(TileSums):
    """One in the high part means 2^52."""

    vector = VECTOR

    def __init__(self, code: ModularCode) -> None:
        super().__init__(code)
        self._big, self._shrink, self._zero = (
            code.splat(ir.DoubleType()(c)) for c in (_BIG, _SHRINK, 0.0)
        )

    def start(self) -> tuple[Any, Any]:
        return self._big, self._zero

    def add(self, column: Any, weight: Any, high: Any, low: Any) -> None:
        b, code = self.builder, self.code
        before = b.load(high)
        after = code.fma(column, weight, before)
        rest = code.fma(column, weight, b.fsub(before, after))
        b.store(after, high)
        b.store(b.fadd(b.load(low), rest), low)

    def value(self, high: Any, low: Any, factor: tuple[Any, Any]) -> Any:
        b, code = self.builder, self.code
        top = b.fmul(b.fsub(high, self._big), self._shrink)
        return b.fadd(code.times(top, factor), code.centre(low))


_tile = tile_maker(_FloatSums, TILE_ROWS, PANEL // LANES)
# Only one of both is compiled where the processor lacks the instructions.
_integer_tile = tile_maker(IntegerSums, TILE_ROWS, PANEL // LANES) if AVAILABLE else _tile
_narrow_tile = tile_maker(_FloatSums, _NARROW_ROWS, _NARROW // LANES)
_narrow_integer_tile = (
    tile_maker(IntegerSums, _NARROW_ROWS, _NARROW // LANES) if AVAILABLE else _narrow_tile
)


@njit(cache=True, nogil=True)
def _put(sums, out, at, p, add):  # type: ignore[no-untyped-def]
    """Columns of out (rows, N) from `at` on = or += sums (rows, width), modulo p."""
    width, inv = sums.shape[1], 1.0 / p
    for r in range(sums.shape[0]):
        row, target = sums[r], out[r, at : at + width]
        for e in range(width):
            target[e] = centre(target[e] + row[e], p, inv) if add else row[e]


@njit(cache=True, nogil=True)
def _multiply_blocks(x, w, used, constants, k, out, add, kind):  # type: ignore[no-untyped-def]
    blocks, panels, inner, width = x.shape
    n = out.shape[3]
    (p, f), (integers, most) = constants, kind
    run, inv = n // (2 * blocks), 1.0 / p
    together = -(-inner // -(-inner // most))
    rows = _NARROW_ROWS if width == _NARROW else TILE_ROWS
    # The rows of `out` lie a power of two apart, where few of them share a cache.
    sums = np.empty((w.shape[1], width))
    xs, ws, near = x.reshape(-1), w.reshape(-1), sums.reshape(-1)
    for block in range(blocks):
        for panel in range(panels):
            for start in range(0, inner, together):
                a = ((block * panels + panel) * inner + start) * width
                count, args = min(together, inner - start), (p, inv, f, f / p, start)
                for r in range(0, used, rows):
                    b, at = (block * w.shape[1] + r) * inner + start, r * width
                    if rows == TILE_ROWS:
                        if integers:
                            _integer_tile(xs, a, ws, b, inner, count, near, at, width, *args)
                        else:
                            _tile(xs, a, ws, b, inner, count, near, at, width, *args)
                    elif integers:
                        _narrow_integer_tile(xs, a, ws, b, inner, count, near, at, width, *args)
                    else:
                        _narrow_tile(xs, a, ws, b, inner, count, near, at, width, *args)
            part, column = panel * width // run, panel * width % run
            mirrored = 2 * blocks - 1 - block if part // 2 else block
            _put(sums[:used], out[:used, part % 2, k], mirrored * run + column, p, add)


def stored_bias(p: int) -> float:
    """What x and the matrices of `multiply_blocks` hold beyond centred residues modulo p."""
    return BIAS + p if _INTEGERS else 0.0


def multiply_blocks(
    x: Floats, matrices: Floats, used: int, p: int, k: int, out: Floats, *, add: bool = False
) -> None:
    """Out (rows, 2, primes, N), rows < used and prime k = or += matrices times x, modulo p.

    p: a prime just below a power of two, as SEAL's are. x (c, panels, inner, PANEL) as `spread`
    leaves it; matrices (c, rows, inner); both hold residues centred within 0.6 p, with
    `stored_bias`. `used` of the matrices' rows count, of as many as `tile_rows` says. Matrix i
    meets blocks i and 2c - 1 - i of the NTT values. Results are centred, so that sums of any number
    of calls are exact.
    """
    constants = float(p), centred(1 << _SHIFT, p)
    assert p < 1 << 47 or abs(constants[1]) < MAX_FOLD
    assert matrices.shape[1] >= tile_rows(used, x.shape[3])
    together = _NEAR_INNER if _INTEGERS else _FLOAT_INNER
    _multiply_blocks(x, matrices, used, constants, k, out, int(add), (_INTEGERS, together))


@njit(cache=True, nogil=True)
def spread(rows, orders, x, half, first, bias):  # type: ignore[no-untyped-def]
    """Rows (count, N), each in its order, into x (c, panels, inner, PANEL), inner index `first` on.

    Panel by panel the columns of a block, rows side by side; `half` says which polynomial. Each
    number is stored with `bias`.
    """
    blocks, _, _, width = x.shape
    run = rows.shape[1] // (2 * blocks)
    for block in range(2 * blocks):
        mirror = block >= blocks
        place = 2 * blocks - 1 - block if mirror else block
        panel = ((2 if mirror else 0) + half) * run // width
        for start in range(0, run, width):
            at = block * run + start
            for b in range(rows.shape[0]):
                cell, row = x[place, panel + start // width, first + b], rows[b]
                source = orders[b, at : at + width]
                for e in range(width):
                    cell[e] = row[source[e]] + bias


def panel_width(blocks: int, n: int) -> int:
    """Columns of a panel: half of `PANEL` where blocks have no more."""
    return _NARROW if n // (2 * blocks) == _NARROW else PANEL


def tile_rows(rows: int, width: int = PANEL) -> int:
    """Rows that `multiply_blocks` writes with panels of this width."""
    together = _NARROW_ROWS if width == _NARROW else TILE_ROWS
    return -(-rows // together) * together


def panel_shape(blocks: int, inner: int, n: int) -> tuple[int, int, int, int]:
    """Shape of x: one column for each value of both polynomials that meets a matrix."""
    width = panel_width(blocks, n)
    return blocks, 2 * n // (blocks * width), inner, width
