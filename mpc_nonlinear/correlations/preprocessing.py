"""What raw correlated OTs are made into before the input is known, and the stock of it.

Online work is then xor, pack and unpack. Making says nothing to the peer: each party hashes its
own half of the raw OTs, and both take them in the same order. Forms:

- PRODUCT: pads of 1-of-2 random OT, for shares of choice * x, modulo 2^bits or another number.
- TABLE: 2^m random masks at the sender, a random index and its mask at the receiver, as in
  [Naor-Pinkas 99].
- LEAF: the same with masks of one or two bits, packed into words, `width` words under one index.
- ELEMENT_TRIPLE, SQUARE_PAIR, MATRIX_TRIPLE, WEIGHT_PRODUCT: whole products from a dealer, see
  `mpc_nonlinear.correlations.dealt`.
- PRIME_TRIPLE, PRIME_SQUARE, PRIME_CROSS, PRIME_CUBE: elementwise products and powers modulo a
  prime, which a protocol of its own makes in bulk and stores here.
- PRIME_SCALED_ROW: the same of rows by one number each, and the sums of their squares.
- TRIPLE: shares of a * b for a random bit a and `bits` random bits b. [Asharov13] eprint
  2013/552.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.correlations.base import CorrelationSource
from mpc_nonlinear.correlations.random_ots import (
    leaf_receiver,
    leaf_sender,
    product_receiver,
    product_sender,
    table_receiver,
    table_sender,
    triple,
)
from mpc_nonlinear.cost import Demand, Form, Kind, OtCount
from mpc_nonlinear.fixed_point import BitArray
from transport.errors import UsageError
from transport.traffic import Party

_Arrays = tuple[NDArray[Any], ...]


@dataclass(frozen=True, slots=True)
class ProductSender:
    """pad (n, width) and pad - (pad of the other choice), both below 2^bits or not reduced.

    Those modulo another number are below it.
    """

    pad: NDArray[Any]
    difference: NDArray[Any]


@dataclass(frozen=True, slots=True)
class ProductReceiver:
    """Random choices (n,) and the sender's pads for them (n, width)."""

    choices: BitArray
    pad: NDArray[Any]


@dataclass(frozen=True, slots=True)
class MasksReceiver:
    """Random index (n,) and the sender's mask there: (n,), or (n, width) of a leaf."""

    index: NDArray[np.uint8]
    mask: NDArray[Any]


class Prepared:
    """One party's stock of prepared randomness over one source: first in, first out, single use.

    What is not in stock is made on the spot, with the same results, only later.
    """

    def __init__(self, source: CorrelationSource) -> None:
        self._source = source
        self._stock: dict[Kind, deque[_Arrays]] = {}

    def prepare(self, demand: Demand) -> None:
        """Make all of `demand` from raw OTs that the source has in stock.

        Not what a protocol of its own makes: that comes by `store`.
        """
        self._require(demand.ots)
        for kind, count in demand.counts:
            if kind.form.is_stored:
                continue
            self._stock.setdefault(kind, deque()).append(self._make(kind, count))

    def store(self, kind: Kind, arrays: _Arrays) -> None:
        """Add this party's half of what another protocol made, first axis the count.

        Both parties store the same kinds and counts in the same order.
        """
        if not kind.form.is_stored or len({len(part) for part in arrays}) != 1:
            raise UsageError(
                f"store: {len(arrays)} arrays of {kind.form.name.lower()}; store products modulo a "
                "prime, of one length"
            )
        self._stock.setdefault(kind, deque()).append(arrays)

    def reserve(self, demand: Demand) -> Prepared:
        """A stock of its own for a protocol that runs beside others: exactly `demand` of this one.

        Both parties reserve the same demands in the same order. More than that it refuses to give.
        """
        reserved = _Reserved(self._source)
        for kind, count in demand.counts:
            reserved._stock.setdefault(kind, deque()).append(self._take(kind, count))
        return reserved

    def stock(self) -> Demand:
        """What is left."""
        counts = ((k, sum(len(s[0]) for s in segments)) for k, segments in self._stock.items())
        return sum((Demand.of(kind, count) for kind, count in counts), Demand())

    def product_sender(self, kind: Kind, count: int) -> ProductSender:
        """Consume the sender's half of `count` instances."""
        return ProductSender(*self._take(kind, count))

    def product_receiver(self, kind: Kind, count: int) -> ProductReceiver:
        """Consume the receiver's half."""
        return ProductReceiver(*self._take(kind, count))

    def masks_sender(self, kind: Kind, count: int) -> NDArray[Any]:
        """Masks (n, 2^m) of a table, or words (n, width) of packed masks of a leaf."""
        (masks,) = self._take(kind, count)
        return masks

    def masks_receiver(self, kind: Kind, count: int) -> MasksReceiver:
        """Consume the receiver's half of tables or leaves."""
        return MasksReceiver(*self._take(kind, count))

    def triples(self, kind: Kind, count: int) -> NDArray[np.uint8]:
        """Bytes (n,): share of a in bit 0, then `bits` shares of b, then those of a * b."""
        (packed,) = self._take(kind, count)
        return packed

    def dealt(self, kind: Kind, count: int) -> _Arrays:
        """This party's shares of dealt products, first axis `count`."""
        return self._take(kind, count)

    def _take(self, kind: Kind, count: int) -> _Arrays:
        # A source that is closed or burnt refuses even this; then nothing made of it is used.
        self._source.take_sender(0)
        segments = self._stock.get(kind, deque())
        taken: list[_Arrays] = []
        left = count
        while left and segments:
            head = segments.popleft()
            if len(head[0]) > left:
                segments.appendleft(tuple(part[left:] for part in head))
                head = tuple(part[:left] for part in head)
            taken.append(head)
            left -= len(head[0])
        if left or not taken:
            self._require(kind.ots * left)
            taken.append(self._make(kind, left))
        return _joined(taken)

    def _require(self, raw: OtCount) -> None:
        missing = raw - self._source.stock()
        if missing.total:
            raise UsageError(
                f"correlations {self._source.name}: {missing.client_sends} OTs from the client and "
                f"{missing.server_sends} from the server are missing in stock; call produce() with "
                "the plan's count first"
            )

    def _make(self, kind: Kind, count: int) -> _Arrays:
        if kind.form.is_stored:
            return self._missing(kind, count)
        starts = range(0, count, kind.batch) or (0,)
        return _joined([self._make_batch(kind, min(kind.batch, count - start)) for start in starts])

    @staticmethod
    def _missing(kind: Kind, count: int) -> _Arrays:
        """Nothing, where nothing is asked for; a protocol of its own makes the others."""
        name = kind.form.name.lower()
        if count:
            raise UsageError(
                f"correlations: {count} {name} modulo {kind.shape[0]} are missing in stock; make "
                "them before the products that take them, as the plan's demand says"
            )
        if kind.form is Form.PRIME_SCALED_ROW:
            row, one = np.empty((0, kind.width), np.uint64), np.empty(0, np.uint64)
            return row, one, row, one
        return (np.empty(0, np.uint64),) * _PARTS[kind.form]

    def _make_batch(self, kind: Kind, count: int) -> _Arrays:
        if kind.form.is_dealt:
            return self._source.deal(kind, count)
        raw = count * kind.choice_bits
        if kind.sender is None:
            return (triple(self._source.take_sender(raw), self._source.take_receiver(raw), kind),)
        if kind.sender is self._source.party:
            return _SENDERS[kind.form](self._source.take_sender(raw), kind)
        return _RECEIVERS[kind.form](self._source.take_receiver(raw), kind)


class _Reserved(Prepared):
    """Of one protocol among several that run at once."""

    def _require(self, raw: OtCount) -> None:
        """Nothing is made of other protocols' oblivious transfers."""
        if raw.total:
            raise UsageError(
                f"correlations: {raw.total} oblivious transfers more than were reserved for one of "
                "several protocols at once; declare what it takes"
            )


def _joined(segments: list[_Arrays]) -> _Arrays:
    if len(segments) == 1:
        return segments[0]
    return tuple(np.concatenate(parts) for parts in zip(*segments, strict=True))


_PARTS = {Form.PRIME_TRIPLE: 3, Form.PRIME_SQUARE: 2, Form.PRIME_CROSS: 2, Form.PRIME_CUBE: 3}
"""Arrays of one kind."""
_SENDERS: dict[Form, Callable[..., _Arrays]] = {
    Form.PRODUCT: product_sender,
    Form.TABLE: table_sender,
    Form.LEAF: leaf_sender,
}
_RECEIVERS: dict[Form, Callable[..., _Arrays]] = {
    Form.PRODUCT: product_receiver,
    Form.TABLE: table_receiver,
    Form.LEAF: leaf_receiver,
}


def product_kind(bits: int, sender: Party, width: int = 1) -> Kind:
    """One-of-two random OT of `width` values of `bits` bits."""
    return Kind(Form.PRODUCT, bits, sender, 1, width)


def residue_kind(modulus: int, sender: Party) -> Kind:
    """One-of-two random OT of one residue modulo a number."""
    return Kind(Form.PRODUCT, modulus.bit_length(), sender, shape=(modulus,))


def table_kind(choice_bits: int, bits: int, sender: Party) -> Kind:
    """One of 2^choice_bits random masks of `bits` bits."""
    return Kind(Form.TABLE, bits, sender, choice_bits)


def leaf_kind(choice_bits: int, bits: int, sender: Party, width: int) -> Kind:
    """`width` rows of 2^choice_bits masks of one or two bits under one index."""
    return Kind(Form.LEAF, bits, sender, choice_bits, width)


def triple_kind(bits: int) -> Kind:
    """One random bit times `bits` random bits."""
    return Kind(Form.TRIPLE, bits)
