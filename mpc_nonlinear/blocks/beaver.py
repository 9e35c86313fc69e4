"""Products from a dealer's triples: of elements, of matrices, with the server's weights.

Operands are opened under uniform masks that serve once. [Beaver91].
"""

from __future__ import annotations

from math import prod

import numpy as np

from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.dealt import element_kind, matrix_kind, square_kind, weight_kind
from mpc_nonlinear.cost import Cost, Demand
from mpc_nonlinear.fixed_point import RING_BYTES, RingArray
from mpc_nonlinear.ring_matmul import Limbs, ring_matmul
from transport.bitpack import low_mask, pack_bits, packed_bytes, unpack_bits
from transport.traffic import Party, Traffic


class DealerProducts(OtProducts):
    """Elementwise products from dealt triples, squares from dealt pairs. 2 rounds. No failures.

    Only as many low bits are opened as the product's bound calls for; the truncation is that of
    products by oblivious transfer.
    """

    name = "dealer"
    source = "[Beaver91]; [Beaver97] commodity-based cryptography"

    def multiply_cost(self, count: int, bounds: Bounds) -> Cost:
        """Two openings a product and the truncation."""
        return self._cost(count, 2, Demand.of(element_kind(), count), bounds)

    def square_cost(self, count: int, bounds: Bounds) -> Cost:
        """One opening a square and the truncation."""
        return self._cost(count, 1, Demand.of(square_kind(), count), bounds)

    def _cost(self, count: int, operands: int, demand: Demand, bounds: Bounds) -> Cost:
        size = packed_bytes(operands * count, self._ring_bits(bounds))
        return Cost.of(Traffic.exchange(size, size), demand) + self._truncate_cost(count, bounds)

    def multiply(self, x: RingArray, y: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """X y = c + d b + e a + d e for opened d = x - a, e = y - b."""
        flat = x.reshape(-1), y.reshape(-1)
        a, b, c = session.prepared.dealt(element_kind(), x.size)
        d, e = _opened([flat[0] - a, flat[1] - b], self._ring_bits(bounds), session)
        product = c + d * b + e * a
        if session.party is Party.SERVER:
            product = product + d * e
        return self._truncate(product, session, bounds).reshape(x.shape)

    def square(self, x: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """x^2 = c + 2 d a + d^2 for opened d = x - a."""
        a, c = session.prepared.dealt(square_kind(), x.size)
        (d,) = _opened([x.reshape(-1) - a], self._ring_bits(bounds), session)
        square = c + np.uint64(2) * d * a
        if session.party is Party.SERVER:
            square = square + d * d
        return self._truncate(square, session, bounds).reshape(x.shape)


def _opened(shares: list[RingArray], bits: int, session: Session) -> list[RingArray]:
    """The low bits of sums of both parties' shares, to both. 1 round."""
    flat = np.concatenate(shares) & low_mask(bits)
    message = pack_bits(flat, bits)
    session.channel.next_round()
    theirs = unpack_bits(session.channel.exchange(message, len(message)), flat.size, bits)
    opened = (flat + theirs) & low_mask(bits)
    return np.split(opened, len(shares))


def matrix_product_cost(batch: int, m: int, k: int, n: int) -> Cost:
    """Cost of `matrix_product`."""
    size = RING_BYTES * batch * (m * k + k * n)
    return Cost.of(Traffic.exchange(size, size), Demand.of(matrix_kind(batch, m, k, n), 1))


def matrix_product(x: RingArray, y: RingArray, session: Session) -> RingArray:
    """Shares of X Y modulo 2^64, (batch, m, n), for shares (batch, m, k) and (batch, k, n).

    Exact, not truncated. 1 round.
    """
    batch, m, k = x.shape
    n = y.shape[-1]
    a, b, c = (part[0] for part in session.prepared.dealt(matrix_kind(batch, m, k, n), 1))
    own = np.concatenate([(x - a).reshape(-1), (y - b).reshape(-1)])
    session.channel.next_round()
    message = own.tobytes()
    theirs = np.frombuffer(session.channel.exchange(message, len(message)), np.uint64)
    opened = own + theirs
    d, e = opened[: x.size].reshape(x.shape), opened[x.size :].reshape(y.shape)
    masked = Limbs.of(d)
    if session.party is Party.SERVER:
        b = b + e
    product: RingArray = c + ring_matmul(masked, b) + ring_matmul(a, e)
    return product


def weight_product_cost(layer: int, m: int, k: int, n: int) -> Cost:
    """Cost of `weight_product`."""
    message = Traffic.message(Party.CLIENT, RING_BYTES * m * k)
    return Cost.of(message, Demand.of(weight_kind(layer, m, k, n), 1))


def prepare_weight_product(
    layer: int, shape: tuple[int, int, int], masked: Limbs | None, session: Session
) -> tuple[RingArray, ...]:
    """Before the input is known: (A, A F + C) at the client, (C,) at the server."""
    dealt = session.prepared.dealt(weight_kind(layer, *shape), 1)
    if masked is None:
        return (dealt[0][0],)
    a, share = dealt[0][0], dealt[1][0]
    return a, ring_matmul(a, masked) + share


def weight_product(
    x: RingArray, prepared: tuple[RingArray, ...], weights: Limbs | None, session: Session
) -> RingArray:
    """Shares of X W modulo 2^64, (m, n), from shares of X (m, k); weights: server only.

    The client sends X_c - A, uniform; W X = (X - A) W + A F + A B. Exact, not truncated. 1 round.
    """
    session.channel.next_round()
    if weights is None:
        a, own = prepared
        session.channel.send_array(x - a)
        return own
    (share,) = prepared
    opened = session.channel.recv_array(x.shape, np.uint64)
    return ring_matmul(opened + x, weights) + share


def masked_weights(
    weights: RingArray | None, layer: int, shape: tuple[int, int], session: Session
) -> Limbs | None:
    """Set-up, once a session: F = W - B, sent to the client, who gets its limbs. 1 round."""
    mask = session.correlations.deal_weights(layer, shape)
    session.channel.next_round()
    if weights is None:
        return Limbs.of(session.channel.recv_array(shape, np.uint64))
    assert mask is not None
    assert prod(shape) == weights.size
    session.channel.send_array(weights - mask)
    return None
