"""Matrix products modulo 2^64 by float64 BLAS, exact.

Words split in limbs of 22 bits from below, the operand of small integers in fewer. A product of
two limbs summed over 512 terms stays below 2^53, so float64 adds it exactly; pairs of limbs whose
place is 64 or higher vanish.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from transport.errors import UsageError

_LIMB_BITS = 22
_LIMBS = -(-RING_BITS // _LIMB_BITS)
_INNER = 1 << (53 - 2 * _LIMB_BITS)
_LOW = np.uint64((1 << _LIMB_BITS) - 1)


@dataclass(frozen=True, slots=True)
class Limbs:
    """A matrix (..., rows, columns) modulo 2^64 as float64 limbs, lowest first."""

    parts: tuple[NDArray[np.float64], ...]

    @classmethod
    def of(cls, words: RingArray) -> Limbs:
        """All limbs of words that are read as they are."""
        places = (np.uint64(_LIMB_BITS * i) for i in range(_LIMBS))
        return cls(tuple((words >> place & _LOW).astype(np.float64) for place in places))

    @classmethod
    def small(cls, integers: NDArray[np.int64]) -> Limbs:
        """Signed integers below 2^21 in magnitude as one limb; others as words."""
        if np.abs(integers).max(initial=0) < 1 << (_LIMB_BITS - 1):
            return cls((integers.astype(np.float64),))
        return cls.of(integers.view(np.uint64))

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        return self.parts[0].shape

    @property
    def nbytes(self) -> int:
        """Memory of all limbs."""
        return sum(part.nbytes for part in self.parts)


def ring_matmul(a: RingArray | Limbs, b: RingArray | Limbs) -> RingArray:
    """A @ b modulo 2^64 for (..., m, k) and (..., k, n), as numpy broadcasts them. Exact.

    Give `Limbs` for what is multiplied more than once.
    """
    left = a if isinstance(a, Limbs) else Limbs.of(a)
    right = b if isinstance(b, Limbs) else Limbs.of(b)
    if len(left.shape) < 2 or len(right.shape) < 2 or left.shape[-1] != right.shape[-2]:
        raise UsageError(
            f"ring_matmul: shapes {left.shape} and {right.shape}; use (..., m, k) and (..., k, n)"
        )
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    total = np.zeros((*batch, left.shape[-2], right.shape[-1]), np.uint64)
    for start in range(0, left.shape[-1], _INNER):
        inner = slice(start, start + _INNER)
        for i, high in enumerate(left.parts):
            for j, low in enumerate(right.parts):
                place = _LIMB_BITS * (i + j)
                if place >= RING_BITS:
                    continue
                product = np.matmul(high[..., inner], low[..., inner, :])
                total += product.astype(np.int64).view(np.uint64) << np.uint64(place)
    return total
