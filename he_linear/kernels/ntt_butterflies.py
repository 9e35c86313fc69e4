"""Butterflies of the number-theoretic transform as vector code: 8 residues at a time.

Butterflies take (panel, first, distance, w, w_over_p, at, p, 1 / p) and work on 8 numbers from
`first`, `first + distance`, ... on. Twiddle k stands at w[k] for all lanes, or at w[8 k], one a
lane; those of two layers together are number `at`, 2 at and 2 at + 1, `at` counted in doubles.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from he_linear.kernels.scalars import ROUND
from he_linear.kernels.vectors import LANES, VectorCode, data_of


class ModularCode(VectorCode):
    """Emits arithmetic modulo p; see `times` and `centre` of `scalars`."""

    def __init__(self, builder: Any, p: Any, inverse: Any | None = None) -> None:
        super().__init__(builder)
        self._p = self.splat(p)
        self._inverse = None if inverse is None else self.splat(inverse)
        self._round = self.splat(ir.Constant(ir.DoubleType(), ROUND))

    def times(self, v: Any, twiddle: tuple[Any, Any]) -> Any:
        """V * w mod p, centred; twiddle = (w, w / p)."""
        b, (w, w_over_p) = self.builder, twiddle
        high = b.fmul(v, w)
        quotient = b.fsub(self.fma(v, w_over_p, self._round), self._round)
        rest = self.fma(v, w, b.fneg(high))
        return b.fadd(self.fma(b.fneg(quotient), self._p, high), rest)

    def centre(self, v: Any) -> Any:
        """V mod p, centred."""
        b = self.builder
        quotient = b.fsub(self.fma(v, self._inverse, self._round), self._round)
        return self.fma(b.fneg(quotient), self._p, v)


def _forward_two(code: ModularCode, x: list[Any], w: Callable[[int], tuple[Any, Any]]) -> list[Any]:
    b, v = code.builder, code.times(x[1], w(0))
    return [b.fadd(x[0], v), b.fsub(x[0], v)]


def _forward_four(
    code: ModularCode, x: list[Any], w: Callable[[int], tuple[Any, Any]]
) -> list[Any]:
    b = code.builder
    v2, v3 = code.times(x[2], w(0)), code.times(x[3], w(0))
    y0, y2 = b.fadd(x[0], v2), b.fsub(x[0], v2)
    y1 = code.times(b.fadd(x[1], v3), w(1))
    y3 = code.times(b.fsub(x[1], v3), w(2))
    return [b.fadd(y0, y1), b.fsub(y0, y1), b.fadd(y2, y3), b.fsub(y2, y3)]


def _forward_four_wide(
    code: ModularCode, x: list[Any], w: Callable[[int], tuple[Any, Any]]
) -> list[Any]:
    # Inputs up to 2 p give sums x1 + v3 up to 1.2 p and outputs up to 1.7 p.
    return _forward_four(code, [code.centre(x[0]), code.centre(x[1]), *x[2:]], w)


def _back_two(code: ModularCode, x: list[Any], w: Callable[[int], tuple[Any, Any]]) -> list[Any]:
    b = code.builder
    return [code.centre(b.fadd(*x)), code.times(b.fsub(*x), w(0))]


def _back_four(code: ModularCode, x: list[Any], w: Callable[[int], tuple[Any, Any]]) -> list[Any]:
    # Sums grow to 4 times 0.58 p before they are reduced: below 2^52 for 49 bits.
    return _back_four_of(code, x, w, lambda difference: difference)


def _back_four_wide(
    code: ModularCode, x: list[Any], w: Callable[[int], tuple[Any, Any]]
) -> list[Any]:
    return _back_four_of(code, x, w, code.centre)


def _back_four_of(
    code: ModularCode,
    x: list[Any],
    w: Callable[[int], tuple[Any, Any]],
    near: Callable[[Any], Any],
) -> list[Any]:
    b = code.builder
    y0, y1 = b.fadd(x[0], x[1]), code.times(b.fsub(x[0], x[1]), w(1))
    y2, y3 = b.fadd(x[2], x[3]), code.times(b.fsub(x[2], x[3]), w(2))
    sums = [code.centre(b.fadd(y0, y2)), code.centre(b.fadd(y1, y3))]
    return [*sums, code.times(near(b.fsub(y0, y2)), w(0)), code.times(b.fsub(y1, y3), w(0))]


def _made(emit: Any, radix: int, *, shared: bool) -> Any:
    """The intrinsic of one butterfly."""

    def butterfly(
        _typing: Any,
        panel: Any,
        _first: Any,
        _distance: Any,
        w: Any,
        w_over_p: Any,
        _at: Any,
        _p: Any,
        _inverse: Any,
    ) -> Any:
        whole, real = types.int64, types.float64
        signature = types.void(panel, whole, whole, w, w_over_p, whole, real, real)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            numbers, *factors = (data_of(context, builder, signature, args, k) for k in (0, 3, 4))
            code, at = ModularCode(builder, args[6], args[7]), args[5]
            double = builder.add(at, at)

            def twiddle(number: int) -> tuple[Any, Any]:
                index, offset = (at, 0) if number == 0 else (double, number - 1)
                if shared:
                    loaded = [builder.load(code.address(f, index, offset)) for f in factors]
                    return code.splat(loaded[0]), code.splat(loaded[1])
                first, second = (code.load(f, index, offset * LANES) for f in factors)
                return first, second

            places = [args[1]]
            for _ in range(radix - 1):
                places.append(builder.add(places[-1], args[2]))
            results = emit(code, [code.load(numbers, place) for place in places], twiddle)
            for place, result in zip(places, results, strict=True):
                code.store(result, numbers, place)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(butterfly)


forward_two, forward_two_panels = (_made(_forward_two, 2, shared=s) for s in (True, False))
forward_four, forward_four_panels = (_made(_forward_four, 4, shared=s) for s in (True, False))
wide_forward_four, wide_forward_four_panels = (
    _made(_forward_four_wide, 4, shared=s) for s in (True, False)
)
back_two, back_two_panels = (_made(_back_two, 2, shared=s) for s in (True, False))
back_four, back_four_panels = (_made(_back_four, 4, shared=s) for s in (True, False))
wide_back_four, wide_back_four_panels = (_made(_back_four_wide, 4, shared=s) for s in (True, False))


def _turn(
    _typing: Any,
    source: Any,
    _at: Any,
    _stride: Any,
    target: Any,
    _to: Any,
    _spacing: Any,
    _p: Any,
    _inverse: Any,
) -> Any:
    """Target = transpose of 8 x 8 numbers of the source, centred: (source, at, stride, ...)."""
    whole, real = types.int64, types.float64
    signature = types.void(source, whole, whole, target, whole, whole, real, real)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, end = (data_of(context, builder, signature, args, k) for k in (0, 3))
        code, at, to = ModularCode(builder, args[6], args[7]), args[1], args[4]
        rows = []
        for _ in range(LANES):
            rows.append(code.centre(code.load(start, at)))
            at = builder.add(at, args[2])
        for row in code.turned(rows):
            code.store(row, end, to)
            to = builder.add(to, args[5])
        return context.get_dummy_value()

    return signature, generate


def _scaled(
    _typing: Any, source: Any, _at: Any, target: Any, _to: Any, _w: Any, _w_over_p: Any, _p: Any
) -> Any:
    """Target = 8 numbers of the source times w mod p: (source, at, target, to, w, ...)."""
    whole, real = types.int64, types.float64
    signature = types.void(source, whole, target, whole, real, real, real)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, end = (data_of(context, builder, signature, args, k) for k in (0, 2))
        code = ModularCode(builder, args[6])
        twiddle = code.splat(args[4]), code.splat(args[5])
        code.store(code.times(code.load(start, args[1]), twiddle), end, args[3])
        return context.get_dummy_value()

    return signature, generate


def _split_four(  # noqa: PLR0913
    _typing: Any,
    source: Any,
    _at: Any,
    _mirrored: Any,
    _stride: Any,
    target: Any,
    _to: Any,
    _spacing: Any,
    _half: Any,
    _half_over_p: Any,
    _other: Any,
    _other_over_p: Any,
    _p: Any,
    _bias: Any,
) -> Any:
    """(x + y) half and (x - y) other mod p, plus bias, of four rows: 8 numbers x, 8 mirrored y.

    The results of one place lie side by side, row by row: 8 numbers, at 8 places `spacing` apart.
    """
    whole, real = types.int64, types.float64
    signature = types.void(source, *[whole] * 3, target, *[whole] * 2, *[real] * 6)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        start, end = (data_of(context, builder, signature, args, k) for k in (0, 4))
        code, at, mirrored, to = ModularCode(builder, args[11]), args[1], args[2], args[5]
        sums, differences = ((code.splat(args[k]), code.splat(args[k + 1])) for k in (7, 9))
        bias, rows = code.splat(args[12]), []
        for _ in range(LANES // 2):
            x, y = code.load(start, at), code.reversed(code.load(start, mirrored))
            rows.append(builder.fadd(code.times(builder.fadd(x, y), sums), bias))
            rows.append(builder.fadd(code.times(builder.fsub(x, y), differences), bias))
            at, mirrored = builder.add(at, args[3]), builder.add(mirrored, args[3])
        for row in code.turned(rows):
            code.store(row, end, to)
            to = builder.add(to, args[6])
        return context.get_dummy_value()

    return signature, generate


def _mover(*, backwards: bool) -> Any:
    """8 numbers of the target = those of the source: (source, at, target, to)."""

    def move(_typing: Any, source: Any, _at: Any, target: Any, _to: Any) -> Any:
        signature = types.void(source, types.int64, target, types.int64)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            start, end = (data_of(context, builder, signature, args, k) for k in (0, 2))
            code = VectorCode(builder)
            value = code.load(start, args[1])
            code.store(code.reversed(value) if backwards else value, end, args[3])
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(move)


turn: Any = intrinsic(_turn)
scaled: Any = intrinsic(_scaled)
split_four: Any = intrinsic(_split_four)
moved, moved_backwards = (_mover(backwards=b) for b in (False, True))
