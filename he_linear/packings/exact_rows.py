"""Rows rho W modulo a prime t, exactly, for T independent rows at once.

The token-periodic layout in slots modulo t: the two rows of N / 2 slots are cut into T / 2 tokens
each of c columns, so weights act on both rows alike. Columns are spread evenly, w of c in each of
the inputs, at the left, and v in each of the outputs, at the right: w + v - 1 diagonals a block,
from step 1 - c on, whatever the layer, so that all layers of one batch size share keys.

The client's rows come out of its encryption, uniform. Baby steps stay in the basis Q P, undivided;
the products with diagonals are c matrix products for each prime; giant steps follow Horner's rule.
Weights are encoded for a batch, output by output, used and forgotten.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import ClassVar

import numpy as np

from he_linear.ckks.key_switching import gather_add
from he_linear.ckks.keys import ServerKeys
from he_linear.ckks.noise import ROUNDING_VARIANCE, NoiseModel
from he_linear.exact.plain_slots import ROWS, slots_of
from he_linear.exact.slot_encryption import slot_encrypted_bytes, slot_masked_bytes
from he_linear.exact.slot_parameters import DROPPED_BITS, SlotParameters
from he_linear.kernels.fused_sums import (
    PANEL,
    key_products,
    multiply_blocks,
    panel_shape,
    spread,
    tile_rows,
)
from he_linear.kernels.row_products import IntegerMatrix
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.base import check_sizes, power_of_two
from he_linear.packings.evaluation_work import EvaluationWork, unit
from he_linear.packings.paired_diagonals import DiagonalSizes, encode_diagonals
from transport.computing import units
from transport.errors import UsageError

MAX_TOKENS = 256
_HOISTED = 16
"""Baby steps with keys of their own; more are taken in groups, the input moved in between."""
_BABY_STEPS = (16, 32, 64)
_SIDE = 8
"""Baby steps that are laid out side by side."""
_SUMS = 64
"""Sums made in one pass over the moved inputs, about: more memory, fewer passes."""
# Milliseconds (measured, one core): a baby step, decomposing an input, a giant step, a diagonal.
_BABY_MS, _DECOMPOSE_MS, _GIANT_MS, _DIAGONAL_MS = 0.35, 1.0, 0.9, 0.01


class Room:
    """Working memory, used again by one evaluation after another: fresh memory costs a third more.

    Grows to what the largest packing needs, `ExactRowsPacking.room_bytes`.
    """

    def __init__(self) -> None:
        self._buffer = np.zeros(0)

    def arrays(self, *shapes: tuple[int, ...]) -> list[Floats]:
        """Arrays of these shapes one after the other; what they hold is left over, but finite."""
        sizes = [math.prod(shape) for shape in shapes]
        if sum(sizes) > self._buffer.size:
            self._buffer = np.zeros(sum(sizes))
        ends = np.cumsum(sizes)
        return [
            self._buffer[end - size : end].reshape(shape)
            for end, size, shape in zip(ends, sizes, shapes, strict=True)
        ]


class ExactRowsPacking:
    """Y = rho W modulo t for uniform rho (tokens, in) and the server's 16-bit integers W (in, out).

    Not for a config to name: a way to prepare single tokens, see `hybrid.operators.exact_rows`.
    """

    op: ClassVar[str] = "linear"
    name: ClassVar[str] = "exact_rows"
    source: ClassVar[str] = (
        "this project; slots of [Smart14] eprint 2011/133, baby-step giant-step of [Halevi18] "
        "eprint 2018/244"
    )
    levels: ClassVar[int] = 1

    def __init__(self, parameters: SlotParameters, tokens: int, d_in: int, d_out: int) -> None:
        check_sizes(tokens=tokens, d_in=d_in, d_out=d_out)
        if tokens > MAX_TOKENS:
            raise UsageError(
                f"packing {self.name}: {tokens} rows; prepare at most {MAX_TOKENS} at once"
            )
        self.parameters = parameters
        self.tokens, self.d_in, self.d_out = tokens, d_in, d_out
        half = parameters.poly_degree // ROWS
        self._rows = max(PANEL, power_of_two(-(-tokens // ROWS)))
        self._columns = half // self._rows
        self.input_ciphertexts = -(-d_in // self._columns)
        self.output_ciphertexts = -(-d_out // self._columns)
        self._width_in = -(-d_in // self.input_ciphertexts)
        self._width_out = -(-d_out // self.output_ciphertexts)
        self._steps = self._width_in + self._width_out - 1
        self._babies = min(_BABY_STEPS, key=self._milliseconds)
        self._giants = -(-self._steps // self._babies)
        self._inner = self.input_ciphertexts * self._babies
        passes = max(1, round(self.output_ciphertexts * self._giants / _SUMS))
        self._together = -(-self.output_ciphertexts // passes)

    def _milliseconds(self, babies: int) -> float:
        """Rough time of an evaluation."""
        giants = -(-self._steps // babies)
        moved = self.input_ciphertexts * babies * (_BABY_MS + _DECOMPOSE_MS / _HOISTED)
        diagonals = self.input_ciphertexts * babies * self.output_ciphertexts * giants
        return moved + self.output_ciphertexts * (giants - 1) * _GIANT_MS + diagonals * _DIAGONAL_MS

    # -- what it declares -------------------------------------------------------------------

    @property
    def _groups(self) -> int:
        """Of baby steps."""
        return self._babies // _HOISTED

    @property
    def galois_steps(self) -> tuple[int, ...]:
        """Baby steps of a group from the first diagonal on, between groups, giant steps."""
        slots = self.parameters.slots
        steps = {(b + 1 - self._columns) % slots for b in range(_HOISTED)}
        if self._groups > 1:
            steps.add(_HOISTED)
        if self._giants > 1:
            steps.add(self._babies)
        return tuple(sorted(steps))

    @property
    def rotations(self) -> int:
        """Key switches in one evaluation."""
        moved = self.input_ciphertexts * (self._babies + self._groups - 1)
        return moved + self.output_ciphertexts * (self._giants - 1)

    @property
    def upload_bytes(self) -> int:
        """A seed, and the bodies modulo Q / t."""
        return slot_encrypted_bytes(self.input_ciphertexts, self.parameters)

    @property
    def download_bytes(self) -> int:
        """A seed for the masked bodies, and the second polynomials."""
        return slot_masked_bytes(self.output_ciphertexts, self.parameters)

    @property
    def _shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the moved inputs, the encoded weights of one pass, and their sums."""
        primes, n = len(self.parameters.all_primes), self.parameters.poly_degree
        rows = tile_rows(self._together * self._giants)
        return (
            (primes, *panel_shape(self._columns, self._inner, n)),
            (primes, self._columns, rows, self._inner),
            (rows, 2, primes, n),
        )

    @property
    def room_bytes(self) -> int:
        """Working memory of `stream`, besides results."""
        return 8 * sum(math.prod(shape) for shape in self._shapes)

    def unit(self, operation: str) -> str:
        """Name of a unit of work, on the data primes."""
        return unit(operation, self.parameters.poly_degree, len(self.parameters.primes))

    @property
    def work(self) -> EvaluationWork:
        """Moved inputs as they come; encoding and products; giant steps of every result."""
        primes, n = len(self.parameters.all_primes), self.parameters.poly_degree
        inputs, outputs = self.input_ciphertexts, self.output_ciphertexts
        moved = {
            self.unit("hoist"): inputs * self._groups,
            self.unit("rotation"): inputs * (self._groups - 1),
            self.unit("extended_rotation"): inputs * self._babies,
        }
        diagonals = outputs * self._giants * self._inner
        products = {
            "fused_multiply_add": diagonals * 2 * primes * n,
            "diagonal_residue": diagonals * primes * self._columns,
        }
        returned = {
            self.unit("horner_extended"): outputs * (self._giants - 1),
            self.unit("extended_division"): outputs,
        }
        return EvaluationWork(units(moved), units(products), units(returned))

    @property
    def noise_std(self) -> float:
        """Standard deviation of a result's coefficient modulo Q, an estimate.

        The noises of an encryption and of its baby step times the diagonals, whose 2c coefficients
        are taken as uniform modulo t, whatever the weights; giant steps and the fresh zero add
        nothing beside that.
        """
        model = NoiseModel(self.parameters)
        rounding = ROUNDING_VARIANCE * (1 + 2 * self.parameters.poly_degree / 3)
        key = model.key_switch - rounding
        # A body is rounded to a multiple of 2^DROPPED_BITS, and the message to integers.
        fresh = model.fresh + ROUNDING_VARIANCE * 4.0**DROPPED_BITS
        moved = fresh + key + (self._groups - 1) / 2 * model.key_switch
        diagonals = self.input_ciphertexts * self._steps * (2 * self._columns - 1)
        return self.parameters.plain_prime * math.sqrt(ROUNDING_VARIANCE * diagonals * moved)

    @property
    def wrong_probability(self) -> float:
        """Bound on the chance that any result of a batch is wrong: of all coefficients together.

        A wrong coefficient spoils every slot of its ciphertext.
        """
        count = self.output_ciphertexts * self.parameters.poly_degree
        return count * self.parameters.wrong_probability(self.noise_std)

    # -- what the parties do ------------------------------------------------------------------

    def rows_in(self, coefficients: Residues) -> Residues:
        """The rows rho (tokens, in) that encrypted polynomials (inputs, N) hold."""
        return self._rows_of(coefficients, slice(self._width_in), self.d_in)

    def rows_out(self, coefficients: Residues) -> Residues:
        """A share of results (outputs, N) to one of rows (tokens, out)."""
        right = slice(self._columns - self._width_out, None)
        return self._rows_of(coefficients, right, self.d_out)

    def _rows_of(self, coefficients: Residues, columns: slice, width: int) -> Residues:
        slots = slots_of(coefficients, self.parameters.plain_prime)
        parts = slots.reshape(-1, ROWS, self._rows, self._columns)[..., columns]
        rows = parts.transpose(1, 2, 0, 3).reshape(ROWS * self._rows, -1)
        return np.ascontiguousarray(rows[: self.tokens, :width])

    def stream(
        self, ciphertexts: Floats, weights: IntegerMatrix, keys: ServerKeys, room: Room
    ) -> Iterator[Floats]:
        """(inputs, 2, primes, N) to the outputs, (some, 2, primes, N) at a time; centred, NTT."""
        if weights.shape != (self.d_in, self.d_out):
            raise UsageError(
                f"packing {self.name}: weights of shape {weights.shape}; expected "
                f"{(self.d_in, self.d_out)}"
            )
        moved, matrices, sums = room.arrays(*self._shapes)
        primes = self.parameters.all_primes
        list(keys.workers.map(lambda i: self._move(ciphertexts[i], i, keys, moved),
                              range(len(ciphertexts))))  # fmt: skip
        for first in range(0, self.output_ciphertexts, self._together):
            count = min(self._together, self.output_ciphertexts - first)
            self._encode(weights, first, count, keys, matrices)
            used = count * self._giants

            def multiply(k: int, used: int = used) -> None:
                multiply_blocks(moved[k], matrices[k], used, primes[k], k, sums)

            list(keys.workers.map(multiply, range(len(primes))))
            parts = sums[:used].reshape(count, self._giants, *sums.shape[1:])
            yield np.stack(list(keys.workers.map(lambda part: self._end(part, keys), parts)))

    def _move(self, ciphertext: Floats, index: int, keys: ServerKeys, moved: Floats) -> None:
        """One input (2, primes, N) by all baby steps, in the basis Q P, to its place."""
        primes, switcher, n = self.parameters.all_primes, keys.switcher, ciphertext.shape[-1]
        zero, rows = np.zeros(n), np.empty((_SIDE, n))
        for start in range(0, self._babies, _SIDE):
            if start % _HOISTED == 0:
                if start:
                    group = [keys.rotation_key(_HOISTED)]
                    ciphertext = switcher.rotations(ciphertext, group)[0]
                digits = switcher.decompose(ciphertext[1])
                # Bodies times P, which leaves nothing modulo P.
                bodies = [*switcher.extended(ciphertext[0]), zero]
            first = start % _HOISTED + 1 - self._columns
            steps = [keys.rotation_key(step) for step in range(first, first + _SIDE)]
            orders = np.stack([key.order for key in steps])
            residues = tuple(key.residues for key in steps)
            for k, p in enumerate(primes):
                for half, body in enumerate((bodies[k], zero)):
                    key_products(digits, residues, (half, k), body, p, rows)
                    spread(rows, orders, moved[k], half, index * self._babies + start)

    def _encode(
        self, weights: IntegerMatrix, first: int, count: int, keys: ServerKeys, out: Floats
    ) -> None:
        """Diagonals of `count` outputs from `first` on, for every prime."""
        sizes = DiagonalSizes(self._columns, self._width_out, self._giants, self._babies)
        w, v = self._width_in, self._width_out

        def encode(index: int) -> None:
            block = np.zeros((self.input_ciphertexts * w, v))
            start = (first + index) * v
            block[: self.d_in] = weights.columns(start, start + v)
            parts = block.reshape(self.input_ciphertexts, w, v)
            encode_diagonals(parts, sizes, self.parameters, index * self._giants, out)

        list(keys.workers.map(encode, range(count)))

    def _end(self, rows: Floats, keys: ServerKeys) -> Floats:
        """Extended sums (giants, 2, primes + 1, N) to one result (2, primes, N), by Horner's rule.

        The first polynomial needs no digits, so it stays a multiple of P until the end.
        """
        switcher, primes = keys.switcher, self.parameters.all_primes
        total, second = rows[-1, 0], switcher.divide(rows[-1, 1])
        if self._giants == 1:
            return np.stack([switcher.divide(total), second])
        key = keys.rotation_key(self._babies)
        zero, switched = np.zeros(total.shape), np.empty((1, rows.shape[-1]))
        for row in rows[-2::-1]:
            digits, moved = switcher.decompose(second), np.empty(row.shape)
            for half, bodies in enumerate((total, zero)):
                for k, p in enumerate(primes):
                    key_products(digits, (key.residues,), (half, k), bodies[k], p, switched)
                    gather_add(switched[0], key.order, row[half, k], float(p), moved[half, k])
            total, second = moved[0], switcher.divide(moved[1])
        return np.stack([switcher.divide(total), second])


def shared_galois_steps(packings: Iterable[ExactRowsPacking]) -> tuple[int, ...]:
    """Rotation steps that need keys for all of these layers: at most 19 for one batch size."""
    return tuple(sorted({step for packing in packings for step in packing.galois_steps}))
