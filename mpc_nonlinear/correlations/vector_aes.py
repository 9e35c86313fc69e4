"""AES-128 of many blocks at once inside compiled loops, by the processor's own rounds.

`cryptography` encrypts whole buffers well, one 128-bit round at a time, but every buffer passes
through memory and a call of Python. Here 32 blocks are encrypted in registers between the steps of
a loop, four to an instruction where the processor has VAES and AVX-512. Without these `AVAILABLE`
is false, and callers encrypt buffers by `cryptography`; results are the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

_FEATURES = llvmlite.binding.get_host_cpu_features()
AVAILABLE = all(_FEATURES.get(name) for name in ("vaes", "avx512f"))
"""Whether this processor has them."""
BLOCKS = 32
"""Encrypted in one call: 8 registers of 4 blocks hide the latency of a round."""
WORDS = 2 * BLOCKS
"""64-bit words of a call's buffer."""

_ROUNDS = 10
_LANES = 8
_VECTOR = ir.VectorType(ir.IntType(64), _LANES)
_KEY_BYTES = 16


@lru_cache(maxsize=16)
def round_keys(key: bytes) -> NDArray[np.uint64]:
    """The key schedule [FIPS 197], (11, 8): every round's key four times."""
    box = _substitution()
    words = [list(key[i : i + 4]) for i in range(0, _KEY_BYTES, 4)]
    constant = 1
    for i in range(4, 4 * (_ROUNDS + 1)):
        word = words[-1]
        if i % 4 == 0:
            word = [box[b] for b in word[1:] + word[:1]]
            word[0] ^= constant
            constant = _doubled(constant)
        words.append([a ^ b for a, b in zip(words[i - 4], word, strict=True)])
    flat = np.array(words, np.uint8).reshape(_ROUNDS + 1, _KEY_BYTES).view(np.uint64)
    return np.tile(flat, (1, 4))


def _doubled(value: int) -> int:
    """Times x in the field of 256 elements."""
    return (value << 1) ^ (0x11B if value & 0x80 else 0)


def _substitution() -> list[int]:
    """The S-box: inverses, by powers of the generator x + 1, under an affine map."""
    powers = [1]
    for _ in range(254):
        powers.append(_doubled(powers[-1]) ^ powers[-1])
    places = {value: i for i, value in enumerate(powers)}
    box = []
    for value in range(256):
        inverse = powers[-places[value] % 255] if value else 0
        turned = [(inverse << k | inverse >> (8 - k)) & 0xFF for k in range(5)]
        box.append(turned[0] ^ turned[1] ^ turned[2] ^ turned[3] ^ turned[4] ^ 0x63)
    return box


def _encryption(_typing: Any, buffer: Any, keys: Any) -> Any:
    """Encrypt `buffer` (WORDS,) in place under keys (11, 8) of `round_keys`."""
    signature = types.void(buffer, keys)

    def generate(context: Any, b: Any, signature: Any, args: Any) -> Any:
        data, schedule = (
            context.make_array(kind)(context, b, value).data
            for kind, value in zip(signature.args, args, strict=True)
        )

        def at(base: Any, word: int) -> Any:
            place = b.gep(base, [ir.IntType(64)(word)])
            return b.bitcast(place, _VECTOR.as_pointer())

        key = b.load(at(schedule, 0), align=8)
        registers = range(WORDS // _LANES)
        blocks = [b.xor(b.load(at(data, _LANES * i), align=8), key) for i in registers]
        for step in range(1, _ROUNDS + 1):
            key = b.load(at(schedule, _LANES * step), align=8)
            enter = _round(b.module, last=step == _ROUNDS)
            blocks = [b.call(enter, [block, key]) for block in blocks]
        for i, block in enumerate(blocks):
            b.store(block, at(data, _LANES * i), align=8)
        return context.get_dummy_value()

    return signature, generate


def _round(module: Any, *, last: bool) -> Any:
    name = f"llvm.x86.aesni.aesenc{'last' if last else ''}.512"
    return module.globals.get(name) or ir.Function(
        module, ir.FunctionType(_VECTOR, [_VECTOR] * 2), name
    )


encrypt_blocks: Any = intrinsic(_encryption)
