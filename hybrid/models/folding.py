"""Linear maps as the private graph wants them, made on the server once a session.

A normalisation's gain and bias are never computed as such: a linear map that reads
n * gain + bias gets (diag(gain) W, bias W + b), and the residual branch gets (gain, bias).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.models.weights import Affine, Array

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinearMap:
    """y = x W + b and, where the residual branch needs it, x * scale + shift."""

    weight: FloatArray
    """(in, out)"""
    bias: FloatArray
    scale: FloatArray | None = None
    shift: FloatArray | None = None

    def times(self, factor: float) -> LinearMap:
        """With all results multiplied."""
        scale, shift = (None if x is None else x * factor for x in (self.scale, self.shift))
        return LinearMap(self.weight * factor, self.bias * factor, scale, shift)


def linear_map(part: Affine) -> LinearMap:
    """A linear layer as it is."""
    return LinearMap(part.weight.astype(np.float64), part.bias.astype(np.float64))


def side_by_side(maps: Sequence[LinearMap], factors: Sequence[float]) -> LinearMap:
    """Maps of one input, their outputs one after the other, each times its factor."""
    weights = [m.weight * f for m, f in zip(maps, factors, strict=True)]
    biases = [m.bias * f for m, f in zip(maps, factors, strict=True)]
    return LinearMap(np.concatenate(weights, axis=1), np.concatenate(biases))


def scaled(linear: LinearMap, factors: FloatArray) -> LinearMap:
    """The map with every output times its factor, (out,)."""
    return LinearMap(linear.weight * factors, linear.bias * factors)


def after_norm(linear: LinearMap, norm: Affine | None) -> LinearMap:
    """The map of rows before the gain and bias of `norm`; itself where there is none."""
    if norm is None:
        return linear
    gain, bias = norm.weight.astype(np.float64), norm.bias.astype(np.float64)
    return LinearMap(gain[:, None] * linear.weight, bias @ linear.weight + linear.bias, gain, bias)


def norm_alone(norm: Affine) -> LinearMap:
    """Gain and bias of a normalisation that no linear map reads."""
    gain, bias = norm.weight.astype(np.float64), norm.bias.astype(np.float64)
    return LinearMap(np.empty((0, 0)), np.empty(0), gain, bias)


def gained(weights: Sequence[Array], gain: Array | None = None) -> LinearMap:
    """Matrices of one input (in, out) side by side, behind a norm's gain (in,); no bias."""
    whole = np.concatenate([w.astype(np.float64) for w in weights], axis=1)
    if gain is not None:
        whole *= gain.astype(np.float64)[:, None]
    return LinearMap(whole, np.zeros(whole.shape[1]))


def behind(part: Affine, norm: Affine) -> LinearMap:
    """The map of rows before the gain and bias of `norm`; nothing reads those by themselves."""
    whole = after_norm(linear_map(part), norm)
    return LinearMap(whole.weight, whole.bias)


def behind_map(part: LinearMap, norm: LinearMap) -> LinearMap:
    """The map `part` of rows before the scale and shift of `norm`."""
    assert norm.scale is not None
    assert norm.shift is not None
    bias = norm.shift @ part.weight + part.bias
    return LinearMap(norm.scale[:, None] * part.weight, bias)
