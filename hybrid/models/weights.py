"""What weights are once they are read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Affine:
    """weight and bias; a linear map has weight (in, out), a norm has gain (n,)."""

    weight: Array
    bias: Array
