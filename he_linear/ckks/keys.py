"""Keys of the two parties.

SEAL generates the secret key. Evaluation keys are built over its residues in SEAL's layout, with
uniform halves expanded from one public seed, so that only the other halves travel:
key i for a target s' is (-(a_i s + e_i) + [prime i] P s', a_i) modulo every prime, special
prime P included ([Bajard16]-style RNS key switching, as in SEAL).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tenseal.sealapi as seal

from he_linear.ckks.encryption import encrypted
from he_linear.ckks.key_switching import KeySwitcher, SwitchingKey
from he_linear.ckks.parameters import BASE_PRIMES, CkksParameters
from he_linear.ckks.seal_bridge import SealContext
from he_linear.kernels import sampling
from he_linear.kernels.residue_bytes import pack_residues, packed_residue_bytes, unpack_residues
from he_linear.kernels.residues import (
    add,
    from_centred,
    intt,
    multiply,
    ntt,
    reduce_signed,
)
from he_linear.kernels.scalars import Residues
from he_linear.kernels.workers import SERIAL, Workers
from transport.errors import FrameError, ParameterError, UsageError
from transport.randomness import SEED_BYTES, SecureRandom

_PUBLIC_DOMAIN = "ckks public key"
_SWITCH_DOMAIN = "ckks switching keys"


def public_key_bytes(parameters: CkksParameters, galois_steps: int, relinearisation: bool) -> int:
    """Length of `ClientKeys.public_bytes` for this many rotation keys."""
    n = parameters.poly_degree
    digits = len(parameters.primes)
    switching = (galois_steps + relinearisation) * digits
    return (
        SEED_BYTES
        + packed_residue_bytes(1, parameters.primes, n)
        + packed_residue_bytes(switching, parameters.all_primes, n)
    )


def galois_element(step: int, n: int) -> int:
    """The automorphism that rotates slots by `step` to the left."""
    return pow(3, step % (n // 2), 2 * n)


class ClientKeys:
    """The secret key and everything made from it."""

    def __init__(self, seal_context: SealContext, rng: SecureRandom) -> None:
        self.parameters = seal_context.parameters
        self.seal = seal_context
        self._rng = rng
        self.seal_secret_key = seal.KeyGenerator(seal_context.context).secret_key()
        p = self.parameters
        count = len(p.all_primes) * p.poly_degree
        body = seal_context.dump(self.seal_secret_key)[-8 * count :]
        self._secret = (
            np.frombuffer(body, np.uint64).reshape(len(p.all_primes), p.poly_degree).copy()
        )
        self._public = b""

    @classmethod
    def generate(
        cls,
        parameters: CkksParameters,
        galois_steps: Sequence[int],
        relinearisation: bool,
        rng: SecureRandom,
    ) -> ClientKeys:
        """A fresh secret key with a public key, rotation keys and a relinearisation key."""
        if galois_steps and not parameters.allows_rotations:
            raise ParameterError(
                "ckks: for rotations the special prime must be at least as large as every data "
                "prime; choose another parameter set"
            )
        keys = cls(SealContext(parameters), rng)
        keys._public = keys._make_public(galois_steps, relinearisation)
        return keys

    @property
    def secret_residues(self) -> Residues:
        """Secret modulo the data primes, NTT form, (primes, N)."""
        return self._secret[:-1]

    @property
    def base_secret_residues(self) -> Residues:
        """Secret modulo the base primes."""
        return self._secret[:BASE_PRIMES]

    def public_bytes(self) -> bytes:
        """What the server needs: seed, public key, switching keys; `public_key_bytes` long."""
        return self._public

    def _make_public(self, galois_steps: Sequence[int], relinearisation: bool) -> bytes:
        p, n = self.parameters, self.parameters.poly_degree
        seed = sampling.fresh_seed(self._rng)
        uniform = sampling.expand_uniform(seed, _PUBLIC_DOMAIN, 1, p.primes, n)
        public = self._mask_uniform(uniform)
        secret = _signed(intt(self._secret, p.all_primes)[0], p.all_primes[0])
        targets = [_automorphism(secret, galois_element(step, n)) for step in galois_steps]
        residues = [ntt(reduce_signed(t, p.all_primes), p.all_primes) for t in targets]
        if relinearisation:
            residues.append(multiply(self._secret, self._secret, p.all_primes))
        digits = len(p.primes)
        uniform = sampling.expand_uniform(
            seed, _SWITCH_DOMAIN, len(residues) * digits, p.all_primes, n
        )
        switching = self._mask_uniform(uniform)
        special = p.all_primes[-1]
        for index, target in enumerate(residues):
            for digit, prime in enumerate(p.primes):
                factor = np.full((1, n), special % prime, np.uint64)
                lifted = multiply(target[digit : digit + 1], factor, (prime,))
                row = switching[index * digits + digit, digit]
                row[...] = add(row[None], lifted, (prime,))[0]
        return seed + pack_residues(public, p.primes) + pack_residues(switching, p.all_primes)

    def _mask_uniform(self, uniform: Residues) -> Residues:
        """-(a s + e) for every row a of `uniform` (count, primes, N), NTT form."""
        return self.encrypt_rows(uniform, np.zeros_like(uniform))

    def encrypt_rows(self, uniform: Residues, message: Residues) -> Residues:
        """-(a s + e) + m for each row, NTT form, fresh noise."""
        count, level, n = uniform.shape
        errors = sampling.noise(self._rng, (count, n))
        primes = self.parameters.all_primes[:level]
        return encrypted(message, uniform, self._secret[:level], errors, primes)


@dataclass(frozen=True)
class ServerKeys:
    """What the server evaluates with."""

    parameters: CkksParameters
    seal: SealContext
    public_key: Residues
    """(2, primes, N), NTT form."""
    switcher: KeySwitcher
    rotation_keys: dict[int, SwitchingKey]
    """By step modulo the slots."""
    relin_key: SwitchingKey | None
    workers: Workers = SERIAL
    """Threads that packings may use."""

    @classmethod
    def parse(
        cls,
        parameters: CkksParameters,
        data: bytes,
        galois_steps: Sequence[int],
        relinearisation: bool,
        workers: Workers = SERIAL,
    ) -> ServerKeys:
        """Check untrusted bytes, expand the uniform halves."""
        n, digits = parameters.poly_degree, len(parameters.primes)
        expected = public_key_bytes(parameters, len(galois_steps), relinearisation)
        if len(data) != expected:
            raise FrameError(
                f"public keys: got {len(data)} bytes, expected {expected}; "
                "are both parties the same version?"
            )
        view = memoryview(data)
        seed, view = bytes(view[:SEED_BYTES]), view[SEED_BYTES:]
        size = packed_residue_bytes(1, parameters.primes, n)
        body = unpack_residues(view[:size], 1, parameters.primes, n, "public key")
        uniform = sampling.expand_uniform(seed, _PUBLIC_DOMAIN, 1, parameters.primes, n)
        count = (len(galois_steps) + relinearisation) * digits
        all_primes = parameters.all_primes
        rows = unpack_residues(view[size:], count, all_primes, n, "switching keys")
        others = sampling.expand_uniform(seed, _SWITCH_DOMAIN, count, all_primes, n)
        # (key, digit, polynomial, primes, N)
        switching = np.stack([rows, others], axis=1).reshape(-1, digits, 2, len(all_primes), n)
        elements = [galois_element(step, n) for step in galois_steps] + [1] * relinearisation
        keys = [
            SwitchingKey.from_residues(residues, element, parameters)
            for residues, element in zip(switching, elements, strict=True)
        ]
        relin = keys.pop() if relinearisation else None
        by_step = {s % parameters.slots: key for s, key in zip(galois_steps, keys, strict=True)}
        public = np.stack([body[0], uniform[0]])
        context = SealContext(parameters)
        switcher = KeySwitcher(parameters)
        return cls(parameters, context, public, switcher, by_step, relin, workers)

    @property
    def base_public_key(self) -> Residues:
        """The public key modulo the base primes."""
        return self.public_key[:, :BASE_PRIMES]

    def rotation_key(self, step: int) -> SwitchingKey:
        """The key of a rotation by `step` slots."""
        key = self.rotation_keys.get(step % self.parameters.slots)
        if key is None:
            raise UsageError(
                f"rotation by {step} slots: the client sent no such key; list the step in the "
                "packing's galois_steps"
            )
        return key

    def relinearisation_key(self) -> SwitchingKey:
        """The key that switches from the secret's square."""
        if self.relin_key is None:
            raise UsageError("relinearisation: the client sent no such key; ask for it in the plan")
        return self.relin_key

    def seal_galois_keys(self) -> Any:
        """The rotation keys as SEAL's object, for cross-checks."""
        n = self.parameters.poly_degree
        entries = {
            (galois_element(step, n) - 1) // 2: self._residues(key)
            for step, key in self.rotation_keys.items()
        }
        return self.seal.to_switching_keys(seal.GaloisKeys(), entries, n)

    def seal_relin_keys(self) -> Any:
        """The relinearisation key as SEAL's object, for cross-checks."""
        entries = {0: self._residues(self.relinearisation_key())}
        return self.seal.to_switching_keys(seal.RelinKeys(), entries, 1)

    def _residues(self, key: SwitchingKey) -> Residues:
        return from_centred(key.moved, self.parameters.all_primes)


def _signed(residues: Residues, p: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    values = residues.astype(np.int64)
    return np.where(values > p // 2, values - p, values)


def _automorphism(
    coefficients: np.ndarray[Any, np.dtype[np.int64]], element: int
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """a(X^element) for signed coefficients (N,)."""
    n = len(coefficients)
    position = np.arange(n) * element % (2 * n)
    out = np.zeros(n, np.int64)
    out[position % n] = np.where(position < n, coefficients, -coefficients)
    return out
