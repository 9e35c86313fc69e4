"""Scaled rows modulo a prime, made in slots: what each party does around its frames.

Rows a, b one a row, a b and the sum of a^2, all sums of both parties' parts. The client's b is the
same in every slot of a row: what it encrypts is uniform, and the difference travels in the clear.
`he_linear.packings.scaled_rows`; docs/security.md, "Why a body modulo Q / t hides the rows".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from he_linear.exact.slot_encryption import slot_parse
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.scaled_rows import ScaledRowsPacking
from mpc_nonlinear.blocks.prime_arithmetic import multiply_add
from transport.randomness import SecureRandom


@dataclass(frozen=True, slots=True)
class RowParts:
    """What a party drew for its rows."""

    a: Residues
    """(rows, width)."""
    b: Residues
    """(rows,)."""
    met: Residues
    """What its own a is to be multiplied by, (rows, columns): its b, and of the server what the
    client's encryption lacks of the client's."""


def rows_question(
    packing: ScaledRowsPacking, uniform: Residues, randomness: SecureRandom
) -> tuple[RowParts, bytes]:
    """The client's parts of what its polynomials (inputs, N) hold; and the difference, packed."""
    b = packing.draw_factors(randomness)
    clear = packing.differences(b, packing.columns_of(uniform[-1:]))
    met = np.repeat(b[:, None], packing.columns, axis=1)
    return RowParts(packing.numbers(uniform[:-1]), b, met), clear


def rows_results(
    packing: ScaledRowsPacking, upload: bytes, randomness: SecureRandom
) -> tuple[Iterator[Floats], RowParts]:
    """The server's cross terms, encrypted, and its parts."""
    cut = len(upload) - packing.difference_bytes
    moved = packing.parse_differences(upload[cut:])
    ciphertexts = slot_parse(upload[:cut], packing.input_ciphertexts, packing.parameters)
    drawn, b = packing.draw(randomness)
    # What is encrypted is the client's part of b less the difference it sent.
    met = (b[:, None] + moved) % np.uint64(packing.parameters.plain_prime)
    return packing.stream(ciphertexts, drawn), RowParts(packing.numbers(drawn[:-1]), b, met)


def rows_shares(packing: ScaledRowsPacking, own: RowParts, cross: Residues) -> tuple[Residues, ...]:
    """This party's shares of a (rows, width), b (rows,), a b and each row's sum of a^2.

    cross: its share of the results' polynomials (outputs, N).
    """
    t = packing.parameters.plain_prime
    met = packing.repeated(own.met)
    product = multiply_add(own.a, met, packing.numbers(cross[:-1]), t)
    squares = multiply_add(own.a, own.a, np.zeros_like(own.a), t)
    crossed = packing.columns_of(cross[-1:]).sum(axis=-1, dtype=np.uint64) % np.uint64(t)
    total = squares.sum(axis=-1, dtype=np.uint64) % np.uint64(t) + 2 * crossed
    return own.a, own.b, product, total % np.uint64(t)
