"""Elementwise triples modulo a prime, made in bulk between two parties: no dealer, no OTs.

The client sends encryptions of uniform numbers a_c, b_c; the server multiplies by its own a_s, b_s,
re-randomises, masks and returns; both hold shares of the cross terms and add their own product.
docs/security.md, "Why a body modulo Q / t hides the rows".
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from he_linear.exact.slot_encryption import (
    slot_encrypt,
    slot_mask_for_client,
    slot_parameters,
    slot_parse,
    slot_unmask,
)
from he_linear.exact.slot_parameters import SLOT_SETS, SlotParameters
from he_linear.kernels.scalars import Residues
from he_linear.packings.element_triples import ElementTriplesPacking
from he_linear.packings.scaled_rows import ScaledRowsPacking
from hybrid.operators.exact_rows import RowsClient, RowsParty, RowsServer
from mpc_nonlinear.blocks.prime_arithmetic import multiply_add
from mpc_nonlinear.correlations.preprocessing import Prepared
from mpc_nonlinear.cost import NO_COST, Cost, Demand, Form, Kind
from transport.channel import Channel
from transport.computing import Trip, Work, add_units, scale_units, units
from transport.errors import ParameterError
from transport.traffic import FRAME_HEADER_BYTES, Traffic

TRIPLE_PARAMETERS = SLOT_SETS["n8192_t44"]
"""Its plain prime is the modulus of all triples; rows in exact slots have the same keys."""
_BLOCKS = 8
"""Results of one frame: memory stays below 50 MB, and each party works while others travel."""
_BLOCK_NAME = "triples in exact slots"


def stored_part(demand: Demand) -> Demand:
    """What of a demand `make_triples` makes."""
    return Demand(tuple((kind, count) for kind, count in demand.counts if kind.form.is_stored))


def _frames(
    demand: Demand, parameters: SlotParameters
) -> Iterator[tuple[Kind, ElementTriplesPacking]]:
    """Every kind in turn, in parts of whole ciphertexts but for the last of its kind.

    Of scaled rows in parts of whole rows, with ciphertexts of their own.
    """
    size = _BLOCKS * parameters.poly_degree
    for kind, count in stored_part(demand).counts:
        if kind.shape != (parameters.plain_prime,):
            raise ParameterError(
                f"triples modulo {kind.shape[0]}: the keys are for {parameters.plain_prime}; give "
                "products by triples the plain prime of the keys' parameters"
            )
        if kind.form is Form.PRIME_SCALED_ROW:
            rows = max(1, size // kind.width)
            for start in range(0, count, rows):
                part = min(rows, count - start)
                yield kind, ScaledRowsPacking(parameters, part, kind.width)
            continue
        forms = {"squares": Form.PRIME_SQUARE, "crossed": Form.PRIME_CROSS}
        chosen = {name: kind.form is form for name, form in forms.items()}
        for start in range(0, count, size):
            part = min(size, count - start)
            yield kind, ElementTriplesPacking(parameters, part, **chosen)


def triples_cost(demand: Demand, parameters: SlotParameters = TRIPLE_PARAMETERS) -> Cost:
    """Of `make_triples`: exact traffic, the chance that any product is wrong. 2 rounds or none.

    The work is counted, but not in units that `hybrid calibrate` prices yet.
    """
    packings = [packing for _, packing in _frames(demand, parameters)]
    if not packings:
        return NO_COST
    frames = len(packings)
    up = sum(p.upload_bytes for p in packings)
    down = sum(p.download_bytes for p in packings)
    inputs = sum(p.input_ciphertexts for p in packings)
    outputs = sum(p.output_ciphertexts for p in packings)
    named = packings[0].unit
    own = units(
        prime_multiply_add=sum(p.count * p.output_ciphertexts // p.blocks for p in packings)
    )
    trip = Trip(
        units({named("slot_encrypt"): inputs}),
        (),
        units({named("slot_parse"): inputs}),
        (),
        add_units(*(p.work.leaving for p in packings), units({named("slot_mask"): outputs})),
        add_units(units({named("slot_unmask"): outputs}), own),
        scale_units(own, 1.0),
        frames,
        frames,
        up + frames * FRAME_HEADER_BYTES,
        down + frames * FRAME_HEADER_BYTES,
        stages=frames,
    )
    failing = Cost.failing(_BLOCK_NAME, sum(p.wrong_probability for p in packings))
    return failing + Cost(Traffic(up, down, frames, frames, 2), work=Work((trip,)))


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


_Frames = list[tuple[Kind, ElementTriplesPacking]]
_Made = Iterator[tuple[Kind, tuple[Residues, ...]]]


def _client(frames: _Frames, party: RowsClient, channel: Channel) -> _Made:
    """Ask for everything, then read the answers."""
    drawn = []
    for _, packing in frames:
        message, uniform = slot_encrypt(packing.input_ciphertexts, party.keys, party.randomness)
        operands = packing.operands_of(uniform)
        if isinstance(packing, ScaledRowsPacking):
            factors = packing.draw_factors(party.randomness)
            message += packing.differences(factors, operands[1])
            operands[1] = packing.spread(factors).reshape(-1)
        channel.send(message)
        drawn.append(operands)
    for (kind, packing), operands in zip(frames, drawn, strict=True):
        answer = channel.recv(packing.download_bytes)
        cross = slot_unmask(answer, packing.output_ciphertexts, party.keys)
        yield kind, _completed(packing, operands, operands[-1], cross)


def _server(frames: _Frames, party: RowsServer, channel: Channel) -> _Made:
    """Answer each frame as it comes."""
    for kind, packing in frames:
        upload = channel.recv(packing.upload_bytes)
        moved: Residues | int = 0
        if isinstance(packing, ScaledRowsPacking):
            end = len(upload) - packing.difference_bytes
            upload, moved = upload[:end], packing.parse_differences(upload[end:])
        ciphertexts = slot_parse(upload, packing.input_ciphertexts, packing.parameters)
        own = packing.draw(party.randomness)
        results = packing.stream(ciphertexts, own)
        answer, cross = slot_mask_for_client(results, party.keys, party.randomness)
        channel.send(answer)
        operands = packing.operands_of(own)
        # What is encrypted is the client's part of b less the difference it sent.
        factor = (operands[-1] + np.uint64(moved)) % np.uint64(packing.parameters.plain_prime)
        yield kind, _completed(packing, operands, factor, cross)


def _completed(
    packing: ElementTriplesPacking, operands: list[Residues], factor: Residues, cross: Residues
) -> tuple[Residues, ...]:
    """This party's shares of the operands and of their product, (count,) each; or of scaled rows.

    factor: what its first operand takes for the product.
    """
    if isinstance(packing, ElementTriplesPacking) and packing.crossed:
        return np.ascontiguousarray(operands[0]), packing.numbers(cross)
    t = packing.parameters.plain_prime
    if not isinstance(packing, ScaledRowsPacking):
        product = multiply_add(operands[0], factor, packing.numbers(cross), t)
        return (*(np.ascontiguousarray(part) for part in operands), product)
    a, b = (part.reshape(packing.rows, packing.width) for part in operands)
    of_products, of_squares = packing.numbers_of_both(cross)
    product = multiply_add(operands[0], factor, of_products, t)
    squares = multiply_add(operands[0], operands[0], of_squares, t).reshape(a.shape)
    total = squares.sum(axis=-1, dtype=np.uint64) % np.uint64(t)
    copies = np.ascontiguousarray(a), np.ascontiguousarray(b[:, 0])
    return (*copies, product.reshape(a.shape), total)
