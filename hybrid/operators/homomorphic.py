"""Between shares and ciphertexts: the two masked conversions, and what runs between them.

Shares become ciphertexts and come back in one question and one answer (2 rounds): the client
encrypts the centred lift of its share, the server adds its own as a plaintext, evaluates,
re-randomises, switches to 2^64, masks every coefficient and returns. Question and answer travel
in several frames, so that the parties work at the same time. See docs/architecture.md,
"Conversions"; the ciphertext halves live in `he_linear.ckks.ciphertexts`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.ckks.parameters import CkksParameters
from hybrid.operators.conversion import Conversion, Operand
from hybrid.operators.exact_lift import decode_exactly, lift_exactly
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.fixed_point import RingArray
from transport.channel import Channel
from transport.errors import UsageError
from transport.randomness import SecureRandom
from transport.traffic import Party

Uploads = Iterator[list[RingArray]]
"""For each frame, the residues (n, 2, level, N) of its ciphertexts of every operand."""
Evaluate = Callable[[Uploads, ServerKeys], Iterable[RingArray]]
"""Yields the result's residues (n, 2, base primes, N), frame by frame; server only."""


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
