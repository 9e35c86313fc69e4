"""Operations and the edges between them: shapes and bounds, no cryptography, no kind of model.

A family of models builds a `Graph`; everything after that works on nodes alone. Inputs are edges
that nobody computes: the client knows them, the server's share of them is zero.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hybrid.models.folding import LinearMap
from hybrid.models.ranges import Bound
from transport.errors import UsageError
from transport.foreign import shown

OUTPUT_SHIFT = "output_shift"
"""Constant of a node whose result is opened at last: by how many bits its map was scaled up."""
_SHARED_KEYS = {
    "scores": "attention",
    "context": "attention",
    "cached_scores": "cached_attention",
    "cached_context": "cached_attention",
}
"""Operations that the same implementations carry."""
WINDOW = "window"
"""Constant of a softmax: how many positions to each side of its own a row of scores sees."""


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
    """Heads of keys and values, those of all conversations of a pass; heads / kv_heads queries that
    stand side by side share one."""
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
    """Public numbers of the operation: the epsilon of a normalisation, `WINDOW` of a softmax."""
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
    labels: tuple[str, ...] = ()
    """Of a classifier: names of the numbers that it opens, of each text."""

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

    def input_bound(self, edge: str) -> Bound | None:
        """What may enter at an input: of the nodes that read it first, the narrowest bound."""
        firsts = [node for node in self.nodes if node.inputs[0] == edge and "input" in node.bounds]
        found = [node.bounds["input"] for node in firsts]
        return min(found, key=lambda bound: bound.max_abs, default=None)

    def scaled_maps(self, maps: Mapping[str, LinearMap]) -> dict[str, LinearMap]:
        """A family's maps by node, with those scaled whose nodes' results are opened scaled."""
        found = dict(maps)
        for node in self.nodes:
            if OUTPUT_SHIFT in node.constants:
                found[node.name] = found[node.name].times(2.0 ** node.constants[OUTPUT_SHIFT])
        return found

    def opened_scale(self) -> float:
        """What the client multiplies what it opens with: undoes the scaling of a node before it."""
        bits = sum(node.constants.get(OUTPUT_SHIFT, 0.0) for node in self.nodes)
        return float(2.0**-bits)

    def __repr__(self) -> str:
        return f"<Graph: {len(self.nodes)} nodes from {', '.join(i.name for i in self.inputs)}>"
