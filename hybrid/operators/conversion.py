"""One trip of shares into ciphertexts and back, as public data: sizes, traffic, work, failures.

Question and answer travel in several frames, so that the parties work at the same time. The trip
itself is made by `hybrid.operators.homomorphic`; docs/architecture.md, "Conversions", says
what is encrypted, masked and lifted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

from he_linear.ckks import ciphertexts as he
from he_linear.ckks.canonical_embedding import WRAP_BITS
from he_linear.ckks.parameters import CkksParameters
from he_linear.packings.evaluation_work import NO_EVALUATION, EvaluationWork, unit
from mpc_nonlinear.blocks.oblivious_transfer import correlated_ot_cost
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from transport.computing import Trip, Units, Work, add_units, units
from transport.traffic import Party, Traffic

COEFFICIENTS = "lift of a ciphertext's coefficients"
"""How a plan calls the block that `Conversion.exact` makes exact."""


@dataclass(frozen=True, slots=True)
class Operand:
    """One packed operand: integer slots of this party's share, shape (ciphertexts, slots)."""

    real: RingArray
    imag: RingArray | None
    scale: float
    """Multiplier of the integers at encoding."""

    def part(self, start: int, count: int) -> Operand:
        """Some of its ciphertexts."""
        rows = slice(start, start + count)
        imag = None if self.imag is None else self.imag[rows]
        return Operand(self.real[rows], imag, self.scale)


def _sizes(count: int, frames: int) -> list[int]:
    """`count` ciphertexts over `frames` frames, the first ones larger by at most one."""
    return [count // frames + (i < count % frames) for i in range(frames)]


@dataclass(frozen=True, slots=True)
class Conversion:
    """Public description of one trip into ciphertexts and back."""

    parameters: CkksParameters
    """At the level of the operands."""
    inputs: tuple[int, ...]
    """Ciphertexts of each operand."""
    outputs: int
    scale: float
    """Message scale of the result modulo Q, before the switch to 2^64."""
    fraction_bits: int
    """Of the result: what the decoded slots are multiplied with. Fewer bits divide it."""
    input_fraction_bits: int = 16
    """Of the shares that are lifted."""
    parts: int = 1
    """2 where real and imaginary parts of the result both carry numbers."""
    up_frames: int = 1
    down_frames: int = 1
    exact: bool = False
    """Whether the results' lifts never fail, at the price of a short OT a coefficient and a round;
    see `hybrid.operators.exact_lift`."""

    def uploads(self) -> list[list[int]]:
        """Ciphertexts of every operand in each frame of the question."""
        split = [_sizes(count, self.up_frames) for count in self.inputs]
        return [list(counts) for counts in zip(*split, strict=True)]

    def downloads(self) -> list[int]:
        """Ciphertexts in each frame of the answer."""
        return _sizes(self.outputs, self.down_frames)

    def upload_bytes(self, counts: Sequence[int]) -> int:
        """One frame of the question."""
        return sum(he.encrypted_bytes(n, self.parameters) for n in counts)

    def traffic(self) -> Traffic:
        """Exact: one round each way."""
        up = [self.upload_bytes(counts) for counts in self.uploads()]
        down = [he.masked_bytes(count, self.parameters) for count in self.downloads()]
        return Traffic(sum(up), sum(down), len(up), len(down), 2)

    def unit(self, operation: str, *, base: bool = False) -> str:
        """Name of a unit of work at the level of the operands, or of the results."""
        p = self.parameters.base if base else self.parameters
        return unit(operation, p.poly_degree, len(p.primes))

    @property
    def back_units(self) -> Units:
        """What both parties do with every returned ciphertext: decode."""
        return units({self.unit("decode", base=True): self.outputs})

    def work(self, evaluation: EvaluationWork, *, own: bool = True) -> Work:
        """Counted work of a trip; own: whether the server adds its share, and decodes its mask."""
        count, traffic = sum(self.inputs), self.traffic()
        encoded = units({self.unit("encode"): count})
        masked = units({self.unit("mask", base=True): self.outputs})
        trip = Trip(
            add_units(encoded, units({self.unit("encrypt"): count})),
            encoded if own else (),
            add_units(units({self.unit("parse"): count}), evaluation.arriving),
            evaluation.between,
            add_units(masked, evaluation.leaving),
            add_units(units({self.unit("unmask", base=True): self.outputs}), self.back_units),
            self.back_units if own else (),
            len(self.uploads()),
            len(self.downloads()),
            traffic.client_sent_bytes,
            traffic.server_sent_bytes,
            evaluation.stages,
        )
        return Work((trip,))

    def cost(
        self,
        input_rms_counts: Sequence[tuple[float, int]],
        output_rms: float,
        evaluation: EvaluationWork = NO_EVALUATION,
    ) -> Cost:
        """Traffic, work and failure probability, given (rms, count) of the real inputs.

        An estimate from calibrated magnitudes, as good as they are.

        An element x fails its lift with |x| / 2^64, an output ciphertext with
        sqrt(N) * scale * rms(slot) / 2^64.
        """
        lifts = sum(rms * count for rms, count in input_rms_counts) * 2.0**self.input_fraction_bits
        trip = Cost(self.traffic(), work=self.work(evaluation))
        inputs = trip + Cost.failing("lift of shares into a ciphertext", lifts * 2.0**-64)
        if self.exact:
            return inputs + self.exact_lift_cost(output_rms)
        return inputs + Cost.failing(COEFFICIENTS, self._lift_failure(output_rms))

    def _lift_failure(self, output_rms: float) -> float:
        """Of all outputs' coefficients modulo 2^64."""
        switched = he.switched_scale(self.scale, self.parameters)
        return he.lift_failure(
            self.outputs, self.parameters, switched, sqrt(self.parts) * output_rms
        )

    def exact_lift_cost(self, output_rms: float) -> Cost:
        """Of `exact_lift.lift_exactly` for all outputs, whose slots have this magnitude."""
        count = self.outputs * self.parameters.poly_degree
        ots = correlated_ot_cost(count, WRAP_BITS, Party.SERVER)
        return ots + Cost.failing(
            f"{COEFFICIENTS}, modulo 2^96", self._lift_failure(output_rms) * 2.0**-WRAP_BITS
        )
