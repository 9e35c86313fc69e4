"""Many products of the client's uniform rows with the server's matrices, modulo a prime, at once.

The client sends encryptions of uniform rows rho, the server multiplies by matrices of its own,
re-randomises, masks and returns; both hold shares of rho W. Products of all sizes share
ciphertexts, 128 side by side, so that few slots stay empty; nothing is rotated and no keys are
needed but the public one. docs/security.md, "Why a body modulo Q / t hides the rows".

Rows come out of the encryption and cannot be chosen. Entries that have to be zero are sent in the
clear: they are independent of all others, mask nothing, and the server takes their part out of
its share.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from he_linear.exact.slot_encryption import (
    slot_encrypt,
    slot_mask_for_client,
    slot_parse,
    slot_unmask,
)
from he_linear.exact.slot_parameters import SlotParameters
from he_linear.kernels.scalars import Residues
from he_linear.packings.column_products import ROWS, ColumnProductsPacking
from hybrid.operators.exact_rows import RowsClient, RowsServer
from hybrid.operators.slot_bulk import bulk_cost
from mpc_nonlinear.blocks.moduli import PrimeModulus
from mpc_nonlinear.cost import NO_COST, Cost
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.channel import Channel
from transport.errors import FrameError

ALL = slice(None)
_BLOCK_NAME = "matrix products in exact slots"


@dataclass(frozen=True, slots=True)
class RowsTimes:
    """Sizes of one product: rho (rows, inner), up to `ROWS` of them, times W (inner, outputs)."""

    rows: int
    inner: int
    outputs: int
    kept: tuple[int, ...] = ()
    """Of each row, how many entries from the first on are not zero; empty: all."""

    @property
    def zeros(self) -> NDArray[np.bool_]:
        """Which entries of rho are zero: (rows, inner)."""
        kept = np.array(self.kept or (self.inner,) * self.rows)
        found: NDArray[np.bool_] = np.arange(self.inner) >= kept[:, None]
        return found


@dataclass(frozen=True, slots=True)
class _Group:
    """Products that share ciphertexts."""

    places: tuple[int, ...]
    """Among all products."""
    sizes: tuple[RowsTimes, ...]
    packing: ColumnProductsPacking

    @property
    def opened(self) -> int:
        """Entries that the client says."""
        return sum(int(size.zeros.sum()) for size in self.sizes)

    @property
    def opened_bytes(self) -> int:
        """Of those, behind the encryptions."""
        return packed_bytes(self.opened, self.packing.parameters.plain_bits)

    @property
    def upload_bytes(self) -> int:
        """Of the question."""
        return self.packing.upload_bytes + self.opened_bytes


@lru_cache(maxsize=16)
def _groups(sizes: tuple[RowsTimes, ...], parameters: SlotParameters) -> list[_Group]:
    """Like sizes together, in the order that takes the fewest ciphertexts of a few orders."""
    room = ColumnProductsPacking.room_for_columns(parameters)
    keys = (
        [(s.outputs, s.inner) for s in sizes],
        [(s.inner, s.outputs) for s in sizes],
        [(s.outputs - s.inner, s.outputs) for s in sizes],
    )
    found = []
    for key in keys:
        places = sorted(range(len(sizes)), key=key.__getitem__, reverse=True)
        cut = [places[start : start + room] for start in range(0, len(places), room)]
        found.append([_group(part, sizes, parameters) for part in cut])
    return min(found, key=lambda groups: sum(g.packing.ciphertexts for g in groups))


def _group(places: Sequence[int], sizes: Sequence[RowsTimes], parameters: SlotParameters) -> _Group:
    own = tuple(sizes[i] for i in places)
    inner, outputs = max(s.inner for s in own), max(s.outputs for s in own)
    packing = ColumnProductsPacking(parameters, len(own), inner, outputs)
    return _Group(tuple(places), own, packing)


def frames_of(sizes: Sequence[RowsTimes], parameters: SlotParameters) -> int:
    """How many frames each way these products fill; each can be asked for by itself."""
    return len(_groups(tuple(sizes), parameters))


def rows_times_cost(
    sizes: Sequence[RowsTimes], parameters: SlotParameters, frames: slice = ALL
) -> Cost:
    """Of `rows_times`: exact traffic, the chance that any product is wrong. 2 rounds, or none.

    frames: some of them, asked for by themselves.
    """
    groups = _groups(tuple(sizes), parameters)[frames]
    if not groups:
        return NO_COST
    packings = [group.packing for group in groups]
    return bulk_cost(packings, sum(group.upload_bytes for group in groups), _BLOCK_NAME)


def ask_rows_times(
    sizes: Sequence[RowsTimes], party: RowsClient, parameters: SlotParameters, channel: Channel,
    frames: slice = ALL,
) -> Iterator[tuple[int, Residues, Residues]]:  # fmt: skip
    """The client's half, offline: of each product its place, rho and a share of rho W modulo t.

    They come in an order of their own. rho (rows, inner) is uniform but for its zeros. Wrong with
    the probability that `rows_times_cost` declares. 2 rounds: one question and one answer for all,
    a frame each for what shares ciphertexts. frames: those that are asked for now.
    """
    groups, drawn = _groups(tuple(sizes), parameters)[frames], []
    channel.next_round()
    for group in groups:
        p = group.packing
        message, uniform = slot_encrypt(p.input_ciphertexts, party.keys, party.randomness)
        columns = p.rows_in(uniform)
        rows = [c[: s.rows, : s.inner].copy() for c, s in zip(columns, group.sizes, strict=True)]
        opened = [rho[s.zeros] for rho, s in zip(rows, group.sizes, strict=True)]
        # Gone before they are sent.
        for rho, size in zip(rows, group.sizes, strict=True):
            rho[size.zeros] = 0
        channel.send(message + pack_bits(np.concatenate(opened), parameters.plain_bits))
        drawn.append(rows)
    for group, rows in zip(groups, drawn, strict=True):
        p = group.packing
        answer = channel.recv(p.download_bytes)
        shares = p.rows_out(slot_unmask(answer, p.output_ciphertexts, party.keys))
        for place, size, rho, share in zip(group.places, group.sizes, rows, shares, strict=True):
            yield place, rho, share[: size.rows, : size.outputs]


def answer_rows_times(
    sizes: Sequence[RowsTimes], matrices: Sequence[Residues], party: RowsServer, channel: Channel,
    parameters: SlotParameters, frames: slice = ALL,
) -> Iterator[tuple[int, Residues]]:  # fmt: skip
    """The server's half: of each product its place and a share of rho W, in the client's order.

    matrices: W (inner, outputs) of every product, residues modulo t; of those that are not in
    `frames` they are not read.
    """
    modulus = PrimeModulus(parameters.plain_prime)
    channel.next_round()
    for group in _groups(tuple(sizes), parameters)[frames]:
        p = group.packing
        upload = channel.recv(group.upload_bytes)
        known = _opened(upload[p.upload_bytes :], group)
        ciphertexts = slot_parse(upload[: p.upload_bytes], p.input_ciphertexts, parameters)
        own = [matrices[place] for place in group.places]
        results = p.stream(ciphertexts, own, party.keys, party.room)
        answer, masks = slot_mask_for_client(results, party.keys, party.randomness)
        channel.send(answer)
        shares = p.rows_out(masks)
        for place, size, share, zeros, w in zip(
            group.places, group.sizes, shares, known, own, strict=True
        ):
            share = share[: size.rows, : size.outputs]
            if zeros is not None:
                share = modulus.minus(share, modulus.times(zeros[None], w[None])[0])
            yield place, share


def _opened(data: bytes, group: _Group) -> list[Residues | None]:
    """Untrusted bytes to rho (rows, inner) where it has to be zero, zero elsewhere."""
    p = group.packing.parameters
    words = unpack_bits(data, group.opened, p.plain_bits)
    if words.max(initial=0) >= p.plain_prime:
        raise FrameError("matrix products: a word exceeds the plain prime; the frame is corrupt")
    found: list[Residues | None] = []
    for size in group.sizes:
        zeros = size.zeros
        count = int(zeros.sum())
        rho = np.zeros(zeros.shape, np.uint64)
        rho[zeros], words = words[:count], words[count:]
        found.append(rho if count else None)
    return found


def cut_rows(count: int) -> Iterator[slice]:
    """Of so many rows, as many as a product has at once."""
    for start in range(0, count, ROWS):
        yield slice(start, min(start + ROWS, count))
