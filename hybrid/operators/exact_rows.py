"""Rows of linear layers prepared for single tokens: rho W modulo a prime t, many rows at once.

Offline, `prepare_rows`: the client sends encryptions of uniform rows rho, the server multiplies by
its weights, re-randomises, masks and returns; both hold shares of rho W modulo t. Online,
`rows_product_online`: the client sends its share minus rho, uniform, the server multiplies
integers. `rows_result` brings the product back modulo 2^64, truncated.

Centred lifts of shares modulo 2^64 are shares over the integers, so shares modulo t too: wrong for
an element x with probability |x| / 2^64. docs/security.md, "Why a body modulo Q / t hides the
rows".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from he_linear.ckks.keys import ClientKeys, ServerKeys
from he_linear.exact.slot_encryption import (
    slot_encrypt,
    slot_mask_for_client,
    slot_parse,
    slot_unmask,
)
from he_linear.exact.slot_parameters import SlotParameters
from he_linear.kernels.row_products import IntegerMatrix
from he_linear.packings.exact_rows import ExactRowsPacking
from he_linear.packings.row_blocks import Room
from hybrid.operators.pads import LinearPad
from mpc_nonlinear.blocks.prime_shares import (
    from_prime,
    from_prime_cost,
    from_prime_error_units,
    from_prime_limit,
    to_prime,
)
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from transport.bitpack import pack_bits, packed_bytes, unpack_bits
from transport.channel import Channel
from transport.computing import Trip, Work, add_units, units
from transport.errors import FrameError, ParameterError, UsageError
from transport.randomness import SecureRandom
from transport.traffic import FRAME_HEADER_BYTES, Party, Traffic


@dataclass(frozen=True)
class RowsClient:
    """The client's secret key and randomness."""

    keys: ClientKeys
    randomness: SecureRandom


@dataclass(frozen=True)
class RowsServer:
    """The server's evaluation keys, randomness and working memory, for all layers."""

    keys: ServerKeys
    randomness: SecureRandom
    room: Room


RowsParty = RowsClient | RowsServer


def prepare_traffic(packing: ExactRowsPacking) -> Traffic:
    """Of `prepare_rows`: one frame each way, 2 rounds."""
    return Traffic(packing.upload_bytes, packing.download_bytes, 1, 1, 2)


def prepare_cost(packing: ExactRowsPacking) -> Cost:
    """Of `prepare_rows`: exact traffic, the chance that any result is wrong, what hints tell."""
    p, inputs, returned = packing, packing.input_ciphertexts, packing.output_ciphertexts
    trip = Trip(
        units({p.unit("slot_encrypt"): inputs}),
        (),
        add_units(units({p.unit("slot_parse"): inputs}), p.work.arriving),
        p.work.between,
        add_units(p.work.leaving, units({p.unit("slot_mask"): returned})),
        units({p.unit("slot_unmask"): returned}),
        (),
        1,
        1,
        p.upload_bytes + FRAME_HEADER_BYTES,
        p.download_bytes + FRAME_HEADER_BYTES,
    )
    return Cost(
        prepare_traffic(p),
        failure_probability=p.wrong_probability,
        work=Work((trip,)),
        distance_squares=p.hint_distance**2,
    )


def prepare_rows(
    packing: ExactRowsPacking,
    party: RowsParty,
    channel: Channel,
    weights: IntegerMatrix | None = None,
    *,
    layer: str = "linear",
) -> list[LinearPad]:
    """Offline: pads for `packing.tokens` future tokens, each for one use. 2 rounds.

    The client's pad is rho (in,), uniform modulo t, and its share of rho W (out,); the server's its
    share. weights: the server's. Wrong with `packing.wrong_probability`. The server learns nothing
    of rho, the client nothing of W.
    """
    channel.next_round()
    if isinstance(party, RowsClient):
        message, drawn = slot_encrypt(packing.input_ciphertexts, party.keys, party.randomness)
        channel.send(message)
        answer = channel.recv(packing.download_bytes)
        share = slot_unmask(answer, packing.output_ciphertexts, party.keys)
        rows = zip(packing.rows_in(drawn), packing.rows_out(share), strict=True)
        return [LinearPad(layer, rho.copy(), own.copy()) for rho, own in rows]
    weights = _owned(weights)
    upload = channel.recv(packing.upload_bytes)
    ciphertexts = slot_parse(upload, packing.input_ciphertexts, packing.parameters)
    results = packing.stream(ciphertexts, weights, party.keys, party.room)
    answer, masks = slot_mask_for_client(results, party.keys, party.randomness)
    channel.send(answer)
    return [LinearPad(layer, mask.copy()) for mask in packing.rows_out(masks)]


def rows_product_traffic(d_in: int, parameters: SlotParameters, tokens: int = 1) -> Traffic:
    """Of `rows_product_online` for so many tokens: one frame, nothing comes back."""
    return Traffic.message(Party.CLIENT, packed_bytes(tokens * d_in, parameters.plain_bits))


def rows_product_online(
    x: RingArray,
    pads: Sequence[LinearPad],
    parameters: SlotParameters,
    channel: Channel,
    weights: IntegerMatrix | None = None,
) -> RingArray:
    """Online: shares modulo t of x W, (tokens, out), for shares x (tokens, in) modulo 2^64.

    The client sends x_c - rho modulo t, uniform; the server's share is (x_c - rho + x_s) W plus
    its share of rho W. One pad for each token, of the same places in both parties' lists; pads are
    consumed before anything is sent, a second use raises UsageError. Exact modulo t where x lifts.
    1 round, however many tokens.
    """
    t, bits = np.uint64(parameters.plain_prime), parameters.plain_bits
    first, *others = (np.stack(parts) for parts in zip(*(p.take() for p in pads), strict=True))
    client = channel.party is Party.CLIENT
    width = first.shape[1] if client else _owned(weights).shape[0]
    if x.shape != (len(pads), width):
        raise UsageError(
            f"prepared rows: input of shape {x.shape}; the pads are for {(len(pads), width)}"
        )
    lifted = to_prime(x, parameters.plain_prime)
    channel.next_round()
    if client:
        channel.send(pack_bits((lifted + t - first) % t, bits))
        (share,) = others
        return share
    opened = unpack_bits(channel.recv(packed_bytes(x.size, bits)), x.size, bits)
    if opened.max() >= t:
        raise FrameError("prepared rows: a word exceeds the plain prime; the frame is corrupt")
    product = _owned(weights).rows_times((opened.reshape(x.shape) + lifted) % t, int(t))
    result: RingArray = (product + first) % t
    return result


def rows_result(
    shares: RingArray, parameters: SlotParameters, shift: int, session: Session
) -> RingArray:
    """Shares modulo 2^64 of y / 2^shift, same shape, from shares modulo t of |y| < t / 4. 1 round.

    Off by less than `rows_error_units`.
    """
    return from_prime(shares, parameters.plain_prime, shift, session)


def rows_error_units(parameters: SlotParameters, shift: int) -> float:
    """Bound on `rows_result`'s error, in units of its result."""
    return from_prime_error_units(parameters.plain_prime, shift)


def check_rows_range(
    max_abs: float, fraction_bits: int, parameters: SlotParameters, shift: int
) -> None:
    """Refuse results y, real numbers up to `max_abs`, that t has no room for.

    fraction_bits: of the product, those of the input and of the weights together.
    """
    limit = from_prime_limit(parameters.plain_prime, shift) * 2.0**-fraction_bits
    if not max_abs < limit:
        raise ParameterError(
            f"exact rows: results up to {max_abs:g} at {fraction_bits} fraction bits; a plain "
            f"prime of {parameters.plain_bits} bits has room below {limit:g}; use fewer bits"
        )


def rows_online_cost(
    shape: tuple[int, int, int],
    parameters: SlotParameters,
    input_rms: float,
    fraction_bits: int,
) -> Cost:
    """Of `rows_product_online` and `rows_result` together, shape (tokens, in, out): 2 rounds.

    input_rms: of the input, a real number with `fraction_bits`: its lift fails with |x| / 2^64.
    """
    tokens, d_in, d_out = shape
    failure = tokens * d_in * input_rms * 2.0 ** (fraction_bits - RING_BITS)
    weights = d_in * d_out
    counts = units(short_multiply_add=tokens * weights, short_weight=weights, call_short_product=1)
    product = Cost.of(rows_product_traffic(d_in, parameters, tokens), counts=counts)
    return replace(product, failure_probability=failure) + from_prime_cost(tokens * d_out)


def _owned(weights: Any) -> IntegerMatrix:
    if not isinstance(weights, IntegerMatrix):
        raise UsageError("prepared rows: the server passes its weights")
    return weights
