"""Products that a trusted dealer gives whole, modulo 2^64: elements, squares, matrices, weights.

Shares that may be anything come from seeds; only the server's share of a product is sent. Both
parties ask for the same, one frame for the operation and one for the kind.

A product with the server's weights W (k, n) uses one mask B for a whole session: the client holds
F = W - B, which says nothing of W, and for every input a new A with a share of A B. [Beaver91],
with the weights' side fixed as in [Mohassel17] SecureML, eprint 2017/396, Section IV.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from math import prod

import numpy as np

from mpc_nonlinear.cost import Form, Kind
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from mpc_nonlinear.ring_matmul import Limbs, ring_matmul
from transport.channel import Channel
from transport.errors import FrameError
from transport.randomness import SEED_BYTES, SecureRandom
from transport.traffic import Party

DEAL, DEAL_WEIGHTS = 3, 4
"""Operations of a request."""
_KIND = struct.Struct("<B4Q")
_MAX_WORDS = 1 << 28
_DOMAIN = "dealer: products"


def element_kind() -> Kind:
    """a, b and a b."""
    return Kind(Form.ELEMENT_TRIPLE, RING_BITS)


def square_kind() -> Kind:
    """A and a^2."""
    return Kind(Form.SQUARE_PAIR, RING_BITS)


def matrix_kind(batch: int, m: int, k: int, n: int) -> Kind:
    """A (batch, m, k), B (batch, k, n) and A B."""
    return Kind(Form.MATRIX_TRIPLE, RING_BITS, shape=(batch, m, k, n))


def weight_kind(layer: int, m: int, k: int, n: int) -> Kind:
    """A (m, k) at the client and shares of A B for the layer's mask B (k, n)."""
    return Kind(Form.WEIGHT_PRODUCT, RING_BITS, shape=(layer, m, k, n))


def prime_triple_kind(modulus: int) -> Kind:
    """a, b and a b modulo a prime. No dealer gives it."""
    return Kind(Form.PRIME_TRIPLE, modulus.bit_length(), shape=(modulus,))


def prime_square_kind(modulus: int) -> Kind:
    """A and a^2 modulo a prime. No dealer gives it."""
    return Kind(Form.PRIME_SQUARE, modulus.bit_length(), shape=(modulus,))


def prime_cross_kind(modulus: int) -> Kind:
    """A number of each party's own and shares of their product modulo a prime, from no dealer."""
    return Kind(Form.PRIME_CROSS, modulus.bit_length(), shape=(modulus,))


def prime_scaled_row_kind(modulus: int, width: int) -> Kind:
    """Rows a of this width, b, a b and the sum of a^2 modulo a prime. No dealer gives it."""
    bits = modulus.bit_length()
    return Kind(Form.PRIME_SCALED_ROW, bits, width=width, shape=(modulus,))


def prime_cube_kind(modulus: int) -> Kind:
    """A, a^2 and a^3 modulo a prime. No dealer gives it."""
    return Kind(Form.PRIME_CUBE, modulus.bit_length(), shape=(modulus,))


def describe(kind: Kind) -> bytes:
    """The second frame of a request."""
    return _KIND.pack(int(kind.form), *(kind.shape or (0,) * 4))


def _parsed(data: bytes) -> Kind:
    form, *shape = _KIND.unpack(data)
    if form not in [int(f) for f in Form if f.is_dealt and not f.is_stored]:
        raise FrameError(f"dealer: no product of form {form}; update the older party")
    return Kind(Form(form), RING_BITS, shape=tuple(shape) if any(shape) else ())


def _shapes(kind: Kind, count: int) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
    """Of the operands and of the product."""
    if kind.form is Form.ELEMENT_TRIPLE:
        return [(count,), (count,)], (count,)
    if kind.form is Form.SQUARE_PAIR:
        return [(count,)], (count,)
    first, m, k, n = kind.shape
    if kind.form is Form.WEIGHT_PRODUCT:
        return [(count, m, k)], (count, m, n)
    return [(count, first, m, k), (count, first, k, n)], (count, first, m, n)


def _expanded(seed: bytes, shapes: list[tuple[int, ...]]) -> list[RingArray]:
    rng = SecureRandom(seed, domain=_DOMAIN)
    return [rng.uint64(shape) for shape in shapes]


def receive_dealt(kind: Kind, count: int, party: Party, dealer: Channel) -> tuple[RingArray, ...]:
    """This party's shares: of operands, then of the product.

    Of weights the client gets A and its share of A B, the server its share of A B.
    """
    operands, product = _shapes(kind, count)
    if party is Party.CLIENT:
        return tuple(_expanded(dealer.recv(SEED_BYTES), [*operands, product]))
    if kind.form is Form.WEIGHT_PRODUCT:
        return (dealer.recv_array(product, np.uint64),)
    own = _expanded(dealer.recv(SEED_BYTES), operands)
    return (*own, dealer.recv_array(product, np.uint64))


def receive_weight_mask(shape: tuple[int, int], party: Party, dealer: Channel) -> RingArray | None:
    """B at the server, nothing at the client."""
    if party is Party.CLIENT:
        return None
    (mask,) = _expanded(dealer.recv(SEED_BYTES), [shape])
    return mask


class DealtProducts:
    """The dealer's side."""

    def __init__(self, channels: Mapping[Party, Channel], rng: SecureRandom) -> None:
        self._channels, self._rng = channels, rng
        self._masks: dict[int, Limbs] = {}

    def deal(self, count: int) -> None:
        """Answer one request of both parties for `count` products."""
        kind = self._kind(count)
        mask = self._mask(kind) if kind.form is Form.WEIGHT_PRODUCT else None
        operands, product = _shapes(kind, count)
        client_seed, server_seed = (self._rng.bytes(SEED_BYTES) for _ in Party)
        *client, client_share = _expanded(client_seed, [*operands, product])
        self._channels[Party.CLIENT].send(client_seed)
        to_server = self._channels[Party.SERVER]
        if mask is not None:
            whole = ring_matmul(client[0], mask)
            to_server.send_array(whole - client_share)
            return
        server = _expanded(server_seed, operands)
        to_server.send(server_seed)
        sums = [a + b for a, b in zip(client, server, strict=True)]
        to_server.send_array(_PRODUCTS[kind.form](*sums) - client_share)

    def deal_weights(self, layer: int) -> None:
        """Draw the mask of a layer's weights."""
        kind = self._kind(1)
        if kind.form is not Form.WEIGHT_PRODUCT or kind.shape[0] != layer or layer in self._masks:
            raise FrameError(f"dealer: weights of layer {layer} are asked for wrongly or twice")
        seed = self._rng.bytes(SEED_BYTES)
        self._channels[Party.SERVER].send(seed)
        (mask,) = _expanded(seed, [kind.shape[2:]])
        self._masks[layer] = Limbs.of(mask)

    def _mask(self, kind: Kind) -> Limbs:
        mask = self._masks.get(kind.shape[0])
        if mask is None or mask.shape != kind.shape[2:]:
            raise FrameError(
                f"dealer: weights of layer {kind.shape[0]} were not set up with this shape"
            )
        return mask

    def _kind(self, count: int) -> Kind:
        """What both parties ask for, checked."""
        descriptions = [self._channels[party].recv(_KIND.size) for party in Party]
        if descriptions[0] != descriptions[1]:
            raise FrameError("dealer: the parties ask for different products; the same plan?")
        kind = _parsed(descriptions[0])
        elementwise = kind.form in (Form.ELEMENT_TRIPLE, Form.SQUARE_PAIR)
        if elementwise == bool(kind.shape):
            raise FrameError("dealer: a product's shape does not belong to its form")
        operands, product = _shapes(kind, count)
        mask = kind.shape[2:] if kind.form is Form.WEIGHT_PRODUCT else ()
        if max(prod(shape) for shape in (*operands, product, mask)) > _MAX_WORDS:
            raise FrameError(f"dealer: products of more than {_MAX_WORDS} numbers in one request")
        return kind


def _squared(a: RingArray) -> RingArray:
    return a * a


def _multiplied(a: RingArray, b: RingArray) -> RingArray:
    return a * b


_PRODUCTS: dict[Form, Callable[..., RingArray]] = {
    Form.ELEMENT_TRIPLE: _multiplied,
    Form.SQUARE_PAIR: _squared,
    Form.MATRIX_TRIPLE: ring_matmul,
}
