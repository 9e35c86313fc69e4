"""Parameters of exact products modulo 2^l: plain RLWE, no slots, no scale.

A message polynomial m modulo 2^l is encrypted as round(Q / 2^l * m). A result comes back with
its body at l bits and its second polynomial at `second_bits`, both rounded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import tenseal.sealapi as seal

from he_linear.ckks.parameters import MAX_MODULUS_BITS, CkksParameters
from he_linear.kernels.ntt import MAX_PRIME_BITS
from he_linear.kernels.sampling import NOISE_VARIANCE
from transport.bitpack import WORD_BITS
from transport.errors import ParameterError

_MIN_PRIME_BITS = 40
_MAX_EXTRA_BITS = 50
"""Bits of the second polynomial beyond one word: exact in float64."""


@dataclass(frozen=True)
class RingParameters:
    """Ring degree, primes and plain modulus 2^l; uniform ternary secret, error sigma 3.24."""

    poly_degree: int
    prime_bits: tuple[int, ...]
    special_prime_bits: int | None
    """Key-switching prime; None where no automorphism is used."""
    plain_bits: int
    """l: messages and results are modulo 2^l."""
    second_bits: int
    """Of each coefficient of a returned ciphertext's second polynomial."""

    def __post_init__(self) -> None:
        limit = MAX_MODULUS_BITS.get(self.poly_degree)
        if limit is None:
            known = ", ".join(str(n) for n in MAX_MODULUS_BITS)
            raise ParameterError(
                f"exact products: poly_degree {self.poly_degree} is not supported; choose one of "
                f"{known}"
            )
        if self.total_modulus_bits > limit:
            raise ParameterError(
                f"exact products: {self.total_modulus_bits} modulus bits at poly_degree "
                f"{self.poly_degree} are below 128-bit security; use at most {limit} bits, "
                "special prime included"
            )
        if not self.prime_bits or not all(
            _MIN_PRIME_BITS <= b <= MAX_PRIME_BITS for b in self.prime_bits
        ):
            raise ParameterError(
                f"exact products: primes of {self.prime_bits} bits; use {_MIN_PRIME_BITS} to "
                f"{MAX_PRIME_BITS} bits"
            )
        if not 2 <= self.plain_bits <= WORD_BITS:
            raise ParameterError(
                f"exact products: plain modulus of {self.plain_bits} bits; use 2 to {WORD_BITS}"
            )
        self._check_second_bits()
        if self.special_prime_bits is not None:
            _ = self.switching  # raises what key switching cannot do

    def _check_second_bits(self) -> None:
        extra = self.second_bits - WORD_BITS
        if not 0 <= extra <= _MAX_EXTRA_BITS or self.second_bits <= self.plain_bits:
            raise ParameterError(
                f"exact products: second_bits {self.second_bits}; use {WORD_BITS} to "
                f"{WORD_BITS + _MAX_EXTRA_BITS}, more than plain_bits"
            )
        needed = self.second_bits + 1 + int(math.log2(self.poly_degree))
        if sum(self.prime_bits) < needed:
            raise ParameterError(
                f"exact products: data primes of {self.prime_bits} bits cannot hold the client's "
                f"product; together they need {needed} bits"
            )

    @property
    def total_modulus_bits(self) -> int:
        """Bits of all primes, special prime included."""
        return sum(self.prime_bits) + (self.special_prime_bits or 0)

    @cached_property
    def switching(self) -> CkksParameters:
        """The same primes in the form that key switching takes."""
        if self.special_prime_bits is None:
            raise ParameterError(
                f"exact products: the set at poly_degree {self.poly_degree} has no special prime, "
                "which interleaving needs; choose a set that has one, or the packing coefficients"
            )
        return CkksParameters(self.poly_degree, self.prime_bits, self.special_prime_bits)

    @cached_property
    def primes(self) -> tuple[int, ...]:
        """Data primes: SEAL's of these sizes."""
        if self.special_prime_bits is not None:
            return self.switching.primes
        found = seal.CoeffModulus.Create(self.poly_degree, list(self.prime_bits))
        return tuple(m.value() for m in found)

    @property
    def all_primes(self) -> tuple[int, ...]:
        """Data primes, then the special prime if there is one."""
        return self.primes if self.special_prime_bits is None else self.switching.all_primes

    @property
    def modulus(self) -> int:
        """Q, the product of the data primes."""
        return math.prod(self.primes)

    @property
    def extra_bits(self) -> int:
        """Bits of the second polynomial beyond one word."""
        return self.second_bits - WORD_BITS

    @cached_property
    def lift_primes(self) -> tuple[int, ...]:
        """The fewest primes that hold |c1' s| <= N 2^(second_bits - 1) below a quarter."""
        needed = self.second_bits + 1 + int(math.log2(self.poly_degree))
        count = 1
        while sum(self.prime_bits[:count]) < needed:
            count += 1
        return self.primes[:count]

    def error_std(self, plain_square_sum: float, key_switches: int = 0) -> float:
        """Standard deviation, in units of the last bit, of a result before it is rounded.

        plain_square_sum: sum of squares of all plaintext coefficients that met encryptions.
        key_switches: how many noises of key switches add up in the result.
        """
        n = self.poly_degree
        # Errors and roundings of the messages times plaintexts; the fresh zero; key switches.
        product = (NOISE_VARIANCE + 1 / 12) * plain_square_sum
        zero = NOISE_VARIANCE * (1 + 4 * n / 3)
        inside = (product + zero + key_switches * self._switch_variance) * 2.0 ** (
            2 * self.plain_bits
        )
        # Rounding the second polynomial: N ternary coefficients of variance 2 / 3.
        second = n / 18 * 2.0 ** (2 * (self.plain_bits - self.second_bits))
        return math.sqrt(inside / float(self.modulus) ** 2 + second)

    @property
    def _switch_variance(self) -> float:
        """Noise of one key switch: digits times the key's error over P, and the rounding."""
        if self.special_prime_bits is None:
            return 0.0
        ratio = max(self.primes) / self.all_primes[-1]
        digits = len(self.primes) * self.poly_degree * NOISE_VARIANCE / 12
        return digits * ratio**2 + self.poly_degree / 18 + 1 / 12

    def __getstate__(self) -> dict[str, object]:
        derived = {"switching", "primes", "lift_primes"}
        return {k: v for k, v in self.__dict__.items() if k not in derived}


RING_SETS = {
    # Attention at 12 fraction bits: products of two shares modulo 2^40.
    "n4096_l40": RingParameters(4096, (49, 49), None, 40, 64),
    # Weights of up to about 20 bits: the noise grows with them.
    "n4096_l64": RingParameters(4096, (49, 49), None, 64, 84),
    "n8192_l40": RingParameters(8192, (49, 49), 49, 40, 64),
    "n8192_l64": RingParameters(8192, (49, 49, 49), 49, 64, 84),
    # Off by one about once in 2^43 products of two shares: 214 of 214 bits.
    "n8192_l64_q180": RingParameters(8192, (45, 45, 45, 45), 34, 64, 112),
}
"""Named sets, all at 128 bits. Errors: `RingPacking.off_by_one_probability`."""
