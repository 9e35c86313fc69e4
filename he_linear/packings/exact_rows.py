"""Rows rho W modulo a prime t, exactly, for T independent rows at once.

The token-periodic layout in slots modulo t: the two rows of N / 2 slots are cut into T / 2 tokens
each of c columns, so weights act on both rows alike. Columns are spread evenly, w of c in each of
the inputs, at the left, and v in each of the outputs, at the right: w + v - 1 diagonals a block,
from step 1 - c on, whatever the layer, so that all layers of one batch size share keys.

The client's rows come out of its encryption, uniform. Baby steps stay in the basis Q P, undivided;
the products with diagonals are c matrix products for each prime; giant steps follow Horner's rule.
Weights are encoded for a batch, output by output, used and forgotten. Where moved inputs would
take too much memory, they come in blocks that add to the same sums, see `row_blocks`.
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
from he_linear.exact.slot_parameters import DROPPED_BITS, SlotParameters
from he_linear.kernels.fused_sums import PANEL, multiply_blocks, panel_width
from he_linear.kernels.key_products import DIGITS, PanelOrders, key_products, spread_products
from he_linear.kernels.row_products import IntegerMatrix
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.base import check_sizes, power_of_two
from he_linear.packings.evaluation_work import EvaluationWork
from he_linear.packings.paired_diagonals import DiagonalSizes, encode_diagonals
from he_linear.packings.row_blocks import HOISTED, Room, RowBlocks, evenly
from he_linear.packings.slot_packing import SlotPacking
from transport.computing import units
from transport.errors import UsageError

MAX_TOKENS = 256
_TOGETHER = 4
"""Inputs that meet a key while it is near, at most."""


class ExactRowsPacking(SlotPacking):
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
        self._rows = max(PANEL // 2, power_of_two(-(-tokens // ROWS)))
        self._columns = half // self._rows
        self.input_ciphertexts = -(-d_in // self._columns)
        self.output_ciphertexts = -(-d_out // self._columns)
        self._width_in = -(-d_in // self.input_ciphertexts)
        self._width_out = -(-d_out // self.output_ciphertexts)
        steps = self._width_in + self._width_out - 1
        sizes = self.input_ciphertexts, self.output_ciphertexts, steps
        primes = len(parameters.all_primes)
        self._cut = RowBlocks.fastest(parameters.poly_degree, primes, self._columns, sizes)

    # -- what it declares -------------------------------------------------------------------

    @property
    def galois_steps(self) -> tuple[int, ...]:
        """Baby steps of a group from the first diagonal on, between groups, giant steps."""
        slots = self.parameters.slots
        steps = {(b + 1 - self._columns) % slots for b in range(min(HOISTED, self._cut.babies))}
        if self._cut.groups > 1:
            steps.add(HOISTED)
        if self._cut.giants > 1:
            steps.add(self._cut.babies)
        return tuple(sorted(steps))

    @property
    def rotations(self) -> int:
        """Key switches in one evaluation."""
        cut = self._cut
        moved = cut.passes * self.input_ciphertexts * (cut.babies + cut.groups - 1)
        return moved + self.output_ciphertexts * (cut.giants - 1)

    @property
    def room_bytes(self) -> int:
        """Working memory of `stream`, besides results."""
        return self._cut.room_bytes

    @property
    def work(self) -> EvaluationWork:
        """Moved inputs, as they come; encoding and products; giant steps of every result."""
        primes, n, cut = len(self.parameters.all_primes), self.parameters.poly_degree, self._cut
        inputs, outputs = cut.passes * self.input_ciphertexts, self.output_ciphertexts
        moved = {
            self.unit("hoist"): inputs * cut.groups,
            self.unit("rotation"): inputs * (cut.groups - 1),
            self.unit("extended_rotation"): inputs * cut.babies,
        }
        diagonals = outputs * cut.giants * self.input_ciphertexts * cut.babies
        products = {
            "fused_multiply_add": diagonals * 2 * primes * n,
            "diagonal_residue": diagonals * primes * self._columns,
        }
        returned = {
            self.unit("horner_extended"): outputs * (cut.giants - 1),
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
        moved = fresh + key + (self._cut.groups - 1) / 2 * model.key_switch
        diagonals = self.input_ciphertexts * self._cut.steps * (2 * self._columns - 1)
        return self.parameters.plain_prime * math.sqrt(ROUNDING_VARIANCE * diagonals * moved)

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
        cut = self._cut
        for still_moved, blocks, groups in cut.parts():
            for block in blocks:
                sums, moved, matrices = room.arrays(*cut.shapes(len(block), cut.kept))
                if not still_moved:
                    self._move_all(ciphertexts, block, keys, moved)
                for outputs, own in zip(groups, sums, strict=False):
                    self._encode(weights, block, outputs, keys, matrices)
                    used = len(outputs) * cut.giants
                    self._multiply(moved, matrices, used, keys, own, add=block.start > 0)
            for outputs, own in zip(groups, sums, strict=False):
                used = len(outputs) * cut.giants
                parts = own[:used].reshape(len(outputs), cut.giants, *own.shape[1:])
                yield np.stack(list(keys.workers.map(lambda part: self._end(part, keys), parts)))

    def _move_all(self, ciphertexts: Floats, block: range, keys: ServerKeys, moved: Floats) -> None:
        """A block of inputs by all baby steps."""
        steps = range(1 - self._columns, 1 - self._columns + min(HOISTED, self._cut.babies))
        rotations = [keys.rotation_key(step) for step in steps]
        width = panel_width(self._columns, self.parameters.poly_degree)
        orders = PanelOrders.of([key.order for key in rotations], width)
        hoisted = tuple(key.residues for key in rotations), orders

        def move(some: range) -> None:
            inputs, index = ciphertexts[some.start : some.stop], some.start - block.start
            self._move(inputs, index, hoisted, keys, moved)

        list(keys.workers.map(move, evenly(block, _TOGETHER)))

    def _move(
        self,
        ciphertexts: Floats,
        index: int,
        hoisted: tuple[tuple[Floats, ...], PanelOrders],
        keys: ServerKeys,
        moved: Floats,
    ) -> None:
        """Inputs (some, 2, primes, N) by all baby steps, in the basis Q P, to their places.

        hoisted: keys of a group of baby steps.
        """
        primes, switcher, babies = self.parameters.all_primes, keys.switcher, self._cut.babies
        count, *_, n = ciphertexts.shape
        # Bodies times P, which leaves nothing modulo P.
        bodies, zeros = np.zeros((len(primes), count, n)), np.zeros((count, n))
        digits = np.empty((count, DIGITS, len(primes), n))
        for start in range(0, babies, HOISTED):
            if start:
                group = [keys.rotation_key(HOISTED)]
                ciphertexts = np.stack([switcher.rotations(x, group)[0] for x in ciphertexts])
            for i, (body, second) in enumerate(ciphertexts):
                digits[i] = switcher.decompose(second)
                bodies[:-1, i] = switcher.extended(body)
            at = index * babies + start, babies
            for k, p in enumerate(primes):
                for half, body in enumerate((bodies[k], zeros)):
                    spread_products(digits, *hoisted, (half, k), body, p, moved[k], at)

    def _encode(
        self, weights: IntegerMatrix, block: range, outputs: range, keys: ServerKeys, out: Floats
    ) -> None:
        """Diagonals from a block of inputs to these outputs, for every prime."""
        giants, w, v = self._cut.giants, self._width_in, self._width_out
        sizes = DiagonalSizes(self._columns, v, giants, self._cut.babies)

        def encode(index: int) -> None:
            start = outputs[index] * v
            part = weights.part(block.start * w, block.stop * w, start, start + v)
            inputs = part.reshape(len(block), w, v)
            encode_diagonals(inputs, sizes, self.parameters, index * giants, out)

        list(keys.workers.map(encode, range(len(outputs))))

    def _multiply(
        self, moved: Floats, matrices: Floats, used: int, keys: ServerKeys, sums: Floats,
        *, add: bool,
    ) -> None:  # fmt: skip
        """Sums, as many as used, of one block of inputs, or added to those before."""
        primes = self.parameters.all_primes

        def multiply(k: int) -> None:
            multiply_blocks(moved[k], matrices[k], used, primes[k], k, sums, add=add)

        list(keys.workers.map(multiply, range(len(primes))))

    def _end(self, rows: Floats, keys: ServerKeys) -> Floats:
        """Extended sums (giants, 2, primes + 1, N) to one result (2, primes, N), by Horner's rule.

        The first polynomial needs no digits, so it stays a multiple of P until the end.
        """
        switcher, primes = keys.switcher, self.parameters.all_primes
        total, second = rows[-1, 0], switcher.divide(rows[-1, 1])
        if self._cut.giants == 1:
            return np.stack([switcher.divide(total), second])
        key = keys.rotation_key(self._cut.babies)
        zero, switched = np.zeros(total.shape), np.empty((1, 1, rows.shape[-1]))
        for row in rows[-2::-1]:
            digits, moved = switcher.decompose(second)[None], np.empty(row.shape)
            for half, bodies in enumerate((total, zero)):
                for k, p in enumerate(primes):
                    key_products(digits, (key.residues,), (half, k), bodies[k : k + 1], p, switched)
                    gather_add(switched[0, 0], key.order, row[half, k], float(p), moved[half, k])
            total, second = moved[0], switcher.divide(moved[1])
        return np.stack([switcher.divide(total), second])


def shared_galois_steps(packings: Iterable[ExactRowsPacking]) -> tuple[int, ...]:
    """Rotation steps that need keys for all of these layers.

    At most 19 for one batch size, and two more for inputs that come in blocks.
    """
    return tuple(sorted({step for packing in packings for step in packing.galois_steps}))
