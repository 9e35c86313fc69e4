"""Model weights rearranged for the private graph, on the server, once per session.

LayerNorm(x) = n * gain + bias is never computed: a linear map that reads it gets
(diag(gain) W, bias W + b), and the residual branch gets (gain, bias).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hybrid.models.architecture import Architecture
from hybrid.models.weights import Affine, EncoderWeights, LayerWeights

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinearMap:
    """y = x W + b and, where the residual branch needs it, x * scale + shift."""

    weight: FloatArray
    """(in, out)"""
    bias: FloatArray
    scale: FloatArray | None = None
    shift: FloatArray | None = None


def fold(weights: EncoderWeights, architecture: Architecture) -> dict[str, LinearMap]:
    """Every linear node's map by node name; "pool" holds the last gain and bias."""
    maps: dict[str, LinearMap] = {}
    previous: Affine | None = None
    for index, layer in enumerate(weights.layers):
        name = f"layer{index}"
        maps[f"{name}.qkv"] = _after_norm(_qkv(layer, architecture), previous)
        maps[f"{name}.attention_output"] = _plain(layer.attention_output)
        maps[f"{name}.intermediate"] = _after_norm(_plain(layer.intermediate), layer.attention_norm)
        maps[f"{name}.output"] = _plain(layer.output)
        previous = layer.output_norm
    assert previous is not None
    gain, bias = (part.astype(np.float64) for part in (previous.weight, previous.bias))
    maps["pool"] = LinearMap(np.empty((0, 0)), np.empty(0), gain, bias)
    return maps


def _plain(part: Affine) -> LinearMap:
    return LinearMap(part.weight.astype(np.float64), part.bias.astype(np.float64))


def _qkv(layer: LayerWeights, architecture: Architecture) -> LinearMap:
    shrink = 1 / math.sqrt(architecture.head_size)
    query, key, value = _plain(layer.query), _plain(layer.key), _plain(layer.value)
    return LinearMap(
        np.concatenate([query.weight * shrink, key.weight, value.weight], axis=1),
        np.concatenate([query.bias * shrink, key.bias, value.bias]),
    )


def _after_norm(linear: LinearMap, norm: Affine | None) -> LinearMap:
    if norm is None:
        return linear
    gain, bias = norm.weight.astype(np.float64), norm.bias.astype(np.float64)
    return LinearMap(gain[:, None] * linear.weight, bias @ linear.weight + linear.bias, gain, bias)
