"""Between shares and ciphertexts: the two masked conversions, and what runs between them.

Shares become ciphertexts and come back in one question and one answer (2 rounds): the client
encrypts the centred lift of its share, the server adds its own as a plaintext, evaluates,
re-randomises, switches to 2^64, masks every coefficient and returns. Question and answer travel
in several frames, so that the parties work at the same time. DESIGN: "Shares to ciphertext" and
"Ciphertext to shares"; the ciphertext halves live in `he_linear.conversions`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from he_linear import conversions as he
from he_linear.keys import ClientKeys, ServerKeys
from he_linear.packings.work import NO_EVALUATION, EvaluationWork, unit
from he_linear.params import CkksParameters
from hybrid.exact_lift import decode_exactly, lift_exactly, lift_exactly_cost
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from mpc_nonlinear.session import Session
from transport.channel import Channel
from transport.errors import UsageError
from transport.randomness import SecureRandom
from transport.traffic import Party, Traffic
from transport.work import Trip, Units, Work, add_units, units

Uploads = Iterator[list[RingArray]]
"""For each frame, the residues (n, 2, level, N) of its ciphertexts of every operand."""
Evaluate = Callable[[Uploads, ServerKeys], Iterable[RingArray]]
"""Yields the result's residues (n, 2, base primes, N), frame by frame; server only."""


@dataclass(frozen=True, slots=True)
class Operand:
    """One packed operand: integer slots of this party's share, shape (ciphertexts, slots)."""

    real: RingArray
    imag: RingArray | None
    scale: float
    """Multiplier of the integers at encoding."""

    def part(self, start: int, count: int) -> Operand:
        """Some of its ciphertexts."""
        rows = slice(start, start + count)
        imag = None if self.imag is None else self.imag[rows]
        return Operand(self.real[rows], imag, self.scale)


def _sizes(count: int, frames: int) -> list[int]:
    """`count` ciphertexts over `frames` frames, the first ones larger by at most one."""
    return [count // frames + (i < count % frames) for i in range(frames)]


@dataclass(frozen=True, slots=True)
class Conversion:
    """Public description of one trip into ciphertexts and back."""

    parameters: CkksParameters
    """At the level of the operands."""
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
    up_frames: int = 1
    down_frames: int = 1
    exact: bool = False
    """Whether the results' lifts never fail, at the price of a short OT a coefficient and a round;
    see `hybrid.exact_lift`."""

    def uploads(self) -> list[list[int]]:
        """Ciphertexts of every operand in each frame of the question."""
        split = [_sizes(count, self.up_frames) for count in self.inputs]
        return [list(counts) for counts in zip(*split, strict=True)]

    def downloads(self) -> list[int]:
        """Ciphertexts in each frame of the answer."""
        return _sizes(self.outputs, self.down_frames)

    def upload_bytes(self, counts: Sequence[int]) -> int:
        """One frame of the question."""
        return sum(he.encrypted_bytes(n, self.parameters) for n in counts)

    def traffic(self) -> Traffic:
        """Exact: one round each way."""
        up = [self.upload_bytes(counts) for counts in self.uploads()]
        down = [he.masked_bytes(count, self.parameters) for count in self.downloads()]
        return Traffic(sum(up), sum(down), len(up), len(down), 2)

    def unit(self, operation: str, *, base: bool = False) -> str:
        """Name of a unit of work at the level of the operands, or of the results."""
        p = self.parameters.base if base else self.parameters
        return unit(operation, p.poly_degree, len(p.primes))

    @property
    def back_units(self) -> Units:
        """What both parties do with every returned ciphertext: decode."""
        return units({self.unit("decode", base=True): self.outputs})

    def work(self, evaluation: EvaluationWork, *, own: bool = True) -> Work:
        """Counted work of a trip; own: whether the server adds its share, and decodes its mask."""
        count, traffic = sum(self.inputs), self.traffic()
        encoded = units({self.unit("encode"): count})
        masked = units({self.unit("mask", base=True): self.outputs})
        trip = Trip(
            add_units(encoded, units({self.unit("encrypt"): count})),
            encoded if own else (),
            add_units(units({self.unit("parse"): count}), evaluation.arriving),
            evaluation.between,
            add_units(masked, evaluation.leaving),
            add_units(units({self.unit("unmask", base=True): self.outputs}), self.back_units),
            self.back_units if own else (),
            len(self.uploads()),
            len(self.downloads()),
            traffic.client_sent_bytes,
            traffic.server_sent_bytes,
            evaluation.stages,
        )
        return Work((trip,))

    def cost(
        self,
        input_rms_counts: Sequence[tuple[float, int]],
        output_rms: float,
        evaluation: EvaluationWork = NO_EVALUATION,
    ) -> Cost:
        """Traffic, work and failure probability, given (rms, count) of the real inputs.

        An estimate from calibrated magnitudes, as good as they are.

        An element x fails its lift with |x| / 2^64, an output ciphertext with
        sqrt(N) * scale * rms(slot) / 2^64.
        """
        lifts = sum(rms * count for rms, count in input_rms_counts) * 2.0**self.input_fraction_bits
        if self.exact:
            inputs = Cost(
                self.traffic(),
                failure_probability=lifts * 2.0**-64,
                work=self.work(evaluation),
            )
            return inputs + lift_exactly_cost(self, output_rms)
        switched = he.switched_scale(self.scale, self.parameters)
        coefficients = he.lift_failure(
            self.outputs, self.parameters, switched, sqrt(self.parts) * output_rms
        )
        return Cost(
            self.traffic(),
            failure_probability=lifts * 2.0**-64 + coefficients,
            work=self.work(evaluation),
        )


K = TypeVar("K", ClientKeys, ServerKeys)


class KeyRing(Generic[K]):
    """One party's keys for every parameter set of the plan."""

    def __init__(self, keys: Iterable[K]) -> None:
        self._keys: dict[CkksParameters, K] = {k.parameters.base: k for k in keys}

    def __getitem__(self, parameters: CkksParameters) -> K:
        """Keys of the set that these parameters, at any level, belong to."""
        try:
            return self._keys[parameters.base]
        except KeyError:
            raise UsageError(
                f"ckks: no keys for prime sizes {parameters.prime_bits}; name the set in the plan"
            ) from None


class HomomorphicParty(ABC):
    """One party's keys and its side of every conversion."""

    party: Party

    def __init__(self, randomness: SecureRandom) -> None:
        self._randomness = randomness

    @staticmethod
    def encode(operand: Operand, parameters: CkksParameters) -> NDArray[np.uint64]:
        """Residues (ciphertexts, level, N) of this party's share."""
        imag = None if operand.imag is None else operand.imag.view(np.int64)
        return he.encode_integers(operand.real.view(np.int64), imag, operand.scale, parameters)

    @staticmethod
    def decode(coefficients: RingArray, conversion: Conversion) -> tuple[RingArray, RingArray]:
        """Shares of real and imaginary slots of coefficients (n, N)."""
        scale = he.switched_scale(conversion.scale, conversion.parameters)
        return he.decode_coefficients(
            coefficients, scale, conversion.fraction_bits, conversion.parameters
        )

    @abstractmethod
    def apply(
        self,
        operands: Sequence[Operand],
        conversion: Conversion,
        evaluate: Evaluate,
        session: Session,
    ) -> tuple[RingArray, RingArray]:
        """This party's shares of real and imaginary result slots, each (outputs, slots).

        Both parties pass their shares and the same public arguments; only the server calls
        `evaluate`. Exact to one unit besides the ciphertexts' own noise. 2 rounds, 3 where the
        conversion is exact.
        """

    def _finish(
        self, parts: Iterable[RingArray], conversion: Conversion, session: Session
    ) -> tuple[RingArray, RingArray]:
        """Shares of slots from this party's shares of each frame's coefficients."""
        if conversion.exact:
            return decode_exactly(lift_exactly(np.concatenate(list(parts)), session), conversion)
        real, imag = zip(*(self.decode(part, conversion) for part in parts), strict=True)
        return np.concatenate(real), np.concatenate(imag)


class HomomorphicClient(HomomorphicParty):
    """Holds the secret keys."""

    party = Party.CLIENT

    def __init__(self, keys: Iterable[ClientKeys], randomness: SecureRandom) -> None:
        super().__init__(randomness)
        self._keys = KeyRing(keys)

    def apply(
        self,
        operands: Sequence[Operand],
        conversion: Conversion,
        evaluate: Evaluate,  # noqa: ARG002
        session: Session,
    ) -> tuple[RingArray, RingArray]:
        """Encrypt, send, receive, unmask, decode."""
        keys, channel = self._keys[conversion.parameters], session.channel
        channel.next_round()
        at = [0] * len(operands)
        for counts in conversion.uploads():
            parts = [o.part(i, n) for o, i, n in zip(operands, at, counts, strict=True)]
            encoded = [self.encode(part, conversion.parameters) for part in parts]
            channel.send(
                b"".join(
                    he.encrypt_seeded(residues, keys, self._randomness) for residues in encoded
                )
            )
            at = [i + n for i, n in zip(at, counts, strict=True)]
        answers = (
            he.unmask(channel.recv(he.masked_bytes(count, conversion.parameters)), count, keys)
            for count in conversion.downloads()
        )
        return self._finish(answers, conversion, session)


class HomomorphicServer(HomomorphicParty):
    """Holds the evaluation keys and evaluates."""

    party = Party.SERVER

    def __init__(self, keys: Iterable[ServerKeys], randomness: SecureRandom) -> None:
        super().__init__(randomness)
        self._keys = KeyRing(keys)

    def apply(
        self,
        operands: Sequence[Operand],
        conversion: Conversion,
        evaluate: Evaluate,
        session: Session,
    ) -> tuple[RingArray, RingArray]:
        """Receive, add, evaluate, re-randomise, switch, mask, send, decode."""
        # Encoded before the upload arrives, while the client is busy with the same work.
        own = [self.encode(operand, conversion.parameters) for operand in operands]
        masks = self.answer(own, conversion, evaluate, session.channel)
        return self._finish(masks, conversion, session)

    def answer(
        self,
        own: Sequence[RingArray] | None,
        conversion: Conversion,
        evaluate: Evaluate,
        channel: Channel,
    ) -> list[RingArray]:
        """Receive, add own residues if any, evaluate, send: the masks (n, N) of every frame."""
        keys = self._keys[conversion.parameters]
        channel.next_round()
        uploads = self._uploads(own, conversion, channel)
        masks = []
        for result, count in zip(evaluate(uploads, keys), conversion.downloads(), strict=True):
            assert len(result) == count
            message, mask = he.mask_for_client(result, keys, self._randomness)
            channel.send(message)
            masks.append(mask)
        return masks

    @staticmethod
    def _uploads(
        own: Sequence[RingArray] | None, conversion: Conversion, channel: Channel
    ) -> Uploads:
        at = [0] * len(conversion.inputs)
        for counts in conversion.uploads():
            upload = memoryview(channel.recv(conversion.upload_bytes(counts)))
            ciphertexts, start = [], 0
            for index, count in enumerate(counts):
                size = he.encrypted_bytes(count, conversion.parameters)
                parsed = he.parse_seeded(
                    bytes(upload[start : start + size]), count, conversion.parameters
                )
                if own is not None:
                    residues = own[index][at[index] : at[index] + count]
                    parsed = he.add_plain(parsed, residues, conversion.parameters)
                ciphertexts.append(parsed)
                start += size
                at[index] += count
            yield ciphertexts
