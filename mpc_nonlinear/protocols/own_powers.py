"""Softmax by powers of either party's own share: one product an exponential, few rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, exp, expm1, log2

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
from mpc_nonlinear.blocks.public_numbers import exact_power
from mpc_nonlinear.blocks.row_pieces import (
    RESULT_ERROR_UNITS,
    RowPieces,
    row_pieces,
    row_pieces_cost,
)
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

_CLIPS = tuple(0.5 * clip for clip in range(14, 30))
"""Choices of how far below a row's largest number a term counts as zero."""
_LOG2_E = 1.4426950408889634
_MARGIN = 1.02
"""Exponents of what is kept stay above one by this, whatever comparisons are off by."""
_SMALLEST_SUM = 0.96
"""Of a row's terms: the largest is one or more, up to its error."""
_INVERSE_BITS = 8
"""Reciprocals of sums are kept with so many more fraction bits: sums may be large."""
_LEVEL_BITS = (9, 10, 11, 12)
"""Of comparisons of whole steps, the first where errors allow it: two digits of four bits, or one
of eight."""
_SIGN_BITS = 1
"""More than differences take: a row's largest number is one of the masked, where all of it is."""
_WANTED_ERROR = 2.0**-7.75
_KEPT_COMPARED_BITS, _KEPT_SLACK = 13, 2.0**-3
_FEWEST_KEPT_BITS = 6
_FEW = 1500
"""Terms up to which a comparison in two long digits, 24 bytes, saves a round."""


@dataclass(frozen=True, slots=True)
class PowerSizes:
    """Public sizes of one softmax."""

    clip: float
    """What lies further below what stands for the largest number counts as zero."""
    step_bits: int
    """Of the step that numbers are rounded down to before they are compared."""
    kept_bits: int
    """Of each party's power."""
    width: Width
    """Of comparisons of whole steps."""
    above: float
    """By how much a number may exceed what stands for the largest: two steps."""

    @property
    def ring_bits(self) -> int:
        """Of what the tournament gives, in steps."""
        return self.width.ring_bits + _SIGN_BITS

    @property
    def mean_term(self) -> float:
        """Of a term, in the mean over how both parties' shares are rounded, or above it."""
        half = self.above / 2
        return (expm1(half) / half) ** 2 if half else 1.0

    @property
    def lowest(self) -> float:
        """Exponent to the base two, before rounding, of the smallest term that is kept."""
        return _exponent_of(self.clip)

    def rounding(self, length: int) -> float:
        """Of a probability: powers in a term and in the sum, and all terms clipped but one."""
        return 2 * 2.0**-self.kept_bits + (length - 1) * exp(_KEPT_SLACK - self.clip)


def _exponent_of(clip: float) -> float:
    return (clip + _KEPT_SLACK) * _LOG2_E + _MARGIN


@lru_cache(maxsize=256)
def power_sizes(largest: float, length: int, unit: float, modulus: int) -> PowerSizes:
    """For rows whose numbers differ by at most `largest`: the shortest comparisons that do."""
    room = log2(from_prime_limit(modulus, 0))
    best: PowerSizes | None = None
    for bits in _LEVEL_BITS:
        step_bits = 0
        # Whole steps below numbers are off by one, which both sides of a difference may be.
        while (width := _level_width(largest, unit, step_bits)).bits > bits:
            step_bits += 1
        above = 2 * 2.0**step_bits * unit
        for clip in _CLIPS:
            octaves = _exponent_of(clip) + above * _LOG2_E
            sizes = PowerSizes(clip, step_bits, int((room - octaves - 0.01) / 2), width, above)
            if best is None or sizes.rounding(length) < best.rounding(length):
                best = sizes
        assert best is not None
        if best.rounding(length) < _WANTED_ERROR:
            break
    assert best is not None
    return best


def _level_width(largest: float, unit: float, step_bits: int) -> Width:
    return Width.exact(ceil(largest / unit / 2**step_bits) + 1)


@dataclass(frozen=True, slots=True)
class OwnPowersSoftmax(NonlinearProtocol):
    """Row maximum in groups, e^z as one product of both parties' powers, one reciprocal a row.

    1. whole multiples of a step below each number, and the largest of a row by a tournament of
       groups: the row's maximum is missed by two steps at most, and never exceeded
    2. e^z, z above it, by `power_of_two`; a comparison says what lies too far below
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
        unit, sizes = context.fixed_point.unit, self._sizes(length, context)
        # Exponents are rounded too; terms are off by units besides.
        units = (length + 1) * SCALED_ERROR_UNITS + 8
        units += RESULT_ERROR_UNITS * exp(sizes.above) * 2.0**-_INVERSE_BITS
        return sizes.rounding(length) + self._inverse(length, sizes.above).error + units * unit

    def error(self, length: int, context: Context) -> float:
        """The same: it approximates nothing but by clipping."""
        return self.protocol_error(length, context)

    # -- public parameters ---------------------------------------------------------------------

    @property
    def _largest(self) -> float:
        """Of differences of a row's numbers: from masked ones to the largest."""
        return 4 * self.bound + MASK_GAP

    def _modulus(self, context: Context) -> int:
        return prime_modulus(context, f"{self.op}/{self.name}")

    def _sizes(self, length: int, context: Context) -> PowerSizes:
        unit = context.fixed_point.unit
        sizes = power_sizes(self._largest, length, unit, self._modulus(context))
        if sizes.kept_bits < _FEWEST_KEPT_BITS:
            raise ConfigError(
                f"{self.op}/{self.name}: numbers up to {self.bound:g} leave {sizes.kept_bits} bits "
                "of an exponential; use another protocol of this operation"
            )
        return sizes

    def public_sizes(self, length: int, context: Context) -> Mapping[str, float | int]:
        """What both parties derive from the bound and the length."""
        sizes = self._sizes(length, context)
        return {"clip": sizes.clip, "step_bits": sizes.step_bits, "kept_bits": sizes.kept_bits}

    def _kept_width(self, count: int, clip: float, unit: float) -> Width:
        digits = 2 if count <= _FEW else 0
        largest = (self._largest + clip) / unit
        return Width.covering(largest, _KEPT_COMPARED_BITS, _KEPT_SLACK / unit, digits)

    @staticmethod
    def _inverse(length: int, above: float) -> RowPieces:
        """Of a row's sum, each term at most e^above."""
        octaves = max(1, ceil(log2(length * exp(above) * 1.05 / _SMALLEST_SUM)))
        return RowPieces(-1, _SMALLEST_SUM, octaves, 2.0**_INVERSE_BITS)

    # -- cost and run --------------------------------------------------------------------------

    @staticmethod
    def _maximum_cost(rows: VisibleRows, sizes: PowerSizes) -> Cost:
        if rows.columns == 1:
            return NO_COST
        groups = even_groups(rows.columns)
        return group_tournament_cost(rows.lengths, groups, sizes.width, _SIGN_BITS)

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Tournament; a comparison, a power and a selection an element; a reciprocal a row."""
        rows, unit = VisibleRows.of(shape, self.causal), context.fixed_point.unit
        n, count = rows.count, len(rows.lengths)
        sizes = self._sizes(rows.columns, context)
        kept, powers = self._term_costs(rows, sizes, context)
        return (
            self._maximum_cost(rows, sizes)
            + kept.beside(powers)
            + select_cost(n)
            + row_pieces_cost(
                count,
                self._inverse(rows.columns, sizes.above),
                rows.columns * sizes.mean_term / unit,
            )
            + context.products.multiply_cost(n, self._last(count / n, sizes))
        )

    def _term_costs(
        self, rows: VisibleRows, sizes: PowerSizes, context: Context
    ) -> tuple[Cost, Cost]:
        """Of saying what is kept, and of the powers."""
        count, unit = rows.count, context.fixed_point.unit
        kept = less_than_zero_cost(count, self._kept_width(count, sizes.clip, unit))
        # Of what is clipped it does not matter how it is lifted.
        largest = (sizes.clip + sizes.above + 1) / unit
        power = power_cost(count, largest, self._modulus(context))
        if rows.columns > 1:
            power = widened_cost(len(rows.lengths), sizes.ring_bits) + power
        return kept, power + from_prime_cost(count)

    @staticmethod
    def _last(fresh: float, sizes: PowerSizes) -> Bounds:
        """Of a term and its row's reciprocal, which is kept multiplied by 2^`_INVERSE_BITS`."""
        high = 2.0**_INVERSE_BITS
        return Bounds(sizes.mean_term, high, high, _INVERSE_BITS, 1.1 * high, y_fresh=fresh)

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of softmax(x)."""
        rows, unit = VisibleRows.of(x.shape, self.causal), session.fixed_point.unit
        sizes = self._sizes(rows.columns, session.context)
        # 1. what stands for each row's largest number, in whole steps, modulo 2^ring_bits
        highest = _highest(x, rows, sizes, session)
        # 2. e^z of what is not clipped; the comparison reads no higher bits
        own = session.party is Party.CLIENT
        raised = rows.pack(x) + session.fixed_point.encode(sizes.clip if own else 0.0)
        width = self._kept_width(rows.count, sizes.clip, unit)
        assert width.ring_bits <= sizes.ring_bits + sizes.step_bits
        kept, powers = self._term_costs(rows, sizes, session.context)
        modulus, step = self._modulus(session.context), np.uint64(sizes.step_bits)

        def powered(branch: Session) -> RingArray:
            whole = widened(highest, sizes.ring_bits, branch) if rows.columns > 1 else highest
            return _powers(raised - rows.spread(whole << step), sizes, modulus, branch)

        lowered = raised - rows.spread(highest << step)
        outside, e = side_by_side(
            [(kept, lambda branch: less_than_zero(lowered, width, branch)), (powers, powered)],
            session,
        )
        e = select(outside ^ np.uint8(own), e, session)
        # 3. one reciprocal a row, one product an element
        inverse = row_pieces(rows.sums(e), self._inverse(rows.columns, sizes.above), session)
        last = self._last(len(rows.lengths) / rows.count, sizes)
        result = session.products.multiply(e, rows.spread(inverse), session, last)
        return rows.unpack(result).reshape(x.shape)


def _powers(raised: RingArray, sizes: PowerSizes, modulus: int, session: Session) -> RingArray:
    """e^z from z + clip; of what is clipped, anything."""
    start = sizes.lowest - sizes.clip * _LOG2_E
    if session.party is Party.CLIENT:
        raised = raised + session.fixed_point.encode(start / _LOG2_E)
    power = power_of_two(raised, _LOG2_E, sizes.kept_bits, modulus, session)
    scaled = session.fixed_point.fraction_bits - 2 * sizes.kept_bits - sizes.lowest
    return scaled_from_prime(power, modulus, exact_power(2.0, scaled), session)


def _highest(x: RingArray, rows: VisibleRows, sizes: PowerSizes, session: Session) -> RingArray:
    """Shares of whole steps a row, (rows,): below its largest number by two at most."""
    values = x.reshape(-1, rows.columns) >> np.uint64(sizes.step_bits)
    if rows.columns == 1:
        return values[:, 0]
    groups = even_groups(rows.columns)
    return group_tournament(values, rows.lengths, groups, sizes.width, session, _SIGN_BITS)


@dataclass(frozen=True, slots=True)
class OwnPowersCausalSoftmax(OwnPowersSoftmax):
    """The same on the visible part of each row; see `RowSoftmax`."""

    op = "causal_softmax"

    causal: bool = True
