"""LLVM code on vectors of 8 doubles, for loops over more streams than vectorise by themselves.

Machines with shorter vectors get several instructions for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

LANES = 8
VECTOR = ir.VectorType(ir.DoubleType(), LANES)
_INDEX, _LANE = ir.IntType(64), ir.IntType(32)


class VectorCode:
    """Emits loads, stores and arithmetic; indices and offsets count doubles."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder
        name = f"llvm.fma.v{LANES}f64"
        module = builder.module
        self._fused = module.globals.get(name) or ir.Function(
            module, ir.FunctionType(VECTOR, [VECTOR] * 3), name
        )

    def splat(self, scalar: Any) -> Any:
        """The scalar in every lane."""
        undefined = ir.Constant(VECTOR, ir.Undefined)
        first = self.builder.insert_element(undefined, scalar, ir.Constant(_LANE, 0))
        return self.builder.shuffle_vector(first, undefined, _lanes([0] * LANES))

    def address(self, base: Any, index: Any, offset: int = 0) -> Any:
        """Of the double at index + offset."""
        return self.builder.gep(base, [self.builder.add(index, ir.Constant(_INDEX, offset))])

    def load(self, base: Any, index: Any, offset: int = 0) -> Any:
        """8 doubles from there on."""
        address = self.address(base, index, offset)
        return self.builder.load(self.builder.bitcast(address, VECTOR.as_pointer()), align=8)

    def store(self, value: Any, base: Any, index: Any, offset: int = 0) -> None:
        """8 doubles to there."""
        address = self.address(base, index, offset)
        self.builder.store(value, self.builder.bitcast(address, VECTOR.as_pointer()), align=8)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """A * b + c with one rounding."""
        return self.builder.call(self._fused, [a, b, c])

    def reversed(self, value: Any) -> Any:
        """The last lane first."""
        return self.builder.shuffle_vector(value, value, _lanes(list(range(LANES))[::-1]))

    def turned(self, rows: Sequence[Any]) -> list[Any]:
        """The transpose of 8 vectors."""
        rows = list(rows)
        step = 1
        while step < LANES:
            low = [k if not k & step else LANES + k - step for k in range(LANES)]
            high = [k + step if not k & step else LANES + k for k in range(LANES)]
            for i in (i for i in range(LANES) if not i & step):
                a, b = rows[i], rows[i + step]
                rows[i] = self.builder.shuffle_vector(a, b, _lanes(low))
                rows[i + step] = self.builder.shuffle_vector(a, b, _lanes(high))
            step *= 2
        return rows


def _lanes(indices: list[int]) -> Any:
    return ir.Constant(ir.VectorType(_LANE, len(indices)), indices)


def data_of(context: Any, builder: Any, signature: Any, args: Any, position: int) -> Any:
    """Pointer to the doubles of an array argument."""
    return context.make_array(signature.args[position])(context, builder, args[position]).data
