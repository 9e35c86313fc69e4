"""Prices of what one party computes alone."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from he_linear.ckks.parameters import PARAMETER_SETS
from he_linear.exact.ring_parameters import RING_SETS
from he_linear.exact.slot_parameters import SLOT_SETS
from hybrid.calibration.ckks_units import HomomorphicTimer, matrix_prices
from hybrid.calibration.ring_units import exact_prices
from hybrid.calibration.slot_units import (
    SlotTimer,
    prime_product_prices,
    short_product_prices,
)
from hybrid.calibration.timing import seconds_of
from hybrid.operators.exact_layers import RING_SET
from mpc_nonlinear.correlations.dealer import TrustedDealer
from mpc_nonlinear.ring_matmul import Limbs, ring_matmul
from transport.randomness import SecureRandom

_BLOCKS = 1 << 16
_CALL_S = 1e-4
"""Of an opening's few numpy calls."""
_DEAL_S = 2e-3
"""Of a question to the dealer; a first guess, corrected by whole steps."""


def local_prices() -> Iterator[tuple[str, float]]:
    """Every unit with its seconds; where sets share a unit, the first set's."""
    known: set[str] = set()
    for name, seconds in _ciphertext_prices():
        if name not in known:
            known.add(name)
            yield name, seconds
    yield from matrix_prices(next(iter(PARAMETER_SETS.values())))
    yield from exact_prices(RING_SETS[RING_SET])
    # A dealer's correlations are seeds to be expanded.
    taken = seconds_of(lambda: SecureRandom(bytes(32), domain="calibration").uint64((_BLOCKS, 2)))
    yield "dealer_ot", taken / _BLOCKS
    yield f"call_{TrustedDealer.name}", _DEAL_S
    yield from _dealt_prices(taken / _BLOCKS / 2)


def _ciphertext_prices() -> Iterator[tuple[str, float]]:
    """Of every named parameter set in turn."""
    for parameters in PARAMETER_SETS.values():
        yield from HomomorphicTimer(parameters, rotations=parameters.allows_rotations).prices()
    for slots in SLOT_SETS.values():
        yield from SlotTimer(slots).prices()
        yield from short_product_prices(slots.plain_prime)
        yield from prime_product_prices(slots.plain_prime)


def _dealt_prices(word_s: float) -> Iterator[tuple[str, float]]:
    """Products from a dealer: words from seeds, openings' arithmetic, matrix products."""
    rng = SecureRandom(domain="calibration")
    a, b = rng.uint64((2, _BLOCKS))
    element = seconds_of(lambda: a * b + b * a + a) / _BLOCKS
    m, k, n = 32, 384, 384
    left, weights = rng.uint64((m, k)), Limbs.of(rng.uint64((k, n)))
    small = Limbs.small(np.ones((k, n), np.int64))
    whole = seconds_of(lambda: ring_matmul(left, weights)) / (m * k * n)
    yield "word_matmul", whole
    yield "call_deal", _DEAL_S
    for name in ("element_triple", "square_pair"):
        yield f"call_{name}", _CALL_S
        yield f"use_{name}", element
        yield f"deal_{name}", 3 * word_s
    for name, used in (
        ("matrix_triple", 2 * whole),
        ("weight_product", seconds_of(lambda: ring_matmul(left, small)) / (m * k * n)),
    ):
        yield f"call_{name}", _CALL_S
        yield f"use_{name}", used
        # The dealer's own product, on a core that it shares with a party.
        yield f"deal_{name}", whole
