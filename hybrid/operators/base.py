"""What every operation of the graph becomes: a cost before the run and a step during it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from he_linear.ckks.parameters import CkksParameters
from he_linear.exact.ring_parameters import RingParameters
from hybrid.models.folding import FloatArray, LinearMap
from hybrid.models.graph import Node
from hybrid.operators.exact_products import RingParty
from hybrid.operators.exact_rows import RowsParty
from hybrid.operators.homomorphic import HomomorphicParty
from hybrid.operators.pads import LinearPad
from mpc_nonlinear.blocks.session import Context, Products, Session
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import FixedPoint, RingArray
from transport.errors import ConfigError, UsageError
from transport.foreign import shown
from transport.traffic import NO_TRAFFIC, Party, Traffic


@dataclass(frozen=True, slots=True)
class EncodedLinear:
    """A linear node's weights as its packing wants them, and what is added in the clear."""

    encoder: Callable[[], object]
    """Returns what was encoded before, or encodes on the fly."""
    bias: FloatArray
    shift: FloatArray | None

    @classmethod
    def of(cls, encode: Callable[[], object], linear: LinearMap, *, keep: bool) -> EncodedLinear:
        """Encoded now or, unless `keep`, at every use."""
        if not keep:
            return cls(encode, linear.bias, linear.shift)
        encoded = encode()
        return cls(lambda: encoded, linear.bias, linear.shift)

    @property
    def encoded(self) -> object:
        """Weights in the packing's form."""
        return self.encoder()

    def with_constants(self, outputs: list[RingArray], state: RunState) -> list[RingArray]:
        """Bias added to the first output, shift to the second; server only."""
        constants = (self.bias, self.shift)
        return [
            y if c is None else y + state.encode(c)
            for y, c in zip(outputs, constants, strict=False)
        ]


@dataclass(frozen=True, slots=True)
class RingKeySet:
    """Keys for exact products under one parameter set."""

    parameters: RingParameters
    automorphisms: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RunState:
    """One party's half of a running inference."""

    session: Session
    homomorphic: HomomorphicParty
    encoded: Mapping[str, EncodedLinear] = field(default_factory=dict)
    """Server only; empty at the client."""
    maps: Mapping[str, LinearMap] = field(default_factory=dict)
    """Of nodes whose weights are not encoded; server only, empty at the client."""
    ring: Mapping[RingParameters, RingParty] = field(default_factory=dict)
    """This party's keys for exact products."""
    products: Mapping[str, Products] = field(default_factory=dict)
    """Engines of elementwise products with this party's keys, by name."""
    pads: dict[str, LinearPad] = field(default_factory=dict)
    """Of linear layers prepared offline, by node."""
    slots: RowsParty | None = None
    """This party's keys for integers modulo a prime in slots."""
    rows: dict[str, deque[LinearPad]] = field(default_factory=dict)
    """Prepared rows of linear layers for tokens to come, by node."""
    caches: dict[str, Any] = field(default_factory=dict)
    """What a conversation keeps, by layer: shares of keys and values, correlations."""
    to_come: dict[str, Any] = field(default_factory=dict)
    """The same of the next conversation, as far as it is made, by node; taken as that begins."""
    prefix: Mapping[str, FloatArray] = field(default_factory=dict)
    """Server only: keys and values of the public prefix, (kv_heads, positions, size), by the node
    that reads them; keys that may be turned: (turns, kv_heads, positions, size)."""
    fillers: tuple[int, ...] = field(default=(0,), repr=False)
    """Client only: of each conversation, rows before its first token, which are none, behind those
    that are idle. They decide what the client takes obliviously and go nowhere else."""
    idle: tuple[int, ...] = ()
    """Of each conversation that shares passes with longer ones, rows before its own first bucket;
    both parties know them. Empty: none has any."""

    @property
    def is_client(self) -> bool:
        """Whether this party is the client."""
        return self.session.party is Party.CLIENT

    def encode(self, x: FloatArray) -> RingArray:
        """Fixed-point encoding of a public or own constant."""
        return self.session.fixed_point.encode(x)


@dataclass(frozen=True, slots=True)
class Choice:
    """The implementation of one step."""

    protocol: str
    """Its name in the catalog."""
    multiply: str = ""
    """Steps that multiply elements: who does."""
    prepared: bool = False
    """Linear steps: whether their offline half comes before the input."""

    @property
    def label(self) -> str:
        """Name for a reader."""
        extra = "prepared" if self.prepared else self.multiply
        return f"{self.protocol} ({extra})" if extra else self.protocol


@dataclass(frozen=True, slots=True)
class PlanContext:
    """Public parameters that operators share."""

    parameters: CkksParameters
    deep: CkksParameters
    """Of polynomials in slots."""
    fixed_point: FixedPoint
    products: Mapping[str, Products]
    """Engines of elementwise products, by name."""
    source: type[CorrelationSource]
    baby_steps: int | None = None
    """None: chosen by cost, layer by layer."""
    exact: bool = False
    """Whether the lifts of homomorphic results never fail."""
    output_bits: int = 6
    batch_rows: int = 0
    """Decoders: rows of linear layers that are prepared at once."""
    first_rows: int = 0
    """The same for a prompt that waits for them; 0: no other batches."""

    def mpc(self, multiply: str) -> Context:
        """Of a step that multiplies by this engine; `ConfigError` where there is none."""
        if multiply not in self.products:
            raise ConfigError(
                f"multiply: no engine of products is called {shown(multiply)}; "
                f"known: {', '.join(self.products)}"
                + ("; 'dealer' needs mpc.correlations: dealer" if multiply == "dealer" else "")
            )
        return Context(self.fixed_point, self.products[multiply])


class Operator(ABC):
    """A graph node bound to an engine and an implementation.

    A class says which entries of the catalog it serves; `hybrid.operators.OPERATORS` lists all.
    """

    engine: str
    """he_linear or mpc_nonlinear, or both where a protocol needs both."""
    protocol: str
    multiply: str = ""
    """Name of the engine of elementwise products, where the step takes one."""
    entries: ClassVar[type[Any]]
    """Base class of the catalog entries that it serves."""
    takes_multiply: ClassVar[bool] = False
    """Whether a choice names an engine of elementwise products."""
    takes_prepared: ClassVar[bool] = False
    """Whether a choice may say that it is prepared."""
    encodes_for_any_rows: ClassVar[bool] = False
    """Of weights: whether those encoded for one pass of a decoder serve passes of other lengths."""
    outlasts_pass: ClassVar[bool] = False
    """Whether what it keeps serves several passes of a decoder, so that all make one choice."""

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        """`HybridError` where entry or choice does not fit the node."""
        self.node = node
        self.context = context
        self.protocol = entry.name
        for key, value, taken in (
            ("multiply", choice.multiply, self.takes_multiply),
            ("prepared", choice.prepared, self.takes_prepared),
        ):
            if value and not taken:
                raise ConfigError(
                    f"schedule: {node.name}: {key}: {shown(value)} would be ignored by "
                    f"{entry.name}; remove it"
                )

    @classmethod
    def choices(cls, entry: Any, products: Mapping[str, Products]) -> Iterator[Choice]:
        """Every way in which a schedule may use this entry."""
        del products
        yield Choice(entry.name)

    @classmethod
    def named_choice(cls, entry: Any, multiply: str, prepared: bool) -> Choice:
        """What a config means that names this entry, products and the phase of linear layers."""
        del multiply, prepared
        return Choice(entry.name)

    @property
    def products(self) -> Products | None:
        """The engine of elementwise products, where the step takes one."""
        return self.context.products[self.multiply] if self.multiply else None

    def declared_error(self) -> float:
        """Largest distance from the operation at the node's ranges; 0 if none is declared."""
        return 0.0

    def constant_error(self) -> float:
        """What the implementation declares whatever the ranges; 0 if nothing."""
        return 0.0

    def offline_cost(self) -> Cost:
        """Messages before the input is known, besides correlations."""
        return NO_COST

    def setup_traffic(self) -> Traffic:
        """Messages of `setup`."""
        return NO_TRAFFIC

    def setup(self, session: Session, encoded: EncodedLinear | None) -> None:  # noqa: B027
        """Once a session, after base OTs; `encoded` is the server's."""

    @property
    def uses_ckks(self) -> bool:
        """Whether it takes CKKS keys."""
        return False

    def batch_cost(self) -> Cost:
        """Of one batch of what serves `batch_rows` rows of any pass; nothing for most."""
        return NO_COST

    def prepare_batch(self, state: RunState) -> None:  # noqa: ARG002
        """Work that `batch_cost` declares; called where that is not nothing."""
        raise UsageError(f"{self.node.name}: declares no batches, and was asked for one")

    def first_batch_cost(self) -> Cost:
        """Of one batch of `first_rows` rows; nothing where there are no such batches."""
        return NO_COST

    def prepare_first_batch(self, state: RunState) -> None:  # noqa: ARG002
        """Work that `first_batch_cost` declares; called where that is not nothing."""
        raise UsageError(f"{self.node.name}: declares no small batches, and was asked for one")

    def join(self, operators: Sequence[Operator]) -> None:  # noqa: B027
        """All operators of a conversation, in order: some prepare together with others."""

    def conversation_cost(self, made: int = 0) -> Cost:  # noqa: ARG002
        """Of what serves all passes of one conversation; nothing for most.

        made: pieces that are there; always 0 where there are none.
        """
        return NO_COST

    def prepare_conversation(self, state: RunState) -> None:  # noqa: ARG002
        """Work that `conversation_cost` declares; called where that is not nothing."""
        raise UsageError(f"{self.node.name}: declares nothing for a conversation, and was asked")

    @property
    def pieces_ahead(self) -> int:
        """Of a conversation to come, how many pieces can be made before it begins, in order."""
        return 0

    def piece_cost(self, piece: int) -> Cost:  # noqa: ARG002
        """Of one piece, counted from 0; `conversation_cost` has what is then left."""
        return NO_COST

    def prepare_piece(self, piece: int, state: RunState) -> None:  # noqa: ARG002
        """Work that `piece_cost` declares, into `state.to_come`, for one conversation."""
        raise UsageError(f"{self.node.name}: declares no pieces, and was asked for one")

    def prepare(self, state: RunState) -> None:  # noqa: ARG002
        """Work that `offline_cost` declares; called where that is not nothing."""
        raise UsageError(f"{self.node.name}: declares no offline work, and was asked for it")

    @property
    def galois_steps(self) -> tuple[int, ...]:
        """Rotations that need keys."""
        return ()

    @property
    def slot_steps(self) -> tuple[int, ...] | None:
        """Rotations of slots modulo a prime that need keys; None: it takes no such keys."""
        return None

    @property
    def ring_keys(self) -> RingKeySet | None:
        """Keys for exact products, if it takes any."""
        return None

    @property
    def needs_relinearisation(self) -> bool:
        """Whether a relinearisation key is needed."""
        return False

    @abstractmethod
    def parameters(self) -> dict[str, float | int | str]:
        """Public parameters of the protocol, for the plan and its hash."""

    @abstractmethod
    def cost(self) -> Cost:
        """Exact traffic and correlations, bound on the failure probability."""

    @abstractmethod
    def run(self, inputs: list[RingArray], state: RunState) -> list[RingArray]:
        """Shares of the node's outputs from shares of its inputs."""


class MultiplyingOperator(Operator):
    """An operator that multiplies elements by an engine that its choice names."""

    engine = "mpc_nonlinear"
    takes_multiply = True

    @classmethod
    def choices(cls, entry: Any, products: Mapping[str, Products]) -> Iterator[Choice]:
        """With every engine of products."""
        yield from (Choice(entry.name, multiply) for multiply in products)

    @classmethod
    def named_choice(cls, entry: Any, multiply: str, prepared: bool) -> Choice:
        """With the engine that the config names."""
        del prepared
        return Choice(entry.name, multiply)

    def __init__(self, node: Node, entry: Any, choice: Choice, context: PlanContext) -> None:
        super().__init__(node, entry, choice, context)
        self.multiply = choice.multiply
        self._mpc = context.mpc(choice.multiply)

    def _multiplying(self, state: RunState) -> Session:
        """The session with that engine."""
        return state.session.with_products(state.products[self.multiply])


class WeightedOperator(Operator):
    """An operator that multiplies by the server's weights."""

    outlasts_pass = True

    @property
    @abstractmethod
    def encoded_bytes(self) -> int:
        """Memory of the encoded weights."""

    @abstractmethod
    def encode(self, linear: LinearMap, *, keep: bool = True) -> EncodedLinear:
        """Weights in the packing's form, made now or, unless `keep`, at every use; server only."""
