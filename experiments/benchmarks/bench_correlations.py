"""Sources of correlated oblivious transfers between two pinned processes.

One JSON line a source and amount on standard output, a table on standard error. Both directions at
once, so that both cores are busy: transfers a second count those of both directions. Set-up (base
transfers, and what the first production starts from) is a column of its own. The dealer is left
out: its third process would need a third core.

    python experiments/benchmarks/bench_correlations.py --counts 4000000,1000000,100000
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from typing import Any

from pair import Outcome, measure, refuse

import numpy as np  # isort: skip
from numpy.typing import NDArray

from hybrid.reports.files import json_line
from mpc_nonlinear.correlations import SOURCES
from mpc_nonlinear.cost import OtCount
from transport.channel import Channel
from transport.randomness import SecureRandom

LOCAL_SOURCES = {s.name: s for s in SOURCES if s.name != "dealer"}


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    source: str
    count: int


class SourceRunner:
    """One party's half of a source."""

    def __init__(self, channel: Channel, case: Case) -> None:
        self._kind: Any = LOCAL_SOURCES[case.source]
        self._channel, self._half = channel, case.count // 2

    def offline(self) -> None:
        """Set a fresh source up."""
        self._source = self._kind(self._channel.party, SecureRandom())
        self._source.setup(self._channel)

    def online(self) -> NDArray[np.uint64]:
        """Produce, half of it in each direction."""
        self._source.produce(OtCount(self._half, self._half), self._channel)
        return np.zeros(1, np.uint64)


def report(case: Case, outcome: Outcome) -> None:
    """Rate and traffic."""
    seconds, traffic = outcome.seconds["online"], outcome.traffic["online"]
    setup_seconds = outcome.seconds["offline"]
    row = {
        "source": case.source,
        "count": case.count,
        "seconds": round(seconds, 6),
        "per_second": round(case.count / seconds),
        "bits_per_transfer": round(traffic.sent_bytes * 8 / case.count, 3),
        "client_sent_bytes": traffic.client_sent_bytes,
        "server_sent_bytes": traffic.server_sent_bytes,
        "rounds": traffic.rounds,
        "setup_seconds": round(setup_seconds, 6),
        "setup_sent_bytes": outcome.traffic["offline"].sent_bytes,
    }
    print(json_line(row), flush=True)
    print(
        f"{case.source:<12} {case.count:>10} {seconds * 1e3:9.1f} ms "
        f"{case.count / seconds / 1e6:7.2f} M/s {row['bits_per_transfer']:8.2f} bits "
        f"  set-up {setup_seconds * 1e3:6.1f} ms",
        file=sys.stderr,
        flush=True,
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", default="9000000,3000000,200000", help="comma separated")
    parser.add_argument("--sources", default=",".join(LOCAL_SOURCES))
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    unknown = set(arguments.sources.split(",")) - set(LOCAL_SOURCES)
    if unknown:
        refuse(f"--sources: unknown {', '.join(unknown)}; known: {', '.join(LOCAL_SOURCES)}")
    cases = [
        Case(source, int(count))
        for source in arguments.sources.split(",")
        for count in arguments.counts.split(",")
    ]
    measure(SourceRunner, cases, runs=arguments.runs, report=report)


if __name__ == "__main__":
    main()
