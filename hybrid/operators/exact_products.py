"""Exact products modulo 2^l between two parties: linear layers and products of shared matrices.

One question, one answer: the client encrypts its shares, the server multiplies by its weights or
shares, re-randomises, rounds, masks by words uniform modulo 2^l and returns; what both hold on
their own they multiply on their own. The result is at the sum of both operands' fraction bits
and off by one in its last bit with the packing's `off_by_one_probability`; one
`mpc_nonlinear.blocks.truncate` follows where l is 64. The server's shares are l-bit words as the
client's; bits above l are ignored in operands and zero in results.

Single tokens: `prepare_rows` computes rows rho W for many future tokens at once; online the
client sends its share minus rho, 8 bytes a real. docs/architecture.md, "Offline and online".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from he_linear.exact.ring_encryption import (
    ring_encrypt,
    ring_mask_for_client,
    ring_parse,
    ring_unmask,
)
from he_linear.exact.ring_keys import RingClientKeys, RingServerKeys
from he_linear.kernels.ring_words import ring_matmul
from he_linear.kernels.scalars import Integers
from he_linear.packings.ring_base import RingLinearPacking, RingPacking, RingProductPacking
from hybrid.operators.pads import LinearPad
from mpc_nonlinear.fixed_point import RING_BITS, RING_BYTES, RingArray
from transport.bitpack import low_mask
from transport.channel import Channel
from transport.computing import Trip, Units, Work, units
from transport.errors import UsageError
from transport.randomness import SecureRandom
from transport.traffic import FRAME_HEADER_BYTES, Party, Traffic


@dataclass(frozen=True)
class RingClient:
    """The client's secret key and randomness."""

    keys: RingClientKeys
    randomness: SecureRandom


@dataclass(frozen=True)
class RingServer:
    """The server's evaluation keys and randomness."""

    keys: RingServerKeys
    randomness: SecureRandom


RingParty = RingClient | RingServer


@dataclass(frozen=True)
class ExactWeights:
    """The server's integers (in, out): plain, and encoded for one packing."""

    integers: RingArray
    encoded: Any
    square_sum: float
    """For `RingPacking.off_by_one_probability`."""

    @classmethod
    def encode(cls, weights: Integers, packing: RingLinearPacking) -> ExactWeights:
        """Transformed once, `packing.encoded_bytes` of memory."""
        integers = np.ascontiguousarray(weights, np.int64)
        encoded = packing.encode_weights(integers)
        return cls(integers.view(np.uint64), encoded, packing.square_sum(integers))


def exact_traffic(packing: RingPacking) -> Traffic:
    """Of `exact_linear`, `exact_matmul` and `prepare_rows`: one frame each way, 2 rounds."""
    return Traffic(packing.upload_bytes, packing.download_bytes, 1, 1, 2)


def exact_work(packing: RingPacking, own: Units) -> Work:
    """Counted work of the same; own: what the server does with its share or weights."""
    inputs, returned = sum(packing.operand_ciphertexts), packing.output_ciphertexts
    counts = {
        name: units({packing.unit(name): count, f"{name}_result": packing.useful.size})
        for name, count in (("mask", returned), ("unmask", returned))
    }
    trip = Trip(
        units({packing.unit("encrypt"): inputs}),
        own,
        units({packing.unit("parse"): inputs}),
        packing.work,
        counts["mask"],
        counts["unmask"],
        (),
        1,
        1,
        packing.upload_bytes + FRAME_HEADER_BYTES,
        packing.download_bytes + FRAME_HEADER_BYTES,
    )
    return Work((trip,))


def exact_linear(
    x: RingArray,
    packing: RingLinearPacking,
    party: RingParty,
    channel: Channel,
    weights: ExactWeights | None = None,
) -> RingArray:
    """Shares of X W modulo 2^l, (tokens, out), for shares x (tokens, in); weights: server only.

    Off by one in the last bit with the declared probability. 2 rounds.
    """
    if isinstance(party, RingClient):
        return _ask(packing.pack(x), packing, party, channel)
    weights = _owned(weights)
    own = ring_matmul(x, weights.integers)
    return _reduced(own + _answer(packing, weights.encoded, party, channel), packing)


def exact_matmul(
    a: RingArray, b: RingArray, packing: RingProductPacking, party: RingParty, channel: Channel
) -> RingArray:
    """Shares of A B modulo 2^l, (batch, rows, columns), for shares a and b of both.

    a (batch, rows, inner), b (batch, inner, columns). Off by one in the last bit with the
    declared probability. 2 rounds.
    """
    if isinstance(party, RingClient):
        cross = _ask(packing.pack(a, b), packing, party, channel)
    else:
        # Encoded before the upload arrives, while the client is busy with the same work.
        cross = _answer(packing, packing.encode(a, b), party, channel)
    return _reduced(cross + ring_matmul(a, b), packing)


def prepare_rows(
    packing: RingLinearPacking,
    party: RingParty,
    channel: Channel,
    weights: ExactWeights | None = None,
    *,
    layer: str = "linear",
) -> list[LinearPad]:
    """Offline: pads for `packing.tokens` future tokens, each for one use. 2 rounds.

    rho is uniform modulo 2^64. The client keeps rho and its share of rho W, the server its share
    of rho W; the server learns nothing of rho, the client nothing of W.
    """
    if packing.parameters.plain_bits != RING_BITS:
        raise UsageError(
            f"{layer}: pads need products modulo 2^{RING_BITS}, the set has "
            f"{packing.parameters.plain_bits} bits; choose a set of {RING_BITS} bits"
        )
    if isinstance(party, RingClient):
        rho = party.randomness.uint64((packing.tokens, packing.d_in))
        own = _ask(packing.pack(rho), packing, party, channel)
        return [
            LinearPad(layer, row.copy(), share.copy()) for row, share in zip(rho, own, strict=True)
        ]
    masks = _answer(packing, _owned(weights).encoded, party, channel)
    return [LinearPad(layer, mask.copy()) for mask in masks]


def prepared_traffic(d_in: int) -> Traffic:
    """Of `exact_linear_prepared`: one frame, nothing comes back."""
    return Traffic.message(Party.CLIENT, RING_BYTES * d_in)


def exact_linear_prepared(
    x: RingArray, pad: LinearPad, channel: Channel, weights: ExactWeights | None = None
) -> RingArray:
    """Online: shares of x W modulo 2^64, (out,), for shares x (in,) of one token. 1 round.

    The client sends x_c - rho, uniform; the server's share is (x_c - rho + x_s) W plus its share
    of rho W, an integer product. Both parties pass pads of the same place in their lists; a pad
    is consumed before anything is sent, a second use raises UsageError.
    """
    contents = pad.take()
    channel.next_round()
    if channel.party is Party.CLIENT:
        rho, share = contents
        if x.shape != rho.shape:
            raise UsageError(f"prepared product: input of shape {x.shape}, pad of {rho.shape}")
        channel.send_array(x - rho)
        return share
    integers = _owned(weights).integers
    (mask,) = contents
    opened = channel.recv_array(x.shape, np.uint64)
    result: RingArray = mask + ring_matmul((opened + x)[None], integers)[0]
    return result


def _owned(weights: ExactWeights | None) -> ExactWeights:
    if weights is None:
        raise UsageError("exact linear layer: the server passes its weights")
    return weights


def _ask(
    polynomials: RingArray, packing: RingPacking, client: RingClient, channel: Channel
) -> RingArray:
    channel.next_round()
    channel.send(ring_encrypt(polynomials, client.keys, client.randomness))
    answer = channel.recv(packing.download_bytes)
    return ring_unmask(answer, packing.output_ciphertexts, packing.useful, client.keys)


def _answer(packing: RingPacking, operand: Any, server: RingServer, channel: Channel) -> RingArray:
    """`operand`: what the packing's `evaluate` takes besides ciphertexts."""
    channel.next_round()
    upload = channel.recv(packing.upload_bytes)
    ciphertexts = ring_parse(upload, sum(packing.operand_ciphertexts), packing.parameters)
    result = packing.evaluate(ciphertexts, operand, server.keys)
    message, mask = ring_mask_for_client(result, packing.useful, server.keys, server.randomness)
    channel.send(message)
    return mask


def _reduced(words: RingArray, packing: RingPacking) -> RingArray:
    reduced: RingArray = words & low_mask(packing.parameters.plain_bits)
    return reduced
