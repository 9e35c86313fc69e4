"""Noise estimates: variances of coefficients, and what they do to results in slots.

Heuristic, as usual for CKKS [Costache22, eprint 2020/1481]: errors are independent of messages, a
product with the secret multiplies a variance by 2N/3. A slot is a sum of N coefficients with unit
factors, so its real part has N/2 times a coefficient's variance. Products of two errors with the
secret have tails far heavier than Gaussian ones: bounds need a dozen standard deviations.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

from he_linear.ckks.parameters import CkksParameters
from he_linear.kernels.sampling import NOISE_VARIANCE

ROUNDING_VARIANCE = 1 / 12


@dataclass(frozen=True, slots=True)
class NoiseModel:
    """Variances per coefficient, in units of the integers modulo Q."""

    parameters: CkksParameters

    @property
    def _secret(self) -> float:
        """Factor of a product with the ternary secret."""
        return 2 * self.parameters.poly_degree / 3

    @property
    def fresh(self) -> float:
        """Symmetric encryption, and the rounding of both parties' encodings."""
        return NOISE_VARIANCE + 2 * ROUNDING_VARIANCE

    @property
    def key_switch(self) -> float:
        """One rotation or relinearisation: rounding by P, and the key's errors times the digits."""
        p = self.parameters
        special = p.all_primes[-1]
        digits = sum((q / special) ** 2 for q in p.primes)
        key = p.poly_degree * NOISE_VARIANCE * ROUNDING_VARIANCE * digits
        return ROUNDING_VARIANCE * (1 + self._secret) + key

    @property
    def rescale(self) -> float:
        """Rounding of both polynomials."""
        return ROUNDING_VARIANCE * (1 + self._secret)

    def slot_rms(self, variance: float) -> float:
        """Root mean square of the real part of a slot, same units."""
        return sqrt(variance * self.parameters.poly_degree / 2)
