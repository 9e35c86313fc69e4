"""What every operation of the graph becomes: a cost before the run and a step during it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from he_linear.ckks.parameters import CkksParameters
from he_linear.exact.ring_parameters import RingParameters
from hybrid.models.folding import FloatArray, LinearMap
from hybrid.models.graph import Node
from hybrid.operators.exact_products import RingParty
from hybrid.operators.homomorphic import HomomorphicParty
from hybrid.operators.pads import LinearPad
from mpc_nonlinear.blocks.session import Context, Products, Session
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RingArray
from transport.traffic import NO_TRAFFIC, Party, Traffic


@dataclass(frozen=True, slots=True)
class EncodedLinear:
    """A linear node's weights as its packing wants them, and what is added in the clear."""

    encoder: Callable[[], object]
    """Returns what was encoded before, or encodes on the fly."""
    bias: FloatArray
    shift: FloatArray | None

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
    encoded: Mapping[str, EncodedLinear]
    """Server only; empty at the client."""
    pool_gain: FloatArray | None
    """Server only."""
    pool_bias: FloatArray | None
    mask: NDArray[np.bool_] | None
    """Client only: true for real tokens, (batch, tokens)."""
    ring: Mapping[RingParameters, RingParty] = field(default_factory=dict)
    """This party's keys for exact products."""
    products: Mapping[str, Products] = field(default_factory=dict)
    """Engines of elementwise products with this party's keys, by name."""
    pads: dict[str, LinearPad] = field(default_factory=dict)
    """Of linear layers prepared offline, by node."""

    @property
    def is_client(self) -> bool:
        """Whether this party is the client."""
        return self.session.party is Party.CLIENT

    def encode(self, x: FloatArray) -> RingArray:
        """Fixed-point encoding of a public or own constant."""
        return self.session.fixed_point.encode(x)


@dataclass(frozen=True, slots=True)
class PlanContext:
    """Public parameters that operators share."""

    parameters: CkksParameters
    mpc: Context
    deep: CkksParameters
    """Of polynomials in slots."""
    baby_steps: int | None
    """None: chosen by cost, layer by layer."""
    output_bits: int
    linear_offline: bool
    """Whether linear layers are prepared before the input is known."""
    exact: bool = False
    """Whether the lifts of homomorphic results never fail."""


class Operator(ABC):
    """A graph node bound to an engine and a protocol."""

    engine: str
    """he_linear or mpc_nonlinear, or both where a protocol needs both."""
    protocol: str
    multiply: str = ""
    """Name of the engine of elementwise products, where the protocol takes them."""

    def __init__(self, node: Node, context: PlanContext) -> None:
        self.node = node
        self.context = context

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

    def prepare(self, state: RunState) -> None:
        """Work that `offline_cost` declares; called where that is not nothing."""
        raise NotImplementedError(f"{self.node.name} declares no offline work: {state}")

    @property
    def galois_steps(self) -> tuple[int, ...]:
        """Rotations that need keys."""
        return ()

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


class WeightedOperator(Operator):
    """An operator that multiplies by the server's weights."""

    @property
    @abstractmethod
    def encoded_bytes(self) -> int:
        """Memory of the encoded weights."""

    @abstractmethod
    def encode(self, linear: LinearMap, *, keep: bool = True) -> EncodedLinear:
        """Weights in the packing's form, made now or, unless `keep`, at every use; server only."""
