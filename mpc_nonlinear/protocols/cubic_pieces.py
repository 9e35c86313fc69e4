"""Activations as cubic pieces modulo a prime: one opening, one pass of comparisons, one way back.

An activation is max(x, 0) and a function of |x| that falls to zero. Between knots that function is
a cubic, evaluated for all x modulo t from the powers of one opening; outside its segment the value
is any residue, which the selection multiplies by zero. Pieces hold beyond their ends, so that a
comparison may read coarse steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, prod
from typing import ClassVar

import numpy as np

from mpc_nonlinear.blocks.compare import Width, less_than_constants, less_than_constants_cost
from mpc_nonlinear.blocks.extrema import widened, widened_cost
from mpc_nonlinear.blocks.local import scale
from mpc_nonlinear.blocks.prime_arithmetic import combinations
from mpc_nonlinear.blocks.prime_cubes import PrimePowers, powers_cost
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.prime_shares import from_prime, from_prime_cost, to_prime
from mpc_nonlinear.blocks.riding import riding
from mpc_nonlinear.blocks.select import select, select_cost
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.blocks.steps import SteppedComparison
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RING_BITS, BitArray, FloatArray, RingArray
from mpc_nonlinear.protocols.activation import Activation
from mpc_nonlinear.protocols.knot_steps import PART_BITS, KnotSteps, knot_steps
from mpc_nonlinear.protocols.segments import COMPARED_BITS
from transport.computing import Work, units
from transport.errors import UsageError
from transport.traffic import Party

SCALE_BITS = 43
"""Values of pieces are multiples of 2^-43: below 0.49, so that they fit a quarter of the prime."""
_BLOCK = "lift of operands modulo a prime"


@dataclass(frozen=True, slots=True)
class CubicPiece:
    """sum c_k a^k for a = |x| from the end of the piece before, or zero, to `end`.

    It holds `slack` beyond its end, as far below its start as the piece before beyond that.
    """

    end: float
    coefficients: tuple[float, float, float, float]
    slack: float

    def __call__(self, a: FloatArray) -> FloatArray:
        """In the clear, float64."""
        constant, first, second, third = self.coefficients
        value: FloatArray = constant + a * (first + a * (second + a * third))
        return value

    def steepest(self, lowest: float) -> tuple[float, float]:
        """Middle and half range of the slope of the quadratic and cubic part from `lowest` on.

        The middle is taken off the operand that is cut and given to the exact one.
        """
        ends = np.array([lowest, self.end + self.slack])
        _, _, second, third = self.coefficients
        turn = -second / (3 * third)
        places = np.append(ends, turn) if ends[0] < turn < ends[1] else ends
        slopes = 2 * second * places + 3 * third * places**2
        return float(slopes.max() + slopes.min()) / 2, float(np.ptp(slopes)) / 2


class CubicPieces(Activation):
    """Symmetric pieces around zero, a constant outside. `bound`: largest |x|; `rms`: its rms.

    x enters twice: as it is, for linear parts, and cut to multiples of 1 / `steps`, which is
    opened. All comparisons are one pass, which the opening rides on, and which ends in the round
    that brings all pieces back; all selections are one round, of numbers just wide enough, and one
    round widens what is selected. 5 rounds; 7 and more where |x| is too large for two digits.
    """

    product_engines = (PrimeProducts.name,)
    pieces: ClassVar[tuple[CubicPiece, ...]]
    zero_slack: ClassVar[float]
    """How far below zero the first piece holds."""
    outside: ClassVar[float]
    """Added to max(x, 0) beyond the last piece: half of what is missing there, so the error too."""
    steps: ClassVar[float]
    """Of one, to which operands of the cube are cut: its coefficients are multiples of
    steps^3 2^-SCALE_BITS."""

    def reference(self, x: FloatArray) -> FloatArray:
        """The piecewise function with exact thresholds."""
        a = np.abs(x)
        value, start = np.full_like(a, self.outside), 0.0
        for piece in self.pieces:
            inside = (a >= start) & (a < piece.end)
            value = np.where(inside, piece(np.where(inside, a, 0)), value)
            start = piece.end
        result: FloatArray = np.maximum(x, 0) + value
        return result

    @classmethod
    def lowest(cls) -> list[float]:
        """Where each piece starts to hold."""
        starts = [(0.0, cls.zero_slack), *((piece.end, piece.slack) for piece in cls.pieces)]
        return [end - slack for end, slack in starts[:-1]]

    # -- what it declares ----------------------------------------------------------------------

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """One opening, all thresholds, a way back and a selection a piece and side, and of x."""
        n, t = prod(shape), self._modulus(context)
        if not n:
            return NO_COST
        bits, chosen = self._bits(context), 2 * len(self.pieces) * n
        back = from_prime_cost(chosen, bits)
        return (
            Cost.failing(_BLOCK, n * self.rms / context.fixed_point.unit * 2.0**-RING_BITS)
            + self._compared_cost(n, powers_cost(n, t), back, context)
            + self._values_cost(n)
            + select_cost(chosen + n, bits)
            + widened_cost(n, bits)
        )

    def _compared_cost(self, count: int, opening: Cost, back: Cost, context: Context) -> Cost:
        steps = self._steps()
        if steps is not None:
            lifted = Work.together(units(scaled=2 * count))
            return Cost(work=lifted) + opening + steps.compared.cost(count) + back
        width, knots = self._width(context), self._knots(context.fixed_point.unit)
        compared = less_than_constants_cost(count, len(knots), width)
        return Cost(work=Work.together(units(scaled=count))) + opening + compared + back

    def _values_cost(self, count: int) -> Cost:
        """A product by a constant for each operand, piece and side."""
        products = 4 * 2 * len(self.pieces) * count
        return Cost(work=Work.together(units(prime_multiply_add=products)))

    def _modulus(self, context: Context) -> int:
        if not isinstance(context.products, PrimeProducts):
            raise UsageError(
                f"{self.op}/{self.name}: products by {context.products.name}; it works modulo the "
                f"prime of {PrimeProducts.name}: multiply by them, or use another {self.op}"
            )
        return context.products.modulus

    def _bits(self, context: Context) -> int:
        """Of results less their middle, with room to widen them."""
        largest = (self.bound / 2 + 1) / context.fixed_point.unit
        return min(RING_BITS, ceil(largest).bit_length() + 2)

    def _steps(self) -> KnotSteps | None:
        ends = tuple((piece.end, piece.slack) for piece in self.pieces)
        return knot_steps(ends, self.zero_slack, self.bound)

    def _width(self, context: Context) -> Width:
        """The narrowest that is fine enough, bit by bit: five thresholds make every bit dear."""
        unit, bits = context.fixed_point.unit, COMPARED_BITS
        slack = min(self.zero_slack, *(piece.slack for piece in self.pieces))
        largest = (self.bound + self.pieces[-1].end) / unit
        while (width := Width.covering(largest, bits)).slack > slack / unit:
            bits += 1
        return width

    def _knots(self, unit: float) -> list[int]:
        """Thresholds in units, from the lowest: all ends on both sides, and zero."""
        ends = [round(piece.end / unit) for piece in self.pieces]
        return [*(-e for e in reversed(ends)), 0, *ends]

    # -- what the parties do -------------------------------------------------------------------

    def run(self, x: RingArray, session: Session) -> RingArray:
        """Shares of the activation."""
        if not x.size:
            return x
        flat, fixed = x.reshape(-1), session.fixed_point
        bits = self._bits(session.context)
        is_server = np.uint8(session.party is Party.SERVER)
        # 1. all comparisons, and all pieces at every x
        less, values = self._compared(flat, bits, session)
        positive = less[len(self.pieces)] ^ is_server
        inside: BitArray = less[1:] ^ less[:-1]
        # 2. x where it is positive, and the one value whose segment x lies in
        wanted = np.concatenate([positive[None], inside])
        found = select(wanted, np.concatenate([flat[None], values]), session, bits)
        # 3. as wide as it was: results are half of the bound from their middle
        middle = fixed.encode(self.bound / 2)
        narrow = found.sum(axis=0, dtype=np.uint64)
        if not is_server:
            narrow = narrow + fixed.encode(self.outside) - middle
        back = widened(narrow, bits, session)
        return (back if is_server else back + middle).reshape(x.shape)

    def _compared(self, flat: RingArray, bits: int, session: Session) -> tuple[BitArray, RingArray]:
        """Shares of [x < knot] (2 pieces + 1, n), and modulo 2^bits of the pieces' values.

        The opening travels with the tables of comparisons, what they still take with the way back.
        """
        t, unit = self._modulus(session.context), session.fixed_point.unit
        cut, steps = to_prime(scale(flat, self.steps * unit), t), self._steps()
        powers = PrimePowers(cut, t, session)
        rode, channel = riding(session, powers.message)
        if steps is None:
            width = self._width(session.context)
            less = less_than_constants(flat, self._knots(unit), width, rode)
            return less, self._values(flat, cut, powers.shares(channel.theirs), bits, session)
        compared = SteppedComparison(self._counted(flat, steps, session), steps.compared, rode)
        shares = powers.shares(channel.theirs)
        rode, channel = riding(session, compared.message)
        values = self._values(flat, cut, shares, bits, rode)
        return compared.results(channel.theirs), values

    @staticmethod
    def _counted(flat: RingArray, steps: KnotSteps, session: Session) -> RingArray:
        """Shares over the integers of the number of steps in x, of the same lift as `cut`.

        Both floors together are one or none below x and half a step.
        """
        parts = scale(flat, session.fixed_point.unit / steps.step * 2.0**PART_BITS).view(np.int64)
        if session.party is Party.CLIENT:
            parts = parts + np.int64(1 << PART_BITS >> 1)
        counted: RingArray = (parts >> PART_BITS).view(np.uint64)
        return counted

    def _values(
        self,
        flat: RingArray,
        cut: RingArray,
        powers: tuple[RingArray, RingArray],
        bits: int,
        session: Session,
    ) -> RingArray:
        """Shares modulo 2^bits of each piece less `outside`, (2 pieces, n), lowest segment first.

        x in units, x cut, and the square and the cube of that. A piece at -x is its even part less
        its odd part. 1 round.
        """
        t, unit = self._modulus(session.context), session.fixed_point.unit
        per = np.array([1 / unit, self.steps, self.steps**2, self.steps**3])
        rows, constants = [], []
        for piece, lowest in zip(self.pieces, self.lowest(), strict=True):
            constant, first, second, third = piece.coefficients
            middle, _ = piece.steepest(lowest)
            rows.append(np.array([first + middle, -middle, second, third]) / per)
            constants.append(constant - self.outside)
        mirror = np.array([-1.0, -1.0, 1.0, -1.0])
        factors = np.stack([*(row * mirror for row in reversed(rows)), *rows])
        added = np.array([*reversed(constants), *constants])
        if session.party is Party.SERVER:
            added = np.zeros_like(added)
        operands = np.stack([to_prime(flat, t), cut, *powers])
        values = combinations(operands, _residues(factors, t), _residues(added, t), t)
        return from_prime(values, t, SCALE_BITS - session.fixed_point.fraction_bits, session, bits)


def _residues(reals: FloatArray, t: int) -> RingArray:
    """Real numbers at SCALE_BITS, modulo t; below 2^53, so exact multiples of 2^-SCALE_BITS."""
    words = np.rint(reals * 2.0**SCALE_BITS).astype(np.int64)
    return np.mod(words, np.int64(t)).astype(np.uint64)
