"""Rotations and relinearisation by SEAL over residue arrays."""

from __future__ import annotations

import numpy as np

from he_linear.kernels import Residues, add, multiply
from he_linear.keys import ServerKeys, galois_element


def rotate(ciphertext: Residues, step: int, keys: ServerKeys) -> Residues:
    """(2, primes, N) with slots moved `step` to the left: slot i + step comes to slot i."""
    if not ciphertext.any():
        # SEAL refuses to touch ciphertexts that are all zero (padding rows of a weight matrix).
        return ciphertext.copy()
    element = galois_element(step, keys.parameters.poly_degree)
    loaded = keys.seal.to_ciphertext(ciphertext)
    keys.seal.evaluator.apply_galois_inplace(loaded, element, keys.galois_keys)
    return keys.seal.from_ciphertext(loaded)


def tensor(left: Residues, right: Residues, keys: ServerKeys) -> Residues:
    """Products of (n, 2, primes, N) ciphertexts, not relinearised: (n, 3, primes, N)."""
    primes = keys.parameters.primes
    a0, a1, b0, b1 = left[:, 0], left[:, 1], right[:, 0], right[:, 1]
    cross = add(multiply(a0, b1, primes), multiply(a1, b0, primes), primes)
    return np.stack([multiply(a0, b0, primes), cross, multiply(a1, b1, primes)], axis=1)


def relinearise(product: Residues, keys: ServerKeys) -> Residues:
    """(n, 3, primes, N) back to (n, 2, primes, N)."""
    out = np.empty((len(product), 2, *product.shape[2:]), np.uint64)
    for index, residues in enumerate(product):
        loaded = keys.seal.to_ciphertext(residues)
        keys.seal.evaluator.relinearize_inplace(loaded, keys.relin_keys)
        out[index] = keys.seal.from_ciphertext(loaded)
    return out
