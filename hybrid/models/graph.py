"""The operations of an encoder and the edges between them: shapes and bounds, no cryptography.

Gains and biases of a LayerNorm are folded into the linear maps that read it; the same
upload also yields the residual branch, as one elementwise scaling ("diagonal"). 1/sqrt(head
size) is folded into the query.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from hybrid.models.architecture import Architecture
from hybrid.models.ranges import Bound, Bounds
from transport.errors import ConfigError

INPUT_EDGE = "embedding"


@dataclass(frozen=True, slots=True)
class Node:
    """One operation; edges are arrays of shares."""

    name: str
    layer: int
    """-1 outside the layers."""
    op: str
    """linear, scores, softmax, context, layernorm, gelu or pool."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shape: tuple[int, ...]
    """linear: (rows, in, out); scores, context: (heads, rows, inner, columns); softmax:
    (heads, tokens, tokens); otherwise the shape of the input. Rows are the tokens of all texts of
    a batch, one text after the other, and heads those of all texts."""
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    """By role: what the operation's docstring asks for."""
    diagonal: bool = False
    """A linear node that also scales its input elementwise, for the residual branch."""
    batch: int = 1
    """Texts."""

    @property
    def tokens(self) -> int:
        """Of one text; of a node whose first axis is that of rows."""
        return self.shape[0] // self.batch


def build_graph(
    architecture: Architecture, tokens: int, bounds: Bounds, batch: int = 1
) -> tuple[Node, ...]:
    """The encoder of `batch` texts of `tokens` each, in execution order.

    `ConfigError` when a bound is missing.
    """
    nodes = _Builder(architecture, tokens, bounds, batch).build()
    return tuple(replace(node, batch=batch) for node in nodes)


def check_tokens(architecture: Architecture, tokens: int) -> None:
    """`ConfigError` when the model has no position for every token."""
    if tokens > architecture.positions:
        raise ConfigError(
            f"model.tokens: {tokens} exceeds the model's {architecture.positions} positions"
        )


class _Builder:
    def __init__(self, architecture: Architecture, tokens: int, bounds: Bounds, batch: int) -> None:
        self._a = architecture
        self._tokens, self._batch = tokens, batch
        self._rows = batch * tokens
        self._bounds = bounds

    def build(self) -> list[Node]:
        check_tokens(self._a, self._tokens)
        nodes: list[Node] = []
        normalised, residual = INPUT_EDGE, INPUT_EDGE
        for layer in range(self._a.layers):
            nodes += self._attention(layer, normalised, residual)
            nodes += self._feed_forward(layer)
            normalised = residual = f"layer{layer}.output_norm"
        last = f"layer{self._a.layers - 1}.output_norm"
        nodes.append(
            Node(
                "pool",
                -1,
                "pool",
                (last,),
                ("output",),
                (self._rows, self._a.hidden),
                {"output": self._bound("pool")},
            )
        )
        return nodes

    def _attention(self, layer: int, normalised: str, residual: str) -> list[Node]:
        a, t, name = self._a, self._tokens, f"layer{layer}"
        first = normalised == INPUT_EDGE
        norm = f"{name}.attention_norm"
        projections = max(
            (self._bound(f"{name}.{e}") for e in ("query", "key", "value")), key=lambda b: b.rms
        )
        kept: tuple[str, ...] = () if first else (f"{name}.residual",)
        linear, heads = self._linear(layer), a.heads * self._batch
        return [
            linear("qkv", normalised, kept, 3 * a.hidden, f"{name}.input", projections),
            self._scores(layer, heads),
            Node(
                f"{name}.softmax",
                layer,
                "softmax",
                (f"{name}.scores",),
                (f"{name}.softmax",),
                (heads, t, t),
                {"input": self._bound(f"{name}.scores")},
            ),
            Node(
                f"{name}.context",
                layer,
                "context",
                (f"{name}.softmax", f"{name}.qkv"),
                (f"{name}.context",),
                (heads, t, t, a.head_size),
                {
                    "left": Bound(2.0**-20, 1.0, 1.0),
                    "right": self._bound(f"{name}.value"),
                    "output": self._bound(f"{name}.context"),
                },
            ),
            linear(
                "attention_output",
                f"{name}.context",
                (),
                a.hidden,
                f"{name}.context",
                self._bound(f"{norm}.sum"),
            ),
            self._norm(layer, "attention_norm", "attention_output", residual if first else kept[0]),
        ]

    def _scores(self, layer: int, heads: int) -> Node:
        a, t, name = self._a, self._tokens, f"layer{layer}"
        return Node(
            f"{name}.scores",
            layer,
            "scores",
            (f"{name}.qkv",),
            (f"{name}.scores",),
            (heads, t, a.head_size, t),
            {
                "left": self._bound(f"{name}.query"),
                "right": self._bound(f"{name}.key"),
                "output": self._bound(f"{name}.scores"),
            },
        )

    def _feed_forward(self, layer: int) -> list[Node]:
        a, name = self._a, f"layer{layer}"
        norm = f"{name}.attention_norm"
        linear = self._linear(layer)
        return [
            linear(
                "intermediate",
                norm,
                (f"{norm}.residual",),
                a.intermediate,
                f"{norm}.out",
                self._bound(f"{name}.intermediate"),
            ),
            Node(
                f"{name}.gelu",
                layer,
                "gelu",
                (f"{name}.intermediate",),
                (f"{name}.gelu",),
                (self._rows, a.intermediate),
                {"input": self._bound(f"{name}.intermediate")},
            ),
            linear(
                "output",
                f"{name}.gelu",
                (),
                a.hidden,
                f"{name}.gelu",
                self._bound(f"{name}.output_norm.sum"),
            ),
            self._norm(layer, "output_norm", "output", f"{norm}.residual"),
        ]

    def _linear(self, layer: int) -> Callable[..., Node]:
        name = f"layer{layer}"

        def node(
            part: str, source: str, kept: tuple[str, ...], d_out: int, edge: str, output: Bound
        ) -> Node:
            d_in = self._a.intermediate if part == "output" else self._a.hidden
            return Node(
                f"{name}.{part}",
                layer,
                "linear",
                (source,),
                (f"{name}.{part}", *kept),
                (self._rows, d_in, d_out),
                {"input": self._bound(edge), "output": output}
                | ({"diagonal": self._bound(kept[0])} if kept else {}),
                diagonal=bool(kept),
            )

        return node

    def _norm(self, layer: int, part: str, source: str, residual: str) -> Node:
        name = f"layer{layer}"
        return Node(
            f"{name}.{part}",
            layer,
            "layernorm",
            (f"{name}.{source}", residual),
            (f"{name}.{part}",),
            (self._rows, self._a.hidden),
            {
                "input": self._bound(f"{name}.{part}.sum"),
                "variance": self._bound(f"{name}.{part}.variance"),
            },
        )

    def _bound(self, edge: str) -> Bound:
        if edge.endswith("_norm.out"):
            # Normalised rows: root mean square one by construction, at most sqrt(width).
            return Bound(2.0**-20, 1.0, float(1 << (self._a.hidden - 1).bit_length()))
        try:
            return self._bounds[edge]
        except KeyError:
            raise ConfigError(
                f"bounds: none for edge {edge!r}; calibrate with this model's weights"
            ) from None
