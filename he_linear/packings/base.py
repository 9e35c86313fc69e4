"""What a packing declares and does. A packing is immutable and knows shapes only, no data.

Scales: an operand is encoded at 2^`input_scale_bits`, weights at 2^`weight_scale_bits`; the
result modulo Q has `output_scale`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from he_linear.ckks.ciphertexts import encrypted_bytes, masked_bytes
from he_linear.ckks.keys import ServerKeys
from he_linear.ckks.parameters import CkksParameters
from he_linear.kernels.scalars import Integers, Residues
from he_linear.packings.evaluation_work import EvaluationWork, unit
from transport.computing import Units
from transport.errors import UsageError

Weights = NDArray[np.float64]


def power_of_two(n: int) -> int:
    """The least power of two that is at least n >= 1."""
    return 1 << (n - 1).bit_length()


def check_sizes(**sizes: int) -> None:
    """Refuse sizes below one."""
    for name, size in sizes.items():
        if size < 1:
            raise UsageError(f"{name} is {size}; it must be at least 1")


_MAX_COEFFICIENT = 2.0**39
"""Half of the smallest prime allowed: larger ones would wrap."""


def rounded_weights(coefficients: NDArray[np.float64], scale_bits: int) -> NDArray[np.float64]:
    """Coefficients at a scale as integers that no prime wraps; `UsageError` where one would."""
    scaled = np.rint(coefficients * 2.0**scale_bits)
    if not np.abs(scaled).max(initial=0.0) < _MAX_COEFFICIENT:
        raise UsageError(
            f"weights: values out of range; they must be finite and, times 2^{scale_bits}, below "
            f"{_MAX_COEFFICIENT:g}; rescale the layer"
        )
    return scaled


class Packing(ABC):
    """Common to all packings."""

    op: ClassVar[str]
    """Graph operation it carries: linear, attention or elementwise."""
    name: ClassVar[str]
    source: ClassVar[str]
    input_scale_bits: ClassVar[int]
    needs_relinearisation: ClassVar[bool] = False
    parameters: CkksParameters
    operand_ciphertexts: tuple[int, ...]
    """Encrypted ciphertexts of each operand."""
    output_ciphertexts: int

    @property
    @abstractmethod
    def output_scale(self) -> float:
        """Message scale of the result modulo Q."""

    @property
    def galois_steps(self) -> tuple[int, ...]:
        """Rotation steps that need keys."""
        return ()

    @property
    def rotations(self) -> int:
        """Key switches by rotation in one evaluation."""
        return 0

    @property
    @abstractmethod
    def work(self) -> EvaluationWork:
        """Counted work of `evaluate`."""

    def unit(self, operation: str, primes: int = 0) -> str:
        """Name of a unit of work, on all primes unless told."""
        level = primes or len(self.parameters.primes)
        return unit(operation, self.parameters.poly_degree, level)

    @property
    def upload_bytes(self) -> int:
        """All operands in seeded form."""
        return sum(encrypted_bytes(count, self.parameters) for count in self.operand_ciphertexts)

    @property
    def download_bytes(self) -> int:
        """The masked result."""
        return masked_bytes(self.output_ciphertexts, self.parameters)

    def input_scale(self, fraction_bits: int) -> float:
        """Multiplier of integers that carry `fraction_bits` already."""
        return float(2.0 ** (self.input_scale_bits - fraction_bits))


class LinearPacking(Packing):
    """Y = X W for an encrypted X (tokens, in) and the server's W (in, out)."""

    op = "linear"
    weight_scale_bits: ClassVar[int]
    evaluates_plaintexts: ClassVar[bool] = False
    """Whether `evaluate_plain` works, which layers prepared offline need."""
    tokens: int
    d_in: int
    d_out: int
    diagonal: bool
    input_ciphertexts: int

    @abstractmethod
    def __init__(
        self,
        parameters: CkksParameters,
        tokens: int,
        d_in: int,
        d_out: int,
        *,
        diagonal: bool = False,
        baby_steps: int | None = None,
    ) -> None:
        """`baby_steps`: rotations kept per input ciphertext; None: whatever costs least."""

    @property
    def output_scale(self) -> float:
        """Input scale times weight scale."""
        return float(2.0 ** (self.input_scale_bits + self.weight_scale_bits))

    def check_weights(self, weights: Weights, diagonal: Weights | None) -> None:
        """Refuse weights and column factors of wrong shapes."""
        if weights.shape != (self.d_in, self.d_out):
            raise UsageError(f"weights: shape {weights.shape}, expected {(self.d_in, self.d_out)}")
        if (diagonal is not None) != self.diagonal or (
            diagonal is not None and diagonal.shape != (self.d_in,)
        ):
            raise UsageError(
                f"diagonal: give {self.d_in} factors if and only if the packing has a diagonal"
            )

    @property
    @abstractmethod
    def encoded_bytes(self) -> int:
        """Memory of the encoded weights."""

    @abstractmethod
    def pack(self, x: Integers) -> tuple[Integers, Integers]:
        """(tokens, in) to real and imaginary slots (input ciphertexts, slots)."""

    @abstractmethod
    def unpack(self, real: Residues, imag: Residues) -> tuple[Residues, ...]:
        """Result slots to (tokens, out) and, for a diagonal packing, (tokens, in)."""

    @abstractmethod
    def encode_weights(self, weights: Weights, diagonal: Weights | None = None) -> Any:
        """Weights (in, out) and column factors (in,) in the form `evaluate` wants."""

    @abstractmethod
    def evaluate(self, ciphertexts: Residues, encoded: Any, keys: ServerKeys) -> Residues:
        """(input ciphertexts, 2, primes, N) to (output ciphertexts, 2, primes, N)."""

    def stream(
        self, inputs: Iterator[Residues], encoded: Any, keys: ServerKeys
    ) -> Iterator[Residues]:
        """`evaluate` with ciphertexts (2, primes, N) coming and going one by one."""
        yield from self.evaluate(np.stack(list(inputs)), encoded, keys)

    @property
    def plain_work(self) -> Units:
        """Counted work of `evaluate_plain`, where that works."""
        return ()

    def evaluate_plain(self, plaintexts: Residues, encoded: Any) -> Residues:  # noqa: ARG002
        """The same linear map on plaintexts: (inputs, primes, N) to (outputs, primes, N).

        Equal, modulo the primes, to what `evaluate` does to the messages inside.
        """
        raise UsageError(
            f"packing {self.name}: has no evaluation on plaintexts, which linear layers prepared "
            "offline need; choose token_periodic or phase online"
        )


class ProductPacking(Packing):
    """C_b = A_b B_b for encrypted A (batch, rows, inner) and B (batch, inner, columns)."""

    op = "attention"
    needs_relinearisation = True
    left_ciphertexts: int
    right_ciphertexts: int
    right_scale_bits: ClassVar[int]
    replicas: int
    """How often each operand element is packed, at most."""

    @abstractmethod
    def __init__(
        self, parameters: CkksParameters, batch: int, rows: int, inner: int, columns: int
    ) -> None: ...

    @property
    def output_scale(self) -> float:
        """Both operands' scales."""
        return float(2.0 ** (self.input_scale_bits + self.right_scale_bits))

    def right_scale(self, fraction_bits: int) -> float:
        """Multiplier of the right operand's integers that carry `fraction_bits` already."""
        return float(2.0 ** (self.right_scale_bits - fraction_bits))

    @abstractmethod
    def pack_left(self, x: Integers) -> tuple[Integers, Integers]:
        """(batch, rows, inner) to real and imaginary slots."""

    @abstractmethod
    def pack_right(self, x: Integers) -> tuple[Integers, Integers]:
        """(batch, inner, columns) to real and imaginary slots."""

    @abstractmethod
    def unpack(self, real: Residues) -> Residues:
        """Real result slots to (batch, rows, columns)."""

    @abstractmethod
    def evaluate(self, left: Residues, right: Residues, keys: ServerKeys) -> Residues:
        """Both operands' ciphertexts to the result's."""

    def stream(
        self, pairs: Iterator[tuple[Residues, Residues]], keys: ServerKeys
    ) -> Iterator[Residues]:
        """`evaluate` with ciphertexts (2, primes, N) coming in pairs and going one by one."""
        left, right = zip(*pairs, strict=True)
        yield from self.evaluate(np.stack(left), np.stack(right), keys)
