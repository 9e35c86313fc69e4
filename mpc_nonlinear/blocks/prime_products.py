"""Products of shared numbers from triples modulo a prime, opened in 44 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mpc_nonlinear.blocks.factor_tree import FactorTree, Operand
from mpc_nonlinear.blocks.local import scale
from mpc_nonlinear.blocks.prime_arithmetic import multiply_add
from mpc_nonlinear.blocks.prime_shares import (
    from_prime,
    from_prime_cost,
    from_prime_error_units,
    from_prime_limit,
    rescale,
    rescale_cost,
    scaled_from_prime,
    to_prime,
)
from mpc_nonlinear.blocks.products import Bounds, FactoredPolynomial, ProductErrors
from mpc_nonlinear.blocks.session import Products, Session
from mpc_nonlinear.correlations.dealt import prime_square_kind, prime_triple_kind
from mpc_nonlinear.cost import NO_COST, Cost, Demand
from mpc_nonlinear.fixed_point import RING_BITS, FloatArray, RingArray
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.computing import NO_WORK, Work, units
from transport.errors import FrameError, ParameterError
from transport.traffic import Party, Traffic

_MAX_LOSS_BITS = 16
"""By which both operands together are cut where their product does not fit."""
_CUT_ROOM = 1 - 2.0**-7
"""Part of the room that products of cut operands, up to 2^16, keep in spite of their rounding."""
_BLOCK = "lift of operands modulo a prime"


@dataclass(frozen=True, slots=True)
class _Given:
    """What a polynomial is evaluated at: shared numbers, flat, or their squares modulo t."""

    x: RingArray
    square: RingArray | None
    tree: FactorTree


class PrimeProducts(Products):
    """Operands are opened under triples modulo t, the product comes back modulo 2^64. 2 rounds.

    Exact modulo t; the way back is off by less than 1.25 units for t of 44 bits. Products above
    t / 4, which is 2^10 at 16 fraction bits, have their operands cut first, by a bit each for every
    factor of four. Triples come from a protocol of its own, see `Prepared.store`. A number x fails
    to lift with probability |x| / 2^64, in all its products or in none.
    """

    name = "slot_triples"
    source = "[Beaver91] modulo a prime, made in slots as in [Rathee19] eprint 2019/577"
    max_error_units = 2
    is_exact = True
    needs_largest = True

    def __init__(self, fraction_bits: int, modulus: int) -> None:
        self._fraction_bits, self._modulus = fraction_bits, modulus
        self._units = 2.0**fraction_bits
        self._triple, self._pair = prime_triple_kind(modulus), prime_square_kind(modulus)

    @property
    def modulus(self) -> int:
        """The prime t."""
        return self._modulus

    # -- products ------------------------------------------------------------------------------

    def multiply_cost(self, count: int, bounds: Bounds) -> Cost:
        """Two openings a product, and the way back."""
        first, second = self._cuts(bounds)
        return (
            self._lift_cost(count, bounds.x_rms * bounds.x_fresh, first)
            + self._lift_cost(count, bounds.y_rms * bounds.y_fresh, second)
            + self._opened_cost(count, 2)
            + from_prime_cost(count)
        )

    def square_cost(self, count: int, bounds: Bounds) -> Cost:
        """One opening a square, and the way back."""
        operand = self._lift_cost(count, bounds.x_rms * bounds.x_fresh, self._square_cut(bounds))
        return operand + self._opened_cost(count, 1) + from_prime_cost(count)

    def errors(self, bounds: Bounds) -> ProductErrors:
        """That of the way back, and a unit of rounding in each operand that is cut. Bounds."""
        return self._errors(bounds, self._cuts(bounds))

    def square_errors(self, bounds: Bounds) -> ProductErrors:
        """The same of a square."""
        return self._errors(bounds, (self._square_cut(bounds),) * 2)

    def _errors(self, bounds: Bounds, cuts: tuple[int, int]) -> ProductErrors:
        # An operand that is cut by k bits is off by 2^k units.
        first, second = (2.0**cut / self._units if cut else 0.0 for cut in cuts)
        shift = max(0, self._fraction_bits + bounds.shift - sum(cuts))
        back = from_prime_error_units(self._modulus, shift) / self._units
        return ProductErrors(back, first, second, bounds.shift)

    def multiply(self, x: RingArray, y: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """Shares of x * y / 2^shift; shapes are equal."""
        first, second = self._cuts(bounds)
        product = self._product(self._operand(x, first), self._operand(y, second), session)
        return self._back(product, bounds, first + second, session).reshape(x.shape)

    def square(self, x: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """Shares of x * x / 2^shift, same shape."""
        cut = self._square_cut(bounds)
        square = self._squared(self._operand(x, cut), session)
        return self._back(square, bounds, 2 * cut, session).reshape(x.shape)

    def _product(self, x: RingArray, y: RingArray, session: Session) -> RingArray:
        """X y = c + d b + e a + d e modulo t for opened d = x - a, e = y - b; same shape."""
        t = self._modulus
        a, b, c = session.prepared.dealt(self._triple, x.size)
        d, e = self._opened([(x.reshape(-1), a), (y.reshape(-1), b)], session)
        if session.party is Party.SERVER:
            b = (b + e) % np.uint64(t)
        return multiply_add(e, a, multiply_add(d, b, c, t), t).reshape(x.shape)

    def _squared(self, x: RingArray, session: Session) -> RingArray:
        """x^2 = c + d (2 a + d) modulo t for opened d = x - a; same shape."""
        a, c = session.prepared.dealt(self._pair, x.size)
        (d,) = self._opened([(x.reshape(-1), a)], session)
        factor = a + a + d if session.party is Party.SERVER else a + a
        t = self._modulus
        return multiply_add(d, factor % np.uint64(t), c, t).reshape(x.shape)

    # -- polynomials ---------------------------------------------------------------------------

    def polynomial_cost(self, count: int, polynomial: FactoredPolynomial) -> Cost:
        """One trip for all squares, one for each level of a tree, one for each squaring.

        Numbers between them stay modulo t: only the lift of x can fail.
        """
        tree, left = self._tree(polynomial), len(polynomial.factors)
        first = self._square_cut(tree.base or tree.squares)
        cost = self._lift_cost(count, tree.input_rms, first)
        if tree.base:
            cost += self._opened_cost(count, 1) + rescale_cost(count, self._modulus)
            cost += self._cut_cost(count, self._square_cut(tree.squares))
        cost += self._opened_cost(count * left, 1)
        made = left
        for operand, bounds in tree.steps:
            cost += rescale_cost(count * made, self._modulus)
            made = max(1, left // 2)
            left -= left // 2
            cost += self._step_cost(count * made, operand, bounds, tree)
        return cost + from_prime_cost(count)

    def _step_cost(self, count: int, operand: Operand, bounds: Bounds, tree: FactorTree) -> Cost:
        if operand is Operand.ITSELF:
            return self._cut_cost(count, self._square_cut(bounds)) + self._opened_cost(count, 1)
        first, second = self._cuts(bounds)
        lifted = operand is Operand.BASE and not tree.base
        other = NO_COST if lifted else self._cut_cost(count, second)
        return self._cut_cost(count, first) + other + self._opened_cost(count, 2)

    def polynomial(
        self, x: RingArray, polynomial: FactoredPolynomial, session: Session
    ) -> RingArray:
        """Shares of the polynomial's values, same shape: squares of all factors together.

        2 rounds for these, and for each level of a balanced tree; 2 before where it is even. The
        leading factor goes into the way back.
        """
        tree, t = self._tree(polynomial), self._modulus
        given = self._given(x.reshape(-1), tree, session)
        made, shift = self._factors(given, polynomial, session)
        offsets = np.array(polynomial.factors)[:, 1:]
        steps = tree.steps
        if steps:
            values = self._plus(rescale(made, t, shift, session), offsets, session)
        for left, (operand, bounds) in zip(range(len(steps) - 1, -1, -1), steps, strict=True):
            made, shift = self._step(values, given, operand, bounds, session)
            if left:
                values = np.concatenate([rescale(made, t, shift, session), values[2 * len(made) :]])
        value = scaled_from_prime(made[0], t, tree.leading * 2.0**-shift, session)
        if not steps and session.party is Party.CLIENT:
            value = value + session.fixed_point.encode(offsets[0] * tree.leading)
        return value.reshape(x.shape)

    def _given(self, x: RingArray, tree: FactorTree, session: Session) -> _Given:
        if not tree.base:
            return _Given(x, None, tree)
        cut = self._square_cut(tree.base)
        square = self._squared(self._moved(x, tree.centre, cut, session), session)
        shift = self._shift(tree.base, 2 * cut)
        return _Given(x, rescale(square, self._modulus, shift, session), tree)

    def _base(self, given: _Given, cut: int, session: Session) -> RingArray:
        """Shares modulo t of what factors are made of, cut."""
        if given.square is None:
            return self._moved(given.x, given.tree.centre, cut, session)
        return self._cut(given.square, cut, session)

    def _moved(self, x: RingArray, centre: int, cut: int, session: Session) -> RingArray:
        """Shares modulo t of x / 2^cut, lifted where it is smallest: less its centre."""
        if not centre:
            return self._operand(x, cut)
        if session.party is Party.CLIENT:
            x = x - session.fixed_point.encode(float(centre))
        return self._plus(self._operand(x, cut), centre * 2.0**-cut, session)

    def _plus(self, x: RingArray, constant: FloatArray | float, session: Session) -> RingArray:
        """X plus a public number, modulo t; one lift serves all factors."""
        if session.party is Party.SERVER:
            return x
        residues = to_prime(session.fixed_point.encode(constant), self._modulus)
        moved: RingArray = (x + residues) % np.uint64(self._modulus)
        return moved

    def _factors(
        self, given: _Given, polynomial: FactoredPolynomial, session: Session
    ) -> tuple[RingArray, int]:
        """(y + shift)^2, (factors, count), from y 2^stretch; not truncated by the second yet."""
        tree, shifts = given.tree, np.array(polynomial.factors)[:, :1]
        cut = self._square_cut(tree.squares)
        base = self._base(given, cut, session)
        spread = np.broadcast_to(base, (len(shifts), base.size))
        moved = self._plus(spread, shifts * 2.0 ** (tree.stretch - cut), session)
        return self._squared(moved, session), self._shift(tree.squares, 2 * cut)

    def _step(
        self, values: RingArray, given: _Given, operand: Operand, bounds: Bounds, session: Session
    ) -> tuple[RingArray, int]:
        """Products of the first values, (products, count), not truncated by the second yet."""
        if operand is Operand.ITSELF:
            cut = self._square_cut(bounds)
            square = self._squared(self._cut(values, cut, session), session)
            return square, self._shift(bounds, 2 * cut)
        first, second = self._cuts(bounds)
        paired = len(values) // 2 * 2
        if operand is Operand.BASE:
            x, y = values, self._base(given, second, session)[None]
        else:
            x, y = values[:paired:2], self._cut(values[1:paired:2], second, session)
        product = self._product(self._cut(x, first, session), y, session)
        return product, self._shift(bounds, first + second)

    def _tree(self, polynomial: FactoredPolynomial) -> FactorTree:
        return FactorTree.of(polynomial, from_prime_limit(self._modulus, 0) / self._units**2)

    # -- operands and results ------------------------------------------------------------------

    def _lift_cost(self, count: int, rms: float, cut: int = 0) -> Cost:
        """The cut is one of what is lifted: it does not fail on its own."""
        work = Work.together(units(scaled=count)) if cut else NO_WORK
        return Cost.failing(_BLOCK, count * rms * self._units * 2.0**-RING_BITS, work)

    def _operand(self, x: RingArray, cut: int) -> RingArray:
        """Shares modulo t of x / 2^cut, same shape.

        What `scale` gives is a share over the integers already.
        """
        return to_prime(scale(x, 2.0**-cut) if cut else x, self._modulus)

    def _cut_cost(self, count: int, cut: int) -> Cost:
        return rescale_cost(count, self._modulus) if cut else NO_COST

    def _cut(self, x: RingArray, cut: int, session: Session) -> RingArray:
        """The same of shares modulo t: an OT each, and a round, where polynomials hardly fit."""
        return rescale(x, self._modulus, cut, session) if cut else x

    def _opened_cost(self, count: int, operands: int) -> Cost:
        kind = self._pair if operands == 1 else self._triple
        size = packed_bytes(operands * count, kind.bits)
        counts = units(prime_multiply_add=operands * count)
        return Cost.of(Traffic.exchange(size, size), Demand.of(kind, count), counts)

    def _opened(
        self, pairs: list[tuple[RingArray, RingArray]], session: Session
    ) -> list[RingArray]:
        """Operands minus masks modulo t, to both parties. 1 round."""
        t, bits = np.uint64(self._modulus), self._pair.bits
        own = np.concatenate([(x + t - mask) % t for x, mask in pairs])
        message = pack_bits(own, bits)
        session.channel.next_round()
        theirs = unpack_bits(session.channel.exchange(message, len(message)), own.size, bits)
        if theirs.max(initial=0) >= t:
            raise FrameError("products: a word exceeds the prime; the frame is corrupt")
        return np.split((own + theirs) % t, len(pairs))

    def _shift(self, bounds: Bounds, loss: int) -> int:
        """Bits by which a product of cut operands is too large."""
        return self._fraction_bits + bounds.shift - loss

    def _back(self, z: RingArray, bounds: Bounds, loss: int, session: Session) -> RingArray:
        shift = self._shift(bounds, loss)
        back = from_prime(z, self._modulus, max(0, shift), session)
        return back << np.uint64(-shift) if shift < 0 else back

    def _cuts(self, bounds: Bounds) -> tuple[int, int]:
        """Bits that the operands of a product lose; the larger one the odd bit."""
        loss = self._loss(bounds, 1)
        odd = loss % 2 if bounds.x_rms >= bounds.y_rms else 0
        return loss // 2 + odd, loss - loss // 2 - odd

    def _square_cut(self, bounds: Bounds) -> int:
        """Bits that the operand of a square loses."""
        return self._loss(bounds, 2) // 2

    def _loss(self, bounds: Bounds, step: int) -> int:
        """Bits, a multiple of `step`, by which a product must shrink to fit t."""
        bits, shift = self._modulus.bit_length(), self._fraction_bits + bounds.shift
        if not 0 <= shift < bits - 2:
            raise ParameterError(
                f"products {self.name}: results shifted by {shift} bits; a prime of {bits} bits "
                f"takes 0 to {bits - 3}; use other fraction bits or multiply by another engine"
            )
        for loss in range(0, _MAX_LOSS_BITS + 1, step):
            limit = from_prime_limit(self._modulus, max(0, shift - loss))
            if bounds.largest * self._units**2 * 2.0**-loss <= limit * (_CUT_ROOM if loss else 1):
                return loss
        room = from_prime_limit(self._modulus, 0) / self._units**2
        raise ParameterError(
            f"products {self.name}: values up to {bounds.largest:g} with {self._fraction_bits} "
            f"fraction bits each; a prime of {bits} bits has room for {room:.4g}, and for "
            f"2^{_MAX_LOSS_BITS} times that with operands cut; declare a smaller Bounds.largest, "
            "use fewer fraction bits, or multiply by another engine"
        )
