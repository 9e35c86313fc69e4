"""Products of shared numbers by oblivious transfer."""

from __future__ import annotations

from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.blocks.oblivious_transfer import (
    correlated_ot_both,
    correlated_ot_both_cost,
    correlated_ot_cost,
    correlated_ot_receive,
    correlated_ot_send,
)
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.session import Context, Products, Session
from mpc_nonlinear.blocks.truncate import truncate, truncate_cost, widen, widen_cost
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from transport.bitpack import low_mask
from transport.traffic import Party

_POWERS = np.uint64(1) << np.arange(RING_BITS, dtype=np.uint64)


class OtProducts(Products):
    """One correlated OT for every bit of a share, then a truncation. 2 rounds. No failures.

    If |x y| < 2^(b - 2) units, the product modulo 2^b and so the low b bits of all shares
    determine it: only they are read.
    """

    name = "ot"
    source = "[Gilboa99]; [Demmler15] ABY, Section III.A.4"
    max_error_units = 1
    is_exact = True

    def __init__(self, fraction_bits: int) -> None:
        self._fraction_bits = fraction_bits

    def multiply_cost(self, count: int, bounds: Bounds) -> Cost:
        """Two OTs a product for every bit that is read, and the truncation's."""
        bits = self._ring_bits(bounds)
        return cross_products_cost(count, bits) + self._truncate_cost(count, bounds)

    def square_cost(self, count: int, bounds: Bounds) -> Cost:
        """One OT a square for every bit that is read, and the truncation's."""
        bits = self._ring_bits(bounds)
        cross = correlated_ot_cost(count * bits, bits, Party.CLIENT)
        return cross + self._truncate_cost(count, bounds)

    def multiply(self, x: RingArray, y: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """Shares of x0 y0 + x1 y1 + x0 y1 + x1 y0; the last two by `cross_products`."""
        cross = cross_products(x, y, self._ring_bits(bounds), session)
        product = x.reshape(-1) * y.reshape(-1) + cross
        return self._truncate(product, session, bounds).reshape(x.shape)

    def square(self, x: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """Shares of x^2 = x0^2 + x1^2 + 2 x0 x1."""
        bits = self._ring_bits(bounds)
        if session.party is Party.CLIENT:
            half = correlated_ot_send(_shifted(x, bits), bits, session)
        else:
            half = correlated_ot_receive(_bits(x, bits), bits, session)
        square = x.reshape(-1) * x.reshape(-1) + np.uint64(2) * _sums(half, bits)
        return self._truncate(square, session, bounds).reshape(x.shape)

    def _ring_bits(self, bounds: Bounds) -> int:
        return min(RING_BITS, ceil(log2(bounds.largest)) + 2 * self._fraction_bits + 2)

    def _truncate_cost(self, count: int, bounds: Bounds) -> Cost:
        bits, shift = self._ring_bits(bounds), self._fraction_bits + bounds.shift
        return truncate_cost(count, shift) if bits == RING_BITS else widen_cost(count, bits - shift)

    def _truncate(self, product: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """Off by less than one unit and unbiased."""
        bits, shift = self._ring_bits(bounds), self._fraction_bits + bounds.shift
        if bits == RING_BITS:
            return truncate(product, shift, session)
        # Both floors together lose 2^shift - 1 on average.
        if session.party is Party.SERVER:
            product = product + np.uint64((1 << shift) - 1)
        return widen((product & low_mask(bits)) >> np.uint64(shift), bits - shift, session)


def exact_products(context: Context) -> Products:
    """The context's engine where it is exact, else products by oblivious transfer."""
    products = context.products
    return products if products.is_exact else OtProducts(context.fixed_point.fraction_bits)


def cross_products_cost(count: int, bits: int) -> Cost:
    """Cost of `cross_products`: one OT in each direction for every bit."""
    return correlated_ot_both_cost(count * bits, bits)


def cross_products(x: RingArray, y: RingArray, bits: int, session: Session) -> RingArray:
    """Shares modulo 2^bits of x0 y1 + x1 y0 for every element, flat; upper bits are not read.

    Bit by bit of the peer's y. Exact. 1 round. [Gilboa99].
    """
    sent, received = correlated_ot_both(_shifted(x, bits), _bits(y, bits), bits, session)
    return _sums(sent + received, bits)


def _shifted(x: RingArray, bits: int) -> RingArray:
    """Every element times 2^0, 2^1, ..., modulo 2^bits; flat."""
    shifted: RingArray = (x.reshape(-1, 1) * _POWERS[:bits]).reshape(-1) & low_mask(bits)
    return shifted


def _sums(halves: RingArray, bits: int) -> RingArray:
    """Of every `bits` numbers."""
    sums: RingArray = halves.reshape(-1, bits).sum(axis=1, dtype=np.uint64)
    return sums


def _bits(x: RingArray, bits: int) -> NDArray[np.uint8]:
    """The low bits of every element, least significant first."""
    words = np.ascontiguousarray(x.reshape(-1, 1))
    unpacked = np.unpackbits(words.view(np.uint8), axis=1, count=bits, bitorder="little")
    return unpacked.reshape(-1)
