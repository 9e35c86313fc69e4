"""Between shares and ciphertexts: the two masked conversions, and what runs between them.

Shares become ciphertexts and come back in one question and one answer (2 rounds): the client
encrypts the centred lift of its share, the server adds its own as a plaintext, evaluates,
re-randomises, switches to 2^64, masks every coefficient and returns. DESIGN: "Shares to
ciphertext" and "Ciphertext to shares"; the ciphertext halves live in `he_linear.conversions`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from he_linear import conversions as he
from he_linear.keys import ClientKeys, ServerKeys
from he_linear.params import CkksParameters
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from transport.channel import Channel
from transport.randomness import SecureRandom
from transport.traffic import Party, Traffic

Evaluate = Callable[[list[RingArray], ServerKeys], RingArray]
"""Maps residues (n, 2, primes, N) of each operand to those of the result; server only."""


@dataclass(frozen=True, slots=True)
class Operand:
    """One packed operand: integer slots of this party's share, shape (ciphertexts, slots)."""

    real: RingArray
    imag: RingArray | None
    scale: float
    """Multiplier of the integers at encoding, a power of two."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """Public description of one trip into ciphertexts and back."""

    parameters: CkksParameters
    inputs: tuple[int, ...]
    """Ciphertexts of each operand."""
    outputs: int
    scale: float
    """Message scale of the result modulo Q, before the switch to 2^64."""
    fraction_bits: int
    """Of the result: what the decoded slots are multiplied with. Fewer bits divide it."""
    input_fraction_bits: int = 16
    """Of the shares that are lifted."""
    parts: int = 1
    """2 where real and imaginary parts of the result both carry numbers."""

    def traffic(self) -> Traffic:
        """Exact: one frame each way."""
        up = sum(he.encrypted_bytes(n, self.parameters) for n in self.inputs)
        down = he.masked_bytes(self.outputs, self.parameters)
        return Traffic.message(Party.CLIENT, up) + Traffic.message(Party.SERVER, down)

    def cost(self, input_rms_counts: Sequence[tuple[float, int]], output_rms: float) -> Cost:
        """Traffic and failure probability, given (rms, count) of the real inputs.

        An estimate from calibrated magnitudes, as good as they are.

        An element x fails its lift with |x| / 2^64, an output ciphertext with
        sqrt(N) * scale * rms(slot) / 2^64.
        """
        lifts = sum(rms * count for rms, count in input_rms_counts) * 2.0**self.input_fraction_bits
        switched = he.switched_scale(self.scale, self.parameters)
        coefficients = he.lift_failure(
            self.outputs, self.parameters, switched, sqrt(self.parts) * output_rms
        )
        return Cost(self.traffic(), failure_probability=lifts * 2.0**-64 + coefficients)


class HomomorphicParty(ABC):
    """One party's keys and its side of every conversion."""

    def __init__(self, parameters: CkksParameters, randomness: SecureRandom) -> None:
        self.parameters = parameters
        self._randomness = randomness

    def _encode(self, operand: Operand) -> NDArray[np.uint64]:
        imag = None if operand.imag is None else operand.imag.view(np.int64)
        real = operand.real.view(np.int64)
        return he.encode_integers(real, imag, operand.scale, self.parameters)

    def _decode(
        self, coefficients: RingArray, conversion: Conversion
    ) -> tuple[RingArray, RingArray]:
        scale = he.switched_scale(conversion.scale, self.parameters)
        return he.decode_coefficients(
            coefficients, scale, conversion.fraction_bits, self.parameters
        )

    @abstractmethod
    def apply(
        self,
        operands: Sequence[Operand],
        conversion: Conversion,
        evaluate: Evaluate,
        channel: Channel,
    ) -> tuple[RingArray, RingArray]:
        """This party's shares of real and imaginary result slots, each (outputs, slots).

        Both parties pass their shares and the same public arguments; only the server calls
        `evaluate`. Exact to one unit besides the ciphertexts' own noise. 2 rounds.
        """


class HomomorphicClient(HomomorphicParty):
    """Holds the secret key."""

    def __init__(
        self, parameters: CkksParameters, keys: ClientKeys, randomness: SecureRandom
    ) -> None:
        super().__init__(parameters, randomness)
        self._keys = keys

    def apply(
        self,
        operands: Sequence[Operand],
        conversion: Conversion,
        evaluate: Evaluate,  # noqa: ARG002
        channel: Channel,
    ) -> tuple[RingArray, RingArray]:
        """Encrypt, send, receive, unmask, decode."""
        encrypted = [
            he.encrypt_seeded(self._encode(operand), self._keys, self._randomness)
            for operand in operands
        ]
        channel.next_round()
        channel.send(b"".join(encrypted))
        answer = channel.recv(he.masked_bytes(conversion.outputs, self.parameters))
        coefficients = he.unmask(answer, conversion.outputs, self._keys)
        return self._decode(coefficients, conversion)


class HomomorphicServer(HomomorphicParty):
    """Holds the evaluation keys and evaluates."""

    def __init__(
        self, parameters: CkksParameters, keys: ServerKeys, randomness: SecureRandom
    ) -> None:
        super().__init__(parameters, randomness)
        self.keys = keys

    def apply(
        self,
        operands: Sequence[Operand],
        conversion: Conversion,
        evaluate: Evaluate,
        channel: Channel,
    ) -> tuple[RingArray, RingArray]:
        """Receive, add, evaluate, re-randomise, switch, mask, send, decode."""
        # Encoded before the upload arrives, while the client is busy with the same work.
        own = [self._encode(operand) for operand in operands]
        sizes = [he.encrypted_bytes(n, self.parameters) for n in conversion.inputs]
        channel.next_round()
        upload = memoryview(channel.recv(sum(sizes)))
        ciphertexts = []
        start = 0
        for size, count, residues in zip(sizes, conversion.inputs, own, strict=True):
            parsed = he.parse_seeded(bytes(upload[start : start + size]), count, self.parameters)
            ciphertexts.append(he.add_plain(parsed, residues, self.parameters))
            start += size
        result = evaluate(ciphertexts, self.keys)
        message, mask = he.mask_for_client(result, self.keys, self._randomness)
        channel.send(message)
        return self._decode(mask, conversion)
