"""Products of shared numbers from triples modulo a prime, opened in 44 bits."""

from __future__ import annotations

import numpy as np

from mpc_nonlinear.blocks.factor_tree import FactorTree
from mpc_nonlinear.blocks.local import scale, scale_cost
from mpc_nonlinear.blocks.prime_arithmetic import multiply_add
from mpc_nonlinear.blocks.prime_shares import (
    from_prime,
    from_prime_cost,
    from_prime_error_units,
    from_prime_limit,
    to_prime,
)
from mpc_nonlinear.blocks.products import Bounds, FactoredPolynomial
from mpc_nonlinear.blocks.session import Products, Session
from mpc_nonlinear.correlations.dealt import prime_square_kind, prime_triple_kind
from mpc_nonlinear.cost import NO_COST, Cost, Demand
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.computing import units
from transport.errors import FrameError, ParameterError
from transport.traffic import Party, Traffic

_MAX_LOSS_BITS = 16
"""By which both operands together are cut where their product does not fit."""
_CUT_ROOM = 1 - 2.0**-7
"""Part of the room that products of cut operands, up to 2^16, keep in spite of their rounding."""
_BLOCK = "lift of operands modulo a prime"


class PrimeProducts(Products):
    """Operands are opened under triples modulo t, the product comes back modulo 2^64. 2 rounds.

    Exact modulo t; the way back is off by less than 1.25 units for t of 44 bits. Products above
    t / 4, which is 2^10 at 16 fraction bits, have their operands cut first, by a bit each for every
    factor of four. Triples come from a protocol of its own, see `Prepared.store`. A number x fails
    to lift with probability |x| / 2^64.
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

    # -- products ------------------------------------------------------------------------------

    def multiply_cost(self, count: int, bounds: Bounds) -> Cost:
        """Two openings a product, and the way back."""
        first, second = self._cuts(bounds)
        return (
            self._operand_cost(count, bounds.x_rms, first)
            + self._operand_cost(count, bounds.y_rms, second)
            + self._opened_cost(count, 2)
        )

    def square_cost(self, count: int, bounds: Bounds) -> Cost:
        """One opening a square, and the way back."""
        operand = self._operand_cost(count, bounds.x_rms, self._square_cut(bounds))
        return operand + self._opened_cost(count, 1)

    def error_units(self, bounds: Bounds, x_abs: float, y_abs: float) -> float:
        """Bound on a product's error, in units, for real operands up to these.

        That of the way back, and a unit of rounding in each operand that is cut.
        """
        return self._error_units(bounds, (x_abs, y_abs), self._cuts(bounds))

    def square_error_units(self, bounds: Bounds, x_abs: float) -> float:
        """The same of a square."""
        return self._error_units(bounds, (x_abs, x_abs), (self._square_cut(bounds),) * 2)

    def _error_units(
        self, bounds: Bounds, largest: tuple[float, float], cuts: tuple[int, int]
    ) -> float:
        # An operand that is cut by k bits is off by 2^k units.
        off = [2.0**cut if cut else 0.0 for cut in cuts]
        cut = off[0] * largest[1] + off[1] * largest[0] + off[0] * off[1] / self._units
        shift = max(0, self._fraction_bits + bounds.shift - sum(cuts))
        return from_prime_error_units(self._modulus, shift) + cut / 2.0**bounds.shift

    def multiply(self, x: RingArray, y: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """X y = c + d b + e a + d e modulo t for opened d = x - a, e = y - b."""
        first, second = self._cuts(bounds)
        lifted = self._operand(x, first), self._operand(y, second)
        t = self._modulus
        a, b, c = session.prepared.dealt(self._triple, x.size)
        d, e = self._opened([(lifted[0], a), (lifted[1], b)], session)
        if session.party is Party.SERVER:
            b = (b + e) % np.uint64(t)
        product = multiply_add(e, a, multiply_add(d, b, c, t), t)
        return self._back(product, bounds, first + second, session).reshape(x.shape)

    def square(self, x: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """x^2 = c + d (2 a + d) modulo t for opened d = x - a."""
        cut = self._square_cut(bounds)
        return self._squared(self._operand(x, cut), session, bounds, cut).reshape(x.shape)

    def _squared(self, lifted: RingArray, session: Session, bounds: Bounds, cut: int) -> RingArray:
        """Of lifted and cut numbers, flat."""
        a, c = session.prepared.dealt(self._pair, lifted.size)
        (d,) = self._opened([(lifted, a)], session)
        factor = a + a + d if session.party is Party.SERVER else a + a
        t = self._modulus
        square = multiply_add(d, factor % np.uint64(t), c, t)
        return self._back(square, bounds, 2 * cut, session)

    # -- polynomials ---------------------------------------------------------------------------

    def polynomial_cost(self, count: int, polynomial: FactoredPolynomial) -> Cost:
        """One trip for all squares, one for each level of a tree, one for each squaring."""
        tree, left = self._tree(polynomial), len(polynomial.factors)
        cost = self.square_cost(count, tree.base) if tree.base else NO_COST
        cost += self._operand_cost(count, tree.base_rms, self._square_cut(tree.squares))
        cost += self._opened_cost(count * left, 1)
        for bounds in tree.levels:
            cost += self.multiply_cost(count * (left // 2), bounds)
            left -= left // 2
        if tree.last:
            cost += self._last_cost(count, tree.last)
        for bounds in tree.squarings:
            cost += self.square_cost(count, bounds)
        return cost + scale_cost(count, tree.result_rms * self._units)

    def _last_cost(self, count: int, bounds: Bounds) -> Cost:
        """Of the product by base, whose uncut lift is one that squares took: no new failure."""
        first, second = self._cuts(bounds)
        lift = self._operand_cost(count, bounds.y_rms, second) if second else NO_COST
        return lift + self._operand_cost(count, bounds.x_rms, first) + self._opened_cost(count, 2)

    def polynomial(
        self, x: RingArray, polynomial: FactoredPolynomial, session: Session
    ) -> RingArray:
        """Shares of the polynomial's values, same shape: squares of all factors together.

        2 rounds for these, and for each level of a balanced tree; 2 before where it is even.
        """
        tree, flat = self._tree(polynomial), x.reshape(-1)
        base = self.square(flat, session, tree.base) if tree.base else flat
        values = self._factors(base, polynomial, tree, session)
        for bounds in tree.levels:
            half = len(values) // 2
            products = self.multiply(values[: 2 * half : 2], values[1::2], session, bounds)
            values = np.concatenate([products, values[2 * half :]])
        (value,) = values
        if tree.last:
            value = self.multiply(value, base, session, tree.last)
        for bounds in tree.squarings:
            value = self.square(value, session, bounds)
        return scale(value, tree.leading).reshape(x.shape)

    def _factors(
        self, base: RingArray, polynomial: FactoredPolynomial, tree: FactorTree, session: Session
    ) -> RingArray:
        """Shares of (y + shift)^2 + offset, (factors, count), from those of y 2^stretch.

        Constants are added modulo t, so that one lift serves all factors.
        """
        own, cut = session.party is Party.CLIENT, self._square_cut(tree.squares)
        lifted = np.broadcast_to(self._operand(base, cut), (len(polynomial.factors), base.size))
        encode = session.fixed_point.encode
        shifts, offsets = np.array(polynomial.factors).T[:, :, None]
        if own:
            constants = to_prime(encode(shifts * 2.0 ** (tree.stretch - cut)), self._modulus)
            lifted = (lifted + constants) % np.uint64(self._modulus)
        squares = self._squared(lifted.reshape(-1), session, tree.squares, cut)
        factors = squares.reshape(lifted.shape)
        return factors + encode(offsets) if own else factors

    def _tree(self, polynomial: FactoredPolynomial) -> FactorTree:
        return FactorTree.of(polynomial, from_prime_limit(self._modulus, 0) / self._units**2)

    # -- operands and results ------------------------------------------------------------------

    def _operand_cost(self, count: int, rms: float, cut: int) -> Cost:
        own = rms * self._units
        lift = Cost.failing(_BLOCK, count * own * 2.0 ** (-cut - RING_BITS))
        return scale_cost(count, own) + lift if cut else lift

    def _operand(self, x: RingArray, cut: int) -> RingArray:
        """Shares modulo t of x / 2^cut, flat."""
        flat = np.ascontiguousarray(x).reshape(-1)
        return to_prime(scale(flat, 2.0**-cut) if cut else flat, self._modulus)

    def _opened_cost(self, count: int, operands: int) -> Cost:
        kind = self._pair if operands == 1 else self._triple
        size = packed_bytes(operands * count, kind.bits)
        counts = units(prime_multiply_add=operands * count)
        opening = Cost.of(Traffic.exchange(size, size), Demand.of(kind, count), counts)
        return opening + from_prime_cost(count)

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

    def _back(self, z: RingArray, bounds: Bounds, loss: int, session: Session) -> RingArray:
        shift = self._fraction_bits + bounds.shift - loss
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
