"""Products of shared numbers by oblivious transfer."""

from __future__ import annotations

import numpy as np

from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from mpc_nonlinear.oblivious_transfer import (
    correlated_ot_both,
    correlated_ot_both_cost,
    correlated_ot_cost,
    correlated_ot_receive,
    correlated_ot_send,
)
from mpc_nonlinear.products import Bounds, Products
from mpc_nonlinear.session import Session
from mpc_nonlinear.truncate import truncate, truncate_cost
from transport.traffic import Party

_POWERS = np.uint64(1) << np.arange(RING_BITS, dtype=np.uint64)


class OtProducts(Products):
    """One correlated OT for every bit of a share, then a truncation. 4 rounds. No failures."""

    name = "ot"
    source = "[Gilboa99]; [Demmler15] ABY, Section III.A.4"
    max_error_units = 1

    def __init__(self, fraction_bits: int) -> None:
        self._fraction_bits = fraction_bits

    def multiply_cost(self, count: int, bounds: Bounds) -> Cost:
        """128 OTs a product, and the truncation's."""
        shift = self._fraction_bits + bounds.shift
        return correlated_ot_both_cost(count * RING_BITS, RING_BITS) + truncate_cost(count, shift)

    def square_cost(self, count: int, bounds: Bounds) -> Cost:
        """64 OTs a square, and the truncation's."""
        shift = self._fraction_bits + bounds.shift
        cost = correlated_ot_cost(count * RING_BITS, RING_BITS, Party.CLIENT)
        return cost + truncate_cost(count, shift)

    def multiply(self, x: RingArray, y: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """Shares of x0 y0 + x1 y1 + x0 y1 + x1 y0; the last two bit by bit of the peer's y."""
        correlations = (x.reshape(-1, 1) * _POWERS).reshape(-1)
        sent, received = correlated_ot_both(correlations, _bits(y), RING_BITS, session)
        cross = (sent + received).reshape(-1, RING_BITS).sum(axis=1, dtype=np.uint64)
        product = x.reshape(-1) * y.reshape(-1) + cross
        return truncate(product, self._fraction_bits + bounds.shift, session).reshape(x.shape)

    def square(self, x: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """Shares of x^2 = x0^2 + x1^2 + 2 x0 x1."""
        if session.party is Party.CLIENT:
            correlations = (x.reshape(-1, 1) * _POWERS).reshape(-1)
            half = correlated_ot_send(correlations, RING_BITS, session)
        else:
            half = correlated_ot_receive(_bits(x), RING_BITS, session)
        cross = half.reshape(-1, RING_BITS).sum(axis=1, dtype=np.uint64)
        square = x.reshape(-1) * x.reshape(-1) + np.uint64(2) * cross
        return truncate(square, self._fraction_bits + bounds.shift, session).reshape(x.shape)


def _bits(x: RingArray) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """All 64 bits of every element, least significant first."""
    words = np.ascontiguousarray(x.reshape(-1))
    return np.unpackbits(words.view(np.uint8), bitorder="little")
