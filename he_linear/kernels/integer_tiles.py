"""Tiles of `fused_sums` by integer multiply-adds (AVX-512 IFMA): two operations a product.

Each operation takes the low 52 bits of its factors and adds the lower or upper 52 bits of their
product to a sum of 64 bits. A residue r is stored as the float64 number 2^52 + p + r, whose low 52
bits are p + r, not negative. For r within 0.6 p of zero and p of 43 bits, factors are below 2^44:
sums over 960 products are below 2^62 and 2^46.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from he_linear.kernels.ntt_butterflies import ModularCode
from he_linear.kernels.vectors import LANES, VECTOR, data_of

AVAILABLE = bool(llvmlite.binding.get_host_cpu_features().get("avx512ifma"))
"""Whether this processor has them."""
WORD_BITS = 52
BIAS = 2.0**WORD_BITS

_WORDS = ir.VectorType(ir.IntType(64), LANES)


def integer_tile_maker(rows: int, vectors: int) -> Any:
    """A tile of `fused_sums`, same arguments, of numbers with their bias; factor = 2^52 mod p."""

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
            code = ModularCode(b, args[9], args[10])
            cells = [(r, v) for r in range(rows) for v in range(vectors)]
            high, low = ({k: cgutils.alloca_once(b, _WORDS) for k in cells} for _ in range(2))
            for k in cells:
                b.store(_splat(0), high[k])
                b.store(_splat(0), low[k])
            _emit_sums(code, (xs, ws), args, high, low, vectors)
            _emit_results(code, outs, args, high, low)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(tile)


def _splat(word: int) -> Any:
    return ir.Constant(_WORDS, [word] * LANES)


def _multiply_add(builder: Any, half: str) -> Any:
    name = f"llvm.x86.avx512.vpmadd52{half}.uq.512"
    signature = ir.FunctionType(_WORDS, [_WORDS] * 3)
    return builder.module.globals.get(name) or ir.Function(builder.module, signature, name)


def _emit_sums(
    code: ModularCode, data: tuple[Any, Any], args: Any, high: Any, low: Any, vectors: int
) -> None:
    """The loop over the products of a tile."""
    b, whole, (xs, ws) = code.builder, ir.IntType(64), data
    rows = len(high) // vectors
    halves = [(_multiply_add(b, "h"), high), (_multiply_add(b, "l"), low)]
    with cgutils.for_range(b, args[5]) as loop:
        at = b.add(args[1], b.mul(loop.index, whole(LANES * vectors)))
        columns = [b.bitcast(code.load(xs, at, LANES * v), _WORDS) for v in range(vectors)]
        for r in range(rows):
            place = b.add(b.add(args[3], loop.index), b.mul(args[4], whole(r)))
            weight = b.bitcast(code.splat(b.load(code.address(ws, place))), _WORDS)
            for v in range(vectors):
                for add, sums in halves:
                    b.store(b.call(add, [b.load(sums[r, v]), columns[v], weight]), sums[r, v])


def _emit_results(code: ModularCode, outs: Any, args: Any, high: Any, low: Any) -> None:
    """Both sums of every cell, reduced, to their place."""
    b, whole, double = code.builder, ir.IntType(64), ir.DoubleType()
    zero, bias = code.splat(double(0.0)), code.splat(double(BIAS))
    factor = code.splat(args[11]), code.splat(args[12])
    more = b.icmp_signed("!=", args[13], whole(0))

    def number(words: Any) -> Any:
        """Words below 2^52."""
        return b.fsub(b.bitcast(b.add(words, b.bitcast(bias, _WORDS)), VECTOR), bias)

    for r, v in high:
        rest = b.load(low[r, v])
        # What the lower halves carry.
        top = b.add(b.load(high[r, v]), b.lshr(rest, _splat(WORD_BITS)))
        bottom = number(b.and_(rest, _splat((1 << WORD_BITS) - 1)))
        # Below 2^47 and 2^52: both quotients by p are small, so products and remainders are exact.
        value = b.fadd(code.times(number(top), factor), code.centre(bottom))
        to = b.add(args[7], b.mul(args[8], whole(r)))
        before = b.select(more, code.load(outs, to, LANES * v), zero)
        code.store(code.centre(b.fadd(value, before)), outs, to, LANES * v)
