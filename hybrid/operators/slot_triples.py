"""Elementwise triples modulo a prime, made in bulk between two parties: no dealer, no OTs.

The client sends encryptions of uniform numbers a_c, b_c; the server multiplies by its own a_s, b_s,
re-randomises, masks and returns; both hold shares of the cross terms and add their own product.
Cubes take the same road, see `hybrid.operators.slot_cubes`.
docs/security.md, "Why a body modulo Q / t hides the rows".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from he_linear.exact.slot_encryption import (
    slot_encrypt,
    slot_mask_for_client,
    slot_parameters,
    slot_parse,
    slot_unmask,
)
from he_linear.exact.slot_parameters import SLOT_SETS, SlotParameters
from he_linear.kernels.scalars import Floats, Residues
from he_linear.packings.element_cubes import ElementCubesPacking
from he_linear.packings.element_triples import ElementTriplesPacking
from he_linear.packings.scaled_rows import ScaledRowsPacking
from hybrid.operators.exact_rows import RowsClient, RowsParty, RowsServer
from hybrid.operators.slot_bulk import bulk_cost
from hybrid.operators.slot_cubes import cube_question, cube_results, cube_shares
from hybrid.operators.slot_rows import rows_question, rows_results, rows_shares
from mpc_nonlinear.blocks.prime_arithmetic import multiply_add
from mpc_nonlinear.correlations.preprocessing import Prepared
from mpc_nonlinear.cost import NO_COST, Cost, Demand, Form, Kind
from transport.channel import Channel
from transport.computing import units
from transport.errors import ParameterError
from transport.randomness import SecureRandom

TRIPLE_PARAMETERS = SLOT_SETS["n8192_t44"]
"""Its plain prime is the modulus of all triples; rows in exact slots have the same keys."""
_BLOCKS = 8
"""Results of one frame: memory stays below 50 MB, and each party works while others travel."""
_ROW_BLOCKS = 32
"""Ciphertexts of a frame's rows, which all share two more: the more, the less these count."""
_BLOCK_NAME = "triples in exact slots"


def stored_part(demand: Demand) -> Demand:
    """What of a demand `make_triples` makes."""
    return Demand(tuple((kind, count) for kind, count in demand.counts if kind.form.is_stored))


_Packing = ElementTriplesPacking | ElementCubesPacking | ScaledRowsPacking


def _frames(demand: Demand, parameters: SlotParameters) -> Iterator[tuple[Kind, _Packing]]:
    """Every kind in turn, in parts of whole ciphertexts but for the last of its kind."""
    for kind, count in stored_part(demand).counts:
        if kind.shape != (parameters.plain_prime,):
            raise ParameterError(
                f"triples modulo {kind.shape[0]}: the keys are for {parameters.plain_prime}; give "
                "products by triples the plain prime of the keys' parameters"
            )
        for start in range(0, count, _most(kind, parameters)):
            part = min(_most(kind, parameters), count - start)
            yield kind, _packing(kind, parameters, part)


def _most(kind: Kind, parameters: SlotParameters) -> int:
    """Instances of a frame: of rows, whole ones, with ciphertexts of their own."""
    size = _BLOCKS * parameters.poly_degree
    if kind.form is Form.PRIME_SCALED_ROW:
        return ScaledRowsPacking.most_rows(kind.width, _ROW_BLOCKS, parameters)
    return max(1, _BLOCKS // 2) * parameters.poly_degree if kind.form is Form.PRIME_CUBE else size


def _packing(kind: Kind, parameters: SlotParameters, count: int) -> _Packing:
    if kind.form is Form.PRIME_CUBE:
        return ElementCubesPacking(parameters, count)
    if kind.form is Form.PRIME_SCALED_ROW:
        return ScaledRowsPacking(parameters, count, kind.width)
    forms = {"squares": Form.PRIME_SQUARE, "crossed": Form.PRIME_CROSS}
    chosen = {name: kind.form is form for name, form in forms.items()}
    return ElementTriplesPacking(parameters, count, **chosen)


def triples_cost(demand: Demand, parameters: SlotParameters = TRIPLE_PARAMETERS) -> Cost:
    """Of `make_triples`: exact traffic, the chance that any product is wrong. 2 rounds or none."""
    packings = [packing for _, packing in _frames(demand, parameters)]
    if not packings:
        return NO_COST
    own = units(prime_multiply_add=sum(p.local_products * p.count for p in packings))
    return bulk_cost(packings, sum(p.upload_bytes for p in packings), _BLOCK_NAME, own)


def make_triples(demand: Demand, party: RowsParty, channel: Channel, prepared: Prepared) -> None:
    """Offline: make what of `demand` is modulo a prime, and store it. 2 rounds or none.

    One question and one answer for all of it, in frames of up to 65536 products. Each is a sum of
    both parties' uniform parts, so nobody knows an operand. Wrong with
    `triples_cost(demand).failure_probability`.
    """
    frames = list(_frames(demand, slot_parameters(party.keys)))
    if not frames:
        return
    channel.next_round()
    make = _client if isinstance(party, RowsClient) else _server
    for kind, arrays in make(frames, party, channel):  # type: ignore[arg-type]
        prepared.store(kind, arrays)


_Frames = list[tuple[Kind, _Packing]]
_Made = Iterator[tuple[Kind, tuple[Residues, ...]]]
_Completing = Callable[[Residues], tuple[Residues, ...]]
"""From a party's share of the results to its part of what is made."""


def _client(frames: _Frames, party: RowsClient, channel: Channel) -> _Made:
    """Ask for everything, then read the answers."""
    asked: list[_Completing] = []
    for _, packing in frames:
        message, uniform = slot_encrypt(packing.input_ciphertexts, party.keys, party.randomness)
        clear, complete = _asked(packing, uniform, party.randomness)
        asked.append(complete)
        channel.send(message + clear)
    for (kind, packing), complete in zip(frames, asked, strict=True):
        answer = channel.recv(packing.download_bytes)
        yield kind, complete(slot_unmask(answer, packing.output_ciphertexts, party.keys))


def _asked(
    packing: _Packing, uniform: Residues, randomness: SecureRandom
) -> tuple[bytes, _Completing]:
    """What the client says in the clear beside encryptions of these polynomials."""
    if isinstance(packing, ElementCubesPacking):
        number, clear = cube_question(packing, uniform)
        return clear, lambda cross: cube_shares(packing, number, cross)
    if isinstance(packing, ScaledRowsPacking):
        parts, clear = rows_question(packing, uniform, randomness)
        return clear, lambda cross: rows_shares(packing, parts, cross)
    own = packing.operands_of(uniform)
    return b"", lambda cross: _completed(packing, own, cross)


def _server(frames: _Frames, party: RowsServer, channel: Channel) -> _Made:
    """Answer each frame as it comes."""
    for kind, packing in frames:
        upload = channel.recv(packing.upload_bytes)
        if isinstance(packing, ElementCubesPacking):
            results, number, clear = cube_results(packing, upload, party.randomness)
            yield kind, cube_shares(packing, number, _answered(results, party, channel), clear)
        elif isinstance(packing, ScaledRowsPacking):
            results, parts = rows_results(packing, upload, party.randomness)
            yield kind, rows_shares(packing, parts, _answered(results, party, channel))
        else:
            ciphertexts = slot_parse(upload, packing.input_ciphertexts, packing.parameters)
            drawn = packing.draw(party.randomness)
            cross = _answered(packing.stream(ciphertexts, drawn), party, channel)
            yield kind, _completed(packing, packing.operands_of(drawn), cross)


def _answered(results: Iterator[Floats], party: RowsServer, channel: Channel) -> Residues:
    """Send the results, masked; the server's share of them."""
    answer, share = slot_mask_for_client(results, party.keys, party.randomness)
    channel.send(answer)
    return share


def _completed(
    packing: ElementTriplesPacking, operands: list[Residues], cross: Residues
) -> tuple[Residues, ...]:
    """This party's shares of the operands and of their product, (count,) each.

    Of numbers of each party's own: its number and its share of the product.
    """
    if packing.crossed:
        return np.ascontiguousarray(operands[0]), packing.numbers(cross)
    t = packing.parameters.plain_prime
    product = multiply_add(operands[0], operands[-1], packing.numbers(cross), t)
    return (*(np.ascontiguousarray(part) for part in operands), product)
