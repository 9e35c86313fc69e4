"""What a new protocol or packing must keep, checked before it is trusted with a model.

`check_protocol` and `check_packing` run both parties inside this process, on plain numbers that
they share out themselves, and compare what happened with what was declared: bytes, rounds,
correlations, rotation keys, memory, error. The first broken promise raises `ContractError`.
One process holds both shares and all keys, so nothing here is private: `InsecureLocalParties`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from hybrid.testing.local_parties import (
    FIXED_POINT,
    ContractError,
    InsecureLocalParties,
    both,
    magnitude,
    place_of,
    require,
    same_traffic,
    share_out,
    within,
)
from hybrid.testing.packing_contract import PACKING_RMS_ERROR, PackingCheck, check_packing
from mpc_nonlinear.cost import Cost, OtCount
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from transport.channel import Channel
from transport.traffic import Traffic

__all__ = [
    "MAX_FAILURE_PROBABILITY",
    "PACKING_RMS_ERROR",
    "ContractError",
    "InsecureLocalParties",
    "PackingCheck",
    "ProtocolCheck",
    "check_packing",
    "check_protocol",
]

MAX_FAILURE_PROBABILITY = 2.0**-20
_RUN = "run"


@dataclass(frozen=True, slots=True)
class ProtocolCheck:
    """What a protocol declared and did, once it kept its contract."""

    name: str
    shape: tuple[int, ...]
    traffic: Traffic
    """Declared and measured: they are equal."""
    ots: OtCount
    """Declared and consumed: they are equal."""
    error: float
    """Largest distance from `reference`."""
    approximation_error: float
    """Largest distance of `reference` from the true function, on these inputs."""
    seconds: float
    """Of the slower party, correlations made before."""
    output: FloatArray


def check_protocol(
    protocol: NonlinearProtocol, x: FloatArray, parties: InsecureLocalParties | None = None
) -> ProtocolCheck:
    """Run on shares of x, twice, and hold the protocol to everything it declares.

    x: numbers inside the protocol's bounds, in a shape it takes; put the edges of every piece
    among them. Checked: shape, distance from `reference` (max_error) and of that from the true
    function (approximation_error of rows this long), exact bytes and rounds, exact correlations
    both raw and prepared, failure probability, and that no message repeats when the same shares
    come again.
    """
    place = place_of(protocol, ("source", "max_error", "approximation_error"))
    parties = parties or InsecureLocalParties()
    x = FIXED_POINT.decode(FIXED_POINT.encode(x))
    shares = share_out(FIXED_POINT.encode(x))
    cost = protocol.cost(x.shape, parties.context)
    require(
        0 <= cost.failure_probability < MAX_FAILURE_PROBABILITY,
        f"{place}: failure probability {cost.failure_probability:.1e}; stay below "
        f"{MAX_FAILURE_PROBABILITY:.1e} for one operation",
    )
    first = _run_protocol(protocol, shares, cost, parties, place, prepare=False)
    second = _run_protocol(protocol, shares, cost, parties, place, prepare=True)
    repeated = first.messages & second.messages
    require(
        not repeated,
        f"{place}: {len(repeated)} messages were the same in two runs on the same shares; mask "
        "whatever leaves a party with fresh randomness",
    )
    reference, true = protocol.reference(x), protocol.true_function(x)
    error = max(magnitude(run.output - reference) for run in (first, second))
    within(error, protocol.max_error, f"{place}: distance from reference()", "max_error")
    far = magnitude(reference - true)
    label = f"{place}: distance of reference() from true_function()"
    declared = protocol.approximation_error_of_rows(x.shape[-1])
    within(far, declared, label, "approximation_error")
    return ProtocolCheck(
        protocol.name, x.shape, cost.traffic, cost.ots, error, far, second.seconds, second.output
    )


@dataclass(frozen=True, slots=True)
class _ProtocolRun:
    output: FloatArray
    messages: set[bytes]
    seconds: float


def _run_protocol(
    protocol: NonlinearProtocol,
    shares: tuple[RingArray, RingArray],
    cost: Cost,
    parties: InsecureLocalParties,
    place: str,
    *,
    prepare: bool,
) -> _ProtocolRun:
    messages: set[bytes] = set()
    pairs = parties.product_keys()

    def role(channel: Channel) -> tuple[RingArray, float]:
        session = parties.state(channel, pairs, cost.ots).session
        if prepare:
            session.prepared.prepare(cost.demand)
        _record(channel, messages)
        start = time.perf_counter()
        with channel.step(_RUN):
            result = protocol.run(shares[channel.party], session)
        seconds = time.perf_counter() - start
        left = session.correlations.stock()
        require(
            left == OtCount(),
            f"{place}: cost() declares {cost.ots}, {left} of them were not used",
        )
        return result, seconds

    (client, client_s), (server, server_s), channel = both(role, place)
    same_traffic(cost.traffic, channel.traffic(_RUN), place)
    for result in (client, server):
        require(
            result.shape == shares[0].shape and result.dtype == np.uint64,
            f"{place}: run() returned {result.dtype} {result.shape} for uint64 {shares[0].shape}",
        )
    return _ProtocolRun(FIXED_POINT.decode(client + server), messages, max(client_s, server_s))


def _record(channel: Channel, messages: set[bytes]) -> None:
    """Keep a copy of every message long enough not to repeat by chance."""
    send = channel.send

    def spy(payload: bytes | memoryview) -> None:
        copy = bytes(payload)
        if len(copy) > 8:
            messages.add(copy)
        send(payload)

    channel.send = spy  # type: ignore[method-assign]
