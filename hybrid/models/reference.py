"""The plain model in torch float32: the yardstick for accuracy and the source of bounds."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import gelu, linear

from hybrid.models.architecture import Architecture
from hybrid.models.weights import Affine, EncoderWeights, LayerWeights

Observer = Callable[[str, Tensor], None]


class PlainEncoder:
    """A BERT encoder with mean pooling; `observe(edge, tensor)` sees every edge of the graph."""

    def __init__(
        self,
        weights: EncoderWeights,
        architecture: Architecture,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._weights = weights
        self._architecture = architecture
        self._dtype = dtype

    @torch.no_grad()
    def embed(
        self, token_ids: NDArray[np.int64], tokens: int, observe: Observer | None = None
    ) -> NDArray[np.float64]:
        """Mean-pooled embedding (hidden,) of one text padded to `tokens`."""
        count = len(token_ids)
        padded = np.zeros(tokens, np.int64)
        padded[:count] = token_ids
        mask = torch.arange(tokens) < count
        see = observe or (lambda _edge, _tensor: None)
        table = self._weights.embedding
        x = (
            self._tensor(table.words[padded])
            + self._tensor(table.positions[:tokens])
            + self._tensor(table.token_types[0])
        )
        x = self._norm("embedding", x, table.norm, see)[1]
        residual, normalised = x, x
        for index, layer in enumerate(self._weights.layers):
            normalised, residual = self._layer(
                f"layer{index}", layer, residual, normalised, mask, see
            )
        total = residual[mask].sum(0)
        see("pool", total)
        pooled = total / count
        return pooled.to(torch.float64).numpy()

    def _layer(
        self,
        name: str,
        layer: LayerWeights,
        x: Tensor,
        normalised: Tensor,
        mask: Tensor,
        see: Observer,
    ) -> tuple[Tensor, Tensor]:
        see(f"{name}.input", normalised)
        see(f"{name}.residual", x)
        context = self._attention(name, layer, x, mask, see)
        attended = x + self._linear(context, layer.attention_output)
        normalised, x = self._norm(f"{name}.attention_norm", attended, layer.attention_norm, see)
        see(f"{name}.attention_norm.residual", x)
        up = self._linear(x, layer.intermediate)
        see(f"{name}.intermediate", up)
        active = gelu(up)
        see(f"{name}.gelu", active)
        down = x + self._linear(active, layer.output)
        return self._norm(f"{name}.output_norm", down, layer.output_norm, see)

    def _attention(
        self, name: str, layer: LayerWeights, x: Tensor, mask: Tensor, see: Observer
    ) -> Tensor:
        a = self._architecture

        def heads(part: Affine) -> Tensor:
            return self._linear(x, part).reshape(len(x), a.heads, a.head_size).transpose(0, 1)

        # 1/sqrt(head size) is folded into the query, as in the private graph.
        query, key, value = (
            heads(layer.query) / math.sqrt(a.head_size),
            heads(layer.key),
            heads(layer.value),
        )
        scores = query @ key.transpose(1, 2)
        for edge, tensor in (("query", query), ("key", key), ("value", value), ("scores", scores)):
            see(f"{name}.{edge}", tensor)
        weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), -1)
        context = (weights @ value).transpose(0, 1).reshape(len(x), a.hidden)
        see(f"{name}.context", context)
        return context

    def _norm(self, name: str, x: Tensor, norm: Affine, see: Observer) -> tuple[Tensor, Tensor]:
        """Normalised rows before and after gain and bias."""
        centred = x - x.mean(-1, keepdim=True)
        variance = (centred**2).mean(-1, keepdim=True)
        see(f"{name}.sum", x)
        see(f"{name}.variance", variance)
        normalised = centred / torch.sqrt(variance + self._architecture.epsilon)
        return normalised, normalised * self._tensor(norm.weight) + self._tensor(norm.bias)

    def _linear(self, x: Tensor, part: Affine) -> Tensor:
        return linear(x, self._tensor(part.weight).T, self._tensor(part.bias))

    def _tensor(self, array: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(array).to(self._dtype)
