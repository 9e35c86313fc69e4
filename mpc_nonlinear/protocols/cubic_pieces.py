"""Activations as cubic pieces modulo a prime: one opening, one pass of comparisons, one way back.

An activation is max(x, 0) and a function of |x| that falls to zero. Between knots that function is
a cubic, evaluated for all x modulo t from the powers of one opening; outside its segment the value
is any residue, which the selection multiplies by zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import numpy as np

from mpc_nonlinear.blocks.compare import Width, less_than_constants, less_than_constants_cost
from mpc_nonlinear.blocks.local import scale
from mpc_nonlinear.blocks.prime_arithmetic import combinations
from mpc_nonlinear.blocks.prime_cubes import PrimePowers, powers_cost
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.prime_shares import from_prime, from_prime_cost, to_prime
from mpc_nonlinear.blocks.riding import riding
from mpc_nonlinear.blocks.select import select_with_residues, select_with_residues_cost
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import RING_BITS, BitArray, FloatArray, RingArray
from mpc_nonlinear.protocols.activation import Activation
from mpc_nonlinear.protocols.segments import COMPARED_BITS, MAX_SLACK
from transport.computing import Work, units
from transport.errors import UsageError
from transport.traffic import Party

SCALE_BITS = 43
"""Values of pieces are multiples of 2^-43: below 0.49, so that they fit a quarter of the prime."""
_BLOCK = "lift of operands modulo a prime"


@dataclass(frozen=True, slots=True)
class CubicPiece:
    """sum c_k a^k for a = |x| from the end of the piece before, or zero, to `end`."""

    end: float
    coefficients: tuple[float, float, float, float]

    def __call__(self, a: FloatArray) -> FloatArray:
        """In the clear, float64."""
        constant, first, second, third = self.coefficients
        value: FloatArray = constant + a * (first + a * (second + a * third))
        return value

    def steepest(self, start: float) -> tuple[float, float]:
        """Middle and half range of the slope of the quadratic and cubic part, slack included.

        The middle is taken off the operand that is cut and given to the exact one.
        """
        ends = np.array([start - MAX_SLACK, self.end + MAX_SLACK])
        _, _, second, third = self.coefficients
        turn = -second / (3 * third)
        places = np.append(ends, turn) if ends[0] < turn < ends[1] else ends
        slopes = 2 * second * places + 3 * third * places**2
        return float(slopes.max() + slopes.min()) / 2, float(np.ptp(slopes)) / 2


class CubicPieces(Activation):
    """Symmetric pieces around zero, a constant outside. `bound`: largest |x|; `rms`: its rms.

    x enters twice: as it is, for linear parts, and cut to multiples of 1 / `steps`, which is
    opened. All comparisons are one pass, which the opening rides on; all selections one round.
    Two rounds more than the comparisons.
    """

    product_engines = (PrimeProducts.name,)
    pieces: ClassVar[tuple[CubicPiece, ...]]
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

    # -- what it declares ----------------------------------------------------------------------

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """One opening, all thresholds, a selection a piece and side, and of x, one way back."""
        n, t = prod(shape), self._modulus(context)
        if not n:
            return NO_COST
        knots = self._knots(context.fixed_point.unit)
        lifted = Work.together(units(scaled=n))
        return (
            Cost.failing(_BLOCK, n * self.rms / context.fixed_point.unit * 2.0**-RING_BITS, lifted)
            + powers_cost(n, t)
            + less_than_constants_cost(n, len(knots), self._width(context))
            + self._values_cost(n)
            + select_with_residues_cost(n, 2 * len(self.pieces) * n, t)
            + from_prime_cost(n)
        )

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

    def _width(self, context: Context) -> Width:
        """The narrowest that is fine enough, bit by bit: five thresholds make every bit dear."""
        unit, bits = context.fixed_point.unit, COMPARED_BITS
        largest = (self.bound + self.pieces[-1].end) / unit
        while (width := Width.covering(largest, bits)).slack > MAX_SLACK / unit:
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
        flat, fixed, t = x.reshape(-1), session.fixed_point, self._modulus(session.context)
        # 1. all comparisons; x - a opens under way
        cut = to_prime(scale(flat, self.steps * fixed.unit), t)
        powers = PrimePowers(cut, t, session)
        rode, channel = riding(session, powers.message)
        less = less_than_constants(
            flat, self._knots(fixed.unit), self._width(session.context), rode
        )
        square, cube = powers.shares(channel.theirs)
        # 2. every piece at every x, on both sides, less the constant
        values = self._values((to_prime(flat, t), cut, square, cube), session)
        # 3. x where it is positive, and the one value whose segment x lies in
        is_server = np.uint8(session.party is Party.SERVER)
        positive = less[len(self.pieces)] ^ is_server
        inside: BitArray = less[1:] ^ less[:-1]
        above, chosen = select_with_residues(positive, flat, inside, values, t, session)
        value = chosen.sum(axis=0, dtype=np.uint64) % np.uint64(t)
        # 4. back
        back = from_prime(value, t, SCALE_BITS - fixed.fraction_bits, session) + above
        if session.party is Party.CLIENT:
            back = back + fixed.encode(self.outside)
        return back.reshape(x.shape)

    def _values(
        self, operands: tuple[RingArray, RingArray, RingArray, RingArray], session: Session
    ) -> RingArray:
        """Shares modulo t of each piece less `outside`, (2 pieces, n), from the lowest segment.

        operands (n,): x in units, x cut, its square and its cube. A piece at -x is its even part
        less its odd part.
        """
        t, unit = self._modulus(session.context), session.fixed_point.unit
        per = np.array([1 / unit, self.steps, self.steps**2, self.steps**3])
        rows, constants, start = [], [], 0.0
        for piece in self.pieces:
            constant, first, second, third = piece.coefficients
            middle, _ = piece.steepest(start)
            rows.append(np.array([first + middle, -middle, second, third]) / per)
            constants.append(constant - self.outside)
            start = piece.end
        mirror = np.array([-1.0, -1.0, 1.0, -1.0])
        factors = np.stack([*(row * mirror for row in reversed(rows)), *rows])
        added = np.array([*reversed(constants), *constants])
        if session.party is Party.SERVER:
            added = np.zeros_like(added)
        return combinations(np.stack(operands), _residues(factors, t), _residues(added, t), t)


def _residues(reals: FloatArray, t: int) -> RingArray:
    """Real numbers at SCALE_BITS, modulo t; below 2^53, so exact multiples of 2^-SCALE_BITS."""
    words = np.rint(reals * 2.0**SCALE_BITS).astype(np.int64)
    return np.mod(words, np.int64(t)).astype(np.uint64)
