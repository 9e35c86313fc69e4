"""Products of a number of each party's own, modulo a prime, and exponentials made of them.

A number shared over the integers is a sum, so its exponential is a product: each party computes the
power of its own share, and one product makes shares of the whole. Powers of two with integer
exponents are taken modulo the prime, where they may be as large as they like; what is left of an
exponent is below one.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

from mpc_nonlinear.blocks.local import scale, scale_cost
from mpc_nonlinear.blocks.prime_arithmetic import multiply_add
from mpc_nonlinear.blocks.prime_opening import exchanged, opened_cost
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.correlations.dealt import prime_cross_kind
from mpc_nonlinear.cost import Cost, Demand
from mpc_nonlinear.fixed_point import RingArray
from transport.errors import UsageError
from transport.traffic import Party

_TABLE_BITS = 11


def own_product_cost(count: int, modulus: int) -> Cost:
    """Cost of `own_product` for `count` numbers: one opening each way, 1 round."""
    return opened_cost(count, modulus, Demand.of(prime_cross_kind(modulus), count))


def own_product(own: RingArray, modulus: int, session: Session) -> RingArray:
    """Shares modulo t of x y, same shape, for x that the client and y that the server holds.

    Exact. With prepared numbers u of the client's, v of the server's and shares of u v, the client
    sends x - u, the server y - v: x y = u v + u (y - v) + (x - u) y. 1 round. [Beaver91], with
    operands that are not shared.
    """
    t, flat = np.uint64(modulus), np.ascontiguousarray(own).reshape(-1)
    mask, share = session.prepared.dealt(prime_cross_kind(modulus), flat.size)
    opened = exchanged((flat + t - mask) % t, modulus, "own products", session)
    factor = mask if session.party is Party.CLIENT else flat
    return multiply_add(opened, factor, share, modulus).reshape(own.shape)


def power_cost(count: int, largest_units: float, modulus: int) -> Cost:
    """Cost of `power_of_two`: exponents of up to so many units fail to lift."""
    return scale_cost(count, largest_units) + own_product_cost(count, modulus)


def power_of_two(
    x: RingArray, factor: float, kept_bits: int, modulus: int, session: Session
) -> RingArray:
    """Shares modulo t of 2^(factor x + 2 kept_bits), same shape, for x shared modulo 2^64.

    For exponents factor x of at least 1 + 2^-8, since both shares' whole parts together may be one
    less, and results below t / 4; beyond these a residue that means nothing. x has
    `fraction_bits`. Relative error below 2^-kept_bits, since each party rounds its own power to as
    many bits, and of 2 factor units of x for its rounded exponent. Wrong where the lift of x is. 1
    round.
    From additive to multiplicative shares as in [Kelkar22] eprint 2021/885.
    """
    # Shares over the integers stay such where they do not grow.
    bits = session.fixed_point.fraction_bits - max(0, ceil(log2(abs(factor))))
    if not (0 < kept_bits < 32 and bits > 0):
        raise UsageError(f"power of two: {kept_bits} bits kept of exponents {factor:g} x")
    exponent = scale(x, factor * 2.0 ** (bits - session.fixed_point.fraction_bits)).view(np.int64)
    whole = exponent >> bits
    rest = (exponent - (whole << bits)) * 2.0**-bits
    mantissa = np.rint(np.exp2(rest + kept_bits)).astype(np.uint64)
    return own_product(_times_power(mantissa, whole, modulus), modulus, session)


def _times_power(x: RingArray, exponents: NDArray[np.int64], modulus: int) -> RingArray:
    """X 2^exponent modulo t, same shape; exponents are signed."""
    left = np.mod(exponents, modulus - 1).astype(np.uint64)
    zero = np.zeros_like(x)
    for table in _powers(modulus):
        place = (left & np.uint64((1 << _TABLE_BITS) - 1)).astype(np.intp)
        x = multiply_add(x, table[place], zero, modulus)
        left >>= np.uint64(_TABLE_BITS)
    return x


@lru_cache(maxsize=4)
def _powers(modulus: int) -> tuple[RingArray, ...]:
    """2^(v 2^(11 i)) modulo t for all v below 2^11: one table for each digit of an exponent."""
    tables = []
    for start in range(0, modulus.bit_length(), _TABLE_BITS):
        base = pow(2, 1 << start, modulus)
        powers = [1]
        for _ in range((1 << _TABLE_BITS) - 1):
            powers.append(powers[-1] * base % modulus)
        tables.append(np.array(powers, np.uint64))
    return tuple(tables)
