"""What may go wrong in a session and what hints tell in it, added up against their limits."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt

from mpc_nonlinear.cost import Cost

MAX_FAILURE_PROBABILITY = 2.0**-20
"""Of a whole run or session."""
MAX_DISTANCE = 2.0**-30
"""Of a whole session: statistical, of the hints that a client sees from simulated ones."""


@dataclass(frozen=True, slots=True)
class Risk:
    """Chance of a wrong result, and the squared distance that hints have from simulated ones.

    Both add up: the squares are bounds on Hellinger's, which do so over what is sent in turn.
    """

    failure_probability: float = 0.0
    distance_squares: float = 0.0

    @classmethod
    def of(cls, costs: Iterable[Cost]) -> Risk:
        """Of all of these."""
        found = cls()
        for cost in costs:
            found += cls(cost.failure_probability, cost.distance_squares)
        return found

    def __add__(self, other: Risk) -> Risk:
        """Of both."""
        return Risk(
            self.failure_probability + other.failure_probability,
            self.distance_squares + other.distance_squares,
        )

    @property
    def distance(self) -> float:
        """Bound on the statistical distance, from estimated noise: see docs/security.md."""
        return sqrt(self.distance_squares)

    @property
    def is_allowed(self) -> bool:
        """Whether a session may have it."""
        fails_rarely = self.failure_probability <= MAX_FAILURE_PROBABILITY
        return fails_rarely and self.distance <= MAX_DISTANCE

    def refusal(self, more: Risk) -> str:
        """Why a session that has this may not have more."""
        if (self + more).failure_probability > MAX_FAILURE_PROBABILITY:
            return (
                f"session: what has run may fail with {self.failure_probability:.1e}, one more "
                f"step with {more.failure_probability:.1e}; together more than "
                f"{MAX_FAILURE_PROBABILITY:.1e}: open a new session"
            )
        return (
            f"session: hints sent so far are within {self.distance:.1e} of simulated ones, those "
            f"of one more step within {more.distance:.1e}; together not within "
            f"{MAX_DISTANCE:.1e}: open a new session"
        )
