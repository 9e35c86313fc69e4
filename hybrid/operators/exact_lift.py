"""The way back from ciphertexts without failures of the lift, at the price of one short OT each.

The centred lift of two shares modulo 2^64 is wrong with probability |m| / 2^64 for a coefficient m.
Here the parties compute whether their shares wrap, as shares modulo 2^32, and so hold m modulo
2^96: the lift of that is wrong with |m| / 2^96, at most 2^-34. It can only be negligible, never
zero: shares of an integer hide it only modulo something.

What the parties send is masked: the client's choice bit, which comes from a decryption, by a random
choice bit of which the server knows nothing; the server's corrections by pads, of which the client
knows one each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.canonical_embedding import WRAP_BITS
from hybrid.operators.conversion import Conversion
from mpc_nonlinear.blocks.oblivious_transfer import (
    correlated_ot_receive,
    correlated_ot_send,
)
from mpc_nonlinear.blocks.session import Session
from mpc_nonlinear.fixed_point import RING_BITS, RingArray
from transport.traffic import Party

_OFFSET_BITS = RING_BITS - 2
"""|m| must stay below 2^62, so that m + 2^62 has a known sign."""


@dataclass(frozen=True, slots=True)
class WideShare:
    """A share of integers modulo 2^96, centred: 2^64 tops + words, both of one shape."""

    tops: NDArray[np.int64]
    words: RingArray


def lift_exactly(coefficients: RingArray, session: Session) -> WideShare:
    """Shares modulo 2^96 of coefficients |m| < 2^62, from shares modulo 2^64; same shape.

    With an offset m' = m + 2^62 is below 2^63, so that its shares wrap exactly unless both top
    bits are zero: one correlated OT of 32 bits from the server. 1 round. The known sign is that
    of [Huang22] Cheetah, eprint 2022/207, Section 4.2.
    """
    words = coefficients.reshape(-1)
    server = session.party is Party.SERVER
    if server:
        words = words + np.uint64(1 << _OFFSET_BITS)
    top_is_zero = np.uint64(1) - (words >> np.uint64(RING_BITS - 1))
    if server:
        tops = correlated_ot_send(top_is_zero, WRAP_BITS, session)
        # m' = sum of words - 2^64 (1 - both); m = m' - 2^62, with a borrow from the upper word.
        raised, words = words, words - np.uint64(1 << _OFFSET_BITS)
        tops = tops - np.uint64(1) - (raised < words)
    else:
        tops = correlated_ot_receive(top_is_zero.astype(np.uint8), WRAP_BITS, session)
    spare = np.uint64(RING_BITS - WRAP_BITS)
    centred = (tops << spare).view(np.int64) >> spare.view(np.int64)
    return WideShare(centred.reshape(coefficients.shape), words.reshape(coefficients.shape))


def decode_exactly(share: WideShare, conversion: Conversion) -> tuple[RingArray, RingArray]:
    """Shares modulo 2^64 of real and imaginary slots of wide coefficients (n, N). Local.

    Both parties' results add up to the slots within one unit, for switched scales from 2^24 on.
    """
    scale = he.switched_scale(conversion.scale, conversion.parameters)
    return he.decode_coefficients(
        share.words, scale, conversion.fraction_bits, conversion.parameters, share.tops
    )
