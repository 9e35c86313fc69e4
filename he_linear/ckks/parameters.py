"""CKKS parameters: a literal becomes a validated, immutable object or an error."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import tenseal.sealapi as seal

from he_linear.kernels.ntt import MAX_PRIME_BITS
from transport.errors import ParameterError

MAX_MODULUS_BITS = {4096: 106, 8192: 214, 16384: 430, 32768: 868}
"""Largest total modulus, special prime included, for 128 bits against classical attacks with
uniform ternary secrets: [Bossuat24] eprint 2024/463."""
_MIN_PRIME_BITS = 40
"""Two data primes of fewer bits cannot hold the conversion to shares."""
_MIN_SMALL_PRIME_BITS = 24
BASE_PRIMES = 2
"""Data primes that are left when a result is converted to shares."""


@dataclass(frozen=True)
class CkksParameters:
    """Ring degree and prime sizes; the secret is uniform ternary, the error sigma 3.2."""

    poly_degree: int
    prime_bits: tuple[int, ...]
    """Data primes: two of the base, whose product is Q, and one for each rescaling."""
    special_prime_bits: int
    """Key-switching prime."""
    _scheme: ClassVar[str] = "ckks"

    def __post_init__(self) -> None:
        if self.poly_degree not in MAX_MODULUS_BITS:
            known = ", ".join(str(n) for n in MAX_MODULUS_BITS)
            raise ParameterError(
                f"{self._scheme}: poly_degree {self.poly_degree} is not supported; choose one of "
                f"{known}"
            )
        limit = MAX_MODULUS_BITS[self.poly_degree]
        if self.total_modulus_bits > limit:
            raise ParameterError(
                f"{self._scheme}: {self.total_modulus_bits} modulus bits at poly_degree "
                f"{self.poly_degree} are below 128-bit security; use at most {limit} bits, "
                "special prime included"
            )
        self._check_primes()

    def _check_primes(self) -> None:
        """Sizes that the conversions to and from shares need."""
        base, others = self.prime_bits[:BASE_PRIMES], self.prime_bits[BASE_PRIMES:]
        if len(base) != BASE_PRIMES or not all(
            _MIN_PRIME_BITS <= b <= MAX_PRIME_BITS for b in base
        ):
            raise ParameterError(
                f"ckks: primes of {base} bits; use two data primes of {_MIN_PRIME_BITS} to "
                f"{MAX_PRIME_BITS} bits"
            )
        small = (*others, self.special_prime_bits)
        if not all(_MIN_SMALL_PRIME_BITS <= b <= MAX_PRIME_BITS for b in small):
            raise ParameterError(
                f"ckks: rescaling and special primes of {small} bits; use "
                f"{_MIN_SMALL_PRIME_BITS} to {MAX_PRIME_BITS} bits"
            )
        # Decryption modulo 2^70 needs |c1 * s| <= N * 2^70 < Q / 4.
        if sum(base) < 73 + math.log2(self.poly_degree):
            raise ParameterError(
                f"ckks: data primes of {base} bits are too small for the conversion to "
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
        """Data primes, then the special prime: SEAL's, of each size the largest first.

        So a set with fewer rescaling primes has the same others.
        """
        sizes = [*self.prime_bits, self.special_prime_bits]
        found = sorted(m.value() for m in seal.CoeffModulus.Create(self.poly_degree, sizes))
        by_size: dict[int, list[int]] = {}
        for p in found:
            by_size.setdefault(p.bit_length(), []).append(p)
        return tuple(by_size[bits].pop() for bits in sizes)

    @cached_property
    def base(self) -> CkksParameters:
        """The same set without rescaling primes: what a rescaled result lives in."""
        return self.reduced(1)

    def reduced(self, levels: int) -> CkksParameters:
        """The same set with fewer rescaling primes: for circuits of `levels` products."""
        if levels >= self.levels:
            return self
        bits = self.prime_bits[: BASE_PRIMES + max(levels, 1) - 1]
        reduced = CkksParameters(self.poly_degree, bits, self.special_prime_bits)
        assert reduced.primes == self.primes[: len(bits)]
        return reduced

    @property
    def allows_rotations(self) -> bool:
        """Whether the special prime is large enough for rotations of operands.

        A key switch adds noise of about 100 q / P to every coefficient: harmless under the scale
        of a product, far too much under that of an operand.
        """
        return self.special_prime_bits >= max(self.prime_bits)

    @property
    def levels(self) -> int:
        """Products that can follow one another: one more than there are rescalings."""
        return len(self.prime_bits) - BASE_PRIMES + 1

    @property
    def primes(self) -> tuple[int, ...]:
        """Data primes."""
        return self.all_primes[:-1]

    @property
    def modulus(self) -> int:
        """Q, the product of the data primes."""
        return math.prod(self.primes)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k not in {"all_primes", "base"}}


PARAMETER_SETS = {
    # One product; rotations.
    "n8192_q88": CkksParameters(8192, (44, 44), 49),
    # Four products one after the other, in slots, at scales of 30 bits: 214 of 214 bits.
    "n8192_q182": CkksParameters(8192, (49, 49, 28, 28, 28), 32),
}
"""Named sets, all at 128 bits, in the order of their cost."""


def set_for_products(products: int) -> CkksParameters:
    """The cheapest named set with room for so many products one after the other."""
    for parameters in PARAMETER_SETS.values():
        if parameters.levels >= products:
            return parameters
    most = max(parameters.levels for parameters in PARAMETER_SETS.values())
    raise ParameterError(
        f"ckks: {products} products one after the other; the named sets have room for {most}"
    )
