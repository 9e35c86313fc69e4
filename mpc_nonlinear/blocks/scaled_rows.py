"""Rows squared and multiplied by one number each, modulo a prime, from one opening."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mpc_nonlinear.blocks.prime_arithmetic import multiply_add
from mpc_nonlinear.blocks.prime_opening import opened, opened_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.dealt import prime_scaled_row_kind
from mpc_nonlinear.cost import Cost, Demand
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from transport.errors import UsageError
from transport.traffic import Party


def scaled_rows_cost(rows: int, width: int, modulus: int) -> Cost:
    """Cost of `ScaledRows.open`, and of what follows locally. 1 round."""
    demand = Demand.of(prime_scaled_row_kind(modulus, width), rows)
    return opened_cost(rows * width, modulus, demand, products=3)


@dataclass(frozen=True, slots=True)
class ScaledRows:
    """Rows x modulo t, opened under masks a that serve their squares and one product.

    One stored correlation a row: shares of a, of b, of a b and of the sum of a^2. Each mask hides
    one number: d = x - a the row's, e = r - b what multiplies it.
    """

    modulus: int
    d: RingArray
    """x - a modulo t, known to both, (rows, width)."""
    a: RingArray
    b: RingArray
    """(rows,)."""
    product: RingArray
    """a b."""
    squares: RingArray
    """The sum of a^2, (rows,)."""
    _spent: list[bool] = field(default_factory=list, repr=False)
    """Whether b has masked its number."""

    @classmethod
    def open(cls, x: RingArray, modulus: int, session: Session) -> ScaledRows:
        """Of shares modulo t, (rows, width). 1 round."""
        rows, width = x.shape
        if width * modulus >= 1 << RING_BITS:
            raise UsageError(
                f"scaled rows: {width} numbers in a row; sums of residues of "
                f"{modulus.bit_length()} bits hold {(1 << RING_BITS) // modulus}"
            )
        kind = prime_scaled_row_kind(modulus, width)
        a, b, product, squares = session.prepared.dealt(kind, rows)
        (d,) = opened([(x.reshape(-1), a.reshape(-1))], modulus, session)
        return cls(modulus, d.reshape(x.shape), a, b, product, squares)

    def sum_of_squares(self, session: Session) -> RingArray:
        """Shares modulo t of each row's sum of squares, (rows,): of a^2 + d (2 a + d). Exact."""
        t = np.uint64(self.modulus)
        factor = self.a + self.a + self.d if session.party is Party.SERVER else self.a + self.a
        terms = multiply_add(self.d, factor % t, np.zeros_like(self.d), self.modulus)
        total: RingArray = (terms.sum(axis=-1, dtype=np.uint64) + self.squares) % t
        return total

    def factor_mask(self) -> RingArray:
        """This party's share of b, (rows,): what multiplies a row is opened under it, once."""
        if self._spent:
            raise UsageError("scaled rows: their factor's mask serves once; open the rows anew")
        self._spent.append(True)
        return self.b

    def times(self, e: RingArray, session: Session) -> RingArray:
        """Shares modulo t of x r, (rows, width), for e = r - b (rows,) that both know. Exact.

        X r = a b + d b + e a + d e.
        """
        t = self.modulus
        b = (self.b + e) % np.uint64(t) if session.party is Party.SERVER else self.b
        by_b, by_e = (np.broadcast_to(part[:, None], self.d.shape) for part in (b, e))
        return multiply_add(by_e, self.a, multiply_add(self.d, by_b, self.product, t), t)
