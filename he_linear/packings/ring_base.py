"""What a packing of exact products declares and does. It knows shapes only, no data.

Inner products are read off coefficients of polynomial products; no rotations. Polynomials are
words modulo 2^l, (count, N); ciphertexts are centred residues (primes, count, 2, N), NTT form.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import numpy as np

from he_linear.exact.ring_encryption import Positions, ring_encrypted_bytes, ring_masked_bytes
from he_linear.exact.ring_keys import RingServerKeys
from he_linear.exact.ring_parameters import RingParameters
from he_linear.kernels.scalars import Floats, Integers, Residues
from he_linear.packings.evaluation_work import unit
from transport.computing import Units, units
from transport.errors import ParameterError

MAX_OFF_BY_ONE = 2.0**-4
"""Sixteen deviations of the error are one unit: nothing is ever off by two."""


class RingPacking(ABC):
    """Common to all packings of exact products."""

    op: ClassVar[str]
    """Graph operation it carries: linear or attention."""
    name: ClassVar[str]
    source: ClassVar[str]
    levels: ClassVar[int] = 1
    """Products one after the other."""
    rotations: ClassVar[int] = 0
    parameters: RingParameters
    operand_ciphertexts: tuple[int, ...]
    """Encrypted polynomials of each operand."""
    output_ciphertexts: int
    """Returned."""
    useful: Positions
    """Where the results stand in the returned ciphertexts, in the results' shape."""

    @property
    def automorphisms(self) -> tuple[int, ...]:
        """Elements g of X -> X^g that need keys."""
        return ()

    @property
    def key_switches(self) -> int:
        """Automorphisms in one evaluation."""
        return 0

    @property
    def work(self) -> Units:
        """Counted work of `evaluate`: multiply-adds, and key switches of merges."""
        counts = {"ring_multiply_add": self._multiply_adds, self.unit("merge"): self.key_switches}
        return units(counts)

    @property
    @abstractmethod
    def _multiply_adds(self) -> int:
        """Of residues, over all primes and both polynomials."""

    def unit(self, operation: str) -> str:
        """Name of a unit of work."""
        p = self.parameters
        return unit(f"ring_{operation}", p.poly_degree, len(p.primes))

    @property
    def upload_bytes(self) -> int:
        """All operands in seeded form, under one seed."""
        return ring_encrypted_bytes(sum(self.operand_ciphertexts), self.parameters)

    @property
    def download_bytes(self) -> int:
        """The masked result: only useful coefficients of the bodies."""
        return ring_masked_bytes(self.output_ciphertexts, self.useful.size, self.parameters)

    @property
    @abstractmethod
    def share_square_sum(self) -> float:
        """Expected sum of squares of the plaintexts behind one result, for uniform shares."""

    @property
    def merge_noises(self) -> int:
        """Noises of key switches that add up in one result."""
        return 0

    def off_by_one_probability(self, plain_square_sum: float | None = None) -> float:
        """Bound on the chance that one result is off in its last bit.

        plain_square_sum: from `square_sum` of linear packings; None: plaintexts are uniform
        shares. The error crosses a rounding boundary at a uniform offset: the chance is the mean
        of its size, at most its deviation. An error of two units takes 16 deviations or more.
        """
        total = self.share_square_sum if plain_square_sum is None else plain_square_sum
        return min(1.0, self.parameters.error_std(total, self.merge_noises))

    @abstractmethod
    def evaluate(self, ciphertexts: Floats, operand: Any, keys: RingServerKeys) -> Floats:
        """Operands' ciphertexts, one after the other, to those that are returned.

        operand: the server's encoded weights or shares.
        """

    def check_noise(self, plain_square_sum: float | None = None) -> None:
        """Refuse plaintexts whose products the modulus has no room for."""
        chance = self.off_by_one_probability(plain_square_sum)
        if chance > MAX_OFF_BY_ONE:
            raise ParameterError(
                f"packing {self.name}: a result would be off by one with chance {chance:.2g}, more "
                f"than {MAX_OFF_BY_ONE:.2g}; choose a set with a larger modulus than "
                f"{self.parameters.prime_bits} bits, or fewer fraction bits"
            )

    def _uniform_square(self) -> float:
        """Mean square of a uniform signed word."""
        return math.ldexp(1.0, 2 * self.parameters.plain_bits) / 12


class RingLinearPacking(RingPacking):
    """Y = X W modulo 2^l for an encrypted X (tokens, in) and the server's integers W (in, out)."""

    op = "linear"
    tokens: int
    d_in: int
    d_out: int

    @abstractmethod
    def __init__(self, parameters: RingParameters, tokens: int, d_in: int, d_out: int) -> None: ...

    @property
    @abstractmethod
    def encoded_bytes(self) -> int:
        """Memory of the encoded weights."""

    @abstractmethod
    def pack(self, x: Residues) -> Residues:
        """One party's (tokens, in) to polynomials (input ciphertexts, N)."""

    @abstractmethod
    def encode_weights(self, weights: Integers) -> Any:
        """Integers (in, out), |w| < 2^(l-1), in the form `evaluate` wants.

        Refused where the set's modulus is too small for them, see `check_noise`.
        """

    @abstractmethod
    def square_sum(self, weights: Integers) -> float:
        """Largest sum of squares of the weights that meet one output ciphertext."""


class RingProductPacking(RingPacking):
    """C_b = A_b B_b modulo 2^l for shared A (batch, rows, inner) and B (batch, inner, columns).

    The client encrypts its shares a0, b0; the server, holding a1, b1, evaluates both cross terms
    a0 b1 + a1 b0 into the same ciphertexts.
    """

    op = "attention"

    @abstractmethod
    def __init__(
        self, parameters: RingParameters, batch: int, rows: int, inner: int, columns: int
    ) -> None: ...

    @abstractmethod
    def pack(self, a: Residues, b: Residues) -> Residues:
        """One party's (batch, rows, inner) and (batch, inner, columns) to polynomials (n, N)."""

    @abstractmethod
    def encode(self, a: Residues, b: Residues) -> Any:
        """The server's shares in the form `evaluate` wants."""


def scatter(values: Residues, index: Positions, count: int, n: int) -> Residues:
    """Polynomials (count, N) with each value at its place, X^(N + e) being -X^e.

    An entry of `index` is 2 N * polynomial + exponent, the exponent modulo 2 N.
    """
    polynomial, exponent = index // (2 * n), index % (2 * n)
    flat = np.zeros(count * n, np.uint64)
    signs = np.where(exponent < n, values, np.uint64(0) - values)
    flat[polynomial * n + exponent % n] = signs
    return flat.reshape(count, n)
