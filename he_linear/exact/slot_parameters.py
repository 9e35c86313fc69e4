"""Parameters of slots modulo a prime: integers modulo t in all N slots, exact.

A message polynomial m modulo t is encrypted as round(Q / t * m), as in BFV [Fan12] eprint
2012/144. Keys, rotations and key switching are those of CKKS: nothing else differs. A result comes
back with its body as a fraction of 128 bits, masked, and its second polynomial at `second_bits`.
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

DROPPED_BITS = 6
"""Low bits of an encryption's body that are rounded off: below the noise of a rotation."""
_MIN_PRIME_BITS = 48
"""Three such primes hold the client's product |c1 s| <= N 2^(second_bits - 1) below a quarter."""
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
        if not 0 < self.second_bits - WORD_BITS <= _MAX_LOW_BITS:
            raise ParameterError(
                f"exact slots: second_bits {self.second_bits}; use {WORD_BITS + 1} to "
                f"{WORD_BITS + _MAX_LOW_BITS}"
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
    def extra_bits(self) -> int:
        """Bits of the second polynomial beyond one word."""
        return self.second_bits - WORD_BITS

    def wrong_probability(self, noise_std: float) -> float:
        """Bound on the chance that a returned coefficient is wrong, t |noise| / q'.

        noise_std: of a result's coefficients, modulo Q. The shares' roundings meet the noise at a
        uniform offset, so the chance is t E|noise| / q', and the mean is at most the deviation, 0.8
        of it where it is normal; q' = Q for the ciphertext's own noise and 2^second_bits for the
        rounding of the second polynomial, whose product with the ternary secret has variance
        N / 18.
        """
        own = noise_std / float(self.modulus)
        second = math.sqrt(self.poly_degree / 18) * 2.0**-self.second_bits
        return self.plain_prime * math.hypot(own, second)

    def __getstate__(self) -> dict[str, object]:
        derived = {"all_primes", "base", "plain_prime"}
        return {k: v for k, v in self.__dict__.items() if k not in derived}


SLOT_SETS = {
    # 204 of 214 bits: few large primes make few operations. After a product with weights
    # `wrong_probability` is 2^-49 a coefficient, by its noise and the rounding of the second
    # polynomial alike.
    "n8192_t44": SlotParameters(8192, (51, 51, 51), 51, 44, 98),
}
"""Named sets, all at 128 bits."""
