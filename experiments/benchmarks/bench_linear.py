"""Every packing of the homomorphic engine between two pinned processes, conversions included.

Weights are encoded before, keys made before; seconds cover encryption, transfer, evaluation,
masking, decryption and decoding. One JSON line a phase on standard output, a table on standard
error.

    python experiments/benchmarks/bench_linear.py
    python experiments/benchmarks/bench_linear.py --only token_periodic --shapes 77x400x1000
"""

from __future__ import annotations

import argparse
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pair import Outcome, emit, measure, parse_shapes, refuse, shape_name

import numpy as np  # isort: skip
from numpy.typing import NDArray

from he_linear.ckks.keys import ClientKeys, ServerKeys, public_key_bytes
from he_linear.ckks.parameters import PARAMETER_SETS, set_for_products
from he_linear.exact.ring_keys import RingClientKeys, RingServerKeys, ring_public_key_bytes
from he_linear.exact.ring_parameters import RING_SETS, RingParameters
from he_linear.packings.coefficients import CoefficientsPacking
from hybrid.config.schema import LINK_PROFILES
from hybrid.models.folding import LinearMap
from hybrid.models.graph import Node
from hybrid.models.ranges import Bound
from hybrid.operators.base import Choice, EncodedLinear, PlanContext, RunState
from hybrid.operators.dealt_layers import BeaverAttention, BeaverLinear
from hybrid.operators.exact_layers import RING_SET
from hybrid.operators.exact_products import (
    ExactWeights,
    RingClient,
    RingParty,
    RingServer,
    exact_linear_prepared,
    prepare_rows,
)
from hybrid.operators.homomorphic import HomomorphicClient, HomomorphicServer
from hybrid.operators.pads import LinearPad
from hybrid.operators.slot_products import POLYNOMIAL_PRODUCTS, CkksProducts
from hybrid.planning.binding import operator_for
from hybrid.planning.catalog import load_catalog
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.blocks.truncate import truncate, truncate_cost
from mpc_nonlinear.correlations import FerretSource
from mpc_nonlinear.fixed_point import FixedPoint
from transport.channel import Channel
from transport.randomness import SecureRandom
from transport.traffic import Party

PREPARED = "_prepared"
ROWS = "coefficients_rows"
ROWS_AT_ONCE = 32
LINEAR_SHAPES = "32x384x384,32x384x1152,32x384x1536,32x1536x384,128x768x768,1x768x768"
ATTENTION_SHAPES = "12x32x32x32"
MULTIPLY_SHAPES = "49152"
FIXED = FixedPoint(16)
PARAMETERS = PARAMETER_SETS["n8192_q88"]
_BOUND = Bound(0.0, 1.0, 8.0)


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    op: str
    shape: tuple[int, ...]
    packing: str
    baby_steps: int | None = None


def workload(case: Case) -> tuple[list[NDArray[np.float64]], NDArray[np.float64]]:
    """Shared inputs (for matmul: input, then weights) and the float64 result."""
    rng = np.random.default_rng(20240)
    if case.op == "multiply":
        x, y = rng.normal(size=(2, *case.shape))
        return [x, y], x * y
    *rows, inner, columns = case.shape
    x = rng.normal(size=(*rows, inner))
    w = rng.normal(0, inner**-0.5, (*rows[:-1], inner, columns))
    return [x, w], x @ w


def _shares(values: NDArray[np.float64], party: Party) -> NDArray[np.uint64]:
    # The same for both parties: how inputs came to be shared is not what is measured.
    mask = SecureRandom(bytes(32), domain="benchmark").uint64(values.shape)
    return mask if party is Party.CLIENT else FIXED.encode(values) - mask


class OperatorRunner:
    """A linear or attention operator on shares."""

    def __init__(self, case: Case, channel: Channel) -> None:
        values, _ = workload(case)
        self._prepared = case.packing.endswith(PREPARED)
        op = "linear" if case.op == "matmul" else "attention"
        entry = load_catalog()[op, case.packing.removesuffix(PREPARED)]
        context = _context(case)
        choice = Choice(entry.name, prepared=self._prepared)
        bounds: Any = dict.fromkeys(("input", "output", "left", "right"), _BOUND)
        self._operator: Any
        encoded = {}
        if case.op == "matmul":
            node = Node("layer", 0, "linear", ("x",), ("y",), case.shape, bounds)
            self._operator = operator_for(entry)(node, entry, choice, context)
            self._inputs = [_shares(values[0], channel.party)]
            if channel.party is Party.SERVER:
                linear = LinearMap(values[1], np.zeros(case.shape[-1]), None, None)
                encoded = {"layer": self._operator.encode(linear)}
        else:
            node = Node("product", 0, "scores", ("x",), ("y",), case.shape, bounds)
            self._operator = operator_for(entry)(node, entry, choice, context)
            self._inputs = [_attention_input(values, channel.party)]
        self._state = _state(channel, context, self._operator, encoded)

    def offline(self) -> None:
        """Correlations and the pad, where there are any."""
        session, cost = self._state.session, self._operator.cost()
        session.correlations.produce(cost.ots, session.channel)
        session.prepared.prepare(cost.demand)
        if self._prepared:
            self._operator.prepare(self._state)

    def online(self) -> NDArray[np.uint64]:
        """The operator."""
        (result,) = self._operator.run(self._inputs, self._state)
        return np.asarray(result)


class RowsRunner:
    """One token under rows of rho W that one offline product prepared for many tokens."""

    def __init__(self, case: Case, channel: Channel) -> None:
        _, d_in, d_out = case.shape
        values, _ = workload(case)
        parameters = RING_SETS[RING_SET]
        self._packing = CoefficientsPacking(parameters, ROWS_AT_ONCE, d_in, d_out)
        self._channel, self._pads = channel, deque[LinearPad]()
        self._weights = None
        self._party: RingParty
        keys = self._packing.automorphisms
        if channel.party is Party.CLIENT:
            made = RingClientKeys(parameters, keys, SecureRandom())
            channel.send(made.public_bytes())
            self._party = RingClient(made, SecureRandom())
        else:
            data = channel.recv(ring_public_key_bytes(parameters, len(keys)))
            self._party = RingServer(RingServerKeys.parse(parameters, data, keys), SecureRandom())
            integers = np.rint(values[1] / FIXED.unit).astype(np.int64)
            self._weights = ExactWeights.encode(integers, self._packing)
        source = FerretSource(channel.party, SecureRandom())
        source.setup(channel)
        products = OtProducts(FIXED.fraction_bits)
        self._session = Session(channel, Context(FIXED, products), source, SecureRandom())
        self._cost = truncate_cost(d_out, FIXED.fraction_bits)
        self._input = _shares(values[0][0], channel.party)

    def offline(self) -> None:
        """Rows for `ROWS_AT_ONCE` tokens, of which one is used."""
        self._pads = deque(prepare_rows(self._packing, self._party, self._channel, self._weights))
        self._session.correlations.produce(self._cost.ots, self._channel)
        self._session.prepared.prepare(self._cost.demand)

    def online(self) -> NDArray[np.uint64]:
        """One token."""
        pad = self._pads.popleft()
        product = exact_linear_prepared(self._input, pad, self._channel, self._weights)
        return truncate(product, FIXED.fraction_bits, self._session)


def _attention_input(values: list[NDArray[np.float64]], party: Party) -> NDArray[np.uint64]:
    """Query and key as the graph's node wants them: (tokens, 3 hidden); the value is unused."""
    left, right = values
    heads, rows, inner = left.shape
    query = left.transpose(1, 0, 2).reshape(rows, -1)
    key = right.transpose(2, 0, 1).reshape(right.shape[2], -1)
    if len(query) != len(key):
        refuse("attention: rows and columns must be equal, as for queries and keys")
    full = np.concatenate([query, key, np.zeros((rows, heads * inner))], axis=1)
    return _shares(full, party)


class ProductRunner:
    """Elementwise products in slots."""

    def __init__(self, case: Case, channel: Channel) -> None:
        values, _ = workload(case)
        context = _context(case)
        state = _state(channel, context, None, {})
        products: Any = context.mpc.products
        object.__setattr__(products, "party", state.homomorphic)
        self._products, self._session = products, state.session
        self._inputs = [_shares(v, channel.party) for v in values]

    def offline(self) -> None:
        """Nothing."""

    def online(self) -> NDArray[np.uint64]:
        """One product."""
        bounds = Bounds(1.0, 1.0, 1.0)
        return np.asarray(self._products.multiply(*self._inputs, self._session, bounds))


def _context(case: Case) -> PlanContext:
    deep = set_for_products(POLYNOMIAL_PRODUCTS)
    products = CkksProducts(PARAMETERS, deep, FIXED.fraction_bits)
    named = {products.name: products}
    return PlanContext(PARAMETERS, deep, FIXED, named, FerretSource, case.baby_steps)


@lru_cache(maxsize=2)
def _client_keys(steps: tuple[int, ...]) -> ClientKeys:
    return ClientKeys.generate(PARAMETERS, steps, True, SecureRandom())


def _state(
    channel: Channel, context: PlanContext, operator: Any, encoded: dict[str, EncodedLinear]
) -> RunState:
    steps = operator.galois_steps if operator is not None else ()
    wanted = operator.ring_keys if operator is not None else None
    homomorphic: Any
    ring: dict[RingParameters, RingParty] = {}
    if channel.party is Party.CLIENT:
        keys = _client_keys(steps)
        channel.send(keys.public_bytes())
        homomorphic = HomomorphicClient([keys], SecureRandom())
        if wanted is not None:
            made = RingClientKeys(wanted.parameters, wanted.automorphisms, SecureRandom())
            channel.send(made.public_bytes())
            ring[wanted.parameters] = RingClient(made, SecureRandom())
    else:
        data = channel.recv(public_key_bytes(PARAMETERS, len(steps), True))
        parsed = ServerKeys.parse(PARAMETERS, data, steps, True)
        homomorphic = HomomorphicServer([parsed], SecureRandom())
        if wanted is not None:
            size = ring_public_key_bytes(wanted.parameters, len(wanted.automorphisms))
            received = RingServerKeys.parse(
                wanted.parameters, channel.recv(size), wanted.automorphisms
            )
            ring[wanted.parameters] = RingServer(received, SecureRandom())
    source = FerretSource(channel.party, SecureRandom())
    source.setup(channel)
    session = Session(channel, context.mpc(CkksProducts.name), source, SecureRandom())
    return RunState(session, homomorphic, encoded, ring=ring)


def factory(channel: Channel, case: Case) -> Any:
    """One party's side."""
    if case.packing == ROWS:
        return RowsRunner(case, channel)
    return ProductRunner(case, channel) if case.op == "multiply" else OperatorRunner(case, channel)


def report(case: Case, outcome: Outcome) -> None:
    """Errors relative to the largest true output."""
    _, expected = workload(case)
    error = FIXED.decode(outcome.result).reshape(expected.shape) - expected
    largest = np.abs(expected).max()
    errors = {
        "rms_error": float(np.sqrt((error**2).mean()) / largest),
        "max_error": float(np.abs(error).max() / largest),
    }
    emit({"op": case.op, "shape": shape_name(case.shape), "packing": case.packing}, outcome, errors)


def cases(arguments: argparse.Namespace) -> list[Case]:
    """What the command line asks for; what needs a dealer is no product of this engine."""
    catalog = load_catalog()
    found = [
        Case("matmul", shape, name + suffix, arguments.baby_steps)
        for shape in parse_shapes(arguments.shapes or LINEAR_SHAPES)
        for name in catalog.names("linear")
        if catalog["linear", name] is not BeaverLinear
        for suffix in ("", PREPARED)
        if not suffix or name == "token_periodic"
    ]
    # Offline figures of these are for ROWS_AT_ONCE tokens together.
    found += [
        Case("matmul", shape, ROWS)
        for shape in parse_shapes(arguments.shapes or LINEAR_SHAPES)
        if shape[0] == 1
    ]
    if not arguments.shapes:
        found += [
            Case("attention", shape, name)
            for shape in parse_shapes(ATTENTION_SHAPES)
            for name in catalog.names("attention")
            if catalog["attention", name] is not BeaverAttention
        ]
        found += [Case("multiply", shape, "slots") for shape in parse_shapes(MULTIPLY_SHAPES)]
    if arguments.only:
        wanted = set(arguments.only.split(","))
        unknown = wanted - {c.packing for c in found} - {c.op for c in found}
        if unknown:
            known = sorted({c.packing for c in found} | {c.op for c in found})
            refuse(f"--only: unknown {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        found = [c for c in found if c.packing in wanted or c.op in wanted]
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shapes", help="tokens x in x out, comma separated")
    parser.add_argument("--only", help="packings or operations, comma separated")
    parser.add_argument("--runs", type=int, default=3, help="after one warm-up; median reported")
    parser.add_argument("--baby-steps", type=int, help="power of two; chosen by cost if absent")
    parser.add_argument("--link", choices=list(LINK_PROFILES), help="imitate a network")
    arguments = parser.parse_args()
    link = LINK_PROFILES.get(arguments.link)
    measure(factory, cases(arguments), runs=arguments.runs, report=report, link=link)


if __name__ == "__main__":
    main()
