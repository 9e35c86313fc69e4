"""Many small products rho W modulo a prime t side by side, without a rotation.

A column is a product of its own: `ROWS` rows of the client, uniform, times the server's matrix.
Input i holds entry i of every row of every column, one slot each, output o likewise; so output o
is the sum over inputs of slots times numbers that the rows of a column share. Those repeat with
the columns' period, which makes them polynomials of a small subring, cheap to encode, and the
products matrix products over inputs, as in `exact_rows`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import ClassVar

import numpy as np

from he_linear.ckks.keys import ServerKeys
from he_linear.ckks.noise import ROUNDING_VARIANCE, NoiseModel
from he_linear.exact.plain_slots import ROWS as HALVES
from he_linear.exact.plain_slots import slots_of
from he_linear.exact.slot_parameters import DROPPED_BITS, SlotParameters
from he_linear.kernels.fused_sums import (
    PANEL,
    multiply_blocks,
    panel_shape,
    panel_width,
    spread,
    stored_bias,
    tile_rows,
)
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.base import check_sizes
from he_linear.packings.evaluation_work import EvaluationWork
from he_linear.packings.paired_diagonals import encode_columns
from he_linear.packings.row_blocks import Room
from he_linear.packings.slot_packing import SlotPacking
from transport.computing import units
from transport.errors import UsageError

ROWS = HALVES * PANEL
"""Of a column: the fewest that the matrix products take."""
_TOGETHER = 32
"""Outputs that are encoded, and multiplied, at once."""


class ColumnProductsPacking(SlotPacking):
    """Y_j = rho_j W_j modulo t for every column j: rho_j (ROWS, inner), W_j (inner, outputs).

    rho_j is uniform and the client's, W_j any residues, the server's. Not for a config to name: a
    way to make correlations, see `hybrid.operators.slot_matrices`.
    """

    op: ClassVar[str] = "correlations"
    name: ClassVar[str] = "column_products"
    source: ClassVar[str] = (
        "this project; slots of [Smart14] eprint 2011/133, columns side by side as [Juvekar18] "
        "Gazelle, eprint 2018/073, has images"
    )
    levels: ClassVar[int] = 1

    def __init__(self, parameters: SlotParameters, columns: int, inner: int, outputs: int) -> None:
        check_sizes(columns=columns, inner=inner, outputs=outputs)
        self.parameters, self.columns = parameters, columns
        self.inner, self.output_ciphertexts = inner, outputs
        self.period = self.room_for_columns(parameters)
        if columns > self.period:
            raise UsageError(
                f"packing {self.name}: {columns} columns; a ciphertext has {self.period} of {ROWS} "
                "rows"
            )
        self.input_ciphertexts = -(-inner // (self.period // columns))
        self._parts = -(-inner // self.input_ciphertexts)

    @staticmethod
    def room_for_columns(parameters: SlotParameters) -> int:
        """Columns of a ciphertext, at most."""
        return parameters.poly_degree // ROWS

    # -- what it declares -------------------------------------------------------------------

    @property
    def ciphertexts(self) -> int:
        """Both ways."""
        return self.input_ciphertexts + self.output_ciphertexts

    @property
    def work(self) -> EvaluationWork:
        """Encoding and products, outputs after outputs."""
        primes, n = len(self.parameters.primes), self.parameters.poly_degree
        pairs = self.input_ciphertexts * self.output_ciphertexts
        counts = {
            "fused_multiply_add": pairs * 2 * primes * n,
            "diagonal_residue": pairs * primes * self.period,
        }
        return EvaluationWork(leaving=units(counts))

    @property
    def noise_std(self) -> float:
        """Standard deviation of a result's coefficient modulo Q, an estimate.

        A fresh encryption's noise, its body rounded to 2^DROPPED_BITS, times numbers of 2c
        coefficients that are at most uniform modulo t; the fresh zero adds nothing beside that.
        """
        fresh = NoiseModel(self.parameters).fresh + ROUNDING_VARIANCE * 4.0**DROPPED_BITS
        terms = self.input_ciphertexts * 2 * self.period
        return self.parameters.plain_prime * math.sqrt(ROUNDING_VARIANCE * terms * fresh)

    # -- what the parties do ------------------------------------------------------------------

    def rows_in(self, coefficients: Residues) -> Residues:
        """The rows rho (columns, ROWS, inner) that encrypted polynomials (inputs, N) hold."""
        parts = self._entries(coefficients).transpose(0, 2, 1, 3)
        rows = parts.reshape(self.columns, ROWS, -1)
        return np.ascontiguousarray(rows[..., : self.inner])

    def rows_out(self, coefficients: Residues) -> Residues:
        """A share of results (outputs, N) to one of products (columns, ROWS, outputs)."""
        total: Residues = self._entries(coefficients).sum(axis=1, dtype=np.uint64)
        return total % np.uint64(self.parameters.plain_prime)

    def _entries(self, coefficients: Residues) -> Residues:
        """Slots as (columns, parts, ROWS, polynomials): linear, so it maps shares."""
        slots = slots_of(coefficients, self.parameters.plain_prime)
        entries = slots.reshape(-1, ROWS, self.period).transpose(2, 1, 0)
        used = entries[: self.columns * self._parts]
        return used.reshape(self.columns, self._parts, ROWS, -1)

    def stream(
        self, ciphertexts: Floats, weights: Sequence[Residues], keys: ServerKeys, room: Room
    ) -> Iterator[Floats]:
        """(inputs, 2, primes, N) to the outputs, (some, 2, primes, N) at a time; centred, NTT.

        weights: a matrix of residues modulo t for each column, up to (inner, outputs); what it
        lacks is zero.
        """
        p, outputs = self.parameters, self.output_ciphertexts
        inner, together = -(-self.input_ciphertexts // 2) * 2, min(_TOGETHER, outputs)
        primes, n = p.primes, p.poly_degree
        rows = tile_rows(together, panel_width(self.period, n))
        moved, matrices, sums = room.arrays(
            (len(primes), *panel_shape(self.period, inner, n)),
            (len(primes), self.period, rows, inner),
            (rows, 2, len(primes), n),
        )
        self._lay_out(ciphertexts, keys, moved)
        for start in range(0, outputs, together):
            stop = min(start + together, outputs)
            encode_columns(self._some(weights, start, stop), p, self.period, matrices)

            def multiply(k: int, used: int = stop - start) -> None:
                multiply_blocks(moved[k], matrices[k], used, primes[k], k, sums)

            list(keys.workers.map(multiply, range(len(primes))))
            yield sums[: stop - start].copy()

    def _lay_out(self, ciphertexts: Floats, keys: ServerKeys, moved: Floats) -> None:
        """Inputs where matrix products want them."""
        n = self.parameters.poly_degree
        order = np.arange(n)[None]

        def place(k: int) -> None:
            bias = stored_bias(self.parameters.primes[k])
            # An even number of inputs: the last meets zeros.
            moved[k, :, :, len(ciphertexts) :] = bias
            for i, ciphertext in enumerate(ciphertexts):
                for half in range(2):
                    spread(ciphertext[half, k][None], order, moved[k], half, i, bias)

        list(keys.workers.map(place, range(len(self.parameters.primes))))

    def _some(self, weights: Sequence[Residues], start: int, stop: int) -> Floats:
        """Outputs from start on: (some, inputs, columns and their parts), centred."""
        t, inputs = self.parameters.plain_prime, self.input_ciphertexts
        found = np.zeros((self.columns, self._parts * inputs, stop - start))
        for column, matrix in zip(found, weights, strict=True):
            part = matrix[:, start:stop].astype(np.float64)
            column[: part.shape[0], : part.shape[1]] = np.where(part > t // 2, part - t, part)
        return np.ascontiguousarray(found.reshape(-1, inputs, stop - start).transpose(2, 1, 0))
