"""Keys of exact ring products: a ternary secret, a public key, automorphism keys if any.

Same form as the CKKS keys: the uniform halves come from one public seed, key i for a target s'
is (-(a_i s + e_i) + [prime i] P s', a_i). Residues are prime-major centred float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from he_linear.ckks.key_switching import KeySwitcher, SwitchingKey
from he_linear.exact.ring_parameters import RingParameters
from he_linear.kernels import sampling
from he_linear.kernels.ntt import automorphism_order
from he_linear.kernels.residue_bytes import pack_residues, packed_residue_bytes, unpack_residues
from he_linear.kernels.residues import from_centred, to_centred
from he_linear.kernels.ring_words import add_product, reduce_words, transform
from he_linear.kernels.scalars import Floats, Residues, centred
from transport.errors import FrameError, UsageError
from transport.randomness import SEED_BYTES, SecureRandom

_PUBLIC_DOMAIN = "ring public key"
_SWITCH_DOMAIN = "ring switching keys"


def prime_major(residues: Residues, primes: tuple[int, ...]) -> Floats:
    """(count, primes, N) residues to centred (primes, count, N)."""
    return np.ascontiguousarray(np.moveaxis(to_centred(residues, primes), 1, 0))


def residues_of(values: Floats, primes: tuple[int, ...]) -> Residues:
    """Inverse of `prime_major`."""
    return from_centred(np.ascontiguousarray(np.moveaxis(values, 0, 1)), primes)


def ring_public_key_bytes(parameters: RingParameters, automorphisms: int) -> int:
    """Length of `RingClientKeys.public_bytes` for this many automorphism keys."""
    n, primes = parameters.poly_degree, parameters.primes
    switching = packed_residue_bytes(automorphisms * len(primes), parameters.all_primes, n)
    return SEED_BYTES + packed_residue_bytes(1, primes, n) + switching


class RingClientKeys:
    """The secret key and everything made from it."""

    def __init__(
        self, parameters: RingParameters, automorphisms: Sequence[int], rng: SecureRandom
    ) -> None:
        """`automorphisms`: elements g of X -> X^g that the packings declare."""
        if automorphisms:
            _ = parameters.switching  # a set without special prime cannot
        self.parameters = parameters
        self._rng = rng
        secret = sampling.ternary(rng, (parameters.poly_degree,))
        self._secret = transform(reduce_words(secret, parameters.all_primes), parameters.all_primes)
        self._public = self._make_public(automorphisms)

    @property
    def secret(self) -> Floats:
        """Modulo the data primes, NTT form, (primes, N)."""
        return self._secret[: len(self.parameters.primes)]

    def public_bytes(self) -> bytes:
        """What the server needs: seed, public key, switching keys; `ring_public_key_bytes` long."""
        return self._public

    def encrypt(self, uniform: Residues, message: Floats, primes: tuple[int, ...]) -> Floats:
        """E + m - a s per row: a (count, primes, N) in NTT form, m (primes, count, N) not.

        The result is in NTT form, its error fresh.
        """
        count, _, n = uniform.shape
        error = sampling.noise(self._rng, (count, n))
        body = transform(message + error, primes)
        # Sums of a residue and an error stay far below 2^51, which the transform takes.
        add_product(
            prime_major(uniform, primes), self._secret[: len(primes)], primes, body, negative=True
        )
        return body

    def _make_public(self, automorphisms: Sequence[int]) -> bytes:
        p, n = self.parameters, self.parameters.poly_degree
        primes, every = p.primes, p.all_primes
        seed = sampling.fresh_seed(self._rng)
        uniform = sampling.expand_uniform(seed, _PUBLIC_DOMAIN, 1, primes, n)
        public = self.encrypt(uniform, np.zeros((len(primes), 1, n)), primes)
        packed = seed + pack_residues(residues_of(public, primes), primes)
        if not automorphisms:
            return packed
        count = len(automorphisms) * len(primes)
        uniform = sampling.expand_uniform(seed, _SWITCH_DOMAIN, count, every, n)
        switching = self.encrypt(uniform, np.zeros((len(every), count, n)), every)
        for index, element in enumerate(automorphisms):
            target = self._secret[:, automorphism_order(element, n)]
            for digit, prime in enumerate(primes):
                factor = np.full((1, n), centred(every[-1], prime))
                row = switching[digit : digit + 1, index * len(primes) + digit][:, None]
                add_product(target[digit][None, None], factor, (prime,), row)
        return packed + pack_residues(residues_of(switching, every), every)


@dataclass(frozen=True)
class RingServerKeys:
    """What the server evaluates with."""

    parameters: RingParameters
    public_key: Floats
    """(primes, 2, N), NTT form."""
    switcher: KeySwitcher | None
    automorphism_keys: dict[int, SwitchingKey]
    """By element."""

    @classmethod
    def parse(
        cls, parameters: RingParameters, data: bytes, automorphisms: Sequence[int]
    ) -> RingServerKeys:
        """Check untrusted bytes, expand the uniform halves."""
        n, primes = parameters.poly_degree, parameters.primes
        expected = ring_public_key_bytes(parameters, len(automorphisms))
        if len(data) != expected:
            raise FrameError(
                f"public keys of exact products: got {len(data)} bytes, expected {expected}; "
                "are both parties the same version?"
            )
        view = memoryview(data)
        seed, view = bytes(view[:SEED_BYTES]), view[SEED_BYTES:]
        size = packed_residue_bytes(1, primes, n)
        body = unpack_residues(view[:size], 1, primes, n, "public key")
        uniform = sampling.expand_uniform(seed, _PUBLIC_DOMAIN, 1, primes, n)
        public = prime_major(np.concatenate([body, uniform]), primes)
        if not automorphisms:
            return cls(parameters, public, None, {})
        every, digits = parameters.all_primes, len(primes)
        count = len(automorphisms) * digits
        rows = unpack_residues(view[size:], count, every, n, "switching keys")
        others = sampling.expand_uniform(seed, _SWITCH_DOMAIN, count, every, n)
        # (key, digit, polynomial, primes, N)
        switching = np.stack([rows, others], axis=1).reshape(-1, digits, 2, len(every), n)
        keys = {
            element: SwitchingKey.from_residues(residues, element, parameters.switching)
            for residues, element in zip(switching, automorphisms, strict=True)
        }
        return cls(parameters, public, KeySwitcher(parameters.switching), keys)

    def switching(self, element: int) -> tuple[KeySwitcher, SwitchingKey]:
        """What applies the automorphism X -> X^element."""
        key = self.automorphism_keys.get(element)
        if key is None or self.switcher is None:
            raise UsageError(
                f"automorphism {element}: the client sent no such key; make the keys with the "
                "packing's automorphisms"
            )
        return self.switcher, key
