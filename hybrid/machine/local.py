"""Prices of what one party computes alone."""

from __future__ import annotations

from collections.abc import Iterator

from he_linear.params import PARAMETER_SETS
from he_linear.ring_params import RING_SETS
from hybrid.machine.exact import exact_prices
from hybrid.machine.homomorphic import HomomorphicTimer, matrix_prices
from hybrid.machine.timing import seconds_of
from hybrid.operators.exact import RING_SET
from transport.randomness import SecureRandom

_BLOCKS = 1 << 16


def local_prices() -> Iterator[tuple[str, float]]:
    """Every unit with its seconds; where sets share a unit, the first set's."""
    known: set[str] = set()
    for parameters in PARAMETER_SETS.values():
        timer = HomomorphicTimer(parameters, rotations=parameters.allows_rotations)
        for name, seconds in timer.prices():
            if name not in known:
                known.add(name)
                yield name, seconds
    yield from matrix_prices(next(iter(PARAMETER_SETS.values())))
    yield from exact_prices(RING_SETS[RING_SET])
    # A dealer's correlations are seeds to be expanded.
    taken = seconds_of(lambda: SecureRandom(bytes(32), domain="calibration").uint64((_BLOCKS, 2)))
    yield "dealer_ot", taken / _BLOCKS
