"""Fixed-point numbers in the ring of integers modulo 2^64, and the arrays that hold shares."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
RingArray = NDArray[np.uint64]
"""Elements of Z_{2^64}; numpy's wrap-around arithmetic is the ring's."""
BitArray = NDArray[np.uint8]
"""Bits, one per byte, values 0 and 1."""

RING_BITS = 64
RING_BYTES = 8


@dataclass(frozen=True, slots=True)
class FixedPoint:
    """Encodes a real x as round(x * 2^fraction_bits) modulo 2^64, two's complement."""

    fraction_bits: int = 16

    @property
    def unit(self) -> float:
        """Distance between neighbouring encodable numbers."""
        return 2.0**-self.fraction_bits

    def encode(self, x: FloatArray | float) -> RingArray:
        """Ring encoding of x, same shape."""
        return np.rint(np.asarray(x, np.float64) / self.unit).astype(np.int64).view(np.uint64)

    def decode(self, x: RingArray) -> FloatArray:
        """Real value of a ring encoding, same shape."""
        return np.ascontiguousarray(x).view(np.int64).astype(np.float64) * self.unit
