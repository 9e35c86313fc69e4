"""CKKS-packed homomorphic linear algebra over residue arrays, with SEAL as its trusted base."""

from he_linear.packings.rotated_slots import BatchedProductPacking
from he_linear.packings.slot_product import SlotProductPacking
from he_linear.packings.token_periodic import TokenPeriodicPacking

PACKINGS = (TokenPeriodicPacking, BatchedProductPacking, SlotProductPacking)

__all__ = ["PACKINGS"]
