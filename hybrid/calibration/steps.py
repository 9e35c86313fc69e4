"""Steps of a small encoder between the two parties, in every implementation of the catalog.

Interpreter, allocation and caches that other work has used make a step slower than its units,
timed one by one. What whole steps take corrects the units' prices; see `hybrid.calibration.fit`.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hybrid.calibration.timing import forget_caches
from hybrid.config.schema import RunConfig
from hybrid.models.architecture import Architecture
from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node, build_graph
from hybrid.models.ranges import Bound
from hybrid.operators.base import EncodedLinear, RunState, WeightedOperator
from hybrid.operators.homomorphic import HomomorphicParty
from hybrid.planning.binding import Binder
from hybrid.planning.candidates import Candidate, candidates_of
from hybrid.planning.catalog import load_catalog
from hybrid.planning.plan import Plan, Step
from hybrid.planning.schedule import Schedule
from hybrid.runtime.key_exchange import Rings, receive_keys, send_keys
from hybrid.runtime.parties import products_of, with_keys
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.correlations.dealer import TrustedDealer
from mpc_nonlinear.correlations.softspoken import SoftSpokenSource
from mpc_nonlinear.fixed_point import RingArray
from transport.channel import Channel
from transport.computing import Work
from transport.randomness import SecureRandom
from transport.traffic import NO_TRAFFIC, Party

_RUNS = 3
_SHAPE = Architecture(384, 1, 12, 1536, 1024, 64, 1, 1e-12)
_TOKENS, _FEW_TOKENS, _MANY_TOKENS = 16, 4, 64
"""Few where every product takes 64 oblivious transfers; many where a packing's matrices change."""
_PARTS = ("scores", "softmax", "context", "attention_output", "attention_norm", "intermediate")
_NODES = tuple(f"layer0.{part}" for part in (*_PARTS, "gelu"))
_LEFT_OUT = ("halevi_shoup",)
"""Counts units of another packing only, and takes keys of its own."""
_LARGE = "layer0.intermediate"
"""Exact products count the same units here as in the smaller product."""
_CONFIG: Mapping[str, Any] = {
    "name": "calibration",
    "model": {
        "path": ".",
        "tokens": _TOKENS,
        "embedding": "public_table",
        "pooling": "mean",
        "normalize": True,
    },
    "ckks": {"parameters": "n8192_q88", "baby_steps": "auto", "linear_phase": "offline"},
    "mpc": {"fraction_bits": 16, "output_bits": 6, "correlations": "ferret"},
    "protocols": {
        "linear": "token_periodic",
        "attention": "rotated_slots",
        "gelu": "even_polynomial",
        "softmax": "squared_polynomial",
        "layernorm": "octave_polynomial",
        "multiply": "cheapest",
    },
    "calibration": {"margin": 2.0},
    "scheduler": {"max_error": 1.0},
}


@dataclass(frozen=True, slots=True)
class Observation:
    """What a step declares, and how long both parties took from a common start."""

    label: str
    work: Work
    seconds: float


@dataclass(frozen=True, slots=True)
class _Study:
    """The steps of one source of correlations, and a plan of all of them."""

    steps: tuple[tuple[str, Step], ...]
    plan: Plan


def _study(source: type[CorrelationSource]) -> _Study:
    config, catalog = RunConfig.model_validate(_CONFIG), load_catalog()
    binder = Binder(config, _SHAPE, catalog, source)
    bounds: dict[str, Bound] = defaultdict(lambda: Bound(0.5, 1.0, 16.0))
    steps = []
    for tokens in (_TOKENS, _FEW_TOKENS, _MANY_TOKENS):
        names = (_LARGE,) if tokens == _MANY_TOKENS else _NODES
        for node in build_graph(_SHAPE, tokens, bounds):
            if node.name in names:
                found = candidates_of(node, binder, catalog, config, None).fitting
                steps += [
                    (f"{node.name} {c.label}", c.step)
                    for c in found
                    if _belongs(c, tokens, issubclass(source, TrustedDealer))
                ]
    every = tuple(step for _, step in steps)
    schedule = Schedule(source.name, {})
    plan = Plan(every, binder.context, source, NO_TRAFFIC, schedule, binder.products)
    return _Study(tuple(steps), plan)


def _belongs(candidate: Candidate, tokens: int, dealt: bool) -> bool:
    """Each implementation once: by transfers on few tokens, from the dealer with the dealer.

    And one product of many tokens.
    """
    choice, whole = candidate.choice, tokens == _TOKENS
    if tokens == _MANY_TOKENS:
        return choice.protocol == "token_periodic" and not dealt
    if choice.protocol in _LEFT_OUT or choice.multiply == "cheapest":
        return False
    if candidate.step.operator.ring_keys and candidate.step.node.name == _LARGE:
        return False
    if dealt:
        return whole and (choice.multiply == "dealer" or choice.protocol == "beaver")
    return whole == (choice.multiply != "ot")


class StepTimer:
    """One party's side; both run the same steps in the same order."""

    def __init__(self, channel: Channel, wait: Callable[[], None]) -> None:
        self._channel, self._wait = channel, wait
        self._rng = SecureRandom(domain="calibration")

    def without_dealer(self) -> list[Observation]:
        """All but what takes a dealer."""
        return self._observed(SoftSpokenSource, SoftSpokenSource(self._channel.party, self._rng))

    def with_dealer(self, dealer: Channel) -> list[Observation]:
        """What takes a dealer."""
        source = TrustedDealer(self._channel.party, self._rng, dealer)
        found = self._observed(TrustedDealer, source)
        source.close()
        return found

    def _observed(
        self, kind: type[CorrelationSource], source: CorrelationSource
    ) -> list[Observation]:
        study = _study(kind)
        homomorphic: HomomorphicParty
        if self._channel.party is Party.CLIENT:
            homomorphic, rings = send_keys(study.plan, self._channel, self._rng)
        else:
            homomorphic, rings = receive_keys(study.plan, self._channel, self._rng)
        source.setup(self._channel)
        state = self._state(study.plan, homomorphic, rings, source)
        return [o for label, step in study.steps for o in self._step(label, step, state)]

    def _state(
        self, plan: Plan, homomorphic: HomomorphicParty, rings: Rings, source: CorrelationSource
    ) -> RunState:
        products = with_keys(plan.context.mpc.products, homomorphic)
        context = replace(plan.context.mpc, products=products)
        session = Session(self._channel, context, source, self._rng)
        mask = np.ones((1, _TOKENS), np.bool_) if self._channel.party is Party.CLIENT else None
        engines = products_of(plan, homomorphic)
        return RunState(session, homomorphic, {}, None, None, mask, rings, engines)

    def _step(self, label: str, step: Step, state: RunState) -> Iterator[Observation]:
        """Making its correlations, preparing it and running it, as far as there is such work."""
        state = replace(state, encoded=self._encoded(step), pads={})
        if state.mask is not None:
            state = replace(state, mask=state.mask[:, : step.node.shape[-1]])
        if isinstance(step.operator, WeightedOperator):
            step.operator.setup(state.session, state.encoded.get(step.node.name))
        cost, shares = step.cost, _shares(step.node, self._rng)
        source = state.session.correlations
        taken: dict[str, list[float]] = {"produced": [], "made": [], "prepared": [], "run": []}
        for _ in range(_RUNS + 1):
            taken["produced"].append(self._timed(lambda: source.produce(cost.ots, self._channel)))
            taken["made"].append(self._timed(lambda: state.session.prepared.prepare(cost.demand)))
            if step.prepares:
                taken["prepared"].append(self._timed(lambda: step.operator.prepare(state)))
            forget_caches()
            taken["run"].append(self._timed(lambda: step.operator.run(shares, state)))
        works = {
            "produced": type(source).production_work(cost.ots),
            "made": Work.together(cost.demand.offline_units),
            "prepared": step.offline.work,
            "run": cost.work,
        }
        for part, work in works.items():
            if taken[part] and work.counted():
                seconds = statistics.median(taken[part][1:])
                yield Observation(f"{label}: {part}", work, seconds)

    def _timed(self, call: Callable[[], object]) -> float:
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - start

    def _encoded(self, step: Step) -> dict[str, EncodedLinear]:
        """Random weights of the right shape at the server."""
        operator, node = step.operator, step.node
        if self._channel.party is Party.CLIENT or not isinstance(operator, WeightedOperator):
            return {}
        _, d_in, d_out = node.shape
        # Public numbers: they stand for weights of no model.
        weight = np.random.default_rng(0).normal(scale=0.05, size=(d_in, d_out))
        diagonal = (np.ones(d_in), np.zeros(d_in)) if node.diagonal else (None, None)
        return {node.name: operator.encode(LinearMap(weight, np.zeros(d_out), *diagonal))}


def _shares(node: Node, rng: SecureRandom) -> list[RingArray]:
    """Shares of small numbers, in the shapes of the node's inputs."""
    hidden, tokens = _SHAPE.hidden, node.shape[-2]
    shapes: dict[str, list[tuple[int, ...]]] = {
        "linear": [node.shape[:2]],
        "scores": [(node.shape[1], 3 * hidden)],
        "context": [node.shape[:3], (node.shape[1], 3 * hidden)],
        "layernorm": [(tokens, hidden)] * 2,
    }
    # Any shares do for timing: protocols do the same whatever the numbers are.
    return [rng.uint64(shape) >> np.uint64(46) for shape in shapes.get(node.op, [node.shape])]
