"""Butterflies of the double-double FFT as vector code: 8 complex numbers at a time.

A cell of a panel holds 8 numbers: 8 real highs, real lows, imaginary highs, imaginary lows, see
`he_linear.kernels.double_double`. All take
(panel, index of the first cell, distance, twiddles, index of the first, c), where c rounds to the
grid; indices count doubles. The functions on panels read 8 twiddles, the others one for all lanes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from numba import types
from numba.extending import intrinsic

from he_linear.kernels.vectors import LANES, VectorCode, data_of

CELL = 4 * LANES
"""Doubles of a cell."""


class _Complex(NamedTuple):
    """Real high and low, imaginary high and low."""

    rh: Any
    rl: Any
    ih: Any
    il: Any


class _Code(VectorCode):
    """Emits instructions on cells."""

    def __init__(self, builder: Any, panel: Any, twiddles: Any, c: Any, *, shared: bool) -> None:
        super().__init__(builder)
        self._panel = panel
        self._twiddles = twiddles
        self._shared = shared
        self._c = self.splat(c)

    def load_cell(self, index: Any) -> _Complex:
        """The cell at `index`."""
        return _Complex(*(self.load(self._panel, index, word * LANES) for word in range(4)))

    def store_cell(self, index: Any, value: _Complex) -> None:
        """The cell at `index`."""
        for word, part in enumerate(value):
            self.store(part, self._panel, index, word * LANES)

    def twiddle(self, index: Any, number: int) -> _Complex:
        """The number-th twiddle from `index` on."""
        if self._shared:
            parts = (
                self.splat(self.builder.load(self.address(self._twiddles, index, offset)))
                for offset in range(4 * number, 4 * number + 4)
            )
            return _Complex(*parts)
        offset = number * CELL
        return _Complex(
            *(self.load(self._twiddles, index, offset + word * LANES) for word in range(4))
        )

    def add(self, x: _Complex, y: _Complex) -> _Complex:
        """Sum."""
        return _Complex(*(self.builder.fadd(a, b) for a, b in zip(x, y, strict=True)))

    def subtract(self, x: _Complex, y: _Complex) -> _Complex:
        """Difference."""
        return _Complex(*(self.builder.fsub(a, b) for a, b in zip(x, y, strict=True)))

    def add_turned(self, x: _Complex, y: _Complex) -> _Complex:
        """Sum of x and i y."""
        b = self.builder
        return _Complex(
            b.fsub(x.rh, y.ih), b.fsub(x.rl, y.il), b.fadd(x.ih, y.rh), b.fadd(x.il, y.rl)
        )

    def subtract_turned(self, x: _Complex, y: _Complex) -> _Complex:
        """Difference of x and i y."""
        b = self.builder
        return _Complex(
            b.fadd(x.rh, y.ih), b.fadd(x.rl, y.il), b.fsub(x.ih, y.rh), b.fsub(x.il, y.rl)
        )

    def regrid(self, x: _Complex) -> _Complex:
        """The same with high parts on the present grid, the rest moved to the low parts."""
        b = self.builder

        def move(high: Any, low: Any) -> tuple[Any, Any]:
            rounded = b.fsub(b.fadd(high, self._c), self._c)
            return rounded, b.fadd(low, b.fsub(high, rounded))

        return _Complex(*move(x.rh, x.rl), *move(x.ih, x.il))

    def times(self, x: _Complex, w: _Complex) -> _Complex:
        """Product on the present grid."""
        b = self.builder
        rr, ii = self._product(x.rh, w.rh), self._product(x.ih, w.ih)
        ri, ir_ = self._product(x.rh, w.ih), self._product(x.ih, w.rh)
        real, imag = b.fsub(rr[1], ii[1]), b.fadd(ri[1], ir_[1])
        real = self.fma(x.rl, w.rh, self.fma(x.rh, w.rl, real))
        real = self.fma(b.fneg(x.il), w.ih, self.fma(b.fneg(x.ih), w.il, real))
        imag = self.fma(x.rl, w.ih, self.fma(x.rh, w.il, imag))
        imag = self.fma(x.il, w.rh, self.fma(x.ih, w.rl, imag))
        return _Complex(b.fsub(rr[0], ii[0]), real, b.fadd(ri[0], ir_[0]), imag)

    def times_conjugate(self, x: _Complex, w: _Complex) -> _Complex:
        """Product with the conjugate of w."""
        b = self.builder
        return self.times(x, _Complex(w.rh, w.rl, b.fneg(w.ih), b.fneg(w.il)))

    def _product(self, x: Any, w: Any) -> tuple[Any, Any]:
        b = self.builder
        high = b.fsub(self.fma(x, w, self._c), self._c)
        return high, self.fma(x, w, b.fneg(high))


def _split_four(code: _Code, cells: list[Any], at: Any) -> None:
    """Block e^(it) into four: twiddles of t/4, t/2 and 3t/4."""
    a0 = code.regrid(code.load_cell(cells[0]))
    a1, a2, a3 = (code.times(code.load_cell(cells[k]), code.twiddle(at, k - 1)) for k in (1, 2, 3))
    even, odd = code.add(a0, a2), code.subtract(a0, a2)
    plus, minus = code.add(a1, a3), code.subtract(a1, a3)
    code.store_cell(cells[0], code.add(even, plus))
    code.store_cell(cells[1], code.subtract(even, plus))
    code.store_cell(cells[2], code.add_turned(odd, minus))
    code.store_cell(cells[3], code.subtract_turned(odd, minus))


def _fold_four(code: _Code, cells: list[Any], at: Any) -> None:
    """Inverse of `_split_four`, times 4."""
    y = [code.load_cell(cell) for cell in cells]
    even, plus = code.add(y[0], y[1]), code.subtract(y[0], y[1])
    odd, minus = code.add(y[2], y[3]), code.subtract(y[2], y[3])
    code.store_cell(cells[0], code.regrid(code.add(even, odd)))
    parts = code.subtract_turned(plus, minus), code.subtract(even, odd)
    for k, part in enumerate((*parts, code.add_turned(plus, minus))):
        code.store_cell(cells[k + 1], code.times_conjugate(part, code.twiddle(at, k)))


def _split_two(code: _Code, cells: list[Any], at: Any) -> None:
    """Block e^(it) into two: twiddle of t/2."""
    x, y = (
        code.regrid(code.load_cell(cells[0])),
        code.times(code.load_cell(cells[1]), code.twiddle(at, 0)),
    )
    code.store_cell(cells[0], code.add(x, y))
    code.store_cell(cells[1], code.subtract(x, y))


def _fold_two(code: _Code, cells: list[Any], at: Any) -> None:
    """Inverse of `_split_two`, times 2."""
    x, y = code.load_cell(cells[0]), code.load_cell(cells[1])
    code.store_cell(cells[0], code.regrid(code.add(x, y)))
    code.store_cell(cells[1], code.times_conjugate(code.subtract(x, y), code.twiddle(at, 0)))


def _made(emit: Any, radix: int, *, shared: bool) -> Any:
    """The intrinsic (panel, first, distance, twiddles, at, c) of one butterfly."""

    def butterfly(
        _typing: Any, panel: Any, _first: Any, _distance: Any, twiddles: Any, _at: Any, _c: Any
    ) -> Any:
        signature = types.void(
            panel, types.int64, types.int64, twiddles, types.int64, types.float64
        )

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            data = [data_of(context, builder, signature, args, k) for k in (0, 3)]
            code = _Code(builder, data[0], data[1], args[5], shared=shared)
            cells = [args[1]]
            for _ in range(radix - 1):
                cells.append(builder.add(cells[-1], args[2]))
            emit(code, cells, args[4])
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(butterfly)


split_two, split_two_panels = (_made(_split_two, 2, shared=s) for s in (True, False))
split_four, split_four_panels = (_made(_split_four, 4, shared=s) for s in (True, False))
fold_two, fold_two_panels = (_made(_fold_two, 2, shared=s) for s in (True, False))
fold_four, fold_four_panels = (_made(_fold_four, 4, shared=s) for s in (True, False))
