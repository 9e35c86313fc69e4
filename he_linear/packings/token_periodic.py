"""Token-periodic packing: weight diagonals live in a small subring, however many tokens.

Slot t c + j of input ciphertext i holds X[t, i w + j], j < w, in its real part and
X[T + t, i w + j] in its imaginary part, c = slots / T. Diagonal r of a block multiplies
X[t, j + r]; it is periodic in j with period c, so its NTT has 2c distinct values, each repeated
N / 2c times, and the whole multiply-accumulate is one dense modular matrix product for each of
them. Rotations split as r = g n1 + b - c: baby steps rotate inputs, giant steps accumulate by
Horner's rule.

Columns are spread evenly over ciphertexts: w of the c columns in each of the inputs, v in each of
the outputs. Inputs stand at the left of their block and outputs at its right: diagonals then run
from r = 1 - c, whatever the layer, so that all layers share keys, and there are w + v - 1 of them,
not 2c - 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numba import njit
from numpy.typing import NDArray

from he_linear.ckks.canonical_embedding import slots_to_coefficients
from he_linear.ckks.keys import ServerKeys, galois_element
from he_linear.ckks.noise import ROUNDING_VARIANCE, NoiseModel
from he_linear.ckks.parameters import CkksParameters
from he_linear.ckks.rotation import rotations
from he_linear.kernels.modular_matmul import LimbMatrices, modular_matmul
from he_linear.kernels.ntt import automorphism_order, subring_tables
from he_linear.kernels.residues import from_centred, multiply, to_centred
from he_linear.kernels.scalars import Floats, Integers, Residues, centre
from he_linear.packings.base import (
    LinearPacking,
    Weights,
    check_sizes,
    power_of_two,
    rounded_weights,
)
from he_linear.packings.evaluation_work import EvaluationWork
from transport.computing import Units, add_units, units
from transport.errors import UsageError

_MAX_COLUMNS = 512
_BABY_STEPS = (8, 16, 32)
"""More keep more keys: 0.3 MB each in set-up. Layers with fewer use keys of those with more."""
_HOISTED = 0.7
"""Time of a rotation that shares its digits with others, over one that does not."""


@njit(cache=True, nogil=True)
def permuted_sum(rows, order, moduli, total):  # type: ignore[no-untyped-def]
    """Total (primes, N) = sum over i of rows[i] permuted i times, by Horner's rule."""
    giants, primes, n = rows.shape
    moved = np.empty(n)
    for k in range(primes):
        p = moduli[k]
        inv = 1.0 / p
        row = total[k]
        row[:] = rows[giants - 1, k]
        for g in range(giants - 2, -1, -1):
            for j in range(n):
                moved[j] = row[order[j]]
            for j in range(n):
                row[j] = centre(moved[j] + rows[g, k, j], p, inv)


@njit(cache=True, nogil=True)
def permuted(rows, orders, out):  # type: ignore[no-untyped-def]
    """Out (inputs, orders, primes, N) = rows (inputs, primes, N) in every order (orders, N)."""
    for i in range(rows.shape[0]):
        for b in range(orders.shape[0]):
            order = orders[b]
            for k in range(rows.shape[1]):
                row, target = rows[i, k], out[i, b, k]
                for j in range(order.size):
                    target[j] = row[order[j]]


@dataclass(frozen=True, slots=True)
class TokenPeriodicWeights:
    """Matrices (2c, outputs * giants, inputs * babies) for each prime, the diagonal's residues."""

    matrices: tuple[LimbMatrices, ...]
    diagonal: Residues | None
    """(inputs, primes, N)"""

    @property
    def nbytes(self) -> int:
        """Memory of the encoded weights."""
        own = sum(matrices.nbytes for matrices in self.matrices)
        return own + (0 if self.diagonal is None else self.diagonal.nbytes)


class TokenPeriodicPacking(LinearPacking):
    """Both parts of every slot carry data; w + v - 1 non-cyclic diagonals a block."""

    name = "token_periodic"
    source = "this project; baby-step giant-step of [Halevi18] eprint 2018/244"
    input_scale_bits = 26
    weight_scale_bits = 24
    evaluates_plaintexts = True

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
        self.parameters = parameters
        self.tokens, self.d_in, self.d_out = tokens, d_in, d_out
        self.diagonal = diagonal
        slots = parameters.slots
        check_sizes(tokens=tokens, d_in=d_in, d_out=d_out)
        if baby_steps is not None and (baby_steps < 1 or baby_steps & (baby_steps - 1)):
            raise UsageError(f"baby_steps is {baby_steps}; choose a power of two")
        half = power_of_two(-(-tokens // 2))
        if half > slots:
            raise UsageError(
                f"{tokens} tokens exceed the {2 * slots} of a ciphertext; lower model.tokens"
            )
        self._rows = max(half, slots // _MAX_COLUMNS)
        self._columns = slots // self._rows
        self.input_ciphertexts = -(-d_in // self._columns)
        self._products = -(-d_out // self._columns)
        self._width_in = -(-d_in // self.input_ciphertexts)
        self._width_out = -(-d_out // self._products)
        self._steps = self._width_in + self._width_out
        self._babies = min(baby_steps or self._cheapest_babies(), power_of_two(self._steps))
        self._giants = -(-self._steps // self._babies)
        self.output_ciphertexts = self._products + (self.input_ciphertexts if diagonal else 0)
        self.operand_ciphertexts = (self.input_ciphertexts,)

    def _cheapest_babies(self) -> int:
        """Least time in rotations: hoisted ones of inputs against those of outputs."""

        def seconds(babies: int) -> float:
            giants = -(-self._steps // babies)
            return self.input_ciphertexts * babies * _HOISTED + self._products * (giants - 1)

        return min(_BABY_STEPS, key=seconds)

    @property
    def encoded_bytes(self) -> int:
        """Two limbs of four bytes for each residue of the diagonals."""
        p = self.parameters
        diagonals = self._products * self._giants * self.input_ciphertexts * self._babies
        matrices = 8 * 2 * self._columns * diagonals * len(p.primes)
        factors = 8 * self.input_ciphertexts * len(p.primes) * p.poly_degree
        return matrices + (factors if self.diagonal else 0)

    @property
    def galois_steps(self) -> tuple[int, ...]:
        """Baby steps from the first diagonal, -c, on, and one giant step."""
        steps = {*range(-self._columns, self._babies - self._columns)}
        if self._giants > 1:
            steps.add(self._babies)
        return tuple(sorted(s % self.parameters.slots for s in steps if s % self.parameters.slots))

    @property
    def rotations(self) -> int:
        """Per input babies, per output giants."""
        return self.input_ciphertexts * self._babies + self._products * (self._giants - 1)

    @property
    def work(self) -> EvaluationWork:
        """Hoisted rotations as inputs come, one matrix product, Horner's rule for each output."""
        inputs, factors = self.input_ciphertexts, self.input_ciphertexts if self.diagonal else 0
        zero = sum(step % self.parameters.slots == 0 for step in self._shifts)
        turned = {
            self.unit("hoist"): inputs,
            self.unit("rotation"): inputs * (self._babies - zero),
        }
        returned = {
            self.unit("horner_step"): self._products * (self._giants - 1),
            self.unit("horner_end"): self._products if self._giants > 1 else 0,
            self.unit("plain_multiply"): 2 * factors,
        }
        return EvaluationWork(units(turned), self._matrix_work(2), units(returned))

    def _matrix_work(self, polys: int) -> Units:
        """Of `_multiply` for ciphertexts of that many polynomials."""
        p = self.parameters
        rows, inner = self._products * self._giants, self.input_ciphertexts * self._babies
        residues = polys * len(p.primes) * p.poly_degree
        # The weights' limbs are read, and widened, at every use.
        limbs = 2 * len(p.primes) * rows * inner * 2 * self._columns
        return units(
            multiply_add=rows * inner * residues,
            operand_residue=inner * residues,
            product_residue=rows * residues,
            weight_limb=limbs,
        )

    @property
    def plain_work(self) -> Units:
        """The same matrix product on one polynomial, rotations by permutation."""
        p = self.parameters
        residues = len(p.primes) * p.poly_degree
        moved = self.input_ciphertexts * self._babies + self._products * self._giants
        factors = self.input_ciphertexts if self.diagonal else 0
        more = units({"permuted_residue": moved * residues, self.unit("plain_multiply"): factors})
        return add_units(self._matrix_work(1), more)

    def error_rms(self, weight_rms: float, input_rms: float, fraction_bits: int) -> float:
        """Estimated error of one output, root mean square, in reals.

        The input's noise and its baby rotation times the weights, rounded weights times the input,
        and the roundings of shares; giant steps and the way back add 2^-20 of that.
        """
        noise = NoiseModel(self.parameters)
        rotated = (self._babies - 1) / self._babies * noise.key_switch
        into = noise.slot_rms(noise.fresh + rotated) * 2.0**-self.input_scale_bits
        norm = sqrt(self.d_in) * weight_rms
        # A diagonal has 2c coefficients, and two reals share a slot.
        rounded = sqrt(2 * self._columns * ROUNDING_VARIANCE * self.d_in)
        weights = rounded * input_rms * 2.0**-self.weight_scale_bits
        unit = 2.0**-fraction_bits
        fixed_point = unit * sqrt(ROUNDING_VARIANCE * (2 + norm**2))
        return sqrt((into * norm) ** 2 + weights**2 + fixed_point**2)

    def pack(self, x: Integers) -> tuple[Integers, Integers]:
        """(tokens, in) to (input ciphertexts, slots), twice."""
        full = np.zeros((2 * self._rows, self.input_ciphertexts * self._width_in), np.int64)
        # Token t and token t + ceil(tokens / 2) share slots.
        half = -(-self.tokens // 2)
        full[:half, : self.d_in] = x[:half]
        full[self._rows : self._rows + self.tokens - half, : self.d_in] = x[half:]
        blocks = np.zeros((2, self._rows, self.input_ciphertexts, self._columns), np.int64)
        blocks[..., : self._width_in] = full.reshape(*blocks.shape[:3], self._width_in)
        real, imag = blocks.transpose(0, 2, 1, 3).reshape(2, self.input_ciphertexts, -1)
        return np.ascontiguousarray(real), np.ascontiguousarray(imag)

    def unpack(self, real: Residues, imag: Residues) -> tuple[Residues, ...]:
        """(output ciphertexts, slots) back to rows."""
        k = self._products
        right = slice(self._columns - self._width_out, None)
        first = self._rows_of(real[:k], imag[:k], right, self.d_out)
        if not self.diagonal:
            return (first,)
        left = slice(self._width_in)
        return first, self._rows_of(real[k:], imag[k:], left, self.d_in)

    def _rows_of(self, real: Residues, imag: Residues, columns: slice, width: int) -> Residues:
        half = -(-self.tokens // 2)
        parts = [
            part.reshape(-1, self._rows, self._columns)[..., columns]
            .transpose(1, 0, 2)
            .reshape(self._rows, -1)[:count, :width]
            for part, count in ((real, half), (imag, self.tokens - half))
        ]
        return np.concatenate(parts)

    def encode_weights(
        self, weights: Weights, diagonal: Weights | None = None
    ) -> TokenPeriodicWeights:
        """Diagonals, embedded in the subring of degree 2c, rounded, in NTT form, as limbs."""
        self.check_weights(weights, diagonal)
        coefficients = self._diagonal_coefficients(weights)
        rows = coefficients.reshape(self._products * self._giants, -1, 2 * self._columns)
        matrices = tuple(
            LimbMatrices.from_values(self._subring_ntt(rows, p), p) for p in self.parameters.primes
        )
        encoded = None if diagonal is None else self._encode_diagonal(diagonal)
        return TokenPeriodicWeights(matrices, encoded)

    def _diagonal_coefficients(self, weights: Weights) -> Floats:
        """Rounded coefficients (outputs, giants, inputs, babies, 2c)."""
        c, n1, n2 = self._columns, self._babies, self._giants
        w, v = self._width_in, self._width_out
        padded = np.zeros((self.input_ciphertexts * w, self._products * v))
        padded[: self.d_in, : self.d_out] = weights
        blocks = np.zeros((self._products, self.input_ciphertexts, c, c))
        blocks[:, :, :w, c - v :] = padded.reshape(
            self.input_ciphertexts, w, self._products, v
        ).transpose(2, 0, 1, 3)
        out = np.empty((self._products, n2, self.input_ciphertexts, n1, 2 * c))
        j = np.arange(c)
        for giant in range(n2):
            # After the shift by -c, step giant * n1 + baby reaches row j + step - c.
            step = giant * n1 + np.arange(n1)[:, None]
            row = j + step - c
            inside = (row >= 0) & (row < c)
            picked = np.where(inside, blocks[:, :, np.clip(row, 0, c - 1), j], 0.0)
            # The giant step's own rotation comes after the product.
            out[:, giant] = self._subring_embedding(np.roll(picked, giant * n1, axis=-1))
        return out

    def _subring_embedding(self, slots: Floats) -> Floats:
        """Real slots (..., c) to rounded coefficients (..., 2c) at the weight scale."""
        coefficients = slots_to_coefficients(slots.astype(np.complex128))
        return rounded_weights(coefficients, self.weight_scale_bits)

    def _subring_ntt(self, coefficients: Floats, p: int) -> Floats:
        """Integer coefficients (..., 2c) to their centred values modulo p, in SEAL's order."""
        n = 2 * self._columns
        t = subring_tables(p, n, self.parameters.poly_degree)
        rows = np.array(coefficients, np.float64).reshape(-1, n)
        t.forward(rows)
        return rows.reshape(coefficients.shape)

    def _encode_diagonal(self, diagonal: Weights) -> Residues:
        """Column factors, the same for every token, over the whole ring: (inputs, primes, N)."""
        c, degree = self._columns, self.parameters.poly_degree
        factors = np.zeros(self.input_ciphertexts * self._width_in)
        factors[: self.d_in] = diagonal
        padded = np.zeros((self.input_ciphertexts, c))
        padded[:, : self._width_in] = factors.reshape(padded.shape[0], -1)
        coefficients = self._subring_embedding(padded)
        out = np.empty((self.input_ciphertexts, len(self.parameters.primes), degree), np.uint64)
        for index, p in enumerate(self.parameters.primes):
            values = np.repeat(self._subring_ntt(coefficients, p), degree // (2 * c), axis=1)
            out[:, index] = from_centred(values[:, None], (p,))[:, 0]
        return out

    def evaluate(
        self, ciphertexts: Residues, encoded: TokenPeriodicWeights, keys: ServerKeys
    ) -> Residues:
        """Hoisted baby rotations, modular products by BLAS, giant rotations by Horner."""
        return np.stack(list(self.stream(iter(ciphertexts), encoded, keys)))

    def stream(
        self, inputs: Iterator[Residues], encoded: TokenPeriodicWeights, keys: ServerKeys
    ) -> Iterator[Residues]:
        """`evaluate`, ciphertext by ciphertext: rotates while others arrive."""
        primes = self.parameters.primes
        received: list[Residues] = []

        def arriving() -> Iterator[Residues]:
            for ciphertext in inputs:
                received.append(ciphertext)
                yield ciphertext

        def rotated(ciphertext: Residues) -> Floats:
            return rotations(to_centred(ciphertext, primes), self._shifts, keys)

        parts = list(keys.workers.map(rotated, arriving()))
        babies = parts[0][None] if len(parts) == 1 else np.stack(parts)
        sums = self._multiply(babies, encoded)
        yield from keys.workers.map(
            lambda rows: from_centred(self._giant_steps(rows, keys), primes), sums
        )
        if encoded.diagonal is not None:
            for ciphertext, factor in zip(received, encoded.diagonal, strict=True):
                yield multiply(ciphertext, factor[None], primes)

    def evaluate_plain(self, plaintexts: Residues, encoded: TokenPeriodicWeights) -> Residues:
        """Rotations of plaintexts are permutations: no key switching."""
        primes = self.parameters.primes
        centred = to_centred(plaintexts, primes)
        orders = np.stack([self._order(step) for step in self._shifts])
        babies = np.empty((len(centred), len(orders), *centred.shape[1:]))
        permuted(centred, orders, babies)
        sums = self._multiply(babies[:, :, None], encoded)
        giant = self._order(self._babies)
        moduli = np.array(primes, np.float64)
        outputs = np.empty((self._products, len(primes), self.parameters.poly_degree))
        for rows, total in zip(sums[:, :, 0], outputs, strict=True):
            permuted_sum(rows, giant, moduli, total)
        result = from_centred(outputs, primes)
        if encoded.diagonal is None:
            return result
        return np.concatenate([result, multiply(plaintexts, encoded.diagonal, primes)])

    @property
    def _shifts(self) -> list[int]:
        return [step - self._columns for step in range(self._babies)]

    def _order(self, step: int) -> NDArray[np.int64]:
        degree = self.parameters.poly_degree
        return automorphism_order(galois_element(step, degree), degree)

    def _multiply(self, babies: Floats, encoded: TokenPeriodicWeights) -> Floats:
        """(inputs, babies, polys, primes, N) to (outputs, giants, polys, primes, N)."""
        p, polys = self.parameters, babies.shape[2]
        shape = (self._products, self._giants, polys, len(p.primes), p.poly_degree)
        out = np.empty(shape)
        for index, matrices in enumerate(encoded.matrices):
            values = np.ascontiguousarray(babies[:, :, :, index]).reshape(-1, polys, p.poly_degree)
            out[:, :, :, index] = modular_matmul(matrices, values).reshape(*shape[:3], -1)
        return out

    def _giant_steps(self, rows: Floats, keys: ServerKeys) -> Floats:
        """(giants, 2, primes, N) to (2, primes, N)."""
        if self._giants == 1:
            first: Floats = rows[0]
            return first
        return keys.switcher.horner(rows, keys.rotation_key(self._babies))
