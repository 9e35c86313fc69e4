"""Silent OT extension: most of the randomness is made without a message.

Ferret [Yang20] (eprint 2020/924), semi-honest: its consistency checks, against malicious parties,
are left out. Correlated OTs with noise in one unknown place of each block, from seed trees, plus a
public code times earlier correlated OTs, are new ones under regular LPN; each batch keeps what the
next one needs. The first come from SoftSpokenOT.

The lowest bit of delta is one and that of the sender's blocks zero, so that a receiver's block
ends in its choice bit. Delta keeps 127 uniform secret bits, so that the bounds of the hashes, which
grow with queries times guesses of delta, are twice as large and no more.
"""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np

from mpc_nonlinear.correlations.base import BlockArray
from mpc_nonlinear.correlations.extension import ExtensionSource
from mpc_nonlinear.correlations.ggm import TreeHash, clear_choices, held_trees, own_trees
from mpc_nonlinear.correlations.lpn import MEDIUM, SMALL, LpnParameters, PublicCode
from mpc_nonlinear.correlations.softspoken import SoftSpokenSource
from mpc_nonlinear.correlations.stock import StockedSource
from mpc_nonlinear.cost import OtCount
from mpc_nonlinear.fixed_point import BitArray
from transport.channel import Channel
from transport.computing import Units, units
from transport.errors import UsageError
from transport.randomness import SecureRandom
from transport.traffic import Party, Traffic

_BLOCK_BYTES = 16
_RESERVE = MEDIUM.consumed
_FEW = 1 << 16
"""So many OTs or fewer come from the extension: a batch would move more and take longer."""
_LOW = np.uint64(1)


class _Bootstrap(SoftSpokenSource):
    """Less traffic than the default for what a session needs once."""

    k = 8


def batches(count: int) -> tuple[list[LpnParameters], int]:
    """Batches that make `count` OTs, and how many come from the extension instead.

    Public: both parties derive it from the count. Two small batches are faster than a medium one.
    """
    found: list[LpnParameters] = []
    while count > _FEW:
        found.append(MEDIUM if count > 2 * SMALL.usable else SMALL)
        count -= found[-1].usable
    return found, max(count, 0)


class FerretSource(StockedSource):
    """Under one bit of traffic per OT in large batches; regular LPN besides IKNP's assumptions.

    A batch makes 2 251 218 or 796 364 OTs; what a `produce` asked for stays, the rest is dropped.
    """

    name: ClassVar[str] = "ferret"
    source: ClassVar[str] = "[Yang20] eprint 2020/924, semi-honest; trees of [Guo22] 2022/1431"
    trust: ClassVar[str] = (
        "Oblivious transfers: Ferret, semi-honest, under regular LPN over F2 with parameters of "
        "May 2026; bootstrapped by SoftSpokenOT; base OTs under CDH on edwards25519, AES as a "
        "pseudorandom generator, fixed-key AES as an ideal permutation."
    )

    def __init__(self, party: Party, rng: SecureRandom) -> None:
        super().__init__(party)
        self._rng = rng
        self._extension: ExtensionSource = _Bootstrap(party, rng)
        self._own_reserve: BlockArray = np.zeros((0, 2), np.uint64)
        self._held_reserve: BlockArray = np.zeros((0, 2), np.uint64)

    @classmethod
    def setup_traffic(cls) -> Traffic:
        """The extension's set-up and its OTs for the first batch of each direction."""
        first = OtCount(_RESERVE, _RESERVE)
        return _Bootstrap.setup_traffic() + _Bootstrap.production_traffic(first)

    @classmethod
    def production_traffic(cls, count: OtCount) -> Traffic:
        """One round, or two where a direction takes both a batch and the extension."""
        client, few_client = batches(count.client_sends)
        server, few_server = batches(count.server_sends)
        few = _Bootstrap.production_traffic(OtCount(few_client, few_server))
        silent = Traffic(
            sum(map(_batch_bytes, client)),
            sum(map(_batch_bytes, server)),
            sum(len(list(p.chunks())) for p in client),
            sum(len(list(p.chunks())) for p in server),
        )
        both = bool(client and few_client) or bool(server and few_server)
        rounds = 1 + both if count.total else 0
        return replace(silent + few, rounds=rounds)

    @classmethod
    def production_units(cls, count: OtCount) -> Units:
        """Batches of either size, and the extension's OTs."""
        client, few_client = batches(count.client_sends)
        server, few_server = batches(count.server_sends)
        sizes = [*client, *server]
        found = {
            "ferret_small_batch": sizes.count(SMALL),
            "ferret_medium_batch": sizes.count(MEDIUM),
            "ferret_few_ot": few_client + few_server,
        }
        return units(found)

    def close(self) -> None:
        """Burn stock, reserves and seeds."""
        super().close()
        self._extension.close()
        self._own_reserve = self._held_reserve = np.zeros((0, 2), np.uint64)

    def _setup(self, channel: Channel) -> BlockArray:
        self._extension.setup(channel)
        own, held, delta = self._extend(OtCount(_RESERVE, _RESERVE), channel)
        self._own_reserve, self._held_reserve = own, held
        return delta

    def _produce(self, sending: int, receiving: int, channel: Channel) -> None:
        assert self._delta is not None
        own_batches, own_few = batches(sending)
        held_batches, held_few = batches(receiving)
        # All of a party's sends come before its first receive.
        own = [self._send_batch(p, self._delta, channel) for p in own_batches]
        held = [self._receive_batch(p, channel) for p in held_batches]
        if own_few or held_few:
            few = self._by_party(own_few, held_few)
            few_own, few_held, _ = self._extend(few, channel)
            own.append(few_own)
            held.append(few_held)
        self._keep(own, sending, held, receiving)

    def _keep(
        self, own: list[BlockArray], sending: int, held: list[BlockArray], receiving: int
    ) -> None:
        for blocks in own:
            part = blocks[:sending]
            self._sending.add(part)
            sending -= len(part)
        for blocks in held:
            part = blocks[:receiving]
            self._receiving.add(part, _choices(part))
            receiving -= len(part)

    def _extend(
        self, count: OtCount, channel: Channel
    ) -> tuple[BlockArray, BlockArray, BlockArray]:
        """OTs of the extension in this source's form: own blocks, held blocks, delta."""
        self._extension.produce(count, channel)
        mine, theirs = count.client_sends, count.server_sends
        if self._party is Party.SERVER:
            mine, theirs = theirs, mine
        sent, received = self._extension.take_sender(mine), self._extension.take_receiver(theirs)
        own, held, delta = sent.blocks.copy(), received.blocks.copy(), sent.delta.copy()
        own[:, 0] &= ~_LOW
        held[:, 0] = (held[:, 0] & ~_LOW) | received.choices
        delta[0] |= _LOW
        return own, held, delta

    def _send_batch(self, p: LpnParameters, delta: BlockArray, channel: Channel) -> BlockArray:
        """One batch as the OTs' sender: own blocks (usable, 2)."""
        secret, pads, self._own_reserve = _split(self._own_reserve, p)
        seed = self._rng.bytes(_BLOCK_BYTES)
        code, tree_hash = _public(seed)
        out = np.empty((p.n, 2), np.uint64)
        for start, count in p.chunks():
            roots = self._rng.uint64((count, 2))
            part = out[start * p.block : (start + count) * p.block]
            own_pads = np.ascontiguousarray(pads[:, start : start + count])
            leaves = part.reshape(count, p.block, 2)
            _, message = own_trees(roots, delta, own_pads, tree_hash, leaves)
            channel.send((seed if not start else b"") + message.tobytes())
            clear_choices(part)
            code.add_rows(secret, part)
        self._own_reserve = np.concatenate([out[: p.consumed], self._own_reserve])
        return out[p.consumed :]

    def _receive_batch(self, p: LpnParameters, channel: Channel) -> BlockArray:
        """One batch as their receiver: held blocks (usable, 2), choice bits lowest."""
        secret, pads, self._held_reserve = _split(self._held_reserve, p)
        out = np.empty((p.n, 2), np.uint64)
        for start, count in p.chunks():
            size = p.depth * count * _BLOCK_BYTES
            data = channel.recv(size if start else size + _BLOCK_BYTES)
            if not start:
                code, tree_hash = _public(data[:_BLOCK_BYTES])
                data = data[_BLOCK_BYTES:]
            message = np.frombuffer(data, np.uint64).reshape(p.depth, count, 2)
            own_pads = np.ascontiguousarray(pads[:, start : start + count])
            part = out[start * p.block : (start + count) * p.block]
            leaves = part.reshape(count, p.block, 2)
            _, missing = held_trees(message, own_pads, _choices(own_pads), tree_hash, leaves)
            clear_choices(part)
            leaves[np.arange(count), missing, 0] |= _LOW
            code.add_rows(secret, part)
        self._held_reserve = np.concatenate([out[: p.consumed], self._held_reserve])
        return out[p.consumed :]


def _batch_bytes(p: LpnParameters) -> int:
    return _BLOCK_BYTES * (p.t * p.depth + 1)


def _choices(blocks: BlockArray) -> BitArray:
    bits: BitArray = (blocks[..., 0] & _LOW).astype(np.uint8)
    return bits


def _split(reserve: BlockArray, p: LpnParameters) -> tuple[BlockArray, BlockArray, BlockArray]:
    """Secret (k, 2), the trees' OTs (depth, t, 2), and what stays in the reserve."""
    if len(reserve) < p.consumed:
        raise UsageError(f"correlations ferret: {len(reserve)} OTs in reserve, {p.consumed} needed")
    pads = reserve[p.k : p.consumed].reshape(p.depth, p.t, 2)
    return reserve[: p.k], pads, reserve[p.consumed :]


def _public(seed: bytes) -> tuple[PublicCode, TreeHash]:
    """The batch's code and hash from its public seed."""
    return PublicCode(seed), TreeHash(np.frombuffer(seed, np.uint64))
