"""OT extension from small-field VOLE: the common engine of IKNP and SoftSpoken.

Notation of [Roy22] (eprint 2022/192) section 3, semi-honest, repetition code. One tree per
k bits of delta; leaf x of tree t, stretched by a PRG to one bit per OT, is r[t][x].

- OT receiver knows every leaf:  u[t] = sum_x r[t][x],  v[t] = sum_x x * r[t][x]
- OT sender lacks leaf delta[t]: w[t] = sum_x (x - delta[t]) * r[t][x] = v[t] + u[t]*delta[t]
- receiver's choice bits are u[0]; it sends u[t] - u[0] for t > 0, by which the sender moves
  every w[t] to v[t] + u[0]*delta[t]. Rows of the transposes are the blocks.

All sums are exclusive ors. k = 1 is [Ishai03] with 128 columns, of which the first is free.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

from mpc_nonlinear.correlations import puncturable
from mpc_nonlinear.correlations.base import BlockArray
from mpc_nonlinear.correlations.base_ot import BaseKeys, base_ot_both, base_ot_traffic
from mpc_nonlinear.correlations.bit_matrix import fold_leaves, transpose_columns
from mpc_nonlinear.correlations.stock import StockedSource
from mpc_nonlinear.cost import OtCount
from mpc_nonlinear.fixed_point import BitArray
from transport.channel import Channel
from transport.randomness import SecureRandom
from transport.traffic import NO_TRAFFIC, Party, Traffic

SECURITY_BITS = 128
PADDING_OTS = 128
"""OTs are made in multiples of this; the surplus of a `produce` is thrown away."""
CHUNK_OTS = 1 << 17
"""OTs per frame, a multiple of the padding."""
_WORD = 64
Words = NDArray[np.uint64]


class LeafStreams:
    """Pseudorandom bit streams of all leaves of all trees, read in step."""

    def __init__(self, trees: list[list[puncturable.Seed]]) -> None:
        self._streams = [
            [Cipher(algorithms.AES(seed), modes.CTR(bytes(16))).encryptor() for seed in leaves]
            for leaves in trees
        ]

    def columns(self, words: int, known_from: int) -> tuple[Words, Words]:
        """Next `words` words of u (trees, words) and of v or w (128, words).

        Leaves below `known_from` are replaced by zeros.
        """
        trees, size = len(self._streams), len(self._streams[0])
        k = SECURITY_BITS // trees
        u = np.empty((trees, words), np.uint64)
        v = np.empty((SECURITY_BITS, words), np.uint64)
        leaves = np.zeros((size, words), np.uint64)
        zeros = bytes(8 * words)
        for t, streams in enumerate(self._streams):
            leaves[:known_from] = 0
            for x in range(known_from, size):
                streams[x].update_into(zeros, memoryview(leaves[x]).cast("B"))
            fold_leaves(leaves, u[t], v[t * k : (t + 1) * k])
        return u, v


class ExtensionSource(StockedSource):
    """Correlated OTs in both directions from 128 base OTs in each direction."""

    k: ClassVar[int]
    """Bits of delta per tree (1, 2, 4 or 8): more means less traffic and more local work."""

    def __init__(self, party: Party, rng: SecureRandom) -> None:
        super().__init__(party)
        assert self.k in (1, 2, 4, 8)
        self._rng = rng
        self._sender_streams: LeafStreams | None = None
        self._receiver_streams: LeafStreams | None = None

    @classmethod
    def trees(cls) -> int:
        """Number of seed trees in each direction."""
        return SECURITY_BITS // cls.k

    @classmethod
    def setup_traffic(cls) -> Traffic:
        """Three rounds, or two where k = 1: base OTs, then the trees' corrections."""
        size = cls.trees() * puncturable.corrections_bytes(cls.k)
        corrections = Traffic.exchange(size, size) if size else NO_TRAFFIC
        return base_ot_traffic(SECURITY_BITS) + corrections

    @classmethod
    def production_traffic(cls, count: OtCount) -> Traffic:
        """One round whatever the count: each direction's frames go out back to back."""
        client = [cls._frame_bytes(size) for _, size in _chunks(count.server_sends)]
        server = [cls._frame_bytes(size) for _, size in _chunks(count.client_sends)]
        if not client and not server:
            return NO_TRAFFIC
        return Traffic(sum(client), sum(server), len(client), len(server), 1)

    def close(self) -> None:
        """Burn stock, seeds and delta."""
        super().close()
        self._sender_streams = self._receiver_streams = None

    # -- set-up ------------------------------------------------------------------------

    def _setup(self, channel: Channel) -> BlockArray:
        sides = self._rng.bits(SECURITY_BITS)
        keys = base_ot_both(sides, channel, self._rng)
        full, message = self._own_trees(keys)
        self._receiver_streams = LeafStreams(full)
        theirs = b""
        if message:
            theirs = channel.exchange(message, len(message))
        punctured, delta = self._peer_trees(keys, sides, theirs)
        self._sender_streams = LeafStreams(punctured)
        return delta

    def _own_trees(self, keys: BaseKeys) -> tuple[list[list[puncturable.Seed]], bytes]:
        zeros, ones = keys.sent
        trees, messages = [], []
        for at in range(0, SECURITY_BITS, self.k):
            leaves, message = puncturable.expand_full(
                (zeros[at : at + self.k], ones[at : at + self.k])
            )
            trees.append(leaves)
            messages.append(message)
        return trees, b"".join(messages)

    def _peer_trees(
        self, keys: BaseKeys, sides: BitArray, message: bytes
    ) -> tuple[list[list[puncturable.Seed]], BlockArray]:
        """Leaves in the order y = x ^ delta[t], so that the unknown one comes first."""
        size = puncturable.corrections_bytes(self.k)
        trees, delta_bits = [], np.zeros(SECURITY_BITS, np.uint8)
        for t in range(self.trees()):
            part = slice(t * self.k, (t + 1) * self.k)
            leaves, hidden = puncturable.expand_punctured(
                keys.received[part], sides[part].tolist(), message[t * size : (t + 1) * size]
            )
            trees.append([leaves[y ^ hidden] for y in range(len(leaves))])
            delta_bits[part] = [hidden >> j & 1 for j in range(self.k)]
        return trees, np.packbits(delta_bits, bitorder="little").view(np.uint64)

    # -- production --------------------------------------------------------------------

    def _produce(self, sending: int, receiving: int, channel: Channel) -> None:
        blocks = np.empty((_padded(receiving), 2), np.uint64)
        choices: list[BitArray] = []
        for start, size in _chunks(receiving):
            choices.append(self._receive_chunk(blocks[start : start + size], channel))
        if receiving:
            self._receiving.add(blocks[:receiving], np.concatenate(choices)[:receiving])
        blocks = np.empty((_padded(sending), 2), np.uint64)
        for start, size in _chunks(sending):
            self._send_chunk(blocks[start : start + size], channel)
        self._sending.add(blocks[:sending])

    def _receive_chunk(self, blocks: BlockArray, channel: Channel) -> BitArray:
        """Make the OT receiver's blocks in place, send the corrections, return the choices."""
        assert self._receiver_streams is not None
        u, v = self._receiver_streams.columns(len(blocks) // _WORD, known_from=0)
        channel.send_array(u[1:] ^ u[0])
        transpose_columns(v, blocks)
        return np.unpackbits(u[0].view(np.uint8), bitorder="little")

    def _send_chunk(self, blocks: BlockArray, channel: Channel) -> None:
        """Receive the corrections and make the OT sender's blocks in place."""
        assert self._sender_streams is not None and self._delta is not None
        words = len(blocks) // _WORD
        _, w = self._sender_streams.columns(words, known_from=1)
        corrections = channel.recv_array((self.trees() - 1, words), np.uint64)
        bits = np.unpackbits(self._delta.view(np.uint8), bitorder="little")
        masks = np.uint64(0) - bits.astype(np.uint64)
        # The first tree already carries u[0] * delta[0].
        for t in range(1, self.trees()):
            part = slice(t * self.k, (t + 1) * self.k)
            w[part] ^= corrections[t - 1] & masks[part, None]
        transpose_columns(w, blocks)

    @classmethod
    def _frame_bytes(cls, size: int) -> int:
        return (cls.trees() - 1) * size // 8


def _padded(count: int) -> int:
    return -(-count // PADDING_OTS) * PADDING_OTS


def _chunks(count: int) -> list[tuple[int, int]]:
    """Start and size of each frame's OTs."""
    total = _padded(count)
    return [(start, min(CHUNK_OTS, total - start)) for start in range(0, total, CHUNK_OTS)]
