"""How an evaluation of `exact_rows` is cut so that its working memory stays bounded.

Moved inputs take most memory. While those of all inputs fit, they are made once and outputs follow
in passes. Otherwise inputs come in blocks: sums of all products before the giant steps are kept,
in the extended basis, for as many outputs as memory allows, and every block adds to them; with more
outputs than that the blocks come again. So giant steps are never taken twice.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from he_linear.kernels.fused_sums import panel_shape, panel_width, tile_rows
from he_linear.kernels.scalars import Floats

HOISTED = 16
"""Baby steps with keys of their own; more are taken in groups, the input moved in between."""
ROOM_BYTES = 600_000_000
"""Working memory that a cut keeps to, unless one input, or one output, alone takes more."""
_BABY_STEPS = (16, 32, 64)
_FEW_BABY_STEPS = (4, 8)
"""For many more inputs than outputs. The giant step takes one more key, so only with blocks."""
_SUMS = 64
"""Sums made in one pass over the moved inputs, about: more memory, fewer passes."""
_KEPT = 320
"""Sums kept from one block of inputs to the next, at most."""
# Milliseconds (measured, one core): a baby step, decomposing an input and moving it to the next
# group, a giant step, a diagonal.
_BABY_MS, _DECOMPOSE_MS, _GIANT_MS, _DIAGONAL_MS = 0.2, 1.6, 1.1, 0.0085

Shape = tuple[int, ...]


class Room:
    """Working memory, used again by one evaluation after another: fresh memory costs a third more.

    Grows to what the largest packing needs, `ExactRowsPacking.room_bytes`.
    """

    def __init__(self) -> None:
        self._buffer = np.zeros(0)

    def arrays(self, *shapes: Shape) -> list[Floats]:
        """Arrays of these shapes one after the other; what they hold is left over, but finite."""
        sizes = [math.prod(shape) for shape in shapes]
        if sum(sizes) > self._buffer.size:
            self._buffer = np.zeros(sum(sizes))
        ends = np.cumsum(sizes)
        return [
            self._buffer[end - size : end].reshape(shape)
            for end, size, shape in zip(ends, sizes, shapes, strict=True)
        ]


@dataclass(frozen=True)
class RowBlocks:
    """One evaluation with so many baby steps."""

    degree: int
    primes: int
    """The special one included."""
    columns: int
    inputs: int
    outputs: int
    steps: int
    """Diagonals of a block of weights."""
    babies: int

    @staticmethod
    def fastest(degree: int, primes: int, columns: int, sizes: tuple[int, int, int]) -> RowBlocks:
        """Of all numbers of baby steps; sizes: inputs, outputs, steps."""

        def least(*choices: int) -> RowBlocks:
            cuts = (RowBlocks(degree, primes, columns, *sizes, babies) for babies in choices)
            return min(cuts, key=lambda cut: cut.milliseconds)

        usual = least(*_BABY_STEPS)
        return usual if usual.fits else least(*_FEW_BABY_STEPS, usual.babies)

    @property
    def giants(self) -> int:
        """Giant steps, with the one that moves nothing: sums of one output."""
        return -(-self.steps // self.babies)

    @property
    def groups(self) -> int:
        """Of baby steps."""
        return -(-self.babies // HOISTED)

    @cached_property
    def together(self) -> int:
        """Outputs whose weights are encoded, and multiplied, at once."""
        passes = max(1, round(self.outputs * self.giants / _SUMS))
        return -(-self.outputs // passes)

    @property
    def _rows(self) -> int:
        """Sums of the outputs of `together`, with what the product overwrites."""
        width = panel_width(self.columns, self.degree)
        return tile_rows(self.together * self.giants, width)

    @cached_property
    def fits(self) -> bool:
        """Whether all inputs are one block."""
        return self._bytes(self.shapes(self.inputs, 1)) <= ROOM_BYTES

    @cached_property
    def kept(self) -> int:
        """Groups of `together` outputs whose sums are kept at once."""
        if self.fits:
            return 1
        return min(-(-self.outputs // self.together), max(1, _KEPT // self._rows))

    @cached_property
    def block(self) -> int:
        """Inputs of a block."""
        if self.fits:
            return self.inputs
        one, two = (self._bytes(self.shapes(count, self.kept)) for count in (1, 2))
        most = max(1, 1 + (ROOM_BYTES - one) // (two - one))
        return -(-self.inputs // -(-self.inputs // most))

    @property
    def passes(self) -> int:
        """How often every input is moved."""
        return 1 if self.fits else -(-self.outputs // (self.kept * self.together))

    def parts(self) -> Iterator[tuple[bool, list[range], list[range]]]:
        """Outputs in groups whose sums are kept, with blocks of inputs, and whether to move them.

        Of each: whether inputs stay moved from the part before, blocks, groups of outputs.
        """
        blocks = _cut(range(self.inputs), self.block)
        for part in _cut(range(self.outputs), self.kept * self.together):
            yield self.fits and part.start > 0, blocks, _cut(part, self.together)

    def shapes(self, inputs: int, groups: int) -> tuple[Shape, Shape, Shape]:
        """Of sums, moved inputs and encoded weights: the sums of all blocks at the same place."""
        inner = inputs * self.babies
        return (
            (groups, self._rows, 2, self.primes, self.degree),
            (self.primes, *panel_shape(self.columns, inner, self.degree)),
            (self.primes, self.columns, self._rows, inner),
        )

    @staticmethod
    def _bytes(shapes: tuple[Shape, ...]) -> int:
        return 8 * sum(math.prod(shape) for shape in shapes)

    @property
    def room_bytes(self) -> int:
        """Working memory, besides results."""
        return self._bytes(self.shapes(self.block, self.kept))

    @property
    def milliseconds(self) -> float:
        """Rough time of an evaluation."""
        moves = self.passes * self.inputs
        moved = moves * (self.babies * _BABY_MS + self.groups * _DECOMPOSE_MS)
        diagonals = self.inputs * self.babies * self.outputs * self.giants
        giants = self.outputs * (self.giants - 1)
        return moved + giants * _GIANT_MS + diagonals * _DIAGONAL_MS


def evenly(whole: range, most: int) -> list[range]:
    """Pieces of nearly equal size, of up to `most`."""
    return _cut(whole, -(-len(whole) // -(-len(whole) // most)))


def _cut(whole: range, size: int) -> list[range]:
    """Pieces of this size; the last may be smaller."""
    return [
        range(start, min(start + size, whole.stop))
        for start in range(whole.start, whole.stop, size)
    ]
