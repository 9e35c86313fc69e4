"""Batched products of two encrypted matrices by rotation along one index.

Slots hold (t, j, copy, b): t < L slowest, L the power of two that holds rows and columns, j an
inner index, b the batch. For offset r, A[b, t, j] times B[b, j, (t + r) mod L], summed over j, is
C[b, t, (t + r) mod L]. Rotating B by whole t-blocks is cyclic over all slots, so offsets cost
one rotation each; copies of A and B packed at different offsets share a rotation. Two inner
indices share a complex slot: the real part of (A1 + i A2)(B1 - i B2) is A1 B1 + A2 B2.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np

from he_linear.ckks.ciphertexts import encrypted_bytes, masked_bytes
from he_linear.ckks.keys import ServerKeys
from he_linear.ckks.parameters import CkksParameters
from he_linear.ckks.rotation import relinearise, rotations
from he_linear.kernels.residues import to_centred
from he_linear.kernels.scalars import Integers, Residues
from he_linear.packings.base import ProductPacking, check_sizes, power_of_two
from he_linear.packings.evaluation_work import EvaluationWork
from transport.computing import units
from transport.errors import UsageError


class RotatedSlotsPacking(ProductPacking):
    """C_b = A_b B_b.

    Products are summed over the inner index before relinearisation and, where several inner
    indices share a ciphertext, by each party on its own share after it.
    """

    name = "rotated_slots"
    source = "diagonals of [Halevi14] over encrypted operands, layout of this project"
    input_scale_bits = 24
    """Of the left operand; the right one is rotated, which adds noise, and has 2 bits more."""
    right_scale_bits = 26

    def __init__(
        self, parameters: CkksParameters, batch: int, rows: int, inner: int, columns: int
    ) -> None:
        check_sizes(batch=batch, rows=rows, inner=inner, columns=columns)
        self.parameters = parameters
        self.shape = (batch, rows, inner, columns)
        self._length = power_of_two(max(rows, columns))
        fast = parameters.slots // self._length
        if fast < 1:
            raise UsageError(
                f"{rows} rows or {columns} columns exceed the {parameters.slots} slots of a "
                "ciphertext; lower model.tokens"
            )
        self._group = min(power_of_two(batch), fast)
        self._groups = -(-batch // self._group)
        self._pairs = -(-inner // 2)
        room = fast // self._group
        choices = [1 << i for i in range(room.bit_length()) if 1 << i <= self._length]
        self.replicas = min(choices, key=lambda copies: self._bytes(copies, room))
        self._inner_slots = room // self.replicas
        self._chunks = -(-self._pairs // self._inner_slots)
        self._offsets = self._length // self.replicas
        self.left_ciphertexts = self.right_ciphertexts = self._groups * self._chunks
        self.operand_ciphertexts = (self.left_ciphertexts, self.right_ciphertexts)
        self.output_ciphertexts = self._groups * self._offsets

    def _bytes(self, copies: int, room: int) -> int:
        chunks = -(-self._pairs // (room // copies))
        up = 2 * encrypted_bytes(self._groups * chunks, self.parameters)
        return up + masked_bytes(self._groups * (self._length // copies), self.parameters)

    @property
    def galois_steps(self) -> tuple[int, ...]:
        """Every offset in one rotation of the upload: noise does not add up."""
        return tuple(self._step * offset for offset in range(1, self._offsets))

    @property
    def rotations(self) -> int:
        """Every right ciphertext moves to every offset."""
        return self.right_ciphertexts * (self._offsets - 1)

    @property
    def work(self) -> EvaluationWork:
        """Rotations and products as pairs come, one relinearisation a result."""
        pairs = self.left_ciphertexts
        turned = {
            self.unit("hoist"): pairs,
            self.unit("rotation"): self.rotations,
            self.unit("tensor"): pairs * self._offsets,
        }
        returned = {self.unit("relinearise"): self.output_ciphertexts}
        return EvaluationWork(units(turned), (), units(returned), stages=self._groups)

    @property
    def _step(self) -> int:
        return self.parameters.slots // self._length

    def pack_left(self, x: Integers) -> tuple[Integers, Integers]:
        """(batch, rows, inner): the same in every copy."""
        slots = self._slots(x)
        copies = np.broadcast_to(
            slots[..., None, :], (*slots.shape[:-1], self.replicas, slots.shape[-1])
        )
        return self._split(copies, 1)

    def pack_right(self, x: Integers) -> tuple[Integers, Integers]:
        """(batch, inner, columns): copy i holds column (t + i * offsets) mod L at t."""
        slots = self._slots(x.transpose(0, 2, 1))
        copies = [np.roll(slots, -i * self._offsets, axis=3) for i in range(self.replicas)]
        return self._split(np.stack(copies, axis=-2), -1)

    def _slots(self, x: Integers) -> Integers:
        """(batch, index, inner) to (part, group, chunk, L, inner slots, batch in group)."""
        batch, length, inner = x.shape
        full = np.zeros(
            (
                self._groups * self._group,
                self._length,
                2 * self._chunks * self._inner_slots,
            ),
            np.int64,
        )
        full[:batch, :length, :inner] = x
        shaped = full.reshape(
            self._groups, self._group, self._length, 2, self._chunks, self._inner_slots
        )
        return shaped.transpose(3, 0, 4, 2, 5, 1)

    def _split(self, slots: Integers, sign: int) -> tuple[Integers, Integers]:
        real, imag = slots.reshape(2, self.left_ciphertexts, self.parameters.slots)
        return np.ascontiguousarray(real), np.ascontiguousarray(imag * sign)

    def evaluate(self, left: Residues, right: Residues, keys: ServerKeys) -> Residues:
        """Rotate the right operand to every offset; multiply, sum over chunks, relinearise."""
        return np.stack(list(self.stream(zip(left, right, strict=True), keys)))

    def stream(
        self, pairs: Iterator[tuple[Residues, Residues]], keys: ServerKeys
    ) -> Iterator[Residues]:
        """`evaluate`, pair by pair: rotates and multiplies while others arrive."""
        steps = [self._step * offset for offset in range(self._offsets)]
        for _ in range(self._groups):
            sums = np.zeros((len(steps), *keys.switcher.product_shape))
            for left, right in itertools.islice(pairs, self._chunks):
                first, second = (to_centred(x, self.parameters.primes) for x in (left, right))
                moved = rotations(second, steps, keys)
                for total, other in zip(sums, moved, strict=True):
                    keys.switcher.add_tensor(first, other, total)
            products = (np.ascontiguousarray(total.swapaxes(0, 1)) for total in sums)
            yield from keys.workers.map(lambda x: relinearise(x[None], keys)[0], products)

    def unpack(self, real: Residues) -> Residues:
        """Sum over inner slots, then diagonals back to (batch, rows, columns)."""
        batch, rows, _, columns = self.shape
        shaped = real.reshape(
            self._groups,
            self._offsets,
            self._length,
            self._inner_slots,
            self.replicas,
            self._group,
        ).sum(axis=3, dtype=np.uint64)
        # (groups, offset, t, copy, batch) -> (batch, t, copy * offsets + offset)
        diagonals = shaped.transpose(0, 4, 2, 3, 1).reshape(-1, self._length, self._length)
        t = np.arange(rows)[:, None]
        r = (np.arange(columns)[None] - t) % self._length
        return np.ascontiguousarray(diagonals[:batch, t, r])
