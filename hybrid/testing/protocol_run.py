"""One protocol run on shares by both parties of this process, held to its cost."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hybrid.testing.local_parties import (
    FIXED_POINT,
    ContractError,
    InsecureLocalParties,
    RecordingStock,
    both,
    require,
    same_traffic,
)
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.cost import Cost, Demand, Kind, OtCount
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from transport.channel import Channel
from transport.errors import UsageError
from transport.foreign import shown

_RUN = "run"
Shares = tuple[RingArray, RingArray]
"""The client's, then the server's."""


@dataclass(frozen=True, slots=True)
class ProtocolRun:
    """What came of it."""

    output: FloatArray
    messages: set[bytes]
    """All that are long enough not to repeat by chance."""
    seconds: float
    """Of the slower party, correlations made before."""


def declared_cost(
    protocol: NonlinearProtocol, shape: tuple[int, ...], parties: InsecureLocalParties, place: str
) -> Cost:
    """What the protocol declares for this shape; `ContractError` where it declares nothing."""
    cost: Any = called(lambda: protocol.cost(shape, parties.context), f"{place}: cost()")
    require(isinstance(cost, Cost), f"{place}: cost() returned {shown(cost)}; return a Cost")
    made: Cost = cost
    return made


def called(function: Callable[[], Any], what: str) -> Any:
    """The result; whatever is raised is a broken contract."""
    try:
        return function()
    except ContractError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise ContractError(f"{what} raised {kind}: {error}") from error


def run_protocol(
    protocol: NonlinearProtocol,
    x: Shares,
    mask: Shares | None,
    cost: Cost,
    parties: InsecureLocalParties,
    place: str,
    *,
    prepare: bool,
) -> ProtocolRun:
    """`run`, or `run_masked` where there is a mask; exact traffic and correlations.

    prepare: whether correlations are made into what `cost.demand` says before.
    """
    messages: set[bytes] = set()
    pairs = parties.product_keys()

    def role(channel: Channel) -> tuple[object, float, CorrelationSource]:
        session = parties.state(channel, pairs, cost.ots).session
        if prepare:
            session.prepared.prepare(cost.demand)
        _record(channel, messages)
        start = time.perf_counter()
        with channel.step(_RUN):
            try:
                result = _called(protocol, x, mask, session)
            except UsageError as error:
                raise _explained(error, cost, session, place) from error
        seconds = time.perf_counter() - start
        left = session.correlations.stock()
        require(
            left == OtCount(),
            f"{place}: cost() declares {cost.ots}, {left} of them were not used",
        )
        return result, seconds, session.correlations

    (client, client_s, ours), (server, server_s, theirs), channel = both(role, place)
    parties.give_back(ours, theirs)
    for result in (client, server):
        _require_share(result, x[0].shape, place)
    same_traffic(cost.traffic, channel.traffic(_RUN), place)
    return ProtocolRun(FIXED_POINT.decode(client + server), messages, max(client_s, server_s))


def _called(
    protocol: NonlinearProtocol, x: Shares, mask: Shares | None, session: Session
) -> RingArray:
    party = session.party
    if mask is None:
        return protocol.run(x[party], session)
    return protocol.run_masked(x[party], mask[party], session)


def _require_share(result: object, shape: tuple[int, ...], place: str) -> None:
    found = type(result).__name__
    if isinstance(result, np.ndarray):
        found = f"{result.dtype} {result.shape}"
        if result.dtype == np.uint64 and result.shape == shape:
            return
    raise ContractError(f"{place}: run() returned {found} for uint64 {shape}; return a share")


def _record(channel: Channel, messages: set[bytes]) -> None:
    send = channel.send

    def spy(payload: bytes | memoryview) -> None:
        copy = bytes(payload)
        if len(copy) > 8:
            messages.add(copy)
        send(payload)

    channel.send = spy  # type: ignore[method-assign]


# -- correlations that cost() forgot --------------------------------------------------------


def _explained(error: UsageError, cost: Cost, session: Session, place: str) -> Exception:
    """The error, unless it comes of a stock that cost() declared too small."""
    stock = session.prepared
    asked = stock.asked if isinstance(stock, RecordingStock) else Demand()
    declared = dict(cost.demand.counts)
    short = [
        f"{declared.get(kind, 0)} of {kind_words(kind)} where run() has asked for {count} so far"
        for kind, count in asked.counts
        if count > declared.get(kind, 0)
    ]
    missing = cost.demand.ots - cost.ots
    if not short and missing.total:
        short = [
            f"{cost.ots.client_sends} oblivious transfers from the client and "
            f"{cost.ots.server_sends} from the server in `ots` where its own `demand` takes "
            f"{cost.demand.ots.client_sends} and {cost.demand.ots.server_sends}"
        ]
    if not short:
        return error
    return ContractError(
        f"{place}: cost() declares too few correlations: {'; '.join(short)}. Add the cost of every "
        "block that run() calls"
    )


def kind_words(kind: Kind) -> str:
    """A kind of correlation for a reader."""
    name = kind.form.name.lower().replace("_", " ")
    if kind.form.is_dealt:
        return f"dealt {name} of shape {kind.shape}"
    who = "" if kind.sender is None else f" from the {kind.sender.name.lower()}"
    index = f" by {kind.choice_bits} bits" if kind.choice_bits > 1 else ""
    return f"{name} of {kind.bits} bits{index}{who}"


def shared_bits(bits: NDArray[np.bool_], drawn: NDArray[np.uint8] | None = None) -> Shares:
    """Shares modulo two, as words: the client's are the bits themselves unless some are drawn."""
    whole = bits.astype(np.uint64)
    if drawn is None:
        return whole, np.zeros_like(whole)
    client = drawn.astype(np.uint64)
    return client, client ^ whole
