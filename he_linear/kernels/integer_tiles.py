"""Tiles of `fused_sums` by integer multiply-adds (AVX-512 IFMA): two operations a product.

Each operation takes the low 52 bits of its factors and adds the lower or upper 52 bits of their
product to a sum of 64 bits. A residue r is stored as the float64 number 2^52 + p + r, whose low 52
bits are p + r, not negative. For r within 0.6 p of zero and p of 51 bits, factors are below 1.6 p <
2^52: sums over 160 products are below 2^59.4 and 2^58.7.
"""

from __future__ import annotations

from typing import Any

import llvmlite.binding
from llvmlite import ir

from he_linear.kernels.ntt_butterflies import ModularCode
from he_linear.kernels.sum_tiles import TileSums
from he_linear.kernels.vectors import LANES, VECTOR

AVAILABLE = bool(llvmlite.binding.get_host_cpu_features().get("avx512ifma"))
"""Whether this processor has them."""
WORD_BITS = 52
BIAS = 2.0**WORD_BITS
MAX_FOLD = 2.0**44
"""Of 2^52 modulo a prime of 47 bits or more: it then takes a sum to few words, see `value`."""

_WORDS = ir.VectorType(ir.IntType(64), LANES)


class IntegerSums(TileSums):
    """Of numbers with their bias: one in the high part means 2^52."""

    vector = _WORDS

    def __init__(self, code: ModularCode) -> None:
        super().__init__(code)
        self._multiply_adds = [_multiply_add(code.builder, half) for half in "hl"]
        self._bias = code.splat(ir.DoubleType()(BIAS))

    def start(self) -> tuple[Any, Any]:
        """Zeros."""
        return _splat(0), _splat(0)

    def add(self, column: Any, weight: Any, high: Any, low: Any) -> None:
        """Two operations: one for the upper halves of the products, one for the lower."""
        b = self.builder
        for multiply_add, part in zip(self._multiply_adds, (high, low), strict=True):
            b.store(b.call(multiply_add, [b.load(part), column, weight]), part)

    def value(self, high: Any, low: Any, factor: tuple[Any, Any]) -> Any:
        """Within 2 p: a centred product and a centred rest."""
        b, code = self.builder, self.code
        # What the lower halves carry.
        top = b.add(high, b.lshr(low, _splat(WORD_BITS)))
        # Below 2^58.8, so 2^52 stands there less than 2^6.8 times, and is below 2^44 modulo p: the
        # sum is below 2^52.6 and exact. A p of fewer than 47 bits has none.
        folded = code.fma(self._number(b.lshr(top, _splat(WORD_BITS))), factor[0], self._low(top))
        return b.fadd(code.times(folded, factor), code.centre(self._low(low)))

    def _low(self, words: Any) -> Any:
        """Their lower 52 bits."""
        return self._number(self.builder.and_(words, _splat((1 << WORD_BITS) - 1)))

    def _number(self, words: Any) -> Any:
        """Words below 2^52."""
        b = self.builder
        return b.fsub(b.bitcast(b.add(words, b.bitcast(self._bias, _WORDS)), VECTOR), self._bias)


def _splat(word: int) -> Any:
    return ir.Constant(_WORDS, [word] * LANES)


def _multiply_add(builder: Any, half: str) -> Any:
    name = f"llvm.x86.avx512.vpmadd52{half}.uq.512"
    signature = ir.FunctionType(_WORDS, [_WORDS] * 3)
    return builder.module.globals.get(name) or ir.Function(builder.module, signature, name)
