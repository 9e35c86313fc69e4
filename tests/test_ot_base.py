"""Base OT, seed trees, hash, kernels: against definitions computed the slow way."""

from __future__ import annotations

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl import bindings as sodium

from mpc_nonlinear.correlations import bit_matrix, hashing, puncturable
from mpc_nonlinear.correlations.base_ot import POINT_BYTES, base_ot_both, base_ot_traffic
from tests.ot_sources import run_misbehaving
from transport.errors import FrameError
from transport.local import run_both
from transport.randomness import SecureRandom
from transport.traffic import Party

IDENTITY = (1).to_bytes(32, "little")
SMALL_ORDER = bytes(32)  # y = 0: order 4
NON_CANONICAL = (2**255 - 19 + 1).to_bytes(32, "little")
OFF_CURVE = (2).to_bytes(32, "little")


def mixed_order_point():
    """A point of the whole curve outside the prime-order subgroup."""
    base = sodium.crypto_scalarmult_ed25519_base_noclamp((1).to_bytes(32, "little"))
    return sodium.crypto_core_ed25519_add(base, SMALL_ORDER)


@pytest.mark.parametrize("count", [1, 3, 128])
def test_base_ot_gives_the_chosen_key_only(count):
    choices = np.random.default_rng(count).integers(0, 2, (2, count)).astype(np.uint8)

    def role(channel):
        with channel.step("base"):
            return base_ot_both(choices[channel.party], channel, SecureRandom())

    client, server, channel = run_both(role)
    assert channel.traffic("base") == base_ot_traffic(count)
    for sender, receiver, bits in ((client, server, choices[1]), (server, client, choices[0])):
        for i, bit in enumerate(bits):
            assert receiver.received[i] == sender.sent[bit][i]
            assert receiver.received[i] != sender.sent[1 - bit][i]
    keys = [key for party in (client, server) for side in party.sent for key in side]
    assert len(set(keys)) == 4 * count


def test_base_ot_is_fresh_each_time():
    choices = np.zeros(4, np.uint8)
    runs = [run_both(lambda c: base_ot_both(choices, c, SecureRandom()))[0] for _ in range(2)]
    assert not set(runs[0].sent[0]) & set(runs[1].sent[0])


@pytest.mark.parametrize(
    "bad",
    [IDENTITY, SMALL_ORDER, NON_CANONICAL, OFF_CURVE, b"\xff" * 32, mixed_order_point()],
    ids=["identity", "small order", "non-canonical", "off curve", "ones", "mixed order"],
)
@pytest.mark.parametrize("frame", [0, 1])
def test_base_ot_refuses_points_outside_the_group(bad, frame):
    good = sodium.crypto_scalarmult_ed25519_base_noclamp((5).to_bytes(32, "little"))

    def role(channel):
        if channel.party is Party.CLIENT:
            with pytest.raises(FrameError, match="base OT: the peer's point 1 is not"):
                base_ot_both(np.zeros(2, np.uint8), channel, SecureRandom())
            return
        for i in range(2):
            channel.exchange(good + (bad if i == frame else good))
            if i == frame:
                return

    run_misbehaving(role)


@pytest.mark.parametrize("size", [0, 2 * POINT_BYTES - 1, 2 * POINT_BYTES + 1])
def test_base_ot_refuses_frames_of_the_wrong_size(size):
    def role(channel):
        if channel.party is Party.CLIENT:
            with pytest.raises(FrameError, match="were expected"):
                base_ot_both(np.zeros(2, np.uint8), channel, SecureRandom())
        else:
            channel.send(bytes(size))

    run_misbehaving(role)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 8])
def test_punctured_tree_lacks_exactly_one_leaf(depth):
    rng = SecureRandom()
    keys = tuple([rng.bytes(16) for _ in range(depth)] for _ in range(2))
    leaves, message = puncturable.expand_full(keys)
    assert len(set(leaves)) == 2**depth
    assert len(message) == puncturable.corrections_bytes(depth)
    for path in {0, 1, 2**depth - 1, (5 * 2**depth) // 7}:
        sides = [1 - (path >> (depth - 1 - level) & 1) for level in range(depth)]
        opened = [keys[side][level] for level, side in enumerate(sides)]
        seen, hidden = puncturable.expand_punctured(opened, sides, message)
        assert hidden == path
        assert seen[hidden] == bytes(16)
        assert [s for i, s in enumerate(seen) if i != hidden] == [
            s for i, s in enumerate(leaves) if i != hidden
        ]


def reference_hash(block, index, counter):
    """TMMO one block at a time."""

    def permute(data):
        return Cipher(algorithms.AES(hashing._FIXED_KEY), modes.ECB()).encryptor().update(data)

    def xor(a, b):
        return bytes(x ^ y for x, y in zip(a, b, strict=True))

    inner = permute(block)
    tweak = index.to_bytes(8, "little") + counter.to_bytes(8, "little")
    return xor(permute(xor(inner, tweak)), inner)


@pytest.mark.parametrize("first", [0, 7, 1 << 56])
def test_hash_is_tmmo(first, monkeypatch):
    monkeypatch.setattr(hashing, "_BATCH", 8)  # several batches, the last one ragged
    blocks = SecureRandom().uint64((21, 2))
    before = blocks.copy()
    got = hashing.wide_pads(blocks, first, 5)
    np.testing.assert_array_equal(blocks, before)
    for i in range(len(blocks)):
        data = b"".join(reference_hash(blocks[i].tobytes(), first + i, c) for c in range(3))
        assert got[i].tobytes() == data[:40]
    np.testing.assert_array_equal(hashing.hash_blocks(blocks, first), got[:, :2])
    np.testing.assert_array_equal(hashing.pads(blocks, first, 64), got[:, 0])
    np.testing.assert_array_equal(hashing.pads(blocks, first, 3), got[:, 0] & np.uint64(7))


def test_hash_depends_on_the_index_and_the_block():
    block = np.zeros((2, 2), np.uint64)
    hashed = hashing.hash_blocks(block, 3)
    assert not np.array_equal(hashed[0], hashed[1])
    np.testing.assert_array_equal(hashing.hash_blocks(block[:1], 4)[0], hashed[1])


def test_hash_of_nothing_is_empty():
    assert hashing.hash_blocks(np.zeros((0, 2), np.uint64), 0).shape == (0, 2)
    assert hashing.wide_pads(np.zeros((0, 2), np.uint64), 0, 3).shape == (0, 3)


@pytest.mark.parametrize("words", [2, 8, 14, 130])
def test_transpose_moves_every_bit(words):
    columns = SecureRandom().uint64((128, words))
    blocks = np.empty((64 * words, 2), np.uint64)
    bit_matrix.transpose_columns(columns, blocks)
    bits = np.unpackbits(columns.view(np.uint8), axis=1, bitorder="little")
    np.testing.assert_array_equal(
        np.unpackbits(blocks.view(np.uint8), axis=1, bitorder="little"), bits.T
    )


@given(k=st.sampled_from([1, 2, 4, 8]), words=st.sampled_from([1, 127, 128, 300]))
@settings(deadline=None)
def test_fold_is_the_sum_over_leaves(k, words):
    leaves = SecureRandom().uint64((2**k, words))
    index = np.arange(2**k)
    u, v = np.empty(words, np.uint64), np.empty((k, words), np.uint64)
    expected_u = np.bitwise_xor.reduce(leaves, axis=0)
    expected_v = [np.bitwise_xor.reduce(leaves[index >> j & 1 == 1], axis=0) for j in range(k)]
    bit_matrix.fold_leaves(leaves.copy(), u, v)
    np.testing.assert_array_equal(u, expected_u)
    np.testing.assert_array_equal(v, expected_v)
