"""Two pinned processes over loopback that run benchmark cases in step; shared by the benchmarks.

A case is set up once, warmed up once and then run several times; before and after every phase
both parties wait for each other, so that seconds are wall-clock time of the pair.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, NoReturn, Protocol

from hybrid.machine.environment import keep_memory, limit_threads

limit_threads()

import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

from hybrid.reports.files import json_line  # noqa: E402
from transport.channel import Channel  # noqa: E402
from transport.link import LinkModel  # noqa: E402
from transport.traffic import NO_TRAFFIC, Party, Traffic  # noqa: E402
from transport.zmq_channel import connect, listen  # noqa: E402

PHASES = ("offline", "online")


class Runner(Protocol):
    """One party's side of a case."""

    def offline(self) -> None:
        """What does not depend on the input."""

    def online(self) -> NDArray[np.uint64]:
        """From the shared input to this party's share of the result."""


Factory = Callable[[Channel, Any], Runner]
"""Sets one party's side of a case up: keys, encoded weights, base oblivious transfers."""


@dataclass(frozen=True)
class Outcome:
    """Medians of one case."""

    seconds: dict[str, float]
    """By phase, and total."""
    traffic: dict[str, Traffic]
    result: NDArray[np.uint64]
    """Sum of both shares of the last run."""


def measure(
    factory: Factory,
    cases: Sequence[Any],
    *,
    runs: int,
    report: Callable[[Any, Outcome], None],
    link: LinkModel | None = None,
) -> None:
    """Run every case and report it as soon as it is done. The factory is a module's function."""
    context = get_context("spawn")
    pipes = []
    cores = sorted(os.sched_getaffinity(0))
    endpoint = ""
    processes = []
    for party in (Party.SERVER, Party.CLIENT):
        ours, theirs = context.Pipe()
        core = cores[int(party)] if len(cores) > 1 else cores[0]
        arguments = (theirs, party, endpoint, core, factory, list(cases), runs, link)
        process = context.Process(target=_party, args=arguments, daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
        if party is Party.SERVER:
            endpoint = _received(ours)
    server, client = pipes
    for case in cases:
        seconds, traffic, mine = _received(client)
        _, _, theirs_share = _received(server)
        report(case, Outcome(seconds, traffic, mine + theirs_share))
    for process in processes:
        process.join()


def _received(pipe: Connection) -> Any:
    kind, value = pipe.recv()
    if kind == "error":
        sys.exit(f"a party failed:\n{value}")
    return value


def _party(
    pipe: Connection,
    party: Party,
    endpoint: str,
    core: int,
    factory: Factory,
    cases: list[Any],
    runs: int,
    link: LinkModel | None,
) -> None:
    os.sched_setaffinity(0, {core})
    keep_memory()
    try:
        if party is Party.SERVER:
            channel = listen("tcp://127.0.0.1:0", party, timeout_s=600.0, link=link)
            pipe.send(("endpoint", channel.endpoint))
        else:
            channel = connect(endpoint, party, timeout_s=600.0, link=link)
        for index, case in enumerate(cases):
            pipe.send(("case", _run_case(channel, factory, case, runs, index)))
        _wait(channel)
        channel.close()
    except Exception:
        pipe.send(("error", traceback.format_exc()))


def _run_case(channel: Channel, factory: Factory, case: Any, runs: int, index: int) -> Any:
    with channel.step(f"{index} setup"):
        runner = factory(channel, case)
    taken: dict[str, list[float]] = {phase: [] for phase in (*PHASES, "total")}
    traffic: dict[str, Traffic] = {}
    share: Any = None
    for run in range(runs + 1):
        both = 0.0
        for phase in PHASES:
            label = f"{index} {run} {phase}"
            _wait(channel)
            start = time.perf_counter()
            with channel.step(label):
                result = runner.offline() if phase == "offline" else runner.online()
            _wait(channel)
            seconds = time.perf_counter() - start
            both += seconds
            traffic[phase] = channel.traffic(label)
            if run:
                taken[phase].append(seconds)
            share = result if result is not None else share
        if run:
            taken["total"].append(both)
    traffic["total"] = sum((traffic[phase] for phase in PHASES), NO_TRAFFIC)
    return {name: statistics.median(values) for name, values in taken.items()}, traffic, share


def _wait(channel: Channel) -> None:
    with channel.step("wait"):
        channel.exchange(b"\x00", 1)


def emit(fields: dict[str, Any], outcome: Outcome, errors: dict[str, float]) -> None:
    """One JSON line for every phase that sends anything, one table line for the case."""
    phases = [p for p in PHASES if outcome.traffic[p].sent_bytes]
    for phase in [*phases, "total"] if len(phases) > 1 else ["total"]:
        traffic = outcome.traffic[phase]
        row = {
            **fields,
            "phase": phase,
            "seconds": round(outcome.seconds[phase], 6),
            "client_sent_bytes": traffic.client_sent_bytes,
            "server_sent_bytes": traffic.server_sent_bytes,
            "rounds": traffic.rounds,
            **errors,
        }
        print(json_line(row), flush=True)
        error = "  ".join(f"{name} {value:.1e}" for name, value in errors.items())
        names = "  ".join(f"{value:<22}" for value in fields.values())
        print(
            f"{names}  {phase:<8} {row['seconds'] * 1e3:9.1f} ms "
            f"{traffic.sent_bytes / 1e6:8.3f} MB {traffic.rounds:4d} rounds  {error}",
            file=sys.stderr,
            flush=True,
        )


def refuse(message: str) -> NoReturn:
    """End with one line and exit code 2."""
    print(message, file=sys.stderr)
    sys.exit(2)


def parse_shapes(text: str) -> list[tuple[int, ...]]:
    """Shapes such as 32x384x1536,1x768x768 from a command line."""
    try:
        shapes = [tuple(int(n) for n in part.split("x")) for part in text.split(",")]
    except ValueError:
        refuse(f"--shapes {text!r}: give positive integers such as 32x384x1536,1x768x768")
    if any(n < 1 for shape in shapes for n in shape):
        refuse(f"--shapes {text!r}: every size must be at least 1")
    return shapes


def shape_name(shape: Iterable[int]) -> str:
    """Sizes as 32x384x1536."""
    return "x".join(str(n) for n in shape)
