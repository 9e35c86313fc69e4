"""What protocols of matrix correlations compute in: words modulo 2^64, or residues modulo a prime.

Shares of numbers come modulo 2^64 and go back so. In between they are masked, opened and
multiplied, exactly; a prime's residues travel in as many bits as it has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np

from mpc_nonlinear.blocks.prime_arithmetic import matrix_product
from mpc_nonlinear.blocks.prime_opening import exchanged
from mpc_nonlinear.blocks.prime_shares import (
    from_prime,
    from_prime_cost,
    from_prime_limit,
    to_prime,
)
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.blocks.truncate import MAX_ABS_BITS, truncate, truncate_cost
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RING_BITS, RING_BYTES, RingArray
from transport.bitpack import packed_bytes
from transport.computing import units
from transport.traffic import Traffic


class Modulus(ABC):
    """Sums, products and openings of shares modulo one number, and the ways in and back."""

    @abstractmethod
    def lifted(self, x: RingArray) -> RingArray:
        """Shares, same shape, from shares modulo 2^64. No message; may fail as `lift_cost` says."""

    @abstractmethod
    def lift_cost(self, count: int, rms: float) -> Cost:
        """Of `lifted` for `count` numbers of this root mean square, in units of fixed point."""

    @abstractmethod
    def plus(self, x: RingArray, y: RingArray) -> RingArray:
        """Elementwise sum."""

    @abstractmethod
    def minus(self, x: RingArray, y: RingArray) -> RingArray:
        """Elementwise difference."""

    @abstractmethod
    def times(self, left: RingArray, right: RingArray) -> RingArray:
        """Matrix products (batch, n, k) times (batch, k, m): (batch, n, m). Exact."""

    @abstractmethod
    def opened(self, shares: list[RingArray], session: Session) -> list[RingArray]:
        """Sums of both parties' shares, to both, in the arrays' shapes. 1 round."""

    @abstractmethod
    def opening_cost(self, count: int, work: int = 0) -> Cost:
        """Of `opened` for `count` numbers in all; work: products of numbers besides."""

    @abstractmethod
    def result(self, x: RingArray, shift: int, session: Session) -> RingArray:
        """Shares modulo 2^64 of x / 2^shift, same shape, for |x| below `limit`. 1 round."""

    @abstractmethod
    def result_cost(self, count: int, shift: int) -> Cost:
        """Of `result` for `count` numbers."""

    @abstractmethod
    def limit(self, shift: int) -> int:
        """Of |x| in `result`."""


class WordModulus(Modulus):
    """Modulo 2^64: nothing to lift; results are truncated, off by less than one unit."""

    def lifted(self, x: RingArray) -> RingArray:
        """As they are."""
        return x

    def lift_cost(self, count: int, rms: float) -> Cost:
        """Nothing."""
        del count, rms
        return NO_COST

    def plus(self, x: RingArray, y: RingArray) -> RingArray:
        """Elementwise sum."""
        return x + y

    def minus(self, x: RingArray, y: RingArray) -> RingArray:
        """Elementwise difference."""
        return x - y

    def times(self, left: RingArray, right: RingArray) -> RingArray:
        """For so few rows integers are as fast as limbs in floating point, or faster."""
        product: RingArray = np.einsum("bnk,bkm->bnm", left, right)
        return product

    def opened(self, shares: list[RingArray], session: Session) -> list[RingArray]:
        """Eight bytes a number, each way."""
        flat = np.concatenate([share.reshape(-1) for share in shares])
        session.channel.next_round()
        return _split(flat + session.channel.exchange_array(flat), shares)

    def opening_cost(self, count: int, work: int = 0) -> Cost:
        """Exact."""
        size = RING_BYTES * count
        return Cost.of(Traffic.exchange(size, size), counts=units(word_multiply_add=work))

    def result(self, x: RingArray, shift: int, session: Session) -> RingArray:
        """As `truncate`."""
        return truncate(x, shift, session)

    def result_cost(self, count: int, shift: int) -> Cost:
        """As `truncate_cost`."""
        return truncate_cost(count, shift)

    def limit(self, shift: int) -> int:
        """2^61."""
        del shift
        return 1 << MAX_ABS_BITS


@dataclass(frozen=True, slots=True)
class PrimeModulus(Modulus):
    """Modulo an odd prime t of up to 50 bits: results are off by `from_prime_error_units`."""

    modulus: int

    def lifted(self, x: RingArray) -> RingArray:
        """As `to_prime`."""
        return to_prime(x, self.modulus)

    def lift_cost(self, count: int, rms: float) -> Cost:
        """|x| / 2^64 a number x."""
        return Cost.failing("lift modulo a prime", count * rms * 2.0**-RING_BITS)

    def plus(self, x: RingArray, y: RingArray) -> RingArray:
        """Elementwise sum."""
        total: RingArray = x + y
        t = np.uint64(self.modulus)
        return np.where(total >= t, total - t, total)

    def minus(self, x: RingArray, y: RingArray) -> RingArray:
        """Elementwise difference."""
        return np.where(x >= y, x - y, x + (np.uint64(self.modulus) - y))

    def times(self, left: RingArray, right: RingArray) -> RingArray:
        """As `matrix_product`."""
        return matrix_product(left, right, self.modulus)

    def opened(self, shares: list[RingArray], session: Session) -> list[RingArray]:
        """As many bits a number as t has, each way; words of t and above are refused."""
        flat = np.concatenate([share.reshape(-1) for share in shares])
        theirs = exchanged(flat, self.modulus, "cached products", session)
        return _split(self.plus(flat, theirs), shares)

    def opening_cost(self, count: int, work: int = 0) -> Cost:
        """Exact."""
        size = packed_bytes(count, self._bits)
        return Cost.of(Traffic.exchange(size, size), counts=units(prime_multiply_add=work))

    def result(self, x: RingArray, shift: int, session: Session) -> RingArray:
        """As `from_prime`."""
        return from_prime(x, self.modulus, shift, session)

    def result_cost(self, count: int, shift: int) -> Cost:
        """As `from_prime_cost`."""
        del shift
        return from_prime_cost(count)

    def limit(self, shift: int) -> int:
        """About t / 4."""
        return from_prime_limit(self.modulus, shift)

    @property
    def _bits(self) -> int:
        return self.modulus.bit_length()


WORDS = WordModulus()


def _split(flat: RingArray, like: list[RingArray]) -> list[RingArray]:
    ends = np.cumsum([part.size for part in like])[:-1]
    parts = np.split(flat, ends)
    return [part.reshape(own.shape) for part, own in zip(parts, like, strict=True)]
