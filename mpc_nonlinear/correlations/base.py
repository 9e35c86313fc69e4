"""The interface between protocols that consume oblivious transfers and what produces them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.cost import Kind, OtCount
from mpc_nonlinear.fixed_point import BitArray
from transport.channel import Channel
from transport.computing import Together, Units, Work, units
from transport.errors import UsageError
from transport.traffic import Party, Traffic

BlockArray = NDArray[np.uint64]
"""128-bit blocks: shape (n, 2), little-endian words."""


@dataclass(frozen=True, slots=True)
class OtSender:
    """The sender's half of n random correlated OTs: pads for bit 0 and bit 1.

    Element i's pads are H(first_index + i, blocks[i]) and H(first_index + i, blocks[i] ^ delta).
    """

    blocks: BlockArray
    delta: BlockArray
    """Shape (2,), secret, constant over the session."""
    first_index: int

    def __len__(self) -> int:
        """Number of OTs."""
        return len(self.blocks)


@dataclass(frozen=True, slots=True)
class OtReceiver:
    """The receiver's half: random choice bits c and blocks[i] = sender.blocks[i] ^ c[i]*delta."""

    blocks: BlockArray
    choices: BitArray
    first_index: int

    def __len__(self) -> int:
        """Number of OTs."""
        return len(self.blocks)


class CorrelationSource(ABC):
    """Produces random correlated OTs in bulk and hands each out once."""

    name: ClassVar[str]
    """Name that configs use."""
    source: ClassVar[str]
    """Paper and place in it."""
    trust: ClassVar[str]
    """Sentence for the report's trust model."""

    @abstractmethod
    def setup(self, channel: Channel) -> None:
        """Once per session: base OTs. Talks."""

    @classmethod
    @abstractmethod
    def setup_traffic(cls) -> Traffic:
        """Exact traffic of `setup`."""

    @abstractmethod
    def produce(self, count: OtCount, channel: Channel) -> None:
        """Add `count` OTs to the stock. Talks; does nothing, silently, for a zero count."""

    @classmethod
    @abstractmethod
    def production_traffic(cls, count: OtCount) -> Traffic:
        """Exact traffic of `produce(count)`."""

    @classmethod
    def production_units(cls, count: OtCount) -> Units:
        """Counted work of `produce(count)`."""
        return units({f"{cls.name}_ot": count.total, f"call_{cls.name}": bool(count.total)})

    @classmethod
    def production_work(cls, count: OtCount) -> Work:
        """Counted work of `produce(count)`, and how it waits for messages.

        In one round frames travel while the next ones are made.
        """
        traffic = cls.production_traffic(count)
        serial = max(traffic.client_sent_bytes, traffic.server_sent_bytes)
        made, rounds = cls.production_units(count), traffic.rounds
        return Work((Together(made, rounds, serial, streams=rounds == 1),))

    @abstractmethod
    def take_sender(self, count: int) -> OtSender:
        """Consume `count` OTs in which this party sends; `UsageError` when the stock is short."""

    @abstractmethod
    def take_receiver(self, count: int) -> OtReceiver:
        """Consume `count` OTs in which this party receives."""

    def deal(self, kind: Kind, count: int) -> tuple[NDArray[Any], ...]:
        """Dealt products, first axis `count`; only a dealer has them."""
        raise UsageError(
            f"correlations {self.name}: has no {kind.form.name.lower()} ({count} asked for); these "
            "come from a dealer: set mpc.correlations: dealer or choose protocols without one"
        )

    def deal_weights(self, layer: int, shape: tuple[int, int]) -> NDArray[np.uint64] | None:
        """The server's mask of a layer's weights; only a dealer has one."""
        raise UsageError(
            f"correlations {self.name}: has no mask for weights {shape} of layer {layer}; these "
            "come from a dealer: set mpc.correlations: dealer"
        )

    @abstractmethod
    def stock(self) -> OtCount:
        """What is left."""

    @abstractmethod
    def produced(self) -> OtCount:
        """All that was made since set-up; produced - stock = used."""

    @property
    @abstractmethod
    def party(self) -> Party:
        """Who we are."""
