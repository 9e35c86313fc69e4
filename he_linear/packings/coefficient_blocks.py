"""Block sizes of matrix products on coefficients, chosen by a rough estimate of time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from he_linear.exact.ring_encryption import ring_encrypted_bytes, ring_masked_bytes
from he_linear.exact.ring_parameters import RingParameters
from he_linear.packings.base import power_of_two

Shape = tuple[int, int, int]
"""Rows, inner length, columns."""

_BYTE_S = 20e-9
"""On the field's WAN1 profile, 400 Mbps."""
_RESIDUE_S = 12e-9
"""To encrypt, parse, randomise or transform, for each residue of a ciphertext (measured)."""
_SWITCH_S = 50e-9
"""A key switch, for each residue of a polynomial (measured)."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """Sizes of the matrix blocks that meet in one polynomial product, and how many there are."""

    rows: int
    inner: int
    columns: int
    counts: Shape
    """Blocks along rows, inner length and columns."""

    @property
    def outputs(self) -> int:
        """Products that are sums over the inner blocks."""
        return self.counts[0] * self.counts[2]


def even_sizes(length: int) -> list[int]:
    """For every number of blocks, the least size."""
    return sorted({-(-length // count) for count in range(1, length + 1)})


def power_sizes(length: int, most: int) -> list[int]:
    """Powers of two up to the first that holds `length`, or `most`."""
    return [1 << i for i in range(min(power_of_two(length), most).bit_length())]


def merge_group(blocks: Blocks, batch: int = 1) -> int:
    """Ciphertexts merged into one, a power of two: all of them, or as many as the gap allows."""
    return min(blocks.inner, power_of_two(batch * blocks.outputs))


def choose_blocks(
    shape: Shape,
    n: int,
    sizes: tuple[Sequence[int], Sequence[int]],
    seconds: Callable[[Blocks], float],
) -> Blocks:
    """The fastest of all blocks with rows and inner length from `sizes`."""
    found = []
    for rows, inner in product(*sizes):
        if rows * inner > n:
            continue
        # No larger than needed for the same number of blocks.
        count = -(-shape[2] // min(shape[2], n // (rows * inner)))
        columns = -(-shape[2] // count)
        counts = (-(-shape[0] // rows), -(-shape[1] // inner), count)
        found.append(Blocks(rows, inner, columns, counts))
    return min(found, key=seconds)


def trip_seconds(
    parameters: RingParameters, inputs: int, outputs: int, results: int, merged: tuple[int, int]
) -> float:
    """Rough time of one trip. merged: ciphertexts returned, and key switches to make them."""
    returned, switches = merged
    sent = ring_encrypted_bytes(inputs, parameters)
    sent += ring_masked_bytes(returned, results, parameters)
    residues = len(parameters.primes) * parameters.poly_degree
    work = 4 * inputs + outputs + 4 * returned
    return sent * _BYTE_S + residues * (work * _RESIDUE_S + switches * _SWITCH_S)
