"""Scaled rows modulo a prime, made in slots: what each party does around its frames.

Rows a, b one a row, a b and the sum of a^2, all sums of both parties' parts. The client's b is the
same in every slot of a row: what it encrypts is uniform, and the difference travels in the clear.
`he_linear.packings.scaled_rows`; docs/security.md, "Why a body modulo Q / t hides the rows".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from he_linear.exact.slot_encryption import slot_parse
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.scaled_rows import ScaledRowsPacking
from mpc_nonlinear.blocks.prime_arithmetic import multiply_add
from transport.randomness import SecureRandom


def rows_question(
    packing: ScaledRowsPacking, uniform: Residues, randomness: SecureRandom
) -> tuple[list[Residues], bytes]:
    """The client's a and b, b once a number, (count,) each; and the difference, packed."""
    own, encrypted = packing.operands_of(uniform)
    factors = packing.draw_factors(randomness)
    spread = packing.spread(factors).reshape(-1)
    return [own, spread], packing.differences(factors, encrypted)


def rows_results(
    packing: ScaledRowsPacking, upload: bytes, randomness: SecureRandom
) -> tuple[Iterator[Floats], list[Residues], Residues]:
    """The server's cross terms, encrypted, its a and b, and what its a takes for the product."""
    cut = len(upload) - packing.difference_bytes
    moved = packing.parse_differences(upload[cut:])
    ciphertexts = slot_parse(upload[:cut], packing.input_ciphertexts, packing.parameters)
    drawn = packing.draw(randomness)
    own = packing.operands_of(drawn)
    # What is encrypted is the client's part of b less the difference it sent.
    factor = (own[1] + moved) % np.uint64(packing.parameters.plain_prime)
    return packing.stream(ciphertexts, drawn), own, factor


def rows_shares(
    packing: ScaledRowsPacking, own: list[Residues], factor: Residues, cross: Residues
) -> tuple[Residues, ...]:
    """This party's shares of a (rows, width), b (rows,), a b and each row's sum of a^2."""
    t = packing.parameters.plain_prime
    a, b = (part.reshape(packing.rows, packing.width) for part in own)
    of_products, of_squares = packing.numbers_of_both(cross)
    product = multiply_add(own[0], factor, of_products, t)
    squares = multiply_add(own[0], own[0], of_squares, t).reshape(a.shape)
    total = squares.sum(axis=-1, dtype=np.uint64) % np.uint64(t)
    copies = np.ascontiguousarray(a), np.ascontiguousarray(b[:, 0])
    return (*copies, product.reshape(a.shape), total)
