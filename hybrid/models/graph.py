"""Operations and the edges between them: shapes and bounds, no cryptography, no kind of model.

A family of models builds a `Graph`; everything after that works on nodes alone. Inputs are edges
that nobody computes: the client knows them, the server's share of them is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hybrid.models.folding import LinearMap
from hybrid.models.ranges import Bound, Ranges, held, held_variance, output_shift, shifted
from hybrid.models.relative_positions import Buckets
from transport.errors import ConfigError, UsageError
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


class GraphBuilder:
    """Collects the nodes of one model; families name edges, ranges know their bounds."""

    def __init__(self, tokens: int, batch: int, ranges: Ranges) -> None:
        self.tokens, self.batch = tokens, batch
        self._ranges = ranges
        self._nodes: list[Node] = []
        self._inputs: list[GraphInput] = []
        self._labels: tuple[str, ...] = ()

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
        layer, name = place[0], node_name(place)
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
        bounds = {
            "input": self.bound(f"{name}.sum"),
            "variance": self.variance(f"{name}.variance", epsilon),
        }
        return self.add(
            place,
            "layernorm",
            (source, beside),
            (self.rows, width),
            bounds,
            constants={"epsilon": epsilon},
            residuals=1,
        )

    def norm(
        self, place: tuple[int, str], op: str, sources: Sequence[str], width: int, epsilon: float
    ) -> tuple[str, str]:
        """A normalisation of a sum without gain and bias: its edge, and that of the sum."""
        name = node_name(place)
        square = "mean_square" if op == "rmsnorm" else "variance"
        bounds = {"input": self.bound(f"{name}.sum")}
        role = "square" if op == "rmsnorm" else "variance"
        bounds[role] = self.variance(f"{name}.{square}", epsilon)
        edge = self.add(
            place,
            op,
            sources,
            (self._rows_at(place), width),
            bounds,
            constants={"epsilon": epsilon},
            residuals=len(sources) - 1,
            also=() if len(sources) == 1 else (f"{name}.sum",),
        )
        return edge, sources[0] if len(sources) == 1 else f"{name}.sum"

    def _rows_at(self, place: tuple[int, str]) -> int:  # noqa: ARG002
        """Rows of the edges there: those of all texts."""
        return self.rows

    def self_attention(
        self,
        layer: int,
        sources: tuple[str, str],
        sizes: tuple[int, int],
        window: int | None = None,
        buckets: Buckets | None = None,
    ) -> str:
        """Contexts (rows, heads * size) of a text's rows among themselves.

        sources: queries, keys and values of every row in one edge, and the client's mask; sizes:
        heads of a text, columns of one; window: positions to each side that a row sees; buckets:
        of relative positions, by which scores are biased.
        """
        (qkv, mask), (heads, size) = sources, sizes
        name, t, bound = f"layer{layer}", self.tokens, self.bound
        heads *= self.batch
        bounds = {"left": bound(f"{name}.query"), "right": bound(f"{name}.key")}
        bounds["output"] = bound(f"{name}.scores")
        scores = self.add((layer, "scores"), "scores", (qkv,), (heads, t, size, t), bounds)
        if buckets is not None:
            scores = self.score_bias(layer, scores, heads, buckets)
        # One that reaches every position hides nothing.
        hides = {} if window is None or window >= t - 1 else {WINDOW: float(window)}
        weights = self.add(
            (layer, "softmax"),
            "softmax",
            (scores, mask),
            (heads, t, t),
            {"input": bound(scores)},
            constants=hides,
        )
        bounds = {"left": Bound(2.0**-20, 1.0, 1.0), "right": bound(f"{name}.value")}
        bounds["output"] = bound(f"{name}.context")
        shape = (heads, t, t, size)
        return self.add((layer, "context"), "context", (weights, qkv), shape, bounds)

    def rotary(
        self, layer: int, source: str, turned: int, sizes: tuple[int, int, float], first: int = 0
    ) -> str:
        """Rotary positions on the first `turned` heads, of every text from `first` on.

        sizes: columns in all, of a head, theta.
        """
        columns, size, theta = sizes
        name = f"layer{layer}"
        parts = [self.bound(f"{name}.{part}") for part in ("query", "key")]
        bounds = {"input": max(parts, key=lambda bound: bound.rms)}
        constants = {"theta": theta, "size": size, "heads": turned, "first": first}
        shape = (self.rows, columns)
        return self.add((layer, "rotary"), "rotary", (source,), shape, bounds, constants=constants)

    def halves(
        self, layer: int, source: str, names: tuple[str, str], width: int
    ) -> tuple[str, str]:
        """The left and the right `width` columns of an edge."""
        other = f"layer{layer}.{names[1]}"
        shape = (self.rows, 2 * width)
        return self.add((layer, names[0]), "halves", (source,), shape, {}, also=(other,)), other

    def gated(
        self, layer: int, sources: tuple[str, str], names: tuple[str, str], width: int
    ) -> str:
        """The product of two edges, element by element; names: of their bounds."""
        name = f"layer{layer}"
        roles = zip(("left", "right", "output"), (*names, "gated"), strict=True)
        bounds = {role: self.bound(f"{name}.{edge}") for role, edge in roles}
        return self.add((layer, "gated"), "product", sources, (self.rows, width), bounds)

    def name_outputs(self, labels: tuple[str, ...]) -> None:
        """What the numbers that are opened are called."""
        self._labels = labels

    def score_bias(self, layer: int, scores: str, heads: int, buckets: Buckets) -> str:
        """Scores of all heads of all texts, and the server's bias of each by relative position."""
        constants = {"buckets": buckets.count, "max_distance": buckets.max_distance}
        shape = (heads, self.tokens, self.tokens)
        return self.add(
            (layer, "score_bias"), "score_bias", (scores,), shape, {}, constants=constants
        )

    def bound(self, edge: str) -> Bound:
        """Of an edge that the plain model showed.

        `ConfigError` where there is none, or none that fixed point holds.
        """
        return held(edge, self._found(edge))

    def variance(self, edge: str, epsilon: float) -> Bound:
        """As `bound`, of a variance or mean square; `ConfigError` also where it is too small."""
        return held_variance(edge, self._found(edge), epsilon)

    def opened(self, edge: str) -> tuple[Bound, Mapping[str, float]]:
        """Bound of an edge that is opened and nothing else, and constants for its node.

        The map of that node, behind which nothing but choices follow, is scaled to where fixed
        point holds the result (`Graph.scaled_maps`); the client scales back (`opened_scale`).
        """
        found = self._found(edge)
        bits = output_shift(found)
        return shifted(found, bits), {OUTPUT_SHIFT: float(bits)} if bits else {}

    def _found(self, edge: str) -> Bound:
        try:
            return self._ranges[edge]
        except KeyError:
            raise ConfigError(
                f"ranges: none for edge {shown(edge)}; they must come from this model's weights"
            ) from None

    def graph(self, outputs: tuple[str, ...], disclosures: Sequence[str]) -> Graph:
        """What was collected."""
        nodes, inputs = tuple(self._nodes), tuple(self._inputs)
        return Graph(nodes, inputs, outputs, tuple(disclosures), self._labels)


def node_name(place: tuple[int, str]) -> str:
    """Of the node of a layer's part; outside the layers, where the layer is -1, the part's."""
    layer, part = place
    return part if layer < 0 else f"layer{layer}.{part}"


def normalised_bound(width: int) -> Bound:
    """Of normalised rows: root mean square one by construction, at most sqrt(width)."""
    return Bound(2.0**-20, 1.0, float(1 << (width - 1).bit_length()))
