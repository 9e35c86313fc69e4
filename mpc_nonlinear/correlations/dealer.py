"""Correlations from a trusted third process: weaker trust, for comparison.

The dealer's links are separate channels, one per party, in which the party keeps its role and
the dealer plays its peer. Set-up and every production is one request frame; the answer for each
direction is a seed, and where the party receives, 16 bytes per OT in frames of `CHUNK_OTS`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import ClassVar

import numpy as np

from mpc_nonlinear.correlations.base import BlockArray
from mpc_nonlinear.correlations.dealt import (
    DEAL,
    DEAL_WEIGHTS,
    DealtProducts,
    describe,
    receive_dealt,
    receive_weight_mask,
    weight_kind,
)
from mpc_nonlinear.correlations.stock import StockedSource
from mpc_nonlinear.cost import Kind, OtCount
from mpc_nonlinear.fixed_point import RingArray
from mpc_nonlinear.ring_matmul import Limbs
from transport.channel import Channel
from transport.errors import FrameError, HybridError, PeerLostError, UsageError
from transport.randomness import SEED_BYTES, SecureRandom
from transport.traffic import NO_TRAFFIC, Party, Traffic

CHUNK_OTS = 1 << 17
BLOCK_BYTES = 16
MAX_REQUEST_OTS = 1 << 32
_REQUEST = struct.Struct("<BQQ")
_SETUP, _PRODUCE = 1, 2
_SENDING = "dealer: blocks of the sender"
_CHOOSING = "dealer: choices of the receiver"
_FAREWELL = "the dealer stopped: a party left or failed, or the requests differ"


class TrustedDealer(StockedSource):
    """A party's end of the dealer; nothing moves between the two parties themselves.

    Bytes to and from the dealer are counted by `dealer_channel`, apart from the parties' own
    traffic; `dealer_sent_bytes` and `dealer_received_bytes` hold them. `rng` is not used: all
    randomness is the dealer's.
    """

    name: ClassVar[str] = "dealer"
    source: ClassVar[str] = "[Beaver97] commodity-based cryptography: a server deals the OTs"
    trust: ClassVar[str] = (
        "WEAKER TRUST: oblivious transfers come from a trusted third party, which could unmask "
        "everything; it must not collude with either party nor see their traffic."
    )

    def __init__(self, party: Party, rng: SecureRandom, dealer_channel: Channel) -> None:
        del rng
        super().__init__(party)
        if dealer_channel.party is not party:
            raise UsageError(
                f"correlations dealer: the link is the {dealer_channel.party.name.lower()}'s, "
                f"this party is the {party.name.lower()}; a party keeps its role on it"
            )
        self._dealer = dealer_channel
        self.masked_weights: dict[str, Limbs] = {}
        """Client: weights minus their masks, by layer; see `mpc_nonlinear.correlations.dealt`."""

    @classmethod
    def setup_traffic(cls) -> Traffic:
        """Nothing between the parties; see `dealer_setup_traffic`."""
        return NO_TRAFFIC

    @classmethod
    def production_traffic(cls, count: OtCount) -> Traffic:  # noqa: ARG003
        """Nothing between the parties; see `dealer_traffic`."""
        return NO_TRAFFIC

    @property
    def dealer_sent_bytes(self) -> int:
        """Payload and framing this party sent to the dealer."""
        return _sent(self._dealer.total, self._party)

    @property
    def dealer_received_bytes(self) -> int:
        """Payload and framing this party received from the dealer."""
        return _sent(self._dealer.total, self._party.peer)

    def deal(self, kind: Kind, count: int) -> tuple[RingArray, ...]:
        """Dealt products from the dealer's seeds, and what cannot come from a seed."""
        self._require_open()
        try:
            self._dealer.send(_REQUEST.pack(DEAL, count, count))
            self._dealer.send(describe(kind))
            return receive_dealt(kind, count, self._party, self._dealer)
        except BaseException:
            self.close()
            raise

    def deal_weights(self, layer: int, shape: tuple[int, int]) -> RingArray | None:
        """Server: the uniform mask (k, n) of a layer's weights, once a session."""
        self._require_open()
        self._dealer.send(_REQUEST.pack(DEAL_WEIGHTS, layer, layer))
        self._dealer.send(describe(weight_kind(layer, 1, *shape)))
        return receive_weight_mask(shape, self._party, self._dealer)

    def close(self) -> None:
        """Burn everything, masked weights included."""
        super().close()
        self.masked_weights.clear()

    def _setup(self, channel: Channel) -> BlockArray:  # noqa: ARG002
        self._dealer.send(_REQUEST.pack(_SETUP, 0, 0))
        return self._dealer.recv_array((2,), np.uint64)

    def _produce(self, sending: int, receiving: int, channel: Channel) -> None:  # noqa: ARG002
        self._dealer.send(_REQUEST.pack(_PRODUCE, sending, receiving))
        if sending:
            seed = self._dealer.recv(SEED_BYTES)
            self._sending.add(SecureRandom(seed, domain=_SENDING).uint64((sending, 2)))
        if receiving:
            seed = self._dealer.recv(SEED_BYTES)
            blocks = np.empty((receiving, 2), np.uint64)
            for start, size in _chunks(receiving):
                blocks[start : start + size] = self._dealer.recv_array((size, 2), np.uint64)
            choices = SecureRandom(seed, domain=_CHOOSING).bits(receiving)
            self._receiving.add(blocks, choices)


def dealer_setup_traffic(party: Party) -> Traffic:
    """Exact traffic of `setup` on this party's dealer link, the dealer counted as its peer."""
    return Traffic.message(party, _REQUEST.size) + Traffic.message(party.peer, BLOCK_BYTES)


def dealer_traffic(party: Party, count: OtCount) -> Traffic:
    """Exact traffic of `produce(count)` on this party's dealer link. 2 rounds."""
    if not count.total:
        return NO_TRAFFIC
    sending, receiving = count.client_sends, count.server_sends
    if party is Party.SERVER:
        sending, receiving = receiving, sending
    seeds = bool(sending) + bool(receiving)
    frames = seeds + len(list(_chunks(receiving)))
    size = SEED_BYTES * seeds + BLOCK_BYTES * receiving
    if party is Party.CLIENT:
        return Traffic(_REQUEST.size, size, 1, frames, 2)
    return Traffic(size, _REQUEST.size, frames, 1, 2)


class DealerServer:
    """The dealer's side: answers the requests of both parties, which must agree."""

    def __init__(self, to_client: Channel, to_server: Channel, rng: SecureRandom) -> None:
        self._channels = {Party.CLIENT: to_client, Party.SERVER: to_server}
        self._rng = rng
        self._deltas = {party: rng.uint64(2) for party in Party}
        self._dealt = DealtProducts(self._channels, rng)
        self._is_set_up = False

    def serve(self) -> None:
        """Answer until a party leaves; any other failure is told to both and raised."""
        try:
            while True:
                self._answer()
        except PeerLostError:
            # The regular end: both parties stop in step, and sends never block.
            self._leave()
        except HybridError:
            self._leave()
            raise

    def _answer(self) -> None:
        """Deal with one request of each party."""
        client = self._request(Party.CLIENT)
        server = self._request(Party.SERVER)
        if client != (server[0], server[2], server[1]):
            raise FrameError(
                f"dealer: the client asks for {client}, the server for {server} "
                "(operation, sending, receiving); do both run the same plan?"
            )
        operation, client_sends, server_sends = client
        if (operation == _SETUP) == self._is_set_up:
            raise FrameError("dealer: a session starts with set-up, once; start a new session")
        if operation == _SETUP:
            self._is_set_up = True
            for party, channel in self._channels.items():
                channel.send_array(self._deltas[party])
        elif operation == _PRODUCE:
            self._produce({Party.CLIENT: client_sends, Party.SERVER: server_sends})
        elif operation == DEAL:
            self._dealt.deal(client_sends)
        else:
            self._dealt.deal_weights(client_sends)

    def _produce(self, counts: dict[Party, int]) -> None:
        """Each party gets what it needs for sending first, then for receiving."""
        seeds = {party: self._rng.bytes(SEED_BYTES) for party in Party}
        for party in Party:
            if counts[party]:
                self._channels[party].send(seeds[party])
        for party in Party:
            if counts[party]:
                self._deal(party, counts[party], seeds[party])

    def _deal(self, sender: Party, count: int, seed: bytes) -> None:
        """Give the receiver its choices' seed and blocks = sender's blocks ^ choice * delta."""
        channel = self._channels[sender.peer]
        blocks = SecureRandom(seed, domain=_SENDING)
        choice_seed = self._rng.bytes(SEED_BYTES)
        choices = SecureRandom(choice_seed, domain=_CHOOSING).bits(count)
        channel.send(choice_seed)
        for start, size in _chunks(count):
            chosen = np.uint64(0) - choices[start : start + size, None].astype(np.uint64)
            channel.send_array(blocks.uint64((size, 2)) ^ (chosen & self._deltas[sender]))

    def _request(self, party: Party) -> tuple[int, int, int]:
        """Operation, sending and receiving counts, checked."""
        data = self._channels[party].recv(_REQUEST.size)
        operation, sending, receiving = _REQUEST.unpack(data)
        if operation not in (_SETUP, _PRODUCE, DEAL, DEAL_WEIGHTS):
            raise FrameError(f"dealer: operation {operation} is unknown; update the older party")
        if max(sending, receiving) > MAX_REQUEST_OTS:
            raise FrameError(
                f"dealer: {max(sending, receiving)} OTs in one request exceed {MAX_REQUEST_OTS}"
            )
        return operation, sending, receiving

    def _leave(self) -> None:
        for channel in self._channels.values():
            # A link whose party has gone cannot be told.
            with suppress(HybridError):
                channel.abort(_FAREWELL)


def run_dealer(to_client: Channel, to_server: Channel, rng: SecureRandom | None = None) -> None:
    """Serve one session; the channels are the dealer's ends towards the two parties.

    Returns when a party closes its link, raises what a misbehaving party caused. The receive
    timeout of the channels must exceed the time between two productions.
    """
    DealerServer(to_client, to_server, rng or SecureRandom()).serve()


def _sent(total: Traffic, sender: Party) -> int:
    return total.client_sent_bytes if sender is Party.CLIENT else total.server_sent_bytes


def _chunks(count: int) -> Iterator[tuple[int, int]]:
    for start in range(0, count, CHUNK_OTS):
        yield start, min(CHUNK_OTS, count - start)
