"""Shares of a, a^2 and a^3 modulo a prime, made in slots: what each party does around its frames.

With a = a_c + a_s: a^2 = a_c^2 + 2 a_c a_s + a_s^2, and a^3 = a_c^3 + 3 a_c^2 a_s + 3 a_c a_s^2
+ a_s^3, where a_c^2 = rho + w: rho encrypted and uniform, w in the clear and so uniform too.
`he_linear.packings.element_cubes`; docs/security.md, "Why a body modulo Q / t hides the rows".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from he_linear.exact.slot_encryption import slot_parse
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.element_cubes import ElementCubesPacking
from mpc_nonlinear.blocks.prime_arithmetic import multiply_add
from transport.bitpack import pack_bits, unpack_bits
from transport.errors import FrameError
from transport.randomness import SecureRandom


def cube_question(packing: ElementCubesPacking, uniform: Residues) -> tuple[Residues, bytes]:
    """The client's a_c (count,) and w, packed, of the polynomials that it encrypted."""
    p = packing.parameters
    own, rho = packing.halves(uniform)
    w = multiply_add(own, own, _negative(rho, p.plain_prime), p.plain_prime)
    return own, pack_bits(w, p.plain_bits)


def cube_results(
    packing: ElementCubesPacking, upload: bytes, randomness: SecureRandom
) -> tuple[Iterator[Floats], Residues, Residues]:
    """The server's cross terms, encrypted, with its a_s and the client's w, (count,) each."""
    p = packing.parameters
    cut = len(upload) - packing.clear_bytes
    ciphertexts = slot_parse(upload[:cut], packing.input_ciphertexts, p)
    w = unpack_bits(upload[cut:], packing.count, p.plain_bits, np.uint64)
    if w.max() >= p.plain_prime:
        raise FrameError("cubes: a word exceeds the prime; the frame is corrupt")
    drawn = packing.draw(randomness)
    own = packing.numbers(drawn)
    squares = packing.polynomials(multiply_add(own, own, np.zeros_like(own), p.plain_prime))
    return packing.stream(ciphertexts, drawn, squares), own, w


def cube_shares(
    packing: ElementCubesPacking, own: Residues, cross: Residues, w: Residues | None = None
) -> tuple[Residues, ...]:
    """This party's shares of a, a^2 and a^3, (count,) each, of its part and its cross terms.

    w: at the server.
    """
    t, none = packing.parameters.plain_prime, np.zeros_like(own)
    of_square, of_cube = packing.halves(cross)
    square = multiply_add(own, own, none, t)
    # a^3 = a_s (a_s^2 + 3 w), and without w at the client.
    factor = square if w is None else (square + np.uint64(3) * w) % np.uint64(t)
    cube = multiply_add(own, factor, of_cube, t)
    return np.ascontiguousarray(own), (square + of_square) % np.uint64(t), cube


def _negative(x: Residues, t: int) -> Residues:
    return (np.uint64(t) - x) % np.uint64(t)
