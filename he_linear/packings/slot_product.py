"""Elementwise products of two encrypted vectors, one real number a slot."""

from __future__ import annotations

import numpy as np

from he_linear.ckks.keys import ServerKeys
from he_linear.ckks.parameters import CkksParameters
from he_linear.ckks.rotation import relinearise
from he_linear.kernels.residues import to_centred
from he_linear.kernels.scalars import Integers, Residues
from he_linear.packings.base import Packing, check_sizes
from he_linear.packings.evaluation_work import EvaluationWork
from transport.computing import units


class SlotProductPacking(Packing):
    """`count` numbers in ceil(count / slots) ciphertexts; one relinearisation each."""

    op = "elementwise"
    name = "slot_product"
    source = "[Cheon17] multiplication in CKKS slots"
    input_scale_bits = 25
    needs_relinearisation = True

    def __init__(self, parameters: CkksParameters, count: int) -> None:
        check_sizes(count=count)
        self.parameters = parameters
        self.count = count
        self.input_ciphertexts = -(-count // parameters.slots)
        self.output_ciphertexts = self.input_ciphertexts
        self.operand_ciphertexts = (self.input_ciphertexts, self.input_ciphertexts)
        """Of a product; a square needs one operand."""

    @property
    def output_scale(self) -> float:
        """Both operands' scales."""
        return float(2.0 ** (2 * self.input_scale_bits))

    @property
    def work(self) -> EvaluationWork:
        """One product and one relinearisation a result; squares take a little less."""
        count = self.output_ciphertexts
        counts = {self.unit("tensor"): count, self.unit("relinearise"): count}
        return EvaluationWork((), (), units(counts), stages=self.output_ciphertexts)

    def pack(self, x: Integers) -> Integers:
        """(count,) to (ciphertexts, slots)."""
        slots = np.zeros(self.input_ciphertexts * self.parameters.slots, x.dtype)
        slots[: self.count] = x
        return slots.reshape(self.input_ciphertexts, -1)

    def unpack(self, real: Residues) -> Residues:
        """(ciphertexts, slots) to (count,)."""
        return real.ravel()[: self.count]

    def evaluate(self, left: Residues, right: Residues, keys: ServerKeys) -> Residues:
        """Products of both operands' ciphertexts; squares where they are the same array."""
        primes = self.parameters.primes
        if left is right:
            products = [keys.switcher.square(a) for a in to_centred(left, primes)]
        else:
            pairs = zip(to_centred(left, primes), to_centred(right, primes), strict=True)
            products = [keys.switcher.tensor(a[None], b[None]) for a, b in pairs]
        return relinearise(np.stack(products), keys)
