"""Pieces of plain models in torch: the yardstick for accuracy and the source of ranges."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import linear

from hybrid.models.ranges import Observer
from hybrid.models.weights import Affine, Array


@dataclass(frozen=True, slots=True)
class PlainPass:
    """One pass of a plain model over one text; `see` is shown every edge that has a range."""

    see: Observer
    dtype: torch.dtype

    def tensor(self, array: Array) -> Tensor:
        """Weights in the precision of the pass."""
        return torch.from_numpy(array).to(self.dtype)

    def linear(self, x: Tensor, part: Affine) -> Tensor:
        """X W + b."""
        return linear(x, self.tensor(part.weight).T, self.tensor(part.bias))

    def layer_norm(
        self, name: str, x: Tensor, norm: Affine, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        """Normalised rows before and after gain and bias; shows their sum and variance."""
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred**2).mean(-1, keepdim=True)
        self.see(f"{name}.sum", x)
        self.see(f"{name}.variance", variance)
        normalised = centred / torch.sqrt(variance + epsilon)
        return normalised, normalised * self.tensor(norm.weight) + self.tensor(norm.bias)

    def rms_norm(self, name: str, x: Tensor, gain: Array, epsilon: float) -> Tensor:
        """Rows over their root mean square, times a gain [Zhang and Sennrich, arXiv 1910.07467].

        Shows the rows that come in, their mean square, and the normalised rows before the gain,
        which the private graph folds into the map that follows.
        """
        mean_square = (x**2).mean(-1, keepdim=True)
        normalised = x / torch.sqrt(mean_square + epsilon)
        self.see(f"{name}.sum", x)
        self.see(f"{name}.mean_square", mean_square)
        self.see(f"{name}.normalised", normalised)
        return normalised * self.tensor(gain)
