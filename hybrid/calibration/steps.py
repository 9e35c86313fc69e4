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
from hybrid.models.bert import Bert
from hybrid.models.folding import LinearMap
from hybrid.models.graph import Graph, Node
from hybrid.models.heads import Head
from hybrid.models.poolings import Mean
from hybrid.models.ranges import Bound
from hybrid.operators.base import EncodedLinear, RunState, WeightedOperator
from hybrid.operators.homomorphic import HomomorphicParty
from hybrid.planning.binding import Binder
from hybrid.planning.candidates import Candidate, Limits, candidates_of
from hybrid.planning.catalog import load_catalog
from hybrid.planning.pins import Pins
from hybrid.planning.plan import Plan, Step
from hybrid.planning.schedule import Schedule
from hybrid.runtime.key_exchange import receive_keys, send_keys
from hybrid.runtime.session_parts import run_state
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.correlations.dealer import TrustedDealer
from mpc_nonlinear.correlations.softspoken import SoftSpokenSource
from mpc_nonlinear.fixed_point import RingArray
from transport.channel import Channel
from transport.computing import Work
from transport.randomness import SecureRandom
from transport.traffic import NO_TRAFFIC, Party

_RUNS = 3
_HIDDEN = 384
_SIZES = {"hidden": _HIDDEN, "layers": 1, "heads": 12, "intermediate": 1536}
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
        "shape": _SIZES,
        "tokens": _TOKENS,
        "embedding": "public_table",
        "pooling": "mean",
        "normalize": True,
    },
    "ckks": {"parameters": "n8192_q88", "baby_steps": "auto"},
    "mpc": {"fraction_bits": 16, "output_bits": 6},
    "ranges": {"margin": 2.0},
    "scheduler": {"policy": "least_traffic", "max_error": 1.0},
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
    binder = Binder(config, catalog, source)
    limits = Limits(config.scheduler, Pins({}, ()), None)
    steps, graph = [], Graph((), (), ())
    for tokens in (_TOKENS, _FEW_TOKENS, _MANY_TOKENS):
        names = (_LARGE,) if tokens == _MANY_TOKENS else _NODES
        graph = _graph(tokens)
        for node in graph.nodes:
            if node.name in names:
                found = candidates_of(node, binder, limits).fitting
                steps += [
                    (f"{node.name} {c.label}", c.step)
                    for c in found
                    if _belongs(c, tokens, issubclass(source, TrustedDealer))
                ]
    every = tuple(step for _, step in steps)
    schedule = Schedule(source.name, {})
    plan = Plan(graph, every, binder.context, source, NO_TRAFFIC, schedule)
    return _Study(tuple(steps), plan)


def _graph(tokens: int) -> Graph:
    """An encoder of which every edge has the same range."""
    family, ranges = Bert(), defaultdict[str, Bound](lambda: Bound(0.5, 1.0, 16.0))
    sizes = {**_SIZES, "vocabulary": 1024, "positions": 64}
    architecture = family.shape_architecture(sizes, "calibration")
    return family.graph(architecture, ranges, Head(Mean()), tokens, 1)


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
        state = replace(run_state(self._channel, study.plan, homomorphic, source), ring=rings)
        return [o for label, step in study.steps for o in self._step(label, step, state)]

    def _step(self, label: str, step: Step, state: RunState) -> Iterator[Observation]:
        """Making its correlations, preparing it and running it, as far as there is such work."""
        state = replace(state, encoded=self._encoded(step), pads={})
        if isinstance(step.operator, WeightedOperator):
            step.operator.setup(state.session, state.encoded.get(step.node.name))
        cost, shares = step.cost, _shares(step.node, state.is_client, self._rng)
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


def _shares(node: Node, is_client: bool, rng: SecureRandom) -> list[RingArray]:
    """Shares of small numbers, in the shapes of the node's inputs; nothing is masked."""
    hidden, tokens = _HIDDEN, node.shape[-2]
    shapes: dict[str, list[tuple[int, ...]]] = {
        "linear": [node.shape[:2]],
        "scores": [(node.shape[1], 3 * hidden)],
        "context": [node.shape[:3], (node.shape[1], 3 * hidden)],
        "layernorm": [(tokens, hidden)] * 2,
    }
    # Any shares do for timing: protocols do the same whatever the numbers are.
    found = [rng.uint64(shape) >> np.uint64(46) for shape in shapes.get(node.op, [node.shape])]
    if node.op == "softmax":
        found.append(np.full((node.batch, node.shape[-1]), int(is_client), np.uint64))
    return found
