"""Softmax by powers of either party's own share: one product an exponential, few rounds."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, log2

import numpy as np

from mpc_nonlinear.blocks.compare import Width, less_than_zero, less_than_zero_cost
from mpc_nonlinear.blocks.extrema import widened, widened_cost
from mpc_nonlinear.blocks.group_tournament import (
    even_groups,
    group_tournament,
    group_tournament_cost,
)
from mpc_nonlinear.blocks.own_products import power_cost, power_of_two
from mpc_nonlinear.blocks.prime_products import PrimeProducts, prime_modulus
from mpc_nonlinear.blocks.prime_shares import (
    SCALED_ERROR_UNITS,
    from_prime_cost,
    from_prime_limit,
    scaled_from_prime,
)
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.row_pieces import RowPieces, row_pieces, row_pieces_cost
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.blocks.side_by_side import side_by_side
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from mpc_nonlinear.protocols.base import NonlinearProtocol
from mpc_nonlinear.protocols.row_softmax import MASK_GAP
from mpc_nonlinear.protocols.visible_rows import VisibleRows
from transport.errors import ConfigError
from transport.traffic import Party

_CLIP = 11.0
"""What lies further below a row's largest number counts as zero: e^-11 is a unit of 2^-16."""
_LOG2_E = log2(exp(1))
_MARGIN = 1.02
"""Exponents of what is kept stay above one by this, whatever comparisons are off by."""
_SMALLEST_SUM = 0.96
"""Of a row's terms: the largest is one or more, up to its error."""
_INVERSE_BITS = 8
"""Reciprocals of sums are kept with so many more fraction bits: sums may be large."""
_LEVEL_BITS = 9
"""Of comparisons of whole steps: two digits of four bits, or one of eight."""
_KEPT_COMPARED_BITS, _KEPT_SLACK = 13, 2.0**-3
_FEW = 1500
"""Terms up to which a comparison in two long digits, 24 bytes, saves a round."""


@dataclass(frozen=True, slots=True)
class PowerSoftmax(NonlinearProtocol):
    """Row maximum in groups, e^z as one product of both parties' powers, one reciprocal a row.

    1. whole multiples of a step below each number, and the largest of a row by a tournament of
       groups: the row's maximum is missed by two steps at most, and never exceeded
    2. e^z, z above it, by `power_of_two`; a comparison says what lies within `_CLIP` below
    3. the sum's reciprocal by lines, and a product an element
    """

    op = "softmax"
    name = "own_powers"
    source = "this project; exponentials after [Kelkar22] eprint 2021/885, comparisons [Rathee20]"
    # A power's rounding in what is divided and in the sum, the lines of the reciprocal.
    max_error = 2.0**-8
    approximation_error = 2.0**-10

    product_engines = (PrimeProducts.name,)

    bound: float
    """Largest |x| of positions that count; masked ones lie down to -(3 * bound + 16)."""
    causal: bool = False
    """Of shape (..., queries, keys): keys above the diagonal are public zeros."""

    @classmethod
    def approximation_error_of_rows(cls, length: int) -> float:
        """Every term but the largest clipped, comparisons off by as much as they may be."""
        return (length - 1) * exp(_KEPT_SLACK - _CLIP)

    def reference(self, x: FloatArray) -> FloatArray:
        """Softmax; nothing of it is approximated but for what is clipped."""
        return self.true_function(x)

    def true_function(self, x: FloatArray) -> FloatArray:
        """Float64 softmax."""
        seen = VisibleRows.of(x.shape, self.causal).masked(x, -np.inf)
        e = np.exp(seen - seen.max(-1, keepdims=True))
        result: FloatArray = (e / e.sum(-1, keepdims=True)).reshape(x.shape)
        return result

    def protocol_error(self, length: int, context: Context) -> float:
        """Of a probability: relative errors of its term and of the sum, and what is clipped."""
        unit = context.fixed_point.unit
        # Each party's power is rounded, and so is its exponent; terms are off by units besides.
        relative = 2.0 ** -self._kept_bits(context) + 2 * unit
        units = (length + 1) * SCALED_ERROR_UNITS + 4
        line = self._inverse(length, self._above(unit)).error
        return 2 * relative + line + units * unit + self.approximation_error_of_rows(length)

    def error(self, length: int, context: Context) -> float:
        """Clipping is counted by `protocol_error`."""
        return self.protocol_error(length, context)

    # -- public parameters ---------------------------------------------------------------------

    @property
    def _largest(self) -> float:
        return 4 * self.bound + MASK_GAP if not self.causal else self.bound

    def _step_bits(self, unit: float) -> int:
        """Of the step: as small as comparisons of one digit allow."""
        bits = 0
        while self._level_width(unit, bits).bits > _LEVEL_BITS:
            bits += 1
        return bits

    def _level_width(self, unit: float, step_bits: int) -> Width:
        # Whole steps below numbers are off by one, which both sides of a difference may be.
        return Width.exact(ceil(2 * self._largest / unit / 2**step_bits) + 1)

    def _kept_width(self, count: int, unit: float) -> Width:
        largest = (2 * self._largest + _CLIP) / unit
        digits = 2 if count <= _FEW else 0
        return Width.covering(largest, _KEPT_COMPARED_BITS, _KEPT_SLACK / unit, digits)

    @property
    def _lowest(self) -> float:
        """Exponent to the base two, before rounding, of the smallest term that is kept."""
        return (_CLIP + _KEPT_SLACK) * _LOG2_E + _MARGIN

    def _above(self, unit: float) -> float:
        """Largest z: by how much the largest number of a row may exceed what stands for it."""
        return 2 * 2.0 ** self._step_bits(unit) * unit

    def _kept_bits(self, context: Context) -> int:
        """Bits of each party's power, as many as the prime has room for."""
        place = f"{self.op}/{self.name}"
        room = log2(from_prime_limit(prime_modulus(context, place), 0))
        octaves = self._lowest + self._above(context.fixed_point.unit) * _LOG2_E
        bits = int((room - octaves - 0.01) / 2)
        if bits < 6:
            raise ConfigError(
                f"{place}: numbers up to {self.bound:g} leave {bits} bits of an exponential; use "
                "another protocol of this operation"
            )
        return bits

    @staticmethod
    def _inverse(length: int, above: float) -> RowPieces:
        """Of a row's sum, each term at most e^above."""
        octaves = max(1, ceil(log2(length * exp(above) * 1.05 / _SMALLEST_SUM)))
        return RowPieces(-1, _SMALLEST_SUM, octaves, 2.0**_INVERSE_BITS)

    # -- cost and run --------------------------------------------------------------------------

    def _maximum_cost(self, rows: VisibleRows, unit: float) -> Cost:
        if rows.columns == 1:
            return NO_COST
        width = self._level_width(unit, self._step_bits(unit))
        tree = group_tournament_cost(rows.lengths, even_groups(rows.columns), width)
        return tree + widened_cost(len(rows.lengths), width.ring_bits)

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Tournament; a comparison, a power and a selection an element; a reciprocal a row."""
        rows, unit = VisibleRows.of(shape, self.causal), context.fixed_point.unit
        n, count = rows.count, len(rows.lengths)
        modulus = prime_modulus(context, f"{self.op}/{self.name}")
        self._kept_bits(context)
        pieces = self._inverse(rows.columns, self._above(unit))
        kept, powers = self._term_costs(n, modulus, unit)
        return (
            self._maximum_cost(rows, unit)
            + kept.beside(powers)
            + select_cost(n)
            + row_pieces_cost(count, pieces, rows.columns / unit)
            + context.products.multiply_cost(n, self._last(count / n))
        )

    def _term_costs(self, count: int, modulus: int, unit: float) -> tuple[Cost, Cost]:
        """Of saying what is kept, and of the powers."""
        kept = less_than_zero_cost(count, self._kept_width(count, unit))
        return kept, power_cost(count, _CLIP / unit, modulus) + from_prime_cost(count)

    @staticmethod
    def _last(fresh: float) -> Bounds:
        """Of a term and its row's reciprocal, which is kept multiplied by 2^`_INVERSE_BITS`."""
        high = 2.0**_INVERSE_BITS
        return Bounds(1.0, high, high, _INVERSE_BITS, 1.1 * high, y_fresh=fresh)

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of softmax(x)."""
        rows, unit = VisibleRows.of(x.shape, self.causal), session.fixed_point.unit
        modulus = prime_modulus(session.context, f"{self.op}/{self.name}")
        # 1. what stands for each row's largest number, in whole steps
        packed = rows.pack(x) - rows.spread(self._maximum(x, rows, session))
        # 2. e^z of what is not clipped
        own = session.party is Party.CLIENT
        raised = packed + session.fixed_point.encode(_CLIP if own else 0.0)
        width = self._kept_width(rows.count, unit)
        kept, powers = self._term_costs(rows.count, modulus, unit)
        outside, e = side_by_side(
            [
                (kept, lambda branch: less_than_zero(raised, width, branch)),
                (powers, lambda branch: self._powers(raised, modulus, branch)),
            ],
            session,
        )
        e = select(outside ^ np.uint8(own), e, session)
        # 3. one reciprocal a row, one product an element
        pieces = self._inverse(rows.columns, self._above(unit))
        inverse = row_pieces(rows.sums(e), pieces, session)
        last = self._last(len(rows.lengths) / rows.count)
        result = session.products.multiply(e, rows.spread(inverse), session, last)
        return rows.unpack(result).reshape(x.shape)

    def _powers(self, raised: RingArray, modulus: int, session: Session) -> RingArray:
        """e^z from z + _CLIP; of what is clipped, anything."""
        kept = self._kept_bits(session.context)
        start = self._lowest - _CLIP * _LOG2_E
        if session.party is Party.CLIENT:
            raised = raised + session.fixed_point.encode(start / _LOG2_E)
        power = power_of_two(raised, _LOG2_E, kept, modulus, session)
        scaled = session.fixed_point.fraction_bits - 2 * kept - self._lowest
        return scaled_from_prime(power, modulus, 2.0**scaled, session)

    def _maximum(self, x: RingArray, rows: VisibleRows, session: Session) -> RingArray:
        """Shares of a number a row, (rows,): below its largest by at most two steps."""
        unit = session.fixed_point.unit
        values = x.reshape(-1, rows.columns)
        if rows.columns == 1:
            return values[:, 0]
        bits = self._step_bits(unit)
        width, sizes = self._level_width(unit, bits), even_groups(rows.columns)
        step = np.uint64(bits)
        best = group_tournament(values >> step, rows.lengths, sizes, width, session)
        return widened(best, width.ring_bits, session) << step


@dataclass(frozen=True, slots=True)
class CausalPowerSoftmax(PowerSoftmax):
    """The same on the visible part of each row; see `RowSoftmax`."""

    op = "causal_softmax"

    causal: bool = True
