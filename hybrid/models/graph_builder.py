"""What families build graphs with: nodes by layer and part, bounds by edge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hybrid.models.graph import OUTPUT_SHIFT, WINDOW, CachePlace, Graph, GraphInput, Node
from hybrid.models.ranges import Bound, Ranges, held, held_variance, output_shift, shifted
from hybrid.models.relative_positions import Buckets
from transport.errors import ConfigError
from transport.foreign import shown


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
        edge, _ = self.norm(place, "layernorm", (source, beside), width, epsilon, keeps_sum=False)
        return edge

    def norm(  # noqa: PLR0913
        self,
        place: tuple[int, str],
        op: str,
        sources: Sequence[str],
        width: int,
        epsilon: float,
        *,
        keeps_sum: bool = True,
    ) -> tuple[str, str]:
        """A normalisation of a sum without gain and bias: its edge, and that of the sum.

        keeps_sum: whether the sum is a second result of the node.
        """
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
            also=(f"{name}.sum",) if keeps_sum and len(sources) > 1 else (),
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
        return held(edge, shifted(found, bits)), {OUTPUT_SHIFT: float(bits)} if bits else {}

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
