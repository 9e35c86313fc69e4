"""Every nonlinear protocol between two pinned processes, its randomness produced offline.

Base oblivious transfers and keys are set-up; producing correlations is the offline phase, triples
and cubes modulo a prime among them. A protocol that takes one engine of products gets it. One JSON
line a phase on standard output; on standard error a table, bits per element and the share of time
that each part of the code took.

    python experiments/benchmarks/bench_nonlinear.py
    python experiments/benchmarks/bench_nonlinear.py --only gelu,softmax --shape 77x1000
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
from collections import Counter
from math import prod
from pathlib import Path
from typing import Any

from pair import Outcome, emit, measure, parse_shapes, refuse, shape_name

import numpy as np  # isort: skip
from nonlinear_cases import (
    DEFAULT_SHAPES,
    FIXED,
    Case,
    choices,
    engine_of,
    expected,
    inputs,
    protocol,
)

from he_linear.ckks.keys import ClientKeys, ServerKeys, public_key_bytes
from he_linear.ckks.parameters import PARAMETER_SETS, set_for_products
from he_linear.packings.row_blocks import Room
from hybrid.config.schema import LINK_PROFILES
from hybrid.operators.exact_rows import RowsClient, RowsParty, RowsServer
from hybrid.operators.homomorphic import HomomorphicClient, HomomorphicServer
from hybrid.operators.slot_products import POLYNOMIAL_PRODUCTS, CheapestProducts, CkksProducts
from hybrid.operators.slot_triples import TRIPLE_PARAMETERS, make_triples
from hybrid.runtime.session_parts import with_keys
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.session import Context, Products, Session
from mpc_nonlinear.correlations import SOURCES
from mpc_nonlinear.fixed_point import RingArray
from transport.channel import Channel
from transport.randomness import SecureRandom
from transport.traffic import Party

SHALLOW, DEEP = PARAMETER_SETS["n8192_q88"], set_for_products(POLYNOMIAL_PRODUCTS)
LOCAL_SOURCES = {s.name: s for s in SOURCES if s.name != "dealer"}


def products(kind: str) -> Products:
    """Elementwise products by name."""
    in_slots, by_ot = CkksProducts(SHALLOW, DEEP, FIXED.fraction_bits), OtProducts(16)
    # Four bytes an oblivious transfer: what counts here is that it is more than none.
    by_triples = PrimeProducts(FIXED.fraction_bits, TRIPLE_PARAMETERS.plain_prime)
    cheapest = CheapestProducts((in_slots, by_ot), 0.25)
    by_name = {"ckks": in_slots, "ot": by_ot, "cheapest": cheapest, "slot_triples": by_triples}
    return by_name[kind]


class ProtocolRunner:
    """A protocol on shares."""

    def __init__(self, case: Case, channel: Channel) -> None:
        self._protocol = protocol(case)
        context = Context(FIXED, with_keys(products(case.products), _homomorphic(channel)))
        source: Any = LOCAL_SOURCES[case.correlations](channel.party, SecureRandom())
        source.setup(channel)
        self._session = Session(channel, context, source, SecureRandom())
        self._rows = _rows_party(channel) if case.products == PrimeProducts.name else None
        self._cost = self._protocol.cost(case.shape, context)
        mask = SecureRandom(bytes(32), domain="benchmark").uint64(case.shape)
        values = FIXED.encode(inputs(case))
        self._share = mask if channel.party is Party.CLIENT else values - mask
        self._profile = case.profile
        self._online_runs = 0

    def offline(self) -> None:
        """Produce what the protocol consumes, and make it ready."""
        self._session.correlations.produce(self._cost.ots, self._session.channel)
        self._session.prepared.prepare(self._cost.demand)
        if self._rows:
            session = self._session
            make_triples(self._cost.demand, self._rows, session.channel, session.prepared)

    def online(self) -> RingArray:
        """Run the protocol."""
        self._online_runs += 1
        if not (self._profile and self._online_runs == 1 + self._profile):
            return self._protocol.run(self._share, self._session)
        with cProfile.Profile() as profile:
            result = self._protocol.run(self._share, self._session)
        if self._session.party is Party.SERVER:
            _print_shares(profile)
        return result


def _homomorphic(channel: Channel) -> Any:
    if channel.party is Party.CLIENT:
        keys = [ClientKeys.generate(p, (), True, SecureRandom()) for p in (SHALLOW, DEEP)]
        for key in keys:
            channel.send(key.public_bytes())
        return HomomorphicClient(keys, SecureRandom())
    parsed = []
    for p in (SHALLOW, DEEP):
        data = channel.recv(public_key_bytes(p, 0, True))
        parsed.append(ServerKeys.parse(p, data, (), True))
    return HomomorphicServer(parsed, SecureRandom())


def _rows_party(channel: Channel) -> RowsParty:
    """With keys of the triples' slots."""
    if channel.party is Party.CLIENT:
        keys = ClientKeys.generate(TRIPLE_PARAMETERS, (), False, SecureRandom())
        channel.send(keys.public_bytes())
        return RowsClient(keys, SecureRandom())
    data = channel.recv(public_key_bytes(TRIPLE_PARAMETERS, 0, False))
    parsed = ServerKeys.parse(TRIPLE_PARAMETERS, data, (), False)
    return RowsServer(parsed, SecureRandom(), Room())


def _print_shares(profile: cProfile.Profile) -> None:
    """Share of the server's time in each module, waiting apart."""
    seconds: Counter[str] = Counter()
    for (file, _, name), (_, _, own, _, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        waits = "poll" in name or "recv" in name
        module = Path(file).stem if file.endswith(".py") else "numpy and other libraries"
        seconds["waiting for the client" if waits else module] += own
    total = sum(seconds.values())
    parts = [f"{name} {value / total:.0%}" for name, value in seconds.most_common(7)]
    print("    server: " + ", ".join(parts), file=sys.stderr)


def factory(channel: Channel, case: Case) -> ProtocolRunner:
    """One party's side."""
    return ProtocolRunner(case, channel)


def report(case: Case, outcome: Outcome) -> None:
    """Errors against float64."""
    true, decode = expected(case)
    error = np.abs(decode(outcome.result) - true)
    fields = {"op": case.op, "shape": shape_name(case.shape), "protocol": case.name}
    emit(fields, outcome, {"max_error": float(error.max()), "mean_error": float(error.mean())})
    bits = outcome.traffic["total"].sent_bytes * 8 / prod(case.shape)
    print(f"    {bits:.0f} bits an element", file=sys.stderr)


def cases(arguments: argparse.Namespace) -> list[Case]:
    """What the command line asks for."""
    available = choices()
    ops = arguments.only.split(",") if arguments.only else list(DEFAULT_SHAPES)
    unknown = [op for op in ops if op not in available]
    if unknown:
        refuse(f"--only: unknown {', '.join(unknown)}; known: {', '.join(sorted(available))}")
    found = []
    for op in ops:
        shapes = parse_shapes(arguments.shape) if arguments.shape else DEFAULT_SHAPES[op]
        found += [
            Case(
                op, shape, name, arguments.correlations, engine_of(op, name, arguments.products),
                arguments.runs if arguments.profile else 0,
            )
            for shape in shapes
            for name in available[op]
        ]  # fmt: skip
    return found


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="operations, comma separated")
    parser.add_argument("--shape", help="instead of the default shapes, as 77x1000")
    parser.add_argument("--runs", type=int, default=3, help="after one warm-up; median reported")
    parser.add_argument("--correlations", choices=list(LOCAL_SOURCES), default=SOURCES[0].name)
    parser.add_argument(
        "--products", choices=["cheapest", "ckks", "ot", "slot_triples"], default="cheapest"
    )
    parser.add_argument("--profile", action="store_true", help="shares of time, last run")
    parser.add_argument("--link", choices=list(LINK_PROFILES), help="imitate a network")
    arguments = parser.parse_args()
    link = LINK_PROFILES.get(arguments.link)
    measure(factory, cases(arguments), runs=arguments.runs, report=report, link=link)


if __name__ == "__main__":
    main()
