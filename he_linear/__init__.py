"""Packed homomorphic linear algebra over residue arrays, with SEAL as its trusted base."""

from he_linear.packings.coefficient import RING_LINEAR_PACKINGS
from he_linear.packings.coefficient_product import RING_PRODUCT_PACKINGS
from he_linear.packings.column_packed import ColumnPackedPacking
from he_linear.packings.halevi_shoup import DiagonalVectorPacking
from he_linear.packings.rotated_slots import BatchedProductPacking
from he_linear.packings.slot_polynomial import SlotPolynomialPacking
from he_linear.packings.slot_product import SlotProductPacking
from he_linear.packings.token_periodic import TokenPeriodicPacking

PACKINGS = (
    TokenPeriodicPacking,
    ColumnPackedPacking,
    DiagonalVectorPacking,
    BatchedProductPacking,
    SlotProductPacking,
    SlotPolynomialPacking,
    *RING_LINEAR_PACKINGS,
    *RING_PRODUCT_PACKINGS,
)

__all__ = ["PACKINGS"]
