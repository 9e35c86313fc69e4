"""Sources of correlated oblivious transfers between two pinned processes.

One JSON line a source and amount on standard output, a table on standard error. Both directions at
once, so that both cores are busy: transfers a second count those of both directions.

    python experiments/bench_correlations.py --counts 4000000,1000000,100000
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from typing import Any

from pair import Outcome, measure

import numpy as np  # isort: skip
from numpy.typing import NDArray

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
        self._source: Any = LOCAL_SOURCES[case.source](channel.party, SecureRandom())
        self._source.setup(channel)
        self._channel, self._half = channel, case.count // 2

    def offline(self) -> None:
        """Produce, half of it in each direction."""
        self._source.produce(OtCount(self._half, self._half), self._channel)

    def online(self) -> NDArray[np.uint64]:
        """Throw away what was made."""
        self._source.take_sender(self._half)
        self._source.take_receiver(self._half)
        return np.zeros(1, np.uint64)


def report(case: Case, outcome: Outcome) -> None:
    """Rate and traffic."""
    seconds, traffic = outcome.seconds["offline"], outcome.traffic["offline"]
    row = {
        "source": case.source,
        "count": case.count,
        "seconds": round(seconds, 6),
        "per_second": round(case.count / seconds),
        "bits_per_transfer": round(traffic.sent_bytes * 8 / case.count, 3),
        "client_sent_bytes": traffic.client_sent_bytes,
        "server_sent_bytes": traffic.server_sent_bytes,
        "rounds": traffic.rounds,
    }
    print(json.dumps(row), flush=True)
    print(
        f"{case.source:<12} {case.count:>10} {seconds * 1e3:9.1f} ms "
        f"{case.count / seconds / 1e6:7.2f} M/s {row['bits_per_transfer']:8.2f} bits",
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
        sys.exit(f"--sources: unknown {', '.join(unknown)}; known: {', '.join(LOCAL_SOURCES)}")
    cases = [
        Case(source, int(count))
        for source in arguments.sources.split(",")
        for count in arguments.counts.split(",")
    ]
    measure(SourceRunner, cases, runs=arguments.runs, report=report)


if __name__ == "__main__":
    main()
