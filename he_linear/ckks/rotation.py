"""Rotations and relinearisation over residue arrays, through the float64 key switching."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from he_linear.ckks.keys import ServerKeys
from he_linear.kernels.residues import from_centred, to_centred
from he_linear.kernels.scalars import Floats, Residues


def rotate(ciphertext: Residues, step: int, keys: ServerKeys) -> Residues:
    """(2, primes, N) with slots moved `step` to the left: slot i + step comes to slot i."""
    primes = keys.parameters.primes
    return from_centred(rotations(to_centred(ciphertext, primes), [step], keys)[0], primes)


def rotations(ciphertext: Floats, steps: Sequence[int], keys: ServerKeys) -> Floats:
    """Centred (2, primes, N) moved by every step: (steps, 2, primes, N)."""
    slots = keys.parameters.slots
    wanted = [keys.rotation_key(step) if step % slots else None for step in steps]
    return keys.switcher.rotations(ciphertext, wanted)


def relinearise(products: Floats, keys: ServerKeys) -> Residues:
    """Centred (n, 3, level, N) to residues (n, 2, level, N)."""
    key = keys.relinearisation_key()
    out = np.stack([keys.switcher.relinearise(product, key) for product in products])
    return from_centred(out, keys.parameters.primes[: products.shape[2]])
