"""Errors of every registered protocol against float64, by real two-party runs in one process.

One JSON line a protocol and range on standard output, a table on standard error. `protocol` errors
are those against `reference()`, `total` ones against the true function.

    python experiments/benchmarks/error_table.py
    python experiments/benchmarks/error_table.py --products ot --only softmax,gelu --plugins my_lab
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.ckks.parameters import PARAMETER_SETS, set_for_products
from hybrid.operators.homomorphic import HomomorphicClient, HomomorphicServer
from hybrid.operators.slot_products import POLYNOMIAL_PRODUCTS, CkksProducts
from hybrid.planning.catalog import load_catalog
from hybrid.reports.files import json_line
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.session import Context, Products, Session
from mpc_nonlinear.correlations import SoftSpokenSource
from mpc_nonlinear.fixed_point import FixedPoint, FloatArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from transport.channel import Channel
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

FIXED = FixedPoint(16)
SHALLOW, DEEP = PARAMETER_SETS["n8192_q88"], set_for_products(POLYNOMIAL_PRODUCTS)
ELEMENTS, ROWS, COLUMNS, WIDTH = 4096, 64, 64, 256


@dataclass(frozen=True)
class Case:
    """A protocol's parameters and the inputs it is given."""

    range: str
    make: Callable[[Any], NonlinearProtocol]
    x: FloatArray


def elementwise() -> Iterator[Case]:
    """The whole range evenly, for a narrow and a wide bound, and what models give."""
    for bound in (4.0, 64.0):
        x = np.linspace(-bound, bound, ELEMENTS)
        yield Case(f"[-{bound:g}, {bound:g}] evenly", partial(_bounded, bound), x)
    x = np.random.default_rng(1).normal(0, 2, ELEMENTS).clip(-64, 64)
    yield Case("normal, deviation 2", partial(_bounded, 64.0), x)


def softmax() -> Iterator[Case]:
    """Rows of normal scores of several widths, and rows of equal ones but one."""
    for deviation in (1.0, 4.0):
        x = np.random.default_rng(2).normal(0, deviation, (ROWS, COLUMNS)).clip(-32, 32)
        yield Case(f"normal, deviation {deviation:g}", partial(_bounded, 32.0), x)
    gaps = np.linspace(0, 16, ROWS)
    x = np.zeros((ROWS, COLUMNS)) - gaps[:, None]
    # The newest key, which a causal mask shows to the last row only, and the first.
    x[:, [0, -1]] = 0
    yield Case("one or two above equal ones", partial(_bounded, 32.0), x)


def normalisation() -> Iterator[Case]:
    """Rows whose mean squares lie a small and a large factor apart; one spike a row."""
    for low, high in ((0.25, 4.0), (2.0**-5, 2.0**7)):
        rng, squares = np.random.default_rng(3), np.geomspace(low * 1.01, high * 0.99, ROWS)
        rows = rng.normal(size=(ROWS, WIDTH))
        spikes = rng.normal(size=(ROWS, WIDTH)) / 64
        spikes[:, 0] = 1
        for name, x in (("normal", rows), ("one spike a row", spikes)):
            x = x - x.mean(-1, keepdims=True)
            x *= np.sqrt(squares / (x**2).mean(-1))[:, None]
            bound = 2.0 ** np.ceil(np.log2(np.abs(x).max()))
            make = partial(_normalising, (WIDTH, 1e-6, low, high, high, bound))
            yield Case(f"{name}, mean squares {low:g} to {high:g}", make, x)


CASES: dict[str, Callable[[], Iterator[Case]]] = {
    **dict.fromkeys(("relu", "gelu", "gelu_tanh", "silu", "tanh"), elementwise),
    **dict.fromkeys(("softmax", "causal_softmax"), softmax),
    "layernorm": normalisation,
    "rmsnorm": normalisation,
}


def _bounded(bound: float, kind: Any) -> NonlinearProtocol:
    protocol: NonlinearProtocol = kind(bound=bound)
    return protocol


def _normalising(parameters: tuple[float, ...], kind: Any) -> NonlinearProtocol:
    protocol: NonlinearProtocol = kind(*parameters)
    return protocol


class Runner:
    """Runs protocols between two threads; keys are made once."""

    def __init__(self, products: str) -> None:
        self.name = products
        self._parties: dict[Party, Any] = {}
        if products == "ckks":
            keys = [ClientKeys.generate(p, (), True, SecureRandom()) for p in (SHALLOW, DEEP)]
            parsed = [
                ServerKeys.parse(p, k.public_bytes(), (), True)
                for p, k in zip((SHALLOW, DEEP), keys, strict=True)
            ]
            self._parties[Party.CLIENT] = HomomorphicClient(keys, SecureRandom())
            self._parties[Party.SERVER] = HomomorphicServer(parsed, SecureRandom())

    def products(self, party: Party | None = None) -> Products:
        """Of elements; with keys for a party."""
        if self.name == "ot":
            return OtProducts(FIXED.fraction_bits)
        in_slots = CkksProducts(SHALLOW, DEEP, FIXED.fraction_bits)
        return in_slots if party is None else replace(in_slots, party=self._parties[party])

    def run(self, protocol: NonlinearProtocol, x: FloatArray) -> FloatArray:
        """The opened result."""
        mask = SecureRandom().uint64(x.shape)
        shares = {Party.CLIENT: mask, Party.SERVER: FIXED.encode(x) - mask}
        cost = protocol.cost(x.shape, Context(FIXED, self.products()))

        def role(channel: Channel) -> Any:
            source = SoftSpokenSource(channel.party, SecureRandom())
            source.setup(channel)
            source.produce(cost.ots, channel)
            context = Context(FIXED, self.products(channel.party))
            session = Session(channel, context, source, SecureRandom())
            return protocol.run(shares[channel.party], session)

        client, server, _ = run_both(role)
        return FIXED.decode(client + server)


def measured(runner: Runner, protocol: NonlinearProtocol, case: Case) -> dict[str, Any]:
    """One line."""
    x = FIXED.decode(FIXED.encode(case.x))
    got = runner.run(protocol, x)
    own, total = np.abs(got - protocol.reference(x)), np.abs(got - protocol.true_function(x))
    return {
        "op": protocol.op,
        "protocol": protocol.name,
        "products": runner.name,
        "range": case.range,
        "shape": list(x.shape),
        "protocol_max": float(own.max()),
        "declared_max": protocol.max_error,
        "total_max": float(total.max()),
        "total_mean": float(total.mean()),
        "declared_approximation": protocol.approximation_error_of_rows(x.shape[-1]),
    }


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="operations, comma separated")
    parser.add_argument("--products", choices=["ckks", "ot"], action="append", help="default: both")
    parser.add_argument("--plugins", default="", help="modules with protocols, comma separated")
    arguments = parser.parse_args()
    ops = arguments.only.split(",") if arguments.only else list(CASES)
    unknown = [op for op in ops if op not in CASES]
    if unknown:
        sys.exit(f"--only: unknown {', '.join(unknown)}; known: {', '.join(CASES)}")
    catalog = load_catalog(arguments.plugins.split(",") if arguments.plugins else [])
    titles = ("op", "protocol", "products", "range", "vs reference", "vs true", "mean")
    layout = "{:<10}{:<27}{:<9}{:<46}{:>13}{:>10}{:>10}"
    print(layout.format(*titles), file=sys.stderr)
    for products in arguments.products or ["ckks", "ot"]:
        runner = Runner(products)
        for op in ops:
            for name in catalog.names(op):
                for case in CASES[op]():
                    line = measured(runner, case.make(catalog[op, name]), case)
                    print(json_line(line), flush=True)
                    errors = (line[k] for k in ("protocol_max", "total_max", "total_mean"))
                    cells = (f"{error:.1e}" for error in errors)
                    print(layout.format(op, name, products, case.range, *cells), file=sys.stderr)


if __name__ == "__main__":
    main()
