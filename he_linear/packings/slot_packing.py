"""What packings in slots modulo a prime declare alike: bytes, units, chance of a wrong result."""

from __future__ import annotations

from abc import ABC, abstractmethod

from he_linear.exact.slot_encryption import slot_encrypted_bytes, slot_masked_bytes
from he_linear.exact.slot_parameters import SlotParameters
from he_linear.packings.evaluation_work import unit


class SlotPacking(ABC):
    """Some ciphertexts up, some masked ones down."""

    parameters: SlotParameters
    input_ciphertexts: int
    output_ciphertexts: int

    @property
    def upload_bytes(self) -> int:
        """A seed, and the bodies modulo Q / t."""
        return slot_encrypted_bytes(self.input_ciphertexts, self.parameters)

    @property
    def download_bytes(self) -> int:
        """A seed for the masked bodies, and the second polynomials with their hints."""
        return slot_masked_bytes(self.output_ciphertexts, self.parameters)

    def unit(self, operation: str) -> str:
        """Name of a unit of work, on the data primes."""
        return unit(operation, self.parameters.poly_degree, len(self.parameters.primes))

    @property
    @abstractmethod
    def noise_std(self) -> float:
        """Standard deviation of a result's coefficient modulo Q, an estimate."""

    @property
    def wrong_probability(self) -> float:
        """Bound on the chance that any result is wrong: of all coefficients together.

        A wrong coefficient spoils every slot of its ciphertext.
        """
        count = self.output_ciphertexts * self.parameters.poly_degree
        return count * self.parameters.wrong_probability(self.noise_std)

    @property
    def hint_distance(self) -> float:
        """Bound on the statistical distance of all hints together from simulated ones."""
        count = self.output_ciphertexts * self.parameters.poly_degree
        return self.parameters.hint_distance(self.noise_std, count)
