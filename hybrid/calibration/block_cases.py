"""Building blocks of the interactive engine that `hybrid calibrate` times, on several sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from hybrid.operators.slot_triples import TRIPLE_PARAMETERS, stored_part
from mpc_nonlinear.blocks.bit_triples import ands, ands_cost
from mpc_nonlinear.blocks.compare import Width, less_than_constants, less_than_constants_cost
from mpc_nonlinear.blocks.local import scale, scale_cost
from mpc_nonlinear.blocks.lookup import lookup, lookup_cost
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.own_products import own_product, own_product_cost
from mpc_nonlinear.blocks.prime_cubes import PrimePowers
from mpc_nonlinear.blocks.prime_opening import opened_cost
from mpc_nonlinear.blocks.prime_products import PrimeProducts
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.scaled_rows import ScaledRows, scaled_rows_cost
from mpc_nonlinear.blocks.select import (
    bit_to_arithmetic,
    bit_to_arithmetic_cost,
    select,
    select_cost,
)
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.blocks.steps import SteppedComparison, Steps
from mpc_nonlinear.blocks.truncate import truncate, truncate_cost
from mpc_nonlinear.correlations.dealt import prime_cube_kind
from mpc_nonlinear.cost import Cost, Demand, Form, Kind
from mpc_nonlinear.fixed_point import RingArray
from transport.randomness import SecureRandom
from transport.traffic import Party

_SIZES = (400, 4000, 40000)
_FEW_SIZES = (16, 400, 4000)
"""Of what decoders take for one row at a time."""
_ROW_WIDTH = 16
_SHORT_DIGITS = ((2, 1), (13, 1), (17, 2), (22, 1), (33, 1))
"""Bits that are compared, and thresholds."""
_LONG_DIGITS = ((7, 1), (8, 1), (9, 1), (17, 2))
"""Bits that are compared, and digits."""
_STEPS = Steps((-8, 0, 8), 5, 5)
"""Thresholds of comparisons in coarse steps."""


@dataclass(frozen=True)
class BlockCase:
    """A block on n numbers: what it declares, and how it runs."""

    cost: Cost
    run: Callable[[Session], object]


def block_cases(party: Party) -> Iterator[BlockCase]:
    """Every block on every size, with this party's share of some input."""
    rng = np.random.default_rng(int(party))
    for n in _SIZES:
        yield from _bitwise(rng.integers(0, 2**63, n, np.uint64))
    for n in _FEW_SIZES:
        x = rng.integers(0, TRIPLE_PARAMETERS.plain_prime, n, np.uint64)
        yield from _long_digits(x)
        yield from _modulo_prime(x)


def _bitwise(x: RingArray) -> Iterator[BlockCase]:
    """By digits of up to 4 bits, and what follows comparisons."""
    n, bit = x.size, (x & np.uint64(1)).astype(np.uint8)
    products, bounds = OtProducts(16), Bounds(1.0, 1.0, 1.0, 0, 16.0)
    for bits, thresholds in _SHORT_DIGITS:
        width, marks = Width(bits, 0), list(range(thresholds))
        cost = less_than_constants_cost(n, thresholds, width)
        yield BlockCase(cost, partial(less_than_constants, x, marks, width))
    yield BlockCase(select_cost(n), partial(select, bit, x))
    yield BlockCase(select_cost(n, 20), partial(select, bit, x, bits=20))
    yield BlockCase(bit_to_arithmetic_cost(n), partial(bit_to_arithmetic, bit))
    yield BlockCase(truncate_cost(n, 16), partial(truncate, x, 16))
    yield BlockCase(ands_cost(n, n), partial(ands, bit, bit))
    yield BlockCase(scale_cost(n, 1.0), partial(_scaled, x))
    few = x[: n // 10]
    yield BlockCase(lookup_cost(few.size, 24), partial(lookup, few, list(range(16)), 24))
    cost = products.multiply_cost(few.size, bounds)
    yield BlockCase(cost, partial(products.multiply, few, few, bounds=bounds))


def _long_digits(x: RingArray) -> Iterator[BlockCase]:
    """By digits of 6 to 8 bits, or in coarse steps: few rounds, long messages."""
    for bits, digits in _LONG_DIGITS:
        width = Width(bits, 0, digits)
        cost = less_than_constants_cost(x.size, 1, width)
        yield BlockCase(cost, partial(less_than_constants, x, [1], width))
    yield BlockCase(_STEPS.cost(x.size), partial(_stepped, x))


def _modulo_prime(x: RingArray) -> Iterator[BlockCase]:
    """By correlations modulo the prime of exact slots; x: residues."""
    t, n, bounds = TRIPLE_PARAMETERS.plain_prime, x.size, Bounds(1.0, 1.0, 1.0, 0, 1.0)
    products = PrimeProducts(16, t)
    multiply = partial(products.multiply, x, x, bounds=bounds)
    yield BlockCase(products.multiply_cost(n, bounds), multiply)
    yield BlockCase(products.square_cost(n, bounds), partial(products.square, x, bounds=bounds))
    yield BlockCase(own_product_cost(n, t), partial(own_product, x, t))
    cubes = opened_cost(n, t, Demand.of(prime_cube_kind(t), n), products=3)
    yield BlockCase(cubes, partial(_powers, x, t))
    rows = x.reshape(-1, _ROW_WIDTH)
    yield BlockCase(scaled_rows_cost(*rows.shape, t), partial(_rows_opened_once, rows, t))


def _scaled(x: RingArray, _session: Session) -> RingArray:
    return scale(x, 0.3)


def _stepped(x: RingArray, session: Session) -> object:
    """As activations do it, but for the last message, which rides on another block's."""
    compared = SteppedComparison(x, _STEPS, session)
    session.channel.next_round()
    return compared.results(session.channel.exchange(compared.message, len(compared.message)))


def _powers(x: RingArray, modulus: int, session: Session) -> object:
    """As `PrimePowers`, whose message rides on another block's; here it goes alone."""
    powers = PrimePowers(x, modulus, session)
    session.channel.next_round()
    return powers.shares(session.channel.exchange(powers.message, len(powers.message)))


def _rows_opened_once(x: RingArray, modulus: int, session: Session) -> object:
    """What norms do with rows, all that `scaled_rows_cost` counts.

    They open a power of the sums before they multiply, which has a cost of its own. Here the sums'
    shares stand in its place: the result is no norm, the products take the same time.
    """
    rows = ScaledRows.open(x, modulus, session)
    return rows.times(rows.sum_of_squares(session), session)


def store_any(session: Session, demand: Demand) -> None:
    """Residues that are no products, for what of a demand comes from slots.

    Protocols take the same time whatever they are.
    """
    for kind, count in stored_part(demand).counts:
        session.prepared.store(kind, _arrays(kind, count))


def _arrays(kind: Kind, count: int) -> tuple[RingArray, ...]:
    rng, modulus = SecureRandom(domain="calibration"), np.uint64(kind.shape[0])
    shapes: dict[Form, tuple[tuple[int, ...], ...]] = {
        Form.PRIME_SQUARE: ((count,),) * 2,
        Form.PRIME_CROSS: ((count,),) * 2,
        Form.PRIME_SCALED_ROW: ((count, kind.width), (count,)) * 2,
    }
    return tuple(rng.uint64(shape) % modulus for shape in shapes.get(kind.form, ((count,),) * 3))
