"""Softmax by powers of either party's own share: one product an exponential, few rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil, exp, expm1, log2

import numpy as np

from mpc_nonlinear.blocks.compare import (
    Width,
    comparison_moves,
    less_than_zero,
    less_than_zero_cost,
)
from mpc_nonlinear.blocks.flow import Flow, Move
from mpc_nonlinear.blocks.group_tournament import (
    fewest_meetings,
    group_tournament,
    group_tournament_flow,
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
from mpc_nonlinear.blocks.row_inverses import (
    RESULT_ERROR_UNITS,
    RowInverses,
    row_inverses,
    row_inverses_flow,
)
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.blocks.side_by_side import side_by_side
from mpc_nonlinear.blocks.wide_digits import LARGEST_DIGIT_BITS
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, FloatArray, RingArray
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
_LEVEL_BITS = ((8, 2.0**-8.5), (9, 2.0**-7.5), (13, 1.0))
"""Of comparisons of whole steps: the first with which rounding is less than this. One digit of
seven or eight bits, or two of six; of four bits, two or three."""
_STRETCHES = (1, 3, 5, 7)
"""Numbers are multiplied by one of these, so that a step may be more than powers of two."""
_KEPT_COMPARED_BITS, _KEPT_SLACK = 13, 2.0**-3
_FEWEST_KEPT_BITS = 6
_FEW = 1500
"""Terms up to which a comparison in two long digits, 24 bytes, saves a round."""
_FEW_MEETINGS = 2500
"""Comparisons of steps up to which digits are long: 33 bytes for one, which save two rounds."""


@dataclass(frozen=True, slots=True)
class PowerSizes:
    """Public sizes of one softmax."""

    clip: float
    """What lies further below what stands for the largest number counts as zero."""
    stretch: int
    """What numbers are multiplied by before all else."""
    step_bits: int
    """Of the step that they are rounded down to before they are compared."""
    kept_bits: int
    """Of each party's power."""
    width: Width
    """Of comparisons of whole steps."""
    above: float
    """By how much a number may exceed what stands for the largest: two steps."""

    @property
    def luggage_bits(self) -> int:
        """Of whole steps modulo 2^(64 - step_bits), above those that are compared."""
        return RING_BITS - self.step_bits - self.width.ring_bits

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
    for bits, wanted in _LEVEL_BITS:
        stretch, step_bits, width = min(
            (_steps(largest * stretch, unit, bits, stretch) for stretch in _STRETCHES),
            key=lambda found: 2.0 ** found[1] / found[0],
        )
        # Whole steps below numbers are off by one, which both sides of a difference may be.
        above = 2 * 2.0**step_bits / stretch * unit
        for clip in _CLIPS:
            octaves = _exponent_of(clip) + above * _LOG2_E
            kept_bits = int((room - octaves - 0.01) / 2)
            sizes = PowerSizes(clip, stretch, step_bits, kept_bits, width, above)
            if best is None or sizes.rounding(length) < best.rounding(length):
                best = sizes
        assert best is not None
        if best.rounding(length) < wanted:
            break
    assert best is not None
    return best


def _steps(largest: float, unit: float, bits: int, stretch: int) -> tuple[int, int, Width]:
    """The finest step of which comparisons of so many bits take differences up to `largest`."""
    step_bits = 0
    while (width := Width.exact(ceil(largest / unit / 2**step_bits) + 1)).bits > bits:
        step_bits += 1
    return stretch, step_bits, width


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
        return VisibleRows.of(x.shape, self.causal).softmax(x)

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
        return {
            "clip": sizes.clip,
            "stretch": sizes.stretch,
            "step_bits": sizes.step_bits,
            "kept_bits": sizes.kept_bits,
        }

    def _kept_width(self, count: int, sizes: PowerSizes, unit: float) -> Width:
        digits, unit = 2 if count <= _FEW else 0, unit / sizes.stretch
        largest = (self._largest + sizes.clip) / unit
        return Width.covering(largest, _KEPT_COMPARED_BITS, _KEPT_SLACK / unit, digits)

    @staticmethod
    def _level_width(rows: VisibleRows, groups: list[int], sizes: PowerSizes) -> Width:
        """In long digits where few are compared."""
        meetings = rows.count * (groups[0] - 1) // 2
        digits = -(-(sizes.width.bits - 1) // LARGEST_DIGIT_BITS)
        return replace(sizes.width, digits=digits if meetings <= _FEW_MEETINGS else 0)

    @staticmethod
    def _askers(rows: VisibleRows) -> tuple[Party, Party]:
        """Who asks what counts, and who asks about the sum: whoever is further by then."""
        levels = len(fewest_meetings(rows.columns))
        return Party(levels % 2), Party((levels + 1) % 2)

    @staticmethod
    def _inverse(length: int, above: float) -> RowInverses:
        """Of a row's sum, each term at most e^above."""
        octaves = max(1, ceil(log2(length * exp(above) * 1.05 / _SMALLEST_SUM)))
        return RowInverses(_SMALLEST_SUM, octaves, 2.0**_INVERSE_BITS)

    # -- cost and run --------------------------------------------------------------------------

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Tournament; a comparison, a power and a selection an element; a reciprocal a row."""
        rows, unit = VisibleRows.of(shape, self.causal), context.fixed_point.unit
        n, count = rows.count, len(rows.lengths)
        sizes = self._sizes(rows.columns, context)
        flow = Flow()
        if rows.columns > 1:
            groups = fewest_meetings(rows.columns)
            width = self._level_width(rows, groups, sizes)
            flow = group_tournament_flow(flow, rows.lengths, groups, width, sizes.luggage_bits)
        (kept, moves), powers = self._term_costs(rows, sizes, context)
        power = flow.branch.then(powers, Move.BOTH, Move.BOTH)
        flow = flow.beside([flow.branch.then(kept, *moves), power])
        flow = flow.then(select_cost(n), Move.BOTH)
        inverse = self._inverse(rows.columns, sizes.above)
        mean = rows.columns * sizes.mean_term / unit
        flow = row_inverses_flow(flow, count, inverse, mean, self._askers(rows)[1])
        last = context.products.multiply_cost(n, self._last(count / n, sizes))
        return flow.then(last, Move.BOTH, Move.BOTH).total

    def _term_costs(
        self, rows: VisibleRows, sizes: PowerSizes, context: Context
    ) -> tuple[tuple[Cost, tuple[Move, ...]], Cost]:
        """Of saying what is kept, with its messages, and of the powers."""
        count, unit = rows.count, context.fixed_point.unit
        width = self._kept_width(count, sizes, unit)
        asker = self._askers(rows)[0] if width.digits else Party.CLIENT
        kept = less_than_zero_cost(count, width, asker)
        # Of what is clipped it does not matter how it is lifted.
        largest = (sizes.clip + sizes.above + 1) * sizes.stretch / unit
        power = power_cost(count, largest, self._modulus(context))
        return (kept, comparison_moves(width, asker)), power + from_prime_cost(count)

    @staticmethod
    def _last(fresh: float, sizes: PowerSizes) -> Bounds:
        """Of a term and its row's reciprocal, which is kept multiplied by 2^`_INVERSE_BITS`."""
        high = 2.0**_INVERSE_BITS
        return Bounds(sizes.mean_term, high, high, _INVERSE_BITS, 1.1 * high, y_fresh=fresh)

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of softmax(x)."""
        with session.channel.flow():
            return self._run(x, session).reshape(x.shape)

    def _run(self, x: RingArray, session: Session) -> RingArray:
        rows = VisibleRows.of(x.shape, self.causal)
        sizes = self._sizes(rows.columns, session.context)
        x = x.reshape(-1, rows.columns) * np.uint64(sizes.stretch)
        # 1. how far each number lies above what stands for its row's largest less `clip`
        own = session.party is Party.CLIENT
        clip = session.fixed_point.encode(sizes.clip * sizes.stretch if own else 0.0)
        raised = rows.pack(x) + clip - rows.spread(self._highest(x, rows, sizes, session))
        # 2. e^z of what is not clipped; what counts is said beside
        e = self._terms(raised, rows, sizes, session)
        # 3. one reciprocal a row, one product an element
        inverse = row_inverses(
            rows.sums(e), self._inverse(rows.columns, sizes.above), self._askers(rows)[1], session
        )
        last = self._last(len(rows.lengths) / rows.count, sizes)
        result = session.products.multiply(e, rows.spread(inverse), session, last)
        return rows.unpack(result)

    def _highest(
        self, x: RingArray, rows: VisibleRows, sizes: PowerSizes, session: Session
    ) -> RingArray:
        """Shares of a number a row, (rows,): below its largest number by two steps at most."""
        step, values = np.uint64(sizes.step_bits), x >> np.uint64(sizes.step_bits)
        if rows.columns == 1:
            return values[:, 0] << step
        groups = fewest_meetings(rows.columns)
        width, luggage = self._level_width(rows, groups, sizes), sizes.luggage_bits
        return group_tournament(values, rows.lengths, groups, width, session, luggage) << step

    def _terms(
        self, raised: RingArray, rows: VisibleRows, sizes: PowerSizes, session: Session
    ) -> RingArray:
        """e^z of what is not below -clip, zero of what is, from z + clip."""
        width = self._kept_width(rows.count, sizes, session.fixed_point.unit)
        asker = self._askers(rows)[0] if width.digits else Party.CLIENT
        (kept, _), powers = self._term_costs(rows, sizes, session.context)
        modulus = self._modulus(session.context)
        outside, e = side_by_side(
            [
                (kept, lambda branch: less_than_zero(raised, width, branch, asker)),
                (powers, lambda branch: _powers(raised, sizes, modulus, branch)),
            ],
            session,
        )
        return select(outside ^ np.uint8(session.party is Party.CLIENT), e, session)


def _powers(raised: RingArray, sizes: PowerSizes, modulus: int, session: Session) -> RingArray:
    """e^z from z + clip, stretched; of what is clipped, anything."""
    start, factor = sizes.lowest - sizes.clip * _LOG2_E, _LOG2_E / sizes.stretch
    if session.party is Party.CLIENT:
        raised = raised + session.fixed_point.encode(start / factor)
    power = power_of_two(raised, factor, sizes.kept_bits, modulus, session)
    scaled = session.fixed_point.fraction_bits - 2 * sizes.kept_bits - sizes.lowest
    return scaled_from_prime(power, modulus, exact_power(2.0, scaled), session)


@dataclass(frozen=True, slots=True)
class OwnPowersCausalSoftmax(OwnPowersSoftmax):
    """The same on the visible part of each row; see `RowSoftmax`."""

    op = "causal_softmax"

    causal: bool = True
