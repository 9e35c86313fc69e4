"""Elementwise products for the nonlinear protocols: in CKKS slots, or whichever is cheaper."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from he_linear.ckks.keys import ServerKeys
from he_linear.ckks.parameters import CkksParameters
from he_linear.packings.slot_polynomial import Circuit, SlotPolynomialPacking
from he_linear.packings.slot_product import SlotProductPacking
from hybrid.operators.conversion import Conversion, Operand
from hybrid.operators.homomorphic import Evaluate, HomomorphicParty, Uploads
from mpc_nonlinear.blocks.products import Bounds, FactoredPolynomial, ProductErrors
from mpc_nonlinear.blocks.session import Products, Session
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RING_BITS, RingArray

_PRODUCT_SCALE_BITS = 26
"""Scale, after the switch to 2^64, of a result of root mean square one; larger results get a
smaller scale, so that the chance of a wrong lift stays the same."""
_POLYNOMIAL_SCALE_BITS = 27
"""Of polynomials: their noise is larger, their ciphertexts are fewer."""
_RESULT_NOISE = 34.0
"""Standard deviation, in slots of N = 8192, of the noise that the way back leaves, in units of its
scale after the switch to 2^64; measured, experiments/benchmarks/error_table.py."""
_MEASURED_DEGREE = 8192
_ENCRYPTION_SIGMA = 3.2
POLYNOMIAL_PRODUCTS = 4
"""Products one after the other that the polynomials of the protocols take."""


@dataclass(frozen=True, slots=True)
class CkksProducts(Products):
    """Operands go to CKKS slots, are multiplied there and come back. 2 rounds.

    The truncation to fraction bits is part of the way back: docs/architecture.md,
    "Conversions".
    """

    name = "ckks"
    source = "[Cheon17] multiplication in CKKS slots, masked conversions of this project"
    max_error_units = 64
    uses_ckks = True

    parameters: CkksParameters
    """Of products."""
    deep: CkksParameters
    """Of polynomials."""
    fraction_bits: int
    exact: bool = False
    """Whether results' lifts never fail."""
    party: HomomorphicParty | None = None
    """This party's keys; absent while only costs are asked for."""

    def multiply_cost(self, count: int, bounds: Bounds) -> Cost:
        """Two encrypted operands up, one result down."""
        inputs = [(bounds.x_rms, count), (bounds.y_rms, count)]
        return self._cost(count, inputs, bounds)

    def square_cost(self, count: int, bounds: Bounds) -> Cost:
        """One encrypted operand up, one result down."""
        inputs = [(bounds.x_rms, count)]
        return self._cost(count, inputs, bounds)

    def _cost(self, count: int, inputs: list[tuple[float, int]], bounds: Bounds) -> Cost:
        work = SlotProductPacking(self.parameters, count).work
        conversion = self._conversion(count, len(inputs), bounds)
        return conversion.cost(inputs, bounds.product_rms, work).inside("product in slots")

    def errors(self, bounds: Bounds) -> ProductErrors:
        """Estimates: noise of both operands' encryptions under their scales, and of the way back.

        Scales follow from the bounds, so that small products among large ones are lost in noise.
        """
        first, second = self._operand_scale_bits(bounds)
        return self._errors(bounds, first, second)

    def square_errors(self, bounds: Bounds) -> ProductErrors:
        """The same of a square."""
        first, _ = self._operand_scale_bits(bounds)
        return self._errors(bounds, first, first)

    def _errors(self, bounds: Bounds, first: int, second: int) -> ProductErrors:
        degree = self.parameters.poly_degree
        # The real part of a slot sums N coefficients with weights of mean square one half.
        fresh = _ENCRYPTION_SIGMA * math.sqrt(degree / 2)
        switched = 2.0 ** (first + second + RING_BITS) / self.parameters.modulus
        back = _RESULT_NOISE * math.sqrt(degree / _MEASURED_DEGREE) / switched
        rounding = 0.5 * 2.0**-self.fraction_bits
        return ProductErrors(
            math.hypot(back * 2.0**-bounds.shift, rounding),
            fresh * 2.0**-first,
            fresh * 2.0**-second,
            bounds.shift,
            is_estimate=True,
        )

    def multiply(self, x: RingArray, y: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """Shares of x * y / 2^shift."""
        return self._run([x, y], session, bounds)

    def square(self, x: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """Shares of x * x / 2^shift."""
        return self._run([x], session, bounds)

    def polynomial_cost(self, count: int, polynomial: FactoredPolynomial) -> Cost:
        """One encrypted operand up, one result down, however many products."""
        packing, conversion, _ = self._polynomial(count, polynomial)
        inputs = [(polynomial.input_rms, count)]
        cost = conversion.cost(inputs, polynomial.output_rms, packing.work)
        return cost.inside("polynomial in slots")

    def polynomial(
        self, x: RingArray, polynomial: FactoredPolynomial, session: Session
    ) -> RingArray:
        """Shares of the polynomial's values: all products in one trip. 2 rounds."""
        assert self.party is not None
        packing, conversion, input_scale = self._polynomial(x.size, polynomial)
        # z = x / 2^input_shift has scale `input_scale`.
        scale = input_scale * 2.0 ** -(self.fraction_bits + polynomial.input_shift)
        operand = Operand(_packed(packing, x), None, scale)

        def evaluate(uploads: Uploads, keys: ServerKeys) -> Iterator[RingArray]:
            return keys.workers.map(
                lambda upload: packing.evaluate(upload[0], input_scale, keys), uploads
            )

        real, _ = self.party.apply([operand], conversion, evaluate, session)
        return packing.unpack(real).reshape(x.shape)

    def _polynomial(
        self, count: int, polynomial: FactoredPolynomial
    ) -> tuple[SlotPolynomialPacking, Conversion, float]:
        """Packing, trip, and the scale of z that gives the result its scale."""
        circuit = Circuit(
            polynomial.factors,
            polynomial.even,
            polynomial.with_input,
            polynomial.squarings,
            polynomial.multiples,
        )
        packing = SlotPolynomialPacking(self.deep, count, circuit)
        parameters = packing.parameters
        per_switched = parameters.base.modulus * 2.0**-RING_BITS
        wanted = 2.0**_POLYNOMIAL_SCALE_BITS * per_switched / polynomial.output_rms
        # The leading factor belongs to the decoding, and so do the integers of shared squares.
        input_scale = packing.input_scale_for(wanted * polynomial.leading)
        scale = packing.result_scale(input_scale) / polynomial.leading
        frames = packing.output_ciphertexts
        conversion = Conversion(
            parameters,
            packing.operand_ciphertexts,
            packing.output_ciphertexts,
            scale,
            self.fraction_bits,
            up_frames=frames,
            down_frames=frames,
            exact=self.exact,
        )
        return packing, conversion, input_scale

    def _operand_scale_bits(self, bounds: Bounds) -> tuple[int, int]:
        """log2 of the operands' message scales; both then weigh the same against their noise."""
        total = _PRODUCT_SCALE_BITS - math.ceil(math.log2(max(1.0, bounds.product_rms)))
        total += round(math.log2(self.parameters.modulus)) - RING_BITS
        first = round((total + math.log2(bounds.y_rms / bounds.x_rms)) / 2)
        return first, total - first

    def _conversion(self, count: int, operands: int, bounds: Bounds) -> Conversion:
        packing = SlotProductPacking(self.parameters, count)
        first, second = self._operand_scale_bits(bounds)
        return Conversion(
            self.parameters,
            (packing.input_ciphertexts,) * operands,
            packing.output_ciphertexts,
            2.0 ** (2 * first if operands == 1 else first + second),
            self.fraction_bits - bounds.shift,
            up_frames=packing.input_ciphertexts,
            down_frames=packing.output_ciphertexts,
            exact=self.exact,
        )

    def _run(self, operands: list[RingArray], session: Session, bounds: Bounds) -> RingArray:
        assert self.party is not None
        count = operands[0].size
        packing = SlotProductPacking(self.parameters, count)
        packed = [
            Operand(_packed(packing, x), None, 2.0 ** (bits - self.fraction_bits))
            for x, bits in zip(operands, self._operand_scale_bits(bounds), strict=False)
        ]
        conversion = self._conversion(count, len(operands), bounds)
        real, _ = self.party.apply(packed, conversion, _evaluate(packing), session)
        return packing.unpack(real).reshape(operands[0].shape)


def _packed(packing: SlotProductPacking | SlotPolynomialPacking, x: RingArray) -> RingArray:
    return packing.pack(x.reshape(-1).view(np.int64)).view(np.uint64)


def _evaluate(packing: SlotProductPacking) -> Evaluate:
    def evaluate(uploads: Uploads, keys: ServerKeys) -> Iterator[RingArray]:
        return keys.workers.map(
            lambda upload: packing.evaluate(upload[0], upload[-1], keys), uploads
        )

    return evaluate


class CheapestProducts(Products):
    """Each product by whichever of several engines declares fewer bytes for its size.

    Correlations count with the traffic of producing them.
    """

    name = "cheapest"
    source = "choice of this project"
    uses_ckks = True

    def __init__(self, choices: Sequence[Products], bytes_per_ot: float) -> None:
        self._choices = tuple(choices)
        self._bytes_per_ot = bytes_per_ot
        self.max_error_units = max(p.max_error_units for p in choices)  # type: ignore[misc]

    @property
    def alternatives(self) -> tuple[Products, ...]:
        """All choices: which one is cheapest depends on how many elements there are."""
        return self._choices

    def with_choices(self, change: Callable[[Products], Products]) -> CheapestProducts:
        """The same, over changed choices."""
        return CheapestProducts([change(p) for p in self._choices], self._bytes_per_ot)

    def multiply_cost(self, count: int, bounds: Bounds) -> Cost:
        """Cost of the cheapest choice."""
        return min((p.multiply_cost(count, bounds) for p in self._choices), key=self._sent_bytes)

    def square_cost(self, count: int, bounds: Bounds) -> Cost:
        """Cost of the cheapest choice."""
        return min((p.square_cost(count, bounds) for p in self._choices), key=self._sent_bytes)

    def polynomial_cost(self, count: int, polynomial: FactoredPolynomial) -> Cost:
        """Cost of the cheapest choice."""
        return min(
            (p.polynomial_cost(count, polynomial) for p in self._choices), key=self._sent_bytes
        )

    def polynomial(
        self, x: RingArray, polynomial: FactoredPolynomial, session: Session
    ) -> RingArray:
        """The cheapest choice for this many elements."""
        chosen = min(
            self._choices, key=lambda p: self._sent_bytes(p.polynomial_cost(x.size, polynomial))
        )
        return chosen.polynomial(x, polynomial, session)

    def multiply(self, x: RingArray, y: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """The cheapest choice for this many elements."""
        chosen = min(self._choices, key=lambda p: self._sent_bytes(p.multiply_cost(x.size, bounds)))
        return chosen.multiply(x, y, session, bounds)

    def square(self, x: RingArray, session: Session, bounds: Bounds) -> RingArray:
        """The cheapest choice for this many elements."""
        chosen = min(self._choices, key=lambda p: self._sent_bytes(p.square_cost(x.size, bounds)))
        return chosen.square(x, session, bounds)

    def _sent_bytes(self, cost: Cost) -> float:
        return cost.traffic.sent_bytes + self._bytes_per_ot * cost.ots.total
