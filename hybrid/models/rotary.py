"""Rotary positions: pairs of coordinates turned by angles that grow with the position.

Su et al., "RoFormer", arXiv 2104.09864, section 3.2.2. Coordinate i is paired with i + size / 2, as
in Hugging Face folders; GGUF pairs neighbours instead, so its query and key rows stand elsewhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hybrid.models.weights import Array


def angles(first: int, count: int, size: int, theta: float) -> Tensor:
    """Of positions first .. first + count - 1, (count, size / 2), in float64."""
    frequencies = theta ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
    return torch.arange(first, first + count, dtype=torch.float64)[:, None] * frequencies


def rotate(x: Tensor, turns: Tensor) -> Tensor:
    """Rows (..., count, size) turned by `angles` (count, size / 2)."""
    cosines, sines = torch.cos(turns).to(x.dtype), torch.sin(turns).to(x.dtype)
    left, right = x.chunk(2, -1)
    return torch.cat((left * cosines - right * sines, right * cosines + left * sines), -1)


def halves_from_neighbours(rows: Array, heads: int) -> Array:
    """Rows (heads * size, in) whose pairs are neighbours, put where pairs are half a head apart."""
    size = len(rows) // heads
    split = rows.reshape(heads, size // 2, 2, -1).swapaxes(1, 2)
    return np.ascontiguousarray(split.reshape(rows.shape))
