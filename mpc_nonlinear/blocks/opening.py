"""What leaves the computation: a sum chosen by the client's mask, and the opened output."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.blocks.oblivious_transfer import (
    correlated_ot_cost,
    correlated_ot_receive,
    correlated_ot_send,
)
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, RING_BYTES, RingArray
from transport.traffic import Party, Traffic


def masked_sum_cost(rows: int, columns: int) -> Cost:
    """Cost of `masked_sum`."""
    return correlated_ot_cost(rows, RING_BITS, Party.SERVER, columns)


def masked_sum(x: RingArray, session: Session, mask: NDArray[np.bool_] | None) -> RingArray:
    """Shares of the sum of the rows of x (..., rows, columns) where the client's mask is true.

    The client sums its own share; the server's rows come by one correlated OT each, with the
    mask (..., rows) as choices. Exact. 1 round. Result (..., columns).
    """
    if session.party is Party.SERVER:
        rows = correlated_ot_send(x.reshape(-1, x.shape[-1]), RING_BITS, session).reshape(x.shape)
    else:
        assert mask is not None
        chosen = mask.reshape(-1).astype(np.uint8)
        received = correlated_ot_receive(chosen, RING_BITS, session, x.shape[-1])
        rows = received.reshape(x.shape) + np.where(mask[..., None], x, np.uint64(0))
    total: RingArray = rows.sum(axis=-2, dtype=np.uint64)
    return total


def open_to_client_cost(count: int) -> Cost:
    """One message from the server."""
    return Cost.of(Traffic.message(Party.SERVER, count * RING_BYTES))


def open_to_client(x: RingArray, session: Session) -> RingArray | None:
    """The value itself at the client, None at the server. 1 round.

    Truncate before: the low bits of what came from a ciphertext carry its noise.
    """
    session.channel.next_round()
    if session.party is Party.SERVER:
        session.channel.send_array(x)
        return None
    theirs: RingArray = session.channel.recv_array(x.shape, np.uint64)
    return x + theirs
