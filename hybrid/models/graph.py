"""Operations and the edges between them: shapes and bounds, no cryptography, no kind of model.

A family of models builds a `Graph`; everything after that works on nodes alone. Inputs are edges
that nobody computes: the client knows them, the server's share of them is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hybrid.models.ranges import Bound, Ranges
from transport.errors import ConfigError, UsageError
from transport.foreign import shown

_SHARED_KEYS = {
    "scores": "attention",
    "context": "attention",
    "cached_scores": "cached_attention",
    "cached_context": "cached_attention",
}
"""Operations that the same implementations carry."""


@dataclass(frozen=True, slots=True)
class CachePlace:
    """Where the rows of a pass stand in a decoder's cache; all of it public."""

    prefix: int
    """Positions of the public prefix; they come first."""
    past: int
    """Private positions before this pass."""
    capacity: int
    """Private positions that the cache has room for."""
    kv_heads: int
    """Heads of keys and values; heads / kv_heads queries that stand side by side share one."""
    turns: int = 1
    """How many ways there are to turn the prefix's keys, of which the client takes one."""

    def keys(self, rows: int) -> int:
        """Positions that the last of `rows` rows sees, its own among them."""
        return self.prefix + self.past + rows


@dataclass(frozen=True, slots=True)
class Node:
    """One operation; edges are arrays of shares."""

    name: str
    layer: int
    """-1 outside the layers."""
    op: str
    """What it computes, for a reader and for its operator."""
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    shape: tuple[int, ...]
    """linear: (rows, in, out); scores, context: (heads, rows, inner, columns), with a cache too,
    where columns of scores and inner of context are all positions so far; softmax:
    (heads, tokens, tokens); otherwise the shape of the first input. Rows are the tokens of all
    texts of a batch, one text after the other, and heads those of all texts."""
    bounds: Mapping[str, Bound] = field(default_factory=dict)
    """By role: what the operation's docstring asks for."""
    diagonal: bool = False
    """A linear node that also scales its input elementwise, for the residual branch."""
    batch: int = 1
    """Texts."""
    constants: Mapping[str, float] = field(default_factory=dict)
    """Public numbers of the operation: the epsilon of a normalisation."""
    residuals: int = 0
    """How many of the inputs, the second one first, are added to the first before the operation."""
    cache: CachePlace | None = None
    """Of attention over a cache, and of its softmax."""

    @property
    def key(self) -> str:
        """Under which `protocols` of a config and the catalog name its implementations."""
        return _SHARED_KEYS.get(self.op, self.op)

    @property
    def tokens(self) -> int:
        """Of one text; of a node whose first axis is that of rows."""
        return self.shape[0] // self.batch


@dataclass(frozen=True, slots=True)
class GraphInput:
    """An edge that only the client knows."""

    name: str
    shape: tuple[int, ...]
    is_bits: bool = False
    """Bits, shared modulo two, instead of fixed-point numbers."""


@dataclass(frozen=True)
class Graph:
    """The operations of a model in execution order, between named inputs and outputs."""

    nodes: tuple[Node, ...]
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]
    disclosures: tuple[str, ...] = ()
    """What the parties learn by this graph, one plain sentence each, for the report."""

    def __post_init__(self) -> None:
        known = {edge.name for edge in self.inputs}
        if len(known) < len(self.inputs):
            raise UsageError("graph: two inputs have one name; mend the family that built it")
        names: set[str] = set()
        for node in self.nodes:
            missing = [edge for edge in node.inputs if edge not in known]
            twice = node.name in names or not known.isdisjoint(node.outputs)
            if missing or twice:
                what = (
                    f"reads {shown(missing[0])} before it is made" if missing else "is made twice"
                )
                raise UsageError(f"graph: node {node.name!r} {what}; mend the family that built it")
            names.add(node.name)
            known.update(node.outputs)
        if not known.issuperset(self.outputs):
            raise UsageError(f"graph: nothing makes one of the outputs {self.outputs}")

    def __repr__(self) -> str:
        return f"<Graph: {len(self.nodes)} nodes from {', '.join(i.name for i in self.inputs)}>"


class GraphBuilder:
    """Collects the nodes of one model; families name edges, ranges know their bounds."""

    def __init__(self, tokens: int, batch: int, ranges: Ranges) -> None:
        self.tokens, self.batch = tokens, batch
        self._ranges = ranges
        self._nodes: list[Node] = []
        self._inputs: list[GraphInput] = []

    @property
    def rows(self) -> int:
        """Tokens of all texts."""
        return self.tokens * self.batch

    def input(
        self,
        name: str,
        shape: tuple[int, ...],
        *,
        is_bits: bool = False,
    ) -> str:
        """An edge of the client's own."""
        self._inputs.append(GraphInput(name, shape, is_bits))
        return name

    def add(  # noqa: PLR0913
        self,
        place: tuple[int, str],
        op: str,
        inputs: Sequence[str],
        shape: tuple[int, ...],
        bounds: Mapping[str, Bound],
        *,
        kept: str | None = None,
        constants: Mapping[str, float] | None = None,
        residuals: int = 0,
        also: tuple[str, ...] = (),
        cache: CachePlace | None = None,
    ) -> str:
        """One node, named after its layer and part; the edge of its (first) result.

        kept: the edge of a linear node's scaled input, where the residual branch reads it; also:
        edges of further results.
        """
        layer, part = place
        name = part if layer < 0 else f"layer{layer}.{part}"
        outputs = (name, *also) if kept is None else (name, kept)
        self._nodes.append(
            Node(
                name,
                layer,
                op,
                tuple(inputs),
                outputs,
                shape,
                bounds,
                kept is not None,
                self.batch,
                constants or {},
                residuals,
                cache,
            )
        )
        return name

    def linear(
        self,
        place: tuple[int, str],
        source: str,
        sizes: tuple[int, int],
        ends: tuple[Bound, Bound],
        kept: str | None = None,
    ) -> str:
        """A product of all rows with weights (in, out); ends: bounds of input and output."""
        bounds = {"input": ends[0], "output": ends[1]}
        if kept is not None:
            bounds["diagonal"] = self.bound(kept)
        return self.add(place, "linear", (source,), (self.rows, *sizes), bounds, kept=kept)

    def layer_norm(
        self, place: tuple[int, str], source: str, beside: str, width: int, epsilon: float
    ) -> str:
        """LayerNorm of all rows of a sum, without gain and bias."""
        name = "layer{}.{}".format(*place)
        bounds = {part: self.bound(f"{name}.{part}") for part in ("sum", "variance")}
        bounds["input"] = bounds.pop("sum")
        return self.add(
            place,
            "layernorm",
            (source, beside),
            (self.rows, width),
            bounds,
            constants={"epsilon": epsilon},
            residuals=1,
        )

    def bound(self, edge: str) -> Bound:
        """Of an edge that the plain model showed; `ConfigError` where there is none."""
        try:
            return self._ranges[edge]
        except KeyError:
            raise ConfigError(
                f"ranges: none for edge {shown(edge)}; they must come from this model's weights"
            ) from None

    def graph(self, outputs: tuple[str, ...], disclosures: Sequence[str]) -> Graph:
        """What was collected."""
        return Graph(tuple(self._nodes), tuple(self._inputs), outputs, tuple(disclosures))


def normalised_bound(width: int) -> Bound:
    """Of normalised rows: root mean square one by construction, at most sqrt(width)."""
    return Bound(2.0**-20, 1.0, float(1 << (width - 1).bit_length()))
