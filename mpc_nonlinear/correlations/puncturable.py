"""Trees of seeds of which the other party gets all leaves but one (GGM, all-but-one OT).

As [Roy22] (eprint 2022/192) uses them, semi-honest: a binary tree of `depth` levels whose
children are a length-doubling PRG of their parent; one base OT per level opens the side
away from the punctured path. Leaf x has the bits of x along its path, highest first.
"""

from __future__ import annotations

import hashlib

from mpc_nonlinear.correlations.base_ot import KEY_BYTES, Keys

Seed = bytes
SUMS_PER_LEVEL = 2


def corrections_bytes(depth: int) -> int:
    """Size of one tree's message; the first level needs none."""
    return SUMS_PER_LEVEL * KEY_BYTES * (depth - 1)


def expand_full(keys: tuple[Keys, Keys]) -> tuple[list[Seed], bytes]:
    """Owner: the 2^depth leaves from both keys of each level, and the tree's message."""
    level = [keys[0][0], keys[1][0]]
    message = []
    for left_key, right_key in zip(keys[0][1:], keys[1][1:], strict=True):
        level = [child for seed in level for child in _children(seed)]
        message.append(xor(left_key, _sum(level[0::2])))
        message.append(xor(right_key, _sum(level[1::2])))
    return level, b"".join(message)


def expand_punctured(keys: Keys, sides: list[int], message: bytes) -> tuple[list[Seed], int]:
    """Holder: the leaves with zeros at the punctured one, and that one's index.

    `sides[l]` is the choice bit of level l's base OT: the side that it opened; the
    punctured path goes the other way. `message` has `corrections_bytes(len(keys))` bytes.
    """
    zero = bytes(KEY_BYTES)
    hidden = 1 - sides[0]
    level = [zero, zero]
    level[sides[0]] = keys[0]
    for depth, (key, side) in enumerate(zip(keys[1:], sides[1:], strict=True)):
        children = [_children(seed) for seed in level]
        children[hidden] = (zero, zero)
        level = [child for pair in children for child in pair]
        at = KEY_BYTES * (SUMS_PER_LEVEL * depth + side)
        opened = xor(key, message[at : at + KEY_BYTES])
        level[2 * hidden + side] = xor(opened, _sum(level[side::2]))
        hidden = 2 * hidden + 1 - side
    return level, hidden


def xor(left: bytes, right: bytes) -> bytes:
    """Bitwise sum of two keys."""
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def _sum(seeds: list[Seed]) -> bytes:
    total = bytes(KEY_BYTES)
    for seed in seeds:
        total = xor(total, seed)
    return total


def _children(seed: Seed) -> tuple[Seed, Seed]:
    both = hashlib.blake2b(key=seed, digest_size=2 * KEY_BYTES, person=b"ggm").digest()
    return both[:KEY_BYTES], both[KEY_BYTES:]
