"""Elementwise products for the nonlinear protocols: in CKKS slots, or whichever is cheaper."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from he_linear.keys import ServerKeys
from he_linear.packings.slot_product import SlotProductPacking
from he_linear.params import CkksParameters
from hybrid.conversions import Conversion, HomomorphicParty, Operand
from mpc_nonlinear.cost import Cost
from mpc_nonlinear.fixed_point import RingArray
from mpc_nonlinear.products import Products
from mpc_nonlinear.session import Session


@dataclass(frozen=True, slots=True)
class CkksProducts(Products):
    """Operands go to CKKS slots, are multiplied there and come back. 2 rounds.

    The truncation to fraction bits is part of the way back. DESIGN: "Products of two shared
    values", first way.
    """

    name = "ckks"
    source = "[Cheon17] multiplication in CKKS slots, masked conversions of this project"
    max_error_units = 32

    parameters: CkksParameters
    fraction_bits: int
    party: HomomorphicParty | None = None
    """This party's keys; absent while only costs are asked for."""

    def multiply_cost(
        self,
        count: int,
        *,
        x_rms: float,
        y_rms: float,
        max_abs: float,
        product_rms: float | None = None,
    ) -> Cost:
        """Two encrypted operands up, one result down."""
        conversion = self._conversion(count, operands=2)
        return conversion.cost([(x_rms, count), (y_rms, count)], product_rms or max_abs)

    def square_cost(
        self, count: int, *, x_rms: float, max_abs: float, product_rms: float | None = None
    ) -> Cost:
        """One encrypted operand up, one result down."""
        conversion = self._conversion(count, operands=1)
        return conversion.cost([(x_rms, count)], product_rms or max_abs)

    def multiply(
        self,
        x: RingArray,
        y: RingArray,
        session: Session,
        *,
        x_rms: float,  # noqa: ARG002
        y_rms: float,  # noqa: ARG002
        max_abs: float,  # noqa: ARG002
    ) -> RingArray:
        """Shares of x * y. Error below `max_error_units` for operands below 4."""
        packing = SlotProductPacking(self.parameters, x.size)
        return self._run(packing, [x, y], session, _evaluate(packing))

    def square(self, x: RingArray, session: Session, *, x_rms: float, max_abs: float) -> RingArray:  # noqa: ARG002
        """Shares of x * x."""
        packing = SlotProductPacking(self.parameters, x.size)
        return self._run(packing, [x], session, _evaluate(packing))

    def _conversion(self, count: int, operands: int) -> Conversion:
        packing = SlotProductPacking(self.parameters, count)
        n = packing.input_ciphertexts
        return Conversion(
            self.parameters,
            (n,) * operands,
            packing.output_ciphertexts,
            packing.output_scale,
            self.fraction_bits,
        )

    def _run(
        self,
        packing: SlotProductPacking,
        operands: list[RingArray],
        session: Session,
        evaluate: Callable[[list[RingArray], ServerKeys], RingArray],
    ) -> RingArray:
        assert self.party is not None
        scale = packing.input_scale(self.fraction_bits)
        packed = [Operand(packing.pack(x.ravel()), None, scale) for x in operands]
        real, _ = self.party.apply(
            packed, self._conversion(packing.count, len(operands)), evaluate, session.channel
        )
        return packing.unpack(real).reshape(operands[0].shape)


def _evaluate(
    packing: SlotProductPacking,
) -> Callable[[list[RingArray], ServerKeys], RingArray]:
    def evaluate(ciphertexts: list[RingArray], keys: ServerKeys) -> RingArray:
        if len(ciphertexts) == 1:
            return packing.evaluate_square(ciphertexts[0], keys)
        return packing.evaluate(ciphertexts[0], ciphertexts[1], keys)

    return evaluate


class CheapestProducts(Products):
    """Each product by whichever of several engines declares fewer bytes for its size.

    Correlations count with the traffic of producing them.
    """

    name = "cheapest"
    source = "choice of this project"
    max_error_units = 32

    def __init__(self, choices: Sequence[Products], bytes_per_ot: float) -> None:
        self._choices = tuple(choices)
        self._bytes_per_ot = bytes_per_ot

    def with_choices(self, change: Callable[[Products], Products]) -> CheapestProducts:
        """The same, over changed choices."""
        return CheapestProducts([change(p) for p in self._choices], self._bytes_per_ot)

    def multiply_cost(self, count: int, **bounds: Any) -> Cost:
        """Cost of the cheapest choice."""
        return self._pick(lambda p: p.multiply_cost(count, **bounds)).multiply_cost(count, **bounds)

    def square_cost(self, count: int, **bounds: Any) -> Cost:
        """Cost of the cheapest choice."""
        return self._pick(lambda p: p.square_cost(count, **bounds)).square_cost(count, **bounds)

    def multiply(self, x: RingArray, y: RingArray, session: Session, **bounds: Any) -> RingArray:
        """The cheapest choice for this many elements."""
        chosen = self._pick(lambda p: p.multiply_cost(x.size, **bounds))
        return chosen.multiply(x, y, session, **bounds)

    def square(self, x: RingArray, session: Session, **bounds: Any) -> RingArray:
        """The cheapest choice for this many elements."""
        chosen = self._pick(lambda p: p.square_cost(x.size, **bounds))
        return chosen.square(x, session, **bounds)

    def _pick(self, cost: Callable[[Products], Cost]) -> Products:
        def sent_bytes(products: Products) -> float:
            declared = cost(products)
            return declared.traffic.sent_bytes + self._bytes_per_ot * declared.ots.total

        return min(self._choices, key=sent_bytes)
