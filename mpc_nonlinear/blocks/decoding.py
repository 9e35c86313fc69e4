"""The next token from shared logits: greedy, or sampled with a temperature among the k largest.

Nobody sees logits, probabilities or the random number; only the client learns the token.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2, prod

import numpy as np

from mpc_nonlinear.blocks.bit_triples import and_bits, and_cost
from mpc_nonlinear.blocks.compare import (
    Width,
    carry,
    carry_cost,
    less_than_zero,
    less_than_zero_cost,
)
from mpc_nonlinear.blocks.extrema import (
    argmax,
    argmax_cost,
    maximum,
    maximum_cost,
    widened,
    widened_cost,
)
from mpc_nonlinear.blocks.functions import CLIP, EXPONENTIAL
from mpc_nonlinear.blocks.local import scale, scale_cost
from mpc_nonlinear.blocks.ot_products import OtProducts
from mpc_nonlinear.blocks.products import Bounds
from mpc_nonlinear.blocks.select import (
    bit_to_arithmetic,
    bit_to_arithmetic_cost,
    select,
    select_cost,
)
from mpc_nonlinear.blocks.session import Context, Session
from mpc_nonlinear.blocks.top_k import top_k_mask, top_k_mask_cost
from mpc_nonlinear.cost import NO_COST, Cost
from mpc_nonlinear.fixed_point import FloatArray, RingArray
from transport.errors import UsageError
from transport.traffic import Party

MAX_CANDIDATES = 256
"""Each candidate's probability is off by up to 2^-13 before it is normalised."""
_UNIFORM_BITS = 24
_LARGEST_TERM = 1.5
"""No exponential exceeds this, however the maximum is missed."""


@dataclass(frozen=True, slots=True)
class GreedyDecoding:
    """Places of the largest logits, (...,) from logits (..., vocabulary), |logit| <= bound.

    Of equal logits the first. Exact; with a step, among logits less than two steps below the
    largest: shorter numbers are compared, with fewer oblivious transfers.
    """

    bound: float
    step: float = 0.0
    """Zero or a power of two: logits are rounded down to multiples of it, by each party's share."""

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Exact messages and correlations."""
        return argmax_cost(prod(shape[:-1]), shape[-1], self._largest(context))

    def _dropped(self, context: Context) -> int:
        """Low bits that are not compared."""
        return max(0, round(log2(self.step / context.fixed_point.unit))) if self.step else 0

    def _largest(self, context: Context) -> int:
        dropped = self._dropped(context)
        # Both shares rounded down lose less than two steps.
        return (ceil(self.bound / context.fixed_point.unit) >> dropped) + 2 * bool(dropped)

    def run(self, logits: RingArray, session: Session) -> RingArray:
        """Shares of the places, integers modulo 2^64; open them to the client."""
        dropped = np.uint64(self._dropped(session.context))
        return argmax(logits >> dropped, self._largest(session.context), session)[1]


@dataclass(frozen=True, slots=True)
class TemperatureSampling:
    """Places drawn from softmax(logits / temperature) over the k largest logits of each row.

    Logits equal to the k-th all take part. A uniform number of 24 bits, the sum modulo 1 of one
    from each party, is compared with all cumulative sums of exponentials: neither party can bias
    it nor knows it, and the draw has the exact distribution of the fixed-point exponentials
    (inverse transform sampling, [Devroye86] Chapter II.2). Total variation distance from softmax:
    at most candidates * 2^-13 in the root mean square, of slots candidates * 2^-12; terms below
    e^-12 of the largest count as zero.
    """

    bound: float
    """Largest |logit|."""
    temperature: float = 1.0
    top_k: int | None = None
    """None: every logit of a vocabulary of at most 256."""
    rms: float | None = None
    """Root mean square of logits, which their lifts fail by; None: as if all were the largest."""

    def __post_init__(self) -> None:
        if not 2.0**-10 <= self.temperature <= 2.0**10:
            raise UsageError(
                f"sampling: temperature {self.temperature:g}; use 2^-10 to 2^10 "
                "(for zero use greedy decoding)"
            )
        if self.top_k is not None and not 1 <= self.top_k <= MAX_CANDIDATES:
            raise UsageError(f"sampling: top_k {self.top_k}; use 1 to {MAX_CANDIDATES}")

    def reference(self, logits: FloatArray) -> FloatArray:
        """Probabilities (..., vocabulary) in the clear, float64."""
        x = logits / self.temperature
        kth = np.sort(logits, axis=-1)[..., -self._candidates(logits.shape[-1]), None]
        e = np.where(logits >= kth, np.exp(x - x.max(-1, keepdims=True)), 0.0)
        probabilities: FloatArray = e / e.sum(-1, keepdims=True)
        return probabilities

    def _candidates(self, vocabulary: int) -> int:
        if self.top_k is None and vocabulary > MAX_CANDIDATES:
            raise UsageError(
                f"sampling: a vocabulary of {vocabulary} needs top_k, {MAX_CANDIDATES} at most: "
                "small probabilities of so many would drown in rounding"
            )
        return vocabulary if self.top_k is None else min(self.top_k, vocabulary)

    def _filters(self, vocabulary: int) -> bool:
        return self._candidates(vocabulary) < vocabulary

    def _width(self, context: Context) -> Width:
        largest = 2 * self.bound / self.temperature + CLIP
        unit = context.fixed_point.unit
        return Width.covering(largest / unit, 17, 2.0**-6 / unit)

    def _logit_bits(self, context: Context) -> int:
        return ceil(log2(self.bound / context.fixed_point.unit + 1)) + 1

    @staticmethod
    def _sum_width(vocabulary: int, context: Context) -> Width:
        return Width.exact(ceil(2 * _LARGEST_TERM * vocabulary / context.fixed_point.unit))

    @staticmethod
    def _draw_bounds(vocabulary: int, context: Context) -> Bounds:
        # The uniform number's units are 2^-24, and it is read as if they were 2^-16.
        shift = _UNIFORM_BITS - context.fixed_point.fraction_bits
        total = _LARGEST_TERM * vocabulary
        return Bounds(total, 2.0**shift, total * 2.0**shift, shift, total * 2.0**shift)

    def cost(self, shape: tuple[int, ...], context: Context) -> Cost:
        """Exact messages and correlations for logits of this shape."""
        n, rows, vocabulary = prod(shape), prod(shape[:-1]), shape[-1]
        k, width = self._candidates(vocabulary), self._width(context)
        typical = self.bound if self.rms is None else self.rms
        cost = scale_cost(n, typical / context.fixed_point.unit)
        if self._filters(vocabulary):
            cost += top_k_mask_cost(rows, vocabulary, k, self._logit_bits(context))
            cost += and_cost(n)
        return (
            cost
            + maximum_cost(rows, vocabulary, width)
            + less_than_zero_cost(n, width)
            + select_cost(n)
            + context.products.polynomial_cost(n, EXPONENTIAL)
            + select_cost(n)
            + self._draw_cost(rows, vocabulary, context)
        )

    def run(self, logits: RingArray, session: Session) -> RingArray:
        """Shares of the drawn places, (...,), integers modulo 2^64; open them to the client."""
        vocabulary, fixed = logits.shape[-1], session.fixed_point
        is_client, width = session.party is Party.CLIENT, self._width(session.context)
        # 1. which logits take part
        scaled = scale(logits, 1 / self.temperature)
        highest = maximum(scaled, width, session)
        start = fixed.encode(CLIP if is_client else 0.0)
        raised = scaled - highest[..., None] + start
        kept = less_than_zero(raised, width, session) ^ np.uint8(is_client)
        if self._filters(vocabulary):
            k, bits = self._candidates(vocabulary), self._logit_bits(session.context)
            kept = and_bits(kept, top_k_mask(logits, k, bits, session), session)
        # 2. their exponentials; zero for all others
        z = select(kept, raised, session) - start
        e = select(kept, session.products.polynomial(z, EXPONENTIAL, session), session)
        # 3. the place of a uniform number among the cumulative sums
        return self._drawn(np.cumsum(e, axis=-1, dtype=np.uint64), session)

    def _draw_cost(self, rows: int, vocabulary: int, context: Context) -> Cost:
        if vocabulary == 1 or not rows:
            return NO_COST
        count, places = rows * (vocabulary - 1), _place_bits(vocabulary)
        exact = OtProducts(context.fixed_point.fraction_bits)
        return (
            carry_cost(rows, _UNIFORM_BITS)
            + bit_to_arithmetic_cost(rows)
            + exact.multiply_cost(rows, self._draw_bounds(vocabulary, context))
            + less_than_zero_cost(count, self._sum_width(vocabulary, context))
            + bit_to_arithmetic_cost(count, places)
            + widened_cost(rows, places)
        )

    def _drawn(self, sums: RingArray, session: Session) -> RingArray:
        """Shares of the number of cumulative sums, the last apart, that are <= u * total."""
        vocabulary, context = sums.shape[-1], session.context
        if vocabulary == 1 or not sums.size:
            return np.zeros(sums.shape[:-1], np.uint64)
        total = np.ascontiguousarray(sums[..., -1])
        if session.party is Party.SERVER:
            # The product may be rounded up, and must stay below the total.
            total = total - np.uint64(2)
        uniform = self._uniform(total.shape, session)
        exact = OtProducts(session.fixed_point.fraction_bits)
        drawn = exact.multiply(total, uniform, session, self._draw_bounds(vocabulary, context))
        above = drawn[..., None] - sums[..., :-1]
        width = self._sum_width(vocabulary, context)
        passed = less_than_zero(np.ascontiguousarray(above), width, session)
        passed ^= np.uint8(session.party is Party.CLIENT)
        places = _place_bits(vocabulary)
        count = bit_to_arithmetic(passed, session, places).sum(axis=-1, dtype=np.uint64)
        return widened(count, places, session)

    @staticmethod
    def _uniform(shape: tuple[int, ...], session: Session) -> RingArray:
        """Shares of uniform integers below 2^24: the sum modulo 2^24 of one from each party."""
        own = session.randomness.uint64(shape) & np.uint64((1 << _UNIFORM_BITS) - 1)
        carried = bit_to_arithmetic(carry(own, _UNIFORM_BITS, session), session)
        return own - (carried << np.uint64(_UNIFORM_BITS))


def _place_bits(vocabulary: int) -> int:
    return vocabulary.bit_length() + 2
