"""Prices of the interactive engine: its blocks between two pinned processes over loopback.

Every case runs one building block; the prices are those whose sums come nearest to all times.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

from hybrid.calibration.block_cases import block_cases, store_any
from hybrid.calibration.fit import corrected
from hybrid.calibration.local_units import local_prices
from hybrid.calibration.steps import Observation, StepTimer
from hybrid.calibration.timing import fitted, forget_caches
from hybrid.machine.environment import limit_threads, party_cores, settle
from hybrid.machine.prices import MachinePrices
from hybrid.runtime.dealing import LOOPBACK, deal
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.correlations import SOURCES
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.correlations.softspoken import SoftSpokenSource
from mpc_nonlinear.cost import OtCount
from mpc_nonlinear.fixed_point import FixedPoint
from transport.channel import Channel
from transport.computing import Together, Units
from transport.errors import HybridError
from transport.randomness import SecureRandom
from transport.traffic import Party
from transport.zmq_channel import connect, listen

_RUNS = 4
_LEAST_OWN = 0.02
"""Of a case's seconds, however much its known parts take."""
_TIMEOUT_S = 300.0
"""The dealer waits from the start for what comes last; heartbeats tell a dead process."""
_PINGS, _BULK_BYTES = 200, 4 << 20
_PRODUCTION = {
    "ferret": (1 << 15, 700_000, 1_400_000, 2_200_000),
    "softspoken": (20_000, 200_000, 600_000),
    "iknp": (20_000, 200_000, 600_000),
}


class _Timer:
    """One party's side; the client's figures count."""

    def __init__(self, channel: Channel, dealer: Channel) -> None:
        self._channel, self._dealer = channel, dealer
        self._rng = SecureRandom(domain="calibration")

    def run(self, progress: Callable[[str], None]) -> dict[str, Any]:
        """All measurements."""
        progress("network")
        found: dict[str, Any] = {"network": self._network()}
        progress("interactive blocks")
        found["blocks"] = self._blocks()
        kinds = [kind for kind in SOURCES if kind.name in _PRODUCTION]
        found["production"] = []
        for kind in kinds:
            progress(f"correlations: {kind.name}")
            found["production"] += list(self._produced(kind))
        progress("ciphertexts")
        # At the same time on both cores, which share memory and caches, as in a run.
        self._wait()
        found["local"] = dict(local_prices())
        progress("whole steps")
        timer = StepTimer(self._channel, self._wait)
        found["steps"] = [*timer.without_dealer(), *timer.with_dealer(self._dealer)]
        return found

    def _wait(self) -> None:
        self._channel.next_round()
        self._channel.exchange(b"\x00", 1)

    def _network(self) -> tuple[float, float]:
        """One-way seconds of a small frame, bytes a second of a large one."""
        first = self._channel.party is Party.CLIENT

        def there_and_back(size: int, times: int) -> float:
            data, taken = bytes(size), []
            for _ in range(times):
                start = time.perf_counter()
                self._channel.next_round()
                if first:
                    self._channel.send(data)
                self._channel.recv(size)
                if not first:
                    self._channel.send(data)
                taken.append(time.perf_counter() - start)
            return statistics.median(taken) / 2

        latency = there_and_back(64, _PINGS)
        bulk = there_and_back(_BULK_BYTES, 9)
        return latency, _BULK_BYTES / max(bulk - latency, 1e-6)

    def _blocks(self) -> list[tuple[Units, int, int, float, Units, float]]:
        """Online units, rounds, serial bytes, seconds; offline units and seconds of every case."""
        context = Context(FixedPoint(16), OtProducts(16))
        source = SoftSpokenSource(self._channel.party, self._rng)
        source.setup(self._channel)
        session = Session(self._channel, context, source, self._rng)
        found = []
        for case in block_cases(self._channel.party):
            offline, online = [], []
            for _ in range(_RUNS + 1):
                source.produce(case.cost.ots, self._channel)
                store_any(session, case.cost.demand)
                self._wait()
                start = time.perf_counter()
                session.prepared.prepare(case.cost.demand)
                self._wait()
                making = time.perf_counter() - start
                # In a run other steps have used the caches since the randomness was made.
                forget_caches()
                self._wait()
                middle = time.perf_counter()
                case.run(session)
                self._wait()
                offline.append(making)
                online.append(time.perf_counter() - middle)
            part = case.cost.work.parts[0]
            assert isinstance(part, Together)
            counted = (part.counts, part.rounds, part.serial_bytes)
            made = case.cost.demand.offline_units
            taken = statistics.median(online[1:]), statistics.median(offline[1:])
            found.append((*counted, taken[0], made, taken[1]))
        return found

    def _produced(self, kind: Any) -> Iterator[tuple[Units, float]]:
        """Units and seconds of producing several amounts in both directions."""
        source: CorrelationSource = kind(self._channel.party, self._rng)
        source.setup(self._channel)
        for amount in _PRODUCTION[kind.name]:
            count, taken = OtCount(amount, amount), []
            for _ in range(2):
                self._wait()
                start = time.perf_counter()
                source.produce(count, self._channel)
                self._wait()
                taken.append(time.perf_counter() - start)
                source.take_sender(amount)
                source.take_receiver(amount)
            yield kind.production_units(count), taken[-1]


def _party(
    pipe: Connection, party: Party, endpoint: str, dealer_endpoint: str, core: int | None
) -> None:
    settle(core)
    try:
        if party is Party.SERVER:
            channel = listen(LOOPBACK, party, timeout_s=_TIMEOUT_S)
            pipe.send(channel.endpoint)
        else:
            channel = connect(endpoint, party, timeout_s=_TIMEOUT_S)
        dealer = connect(dealer_endpoint, party, timeout_s=_TIMEOUT_S)
        pipe.send(_Timer(channel, dealer).run(pipe.send))
        dealer.close()
        channel.close()
    except HybridError as error:
        pipe.send(error)


def _dealer(pipe: Connection) -> None:
    try:
        deal(pipe.send, _TIMEOUT_S)
    except HybridError as error:
        pipe.send(error)


def measure(progress: Callable[[str], None]) -> MachinePrices:
    """Prices of this machine, without its name and the date."""
    limit_threads()
    cores = party_cores()
    context = get_context("spawn")
    processes = []

    def start(target: Callable[..., None], *arguments: Any) -> Connection:
        ours, theirs = context.Pipe()
        process = context.Process(target=target, args=(theirs, *arguments), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        return ours

    dealing = start(_dealer)
    dealers = [_received(dealing) for _ in Party]
    server = start(_party, Party.SERVER, "", dealers[1], cores[1])
    endpoint = _received(server)
    client = start(_party, Party.CLIENT, endpoint, dealers[0], cores[0])
    measured = []
    for pipe in (server, client):
        while isinstance(value := _received(pipe), str):
            # Both say the same; the server's come first.
            if pipe is server:
                progress(value)
        measured.append(value)
    for process in processes:
        process.join()
    return _priced(*measured)


def _received(pipe: Connection) -> Any:
    try:
        value = pipe.recv()
    except EOFError:
        raise HybridError("calibrate: a party ended without a word; is memory short?") from None
    if isinstance(value, HybridError):
        raise value
    return value


def _priced(server: dict[str, Any], found: dict[str, Any]) -> MachinePrices:
    """First from blocks and single functions, then corrected by whole steps."""
    latency, bytes_per_s = found["network"]
    online, offline = [], []
    for counts, rounds, serial, seconds, made, making in found["blocks"]:
        # The wait at the end of every case is one exchange.
        own = seconds - (rounds + 1) * latency - serial / bytes_per_s
        online.append((counts, max(own, _LEAST_OWN * seconds)))
        offline.append((made, max(making - latency, 1e-6)))
    local = found["local"]
    prices = {name: (local[name] + server["local"][name]) / 2 for name in local}
    produced = [(counts, seconds - latency) for counts, seconds in found["production"]]
    for part in (online, [case for case in offline if case[0]], produced):
        prices.update(_explained(part, local))
    plain = MachinePrices(prices, latency, bytes_per_s, "", "", 0.0, 0.0)
    steps: list[Observation] = found["steps"]
    return corrected(plain, steps)


def _explained(
    cases: Sequence[tuple[Units, float]], known: Mapping[str, float]
) -> dict[str, float]:
    """Prices of units that have none yet, from what all of a case's units take together."""
    names = tuple(sorted({name for counts, _ in cases for name, _ in counts} - set(known)))
    rows = []
    for counts, seconds in cases:
        by_name = dict(counts)
        own = seconds - sum(known.get(name, 0.0) * count for name, count in counts)
        row = [by_name.get(name, 0.0) for name in names]
        rows.append((row, max(own, _LEAST_OWN * seconds)))
    return fitted(names, rows)
