"""CKKS parameters: a literal becomes a validated, immutable object or an error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import tenseal.sealapi as seal

from he_linear.ntt import MAX_PRIME_BITS
from transport.errors import ParameterError

MAX_MODULUS_BITS = {4096: 106, 8192: 214, 16384: 430, 32768: 868}
"""Largest total modulus, special prime included, for 128 bits against classical attacks with
uniform ternary secrets: [Bossuat24] eprint 2024/463."""
_MIN_PRIME_BITS = 40
"""Two data primes of fewer bits cannot hold the conversion to shares."""


@dataclass(frozen=True)
class CkksParameters:
    """Ring degree and prime sizes; the secret is uniform ternary, the error sigma 3.2."""

    poly_degree: int
    prime_bits: tuple[int, ...]
    """Data primes, whose product is Q."""
    special_prime_bits: int
    """Key-switching prime."""

    def __post_init__(self) -> None:
        if self.poly_degree not in MAX_MODULUS_BITS:
            known = ", ".join(str(n) for n in MAX_MODULUS_BITS)
            raise ParameterError(
                f"ckks: poly_degree {self.poly_degree} is not supported; choose one of {known}"
            )
        limit = MAX_MODULUS_BITS[self.poly_degree]
        if self.total_modulus_bits > limit:
            raise ParameterError(
                f"ckks: {self.total_modulus_bits} modulus bits at poly_degree {self.poly_degree} "
                f"are below 128-bit security; use at most {limit} bits, special prime included"
            )
        sizes = (*self.prime_bits, self.special_prime_bits)
        if len(self.prime_bits) != 2 or not all(
            _MIN_PRIME_BITS <= b <= MAX_PRIME_BITS for b in sizes
        ):
            raise ParameterError(
                f"ckks: primes of {sizes} bits; use two data primes and one special prime of "
                f"{_MIN_PRIME_BITS} to {MAX_PRIME_BITS} bits"
            )
        if self.special_prime_bits < max(self.prime_bits):
            raise ParameterError(
                "ckks: the special prime must be at least as large as every data prime"
            )
        # Decryption modulo 2^70 needs |c1 * s| <= N * 2^70 < Q / 4.
        if sum(self.prime_bits) < 73 + math.log2(self.poly_degree):
            raise ParameterError(
                f"ckks: data primes of {self.prime_bits} bits are too small for the conversion to "
                "shares; together they need 73 + log2(poly_degree) bits"
            )

    @property
    def total_modulus_bits(self) -> int:
        """Bits of all primes, special prime included."""
        return sum(self.prime_bits) + self.special_prime_bits

    @property
    def slots(self) -> int:
        """Complex slots of a ciphertext."""
        return self.poly_degree // 2

    @cached_property
    def all_primes(self) -> tuple[int, ...]:
        """Data primes, then the special prime, as SEAL chooses them."""
        sizes = [*self.prime_bits, self.special_prime_bits]
        return tuple(m.value() for m in seal.CoeffModulus.Create(self.poly_degree, sizes))

    @property
    def primes(self) -> tuple[int, ...]:
        """Data primes."""
        return self.all_primes[:-1]

    @property
    def modulus(self) -> int:
        """Q, the product of the data primes."""
        return math.prod(self.primes)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "all_primes"}


PARAMETER_SETS = {"n8192_q88": CkksParameters(8192, (44, 44), 49)}
"""Named sets that configs may choose."""
