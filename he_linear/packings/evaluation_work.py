"""Counted work of evaluations, in units that a calibration of the machine prices.

A unit's name is the operation, the degree N and the number of primes it works on, as
`rotation/8192x2`. Modular multiply-adds and residues that a matrix product moves are counted
for one prime.
"""

from __future__ import annotations

from dataclasses import dataclass

from transport.computing import Units


@dataclass(frozen=True, slots=True)
class EvaluationWork:
    """What the server does, by when it can."""

    arriving: Units = ()
    """On all ciphertexts of the question, as they come."""
    between: Units = ()
    """After the last of them, before the first result."""
    leaving: Units = ()
    """On all results, one by one as they go."""
    stages: int = 1
    """Parts of the results, each of which waits for its own part of the question only."""


NO_EVALUATION = EvaluationWork()


def unit(operation: str, degree: int, primes: int) -> str:
    """Name of a unit."""
    return f"{operation}/{degree}x{primes}"
