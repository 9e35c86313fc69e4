"""Keys and one trip through ciphertexts, shared by the tests of the homomorphic engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.ckks.parameters import PARAMETER_SETS
from he_linear.kernels.residues import Residues, add, intt, multiply
from transport.randomness import SecureRandom

PARAMETERS = PARAMETER_SETS["n8192_q88"]
N, SLOTS = PARAMETERS.poly_degree, PARAMETERS.slots
FRACTION_BITS = 16
UNIT = 2.0**-FRACTION_BITS


@lru_cache(maxsize=16)
def keys(steps: tuple[int, ...] = ()) -> tuple[ClientKeys, ServerKeys]:
    client = ClientKeys.generate(PARAMETERS, steps, True, SecureRandom())
    return client, ServerKeys.parse(PARAMETERS, client.public_bytes(), steps, True)


def encode(x: np.ndarray) -> np.ndarray:
    return np.rint(np.asarray(x) / UNIT).astype(np.int64)


def decode(words: np.ndarray) -> np.ndarray:
    return words.view(np.int64) * UNIT


def centre_modulo(residues: Residues) -> np.ndarray:
    """(..., primes, N) coefficients as Python integers of least magnitude."""
    q = PARAMETERS.modulus
    total = np.zeros(residues[..., 0, :].shape, object)
    for index, p in enumerate(PARAMETERS.primes):
        factor = q // p * pow(q // p, -1, p)
        total = (total + residues[..., index, :].astype(object) * factor) % q
    return np.where(total > q // 2, total - q, total)


def decrypt(ciphertext: Residues, client: ClientKeys) -> np.ndarray:
    """Coefficients of c0 + c1 s, by our own kernels: (2, primes, N) to Python integers (N,)."""
    primes = PARAMETERS.primes
    return centre_modulo(
        intt(
            add(ciphertext[0], multiply(ciphertext[1], client.secret_residues, primes), primes),
            primes,
        )
    )


@dataclass(frozen=True)
class Operand:
    real: np.ndarray
    imag: np.ndarray | None
    scale: float

    def share(self) -> tuple[Operand, Operand]:
        """Uniform additive shares modulo 2^64."""
        first = [part if part is None else uniform(part.shape) for part in (self.real, self.imag)]
        second = [
            part if part is None else part - own
            for part, own in zip((self.real, self.imag), first, strict=True)
        ]
        return Operand(*first, self.scale), Operand(*second, self.scale)

    def residues(self) -> Residues:
        return he.encode_integers(self.real, self.imag, self.scale, PARAMETERS)


def uniform(shape: tuple[int, ...]) -> np.ndarray:
    return SecureRandom().uint64(shape).view(np.int64)


def upload(operand: Operand, client: ClientKeys) -> Residues:
    """The sum of both parties' shares, encrypted."""
    own, other = operand.share()
    data = he.encrypt_seeded(own.residues(), client, SecureRandom())
    count = len(operand.real)
    assert len(data) == he.encrypted_bytes(count, PARAMETERS)
    return he.add_plain(he.parse_seeded(data, count, PARAMETERS), other.residues(), PARAMETERS)


def trip(
    operands: Sequence[Operand],
    evaluate: Callable[..., Residues],
    output_scale: float,
    pair: tuple[ClientKeys, ServerKeys],
) -> tuple[Any, Any]:
    """Shares in, shares out, added up: real and imaginary slots modulo 2^64."""
    client, server = pair
    result = evaluate(*[upload(operand, client) for operand in operands])
    message, mask = he.mask_for_client(result, server, SecureRandom())
    assert len(message) == he.masked_bytes(len(result), PARAMETERS)
    scale = he.switched_scale(output_scale, PARAMETERS)
    shares = [
        he.decode_coefficients(part, scale, FRACTION_BITS, PARAMETERS)
        for part in (mask, he.unmask(message, len(result), client))
    ]
    return shares[0][0] + shares[1][0], shares[0][1] + shares[1][1]


def looks_uniform(words: np.ndarray) -> bool:
    """Chi-square over each of the 8 bytes: wrong for uniform words once in 10^8 tests."""
    bytes_of = np.ascontiguousarray(words).view(np.uint8).reshape(-1, 8)
    for column in bytes_of.T:
        counts = np.bincount(column, minlength=256)
        if stats.chisquare(counts).pvalue < 1e-9:
            return False
    return True
