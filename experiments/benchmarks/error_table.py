"""Measured against declared errors of every registered protocol, over ranges and engines.

Real two-party runs in one process. One JSON line a protocol, engine and range on standard output, a
table on standard error. `reference` errors are those against `reference()`, `true` ones against the
true function, each beside what the protocol declares for those ranges by that engine; of
normalisations, numbers above one count relative to themselves. `inf`: nothing is promised there.

    python experiments/benchmarks/error_table.py
    python experiments/benchmarks/error_table.py --products ot --only layernorm --plugins my_lab
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hybrid.planning.catalog import load_catalog
from hybrid.reports.files import json_line
from hybrid.testing.contracts import FIXED_POINT, InsecureLocalParties, share_out
from hybrid.testing.protocol_run import declared_cost, run_protocol
from mpc_nonlinear.fixed_point import FloatArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from transport.errors import HybridError

ENGINES = ("ckks", "ot", "slot_triples", "dealer")
BOUNDS = tuple(2.0**e for e in (0, 4, 12, 18))
LENGTHS = (2, 33, 512, 2048)
SPREADS = (0, 6, 8, 10, 12, 16, 20, 23, 24)
"""log2 of the largest variance of a row over the smallest."""
WIDTH, ROWS = 256, 16


@dataclass(frozen=True)
class Case:
    """A protocol's parameters and the inputs it is given."""

    range: str
    parameters: dict[str, float]
    x: FloatArray


def elementwise(protocol: Any) -> Iterator[Case]:
    """The whole range evenly, near zero, and around every breakpoint."""
    for bound in BOUNDS:
        near = [t + np.linspace(-1 / 32, 1 / 32, 257) for t in (0.0, *protocol.breakpoints)]
        evenly = np.linspace(-min(bound, 12.0), min(bound, 12.0), 3001)
        x = np.concatenate([*near, evenly, np.linspace(-bound, bound, 301)])
        yield Case(f"|x| to {bound:g}", {"bound": bound}, x[np.abs(x) <= bound])


def softmax(_: Any) -> Iterator[Case]:
    """Rows of one or a few large numbers, equal ones, and normal ones."""
    for columns in LENGTHS:
        for bound in (16.0, 2.0**14):
            place, rng = np.arange(columns), np.random.default_rng(columns)
            x = np.stack([
                np.where(place == columns - 1, bound, -bound),
                np.where(place % 8 == 0, bound, -bound),
                np.where(place == columns - 1, 10.0, 2.0),
                np.where(place == columns - 1, 10.0, 5.0),
                np.zeros(columns),
                rng.normal(0, 2, columns).clip(-bound, bound),
            ])  # fmt: skip
            # Of a causal softmax the last query sees all keys.
            yield Case(f"rows of {columns}, |x| to {bound:g}", {"bound": bound}, x[:, None])


def normalisation(protocol: Any) -> Iterator[Case]:
    """Rows of the smallest mean square, of the largest and between, normal ones and spikes."""
    name = "variance" if protocol.op == "layernorm" else "square"
    for high in (2.0**-2, 2.0**13):
        for spread in SPREADS:
            low, rng = high / 2.0**spread, np.random.default_rng(spread)
            x = np.concatenate([rng.normal(size=(ROWS, WIDTH)), _spikes(rng)])
            if protocol.op == "layernorm":
                x -= x.mean(-1, keepdims=True)
            wanted = np.concatenate([np.full(4, low * 1.02), np.geomspace(low, high, 12)])
            wanted = np.tile(wanted, 2).clip(low * 1.02, high / 1.02 if spread else None)
            x *= np.sqrt(wanted / (x**2).mean(-1))[:, None]
            bound = float(2.0 ** np.ceil(np.log2(np.abs(x).max())))
            numbers = {f"{name}_min": low, f"{name}_max": high, f"{name}_rms": high}
            numbers |= {"bound": bound, "width": WIDTH, "epsilon": 1e-12, "rms": high**0.5}
            yield Case(f"mean squares {high:g} to 2^{spread} less", numbers, x)


def _spikes(rng: np.random.Generator) -> FloatArray:
    x: FloatArray = rng.normal(size=(ROWS, WIDTH)) / 64
    x[:, 0] = 1
    return x


CASES: dict[str, Callable[[Any], Iterator[Case]]] = {
    **dict.fromkeys(("relu", "gelu", "gelu_tanh", "silu", "tanh"), elementwise),
    **dict.fromkeys(("softmax", "causal_softmax"), softmax),
    "layernorm": normalisation,
    "rmsnorm": normalisation,
}


def measured(parties: InsecureLocalParties, kind: Any, case: Case) -> dict[str, Any]:
    """One line."""
    engine = parties.context.products.name
    line = {"op": kind.op, "protocol": kind.name, "products": engine, "range": case.range}
    x, length = FIXED_POINT.decode(FIXED_POINT.encode(case.x)), case.x.shape[-1]
    try:
        protocol: NonlinearProtocol = kind(**case.parameters)
        cost = declared_cost(protocol, x.shape, parties, kind.name)
        shares = share_out(FIXED_POINT.encode(x))
        run = run_protocol(protocol, shares, None, cost, parties, kind.name, prepare=False)
    except HybridError as error:
        return {**line, "refused": str(error)}
    return {
        **line,
        "shape": list(x.shape),
        "reference": float(protocol.distance(run.output, protocol.reference(x)).max()),
        "declared_reference": protocol.protocol_error(length, parties.context),
        "true": float(protocol.distance(run.output, protocol.true_function(x)).max()),
        "declared_true": protocol.error(length, parties.context),
    }


def shown(line: dict[str, Any]) -> str:
    """Its row of the table."""
    name = f"{line['op']}/{line['protocol']}"
    head = f"{name:<31}{line['products']:<14}{line['range']:<32}"
    if "refused" in line:
        return f"{head}refused: {line['refused'][:60]}"
    keys = ("reference", "declared_reference", "true", "declared_true")
    return head + "".join(f"{line[key]:>11.1e}" for key in keys)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help="operations, comma separated")
    parser.add_argument("--products", choices=ENGINES, action="append", help="default: all")
    parser.add_argument("--plugins", default="", help="modules with protocols, comma separated")
    arguments = parser.parse_args()
    ops = arguments.only.split(",") if arguments.only else list(CASES)
    unknown = [op for op in ops if op not in CASES]
    if unknown:
        sys.exit(f"--only: unknown {', '.join(unknown)}; known: {', '.join(CASES)}")
    catalog = load_catalog(arguments.plugins.split(",") if arguments.plugins else [])
    titles = "".join(f"{title:>11}" for title in ("reference", "declared", "true", "declared"))
    print(f"{'protocol':<31}{'products':<14}{'range':<32}{titles}", file=sys.stderr)
    for engine in arguments.products or ENGINES:
        parties = InsecureLocalParties(engine)
        for op in ops:
            for name in catalog.names(op):
                kind = catalog[op, name]
                for case in CASES[op](kind):
                    line = measured(parties, kind, case)
                    print(json_line(line), flush=True)
                    print(shown(line), file=sys.stderr)


if __name__ == "__main__":
    main()
