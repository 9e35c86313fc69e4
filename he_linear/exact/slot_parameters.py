"""Parameters of slots modulo a prime: integers modulo t in all N slots, exact.

A message polynomial m modulo t is encrypted as round(Q / t * m), as in BFV [Fan12] eprint
2012/144. Keys, rotations and key switching are those of CKKS: nothing else differs. A result comes
back with its body as a fraction of 128 bits, masked, its second polynomial at `second_bits`, and
one more bit a coefficient, the hint, that keeps its rounding away from where noise decides.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import tenseal.sealapi as seal

from he_linear.ckks.parameters import CkksParameters
from he_linear.kernels.fused_sums import MAX_FUSED_PRIME_BITS
from he_linear.kernels.key_products import DIGITS
from he_linear.kernels.row_products import MAX_ROW_MODULUS_BITS
from transport.bitpack import WORD_BITS
from transport.errors import ParameterError

DROPPED_BITS = 8
"""Low bits of an encryption's body that are rounded off: below the noise of a rotation."""
SPREAD = 1 / 8
"""Half the width over which the edges of a hint are blurred, as a part of one; a power of two."""
_MARGIN = 1 / 4 - SPREAD
"""How far a rounding at least is from where it turns."""
LIFTED_PRIMES = 2
"""So many hold the client's product |c1 s| <= N 2^(second_bits - 1) below a quarter."""
_MIN_PRIME_BITS = 48
"""What the kernels of sums are tried for."""
_MIN_PLAIN_BITS = 20
_MAX_LOW_BITS = 50
"""Bits beyond one word that float64 adds exactly."""


@dataclass(frozen=True)
class SlotParameters(CkksParameters):
    """Ring degree, primes and the plain prime t; uniform ternary secret, error sigma 3.24.

    To keys and key switching this is a CKKS set; the conversions of CKKS do not take it.
    """

    plain_bits: int
    """Of t, the largest prime of so many bits that is 1 modulo 2N."""
    second_bits: int
    """Of each coefficient of a returned ciphertext's second polynomial."""
    _scheme: ClassVar[str] = "exact slots"

    def _check_primes(self) -> None:
        bits = (*self.prime_bits, self.special_prime_bits)
        if len(self.prime_bits) != DIGITS or not all(
            _MIN_PRIME_BITS <= b <= MAX_FUSED_PRIME_BITS for b in bits
        ):
            raise ParameterError(
                f"exact slots: primes of {bits} bits; use {DIGITS} data primes and a special one "
                f"of {_MIN_PRIME_BITS} to {MAX_FUSED_PRIME_BITS} bits"
            )
        if not self.allows_rotations:
            raise ParameterError(
                f"exact slots: special prime of {self.special_prime_bits} bits; rotations need one "
                f"at least as large as the data primes of {self.prime_bits} bits"
            )
        if not _MIN_PLAIN_BITS <= self.plain_bits <= MAX_ROW_MODULUS_BITS:
            raise ParameterError(
                f"exact slots: plain prime of {self.plain_bits} bits; use {_MIN_PLAIN_BITS} to "
                f"{MAX_ROW_MODULUS_BITS} bits"
            )
        if self.body_low_bits + DROPPED_BITS > _MAX_LOW_BITS + 1:
            raise ParameterError(
                f"exact slots: bodies of {self.body_bits} bits; choose plain_bits so that Q / t "
                f"has at most {WORD_BITS + _MAX_LOW_BITS} bits"
            )
        if not self.plain_bits < self.second_bits < WORD_BITS:
            raise ParameterError(
                f"exact slots: second_bits {self.second_bits}; use more than the {self.plain_bits} "
                f"of the plain prime, and at most {WORD_BITS - 1}"
            )

    @cached_property
    def plain_prime(self) -> int:
        """The prime t."""
        return int(seal.PlainModulus.Batching(self.poly_degree, self.plain_bits).value())

    @property
    def body_bits(self) -> int:
        """Bits, sign included, in which an encryption's body travels."""
        return (self.modulus // self.plain_prime).bit_length() + 1 - DROPPED_BITS

    @property
    def body_low_bits(self) -> int:
        """Those beyond one word."""
        return self.body_bits - WORD_BITS

    @property
    def returned_bits(self) -> int:
        """Of a returned coefficient: of the second polynomial, and its hint."""
        return self.second_bits + 1

    def wrong_probability(self, noise_std: float) -> float:
        """Bound on the chance that a returned coefficient is wrong: noise beyond the margin.

        noise_std: of a result's coefficients, modulo Q. To it comes the rounding of the second
        polynomial times the ternary secret, of variance N / 18 in units of 2^-second_bits: a sum
        of uniform numbers, which are subgaussian with their own variance. The noise, far smaller,
        counts as if it were.
        """
        second = math.sqrt(self.poly_degree / 18) * 2.0**-self.second_bits
        std = self.plain_prime * math.hypot(self._relative(noise_std), second)
        return min(1.0, 2 * math.exp(-0.5 * (_MARGIN / std) ** 2))

    def hint_distance(self, noise_std: float, count: int) -> float:
        """Bound on the statistical distance between `count` coefficients' hints and simulated ones.

        noise_std: of a result's coefficients, modulo Q; an estimate where it is one.

        Of what the key owner sees, with the noise and without: docs/security.md, "What a hint
        tells". It grows with the root of the count, so those of several results add up in squares.
        """
        shift = self.plain_prime * self._relative(noise_std)
        return math.sqrt(count) * shift / SPREAD

    def _relative(self, noise_std: float) -> float:
        return noise_std / float(self.modulus)

    def __getstate__(self) -> dict[str, object]:
        derived = {"all_primes", "base", "plain_prime"}
        return {k: v for k, v in self.__dict__.items() if k not in derived}


SLOT_SETS = {
    # 204 of 214 bits: few large primes make few operations. The rounding of the second polynomial
    # has a deviation of 1/96 after t, a twelfth of the margin.
    "n8192_t44": SlotParameters(8192, (51, 51, 51), 51, 44, 55),
}
"""Named sets, all at 128 bits."""
