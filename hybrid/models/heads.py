"""What a model does with the last layer's rows: the part of the graph that ends in an opening.

One row of each text by a pooling, then linear maps with their activations, then the opening to the
client, who scales to unit length where the model says so. A classifier is such a head too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import gelu, linear

from hybrid.models.folding import FloatArray, LinearMap, behind_map, linear_map
from hybrid.models.graph_builder import GraphBuilder
from hybrid.models.poolings import POOLINGS, Pooling
from hybrid.models.ranges import Bound, Observer
from hybrid.models.weights import Affine
from transport.errors import ConfigError
from transport.foreign import printable

ACTIVATIONS = {"identity": lambda x: x, "tanh": torch.tanh, "relu": torch.relu, "gelu": gelu}
"""By the name of the operation that computes it; GELU is the exact one."""
_LARGEST_WIDTH, _MOST_DENSE, _LABEL_LENGTH = 1 << 16, 8, 64


@dataclass(frozen=True, slots=True)
class Dense:
    """A linear map of pooled rows and what follows it."""

    width_in: int
    width_out: int
    activation: str = "identity"

    @property
    def line(self) -> str:
        """For a reader."""
        after = "" if self.activation == "identity" else f" and {self.activation}"
        return f"{self.width_in} x {self.width_out}{after}"


@dataclass(frozen=True, slots=True)
class Head:
    """The last operations of a model, in the graph and in the clear. All of this is public."""

    pooling: Pooling
    dense: tuple[Dense, ...] = ()
    normalize: bool = False
    """Whether the client scales its answers to unit length."""
    output_bits: int = 6
    """Fraction bits that survive in what is opened."""
    labels: tuple[str, ...] = ()
    """Of a classifier: names of the numbers that are opened."""

    # -- graph ----------------------------------------------------------------------------------

    def add(self, builder: GraphBuilder, rows: str, mask: str, width: int) -> str:
        """Nodes from the last rows (rows, width) and the client's mask; the opened edge.

        `rows` are normalised; gain and bias of their norm come with the nodes' linear maps.
        """
        builder.name_outputs(self.labels)
        if not self.dense:
            return self.pooling.opened(builder, rows, mask, width)
        edge, bound = self.pooling.shared(builder, rows, mask, width)
        for index, part in enumerate(self.dense):
            is_last = index + 1 == len(self.dense)
            edge, bound = self._dense(builder, index, part, edge, bound, is_last=is_last)
        shape = (builder.batch, self.dense[-1].width_out)
        return builder.add((-1, "open"), "open", (edge,), shape, {"input": bound})

    @staticmethod
    def _dense(
        builder: GraphBuilder, index: int, part: Dense, edge: str, bound: Bound, *, is_last: bool
    ) -> tuple[str, Bound]:
        name, ends = f"dense{index}", is_last and part.activation == "identity"
        out, constants = builder.opened(name) if ends else (builder.bound(name), {})
        sizes, bounds = (builder.batch, part.width_in, part.width_out), {"input": bound}
        bounds["output"] = out
        edge = builder.add((-1, name), "linear", (edge,), sizes, bounds, constants=constants)
        if part.activation == "identity":
            return edge, out
        after, shape = f"{name}.{part.activation}", (builder.batch, part.width_out)
        edge = builder.add((-1, after), part.activation, (edge,), shape, {"input": out})
        return edge, builder.bound(after)

    @property
    def disclosure(self) -> str:
        """One sentence: what is opened, and to whom."""
        what = self.pooling.opens if not self.dense else "result of the model's head"
        if self.labels:
            what = f"{len(self.labels)} logits of the classifier"
        return (
            f"Only the {what} is opened, to the client alone, after truncation to "
            f"{self.output_bits} fraction bits."
        ).replace("logits of the classifier is", "logits of the classifier are")

    @property
    def line(self) -> str:
        """For a reader."""
        parts = [f"{self.pooling.name} pooling", *(part.line for part in self.dense)]
        if self.labels:
            parts.append(f"labels {', '.join(self.labels)}")
        return " -> ".join([*parts, *["unit length"] * self.normalize])

    def client_inputs(self, mask: NDArray[np.bool_], width: int) -> dict[str, NDArray[Any]]:
        """Values of inputs that the head adds to the graph; mask (batch, tokens) of real tokens."""
        return self.pooling.client_inputs(mask, width, is_opened=not self.dense)

    # -- weights --------------------------------------------------------------------------------

    def fold(
        self, maps: Mapping[str, LinearMap], weights: Sequence[Affine]
    ) -> dict[str, LinearMap]:
        """The family's maps, gain and bias of the last norm ("pool") where this head wants them."""
        found = dict(maps)
        norm = found.pop("pool")
        parts = [linear_map(part) for part in weights]
        where = self.pooling.norm_node(is_opened=not self.dense)
        if where is not None:
            found[where] = norm
        elif parts:
            parts[0] = behind_map(parts[0], norm)
        return found | {f"dense{index}": part for index, part in enumerate(parts)}

    # -- in the clear ---------------------------------------------------------------------------

    def plain(
        self, rows: Tensor, mask: Tensor, see: Observer, weights: Sequence[Affine] = ()
    ) -> NDArray[np.float64]:
        """The same of one text's rows (tokens, width), mask (tokens,), in the clear."""
        pooled = self.pooling.plain(rows, mask, see)
        for index, (part, affine) in enumerate(zip(self.dense, weights, strict=True)):
            weight, bias = (
                torch.from_numpy(x).to(rows.dtype) for x in (affine.weight, affine.bias)
            )
            pooled = linear(pooled, weight.T, bias)
            see(f"dense{index}", pooled)
            if part.activation != "identity":
                pooled = ACTIVATIONS[part.activation](pooled)
                see(f"dense{index}.{part.activation}", pooled)
        answer: NDArray[np.float64] = pooled.double().numpy()
        return answer

    def opened(self, words: NDArray[np.uint64], counts: NDArray[np.int64]) -> FloatArray:
        """What `plain` computes, a row a text, from the opened words; counts: of real tokens.

        Up to the power of two by which the graph scales what it opens.
        """
        rows = (words.view(np.int64) * 2.0**-self.output_bits).reshape(len(counts), -1)
        divisor = np.ones(len(counts)) if self.dense else self.pooling.divisor(counts)
        found: FloatArray = rows / divisor[:, None]
        return found

    def finished(self, answer: FloatArray) -> FloatArray:
        """One text's answer as the user gets it."""
        if not self.normalize:
            return answer
        return answer / max(float(np.linalg.norm(answer)), 1e-12)

    # -- between the parties --------------------------------------------------------------------

    def to_public(self) -> dict[str, Any]:
        """Plain data for the client."""
        return {
            "pooling": self.pooling.name,
            "dense": [[d.width_in, d.width_out, d.activation] for d in self.dense],
            "normalize": self.normalize,
            "labels": list(self.labels),
        }

    @classmethod
    def from_public(cls, data: object, width: int, output_bits: int) -> Head:
        """From untrusted plain data; width: of the rows that it pools."""
        malformed = ConfigError("handshake: the model's head is malformed; same version?")
        keys = {"pooling", "dense", "normalize", "labels"}
        if not isinstance(data, dict) or set(data) != keys or type(data["normalize"]) is not bool:
            raise malformed
        name, dense, labels = data["pooling"], data["dense"], data["labels"]
        if not isinstance(name, str) or name not in POOLINGS or not isinstance(dense, list):
            raise malformed
        if len(dense) > _MOST_DENSE or not all(map(_is_dense, dense)):
            raise malformed
        parts = tuple(Dense(*part) for part in dense)
        for part in parts:
            if part.width_in != width:
                raise malformed
            width = part.width_out
        if not isinstance(labels, list) or len(labels) not in (0, width):
            raise malformed
        if not all(map(_is_label, labels)):
            raise malformed
        return cls(POOLINGS[name], parts, data["normalize"], output_bits, tuple(labels))


def _is_label(label: object) -> bool:
    return isinstance(label, str) and len(label) <= _LABEL_LENGTH and printable(label) == label


def _is_dense(part: object) -> bool:
    return (
        isinstance(part, list)
        and len(part) == 3
        and all(type(n) is int and 0 < n <= _LARGEST_WIDTH for n in part[:2])
        and isinstance(part[2], str)
        and part[2] in ACTIVATIONS
    )
